"""The Sparse-Dense Side-Tuner: one block, run once per frozen layer, shallow to deep [P].

    D^(l+1), R^(l+1), H^(l+1) = SDST(D^l, R^l, H^l, V^l, T^l)

The frozen backbone is not part of it: its hidden states come in as tensors, and no gradient leaves.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdst.kernels import dequantize
from sdst.kernels.quantization import check_scales
from sdst.model.calibration import Calibration
from sdst.model.config import ModelConfig
from sdst.model.context import SelectedTokens, TokenSelection, log_fit
from sdst.model.dense import DenseBlock, blend, resample
from sdst.model.fused import Blocks, can_serve, fuse
from sdst.model.heads import MomentHeads, TextPooling, saliency_peak, saliency_scores
from sdst.model.layers import KeysValues, Projection, by_step, length_mask
from sdst.model.on_disk import OnDisk
from sdst.model.shared import shared_weights
from sdst.model.sparse import MomentQueries, SaliencyMark, SparseBlock
from sdst.model.video import DenseInput, EncodedVideo, dense_inputs


@dataclass
class Outputs:
    """Predictions of every step; the last one ([-1]) is the answer, the others train it.

    Attributes:
        spans: [K, B, M, 2], moments as (center, width) in units of the video.
        class_logits: [K, B, M], that a query is a moment.
        actionness: [K, B, M], estimated IoU of a query's span with the truth.
        saliency: [K, B, L], cosine of every clip with the sentence.
        dense: [K, B, L, F], the dense stream at full resolution.
        visual: [K, B, L, F], projected visual features, before the recurrence.
        sentence: [K, B, F], pooled sentences.
        scale: [], inverse temperature of the contrastive losses.
        fit: [B], how well the sentence fits the frozen tokens selected (`log_fit`); 0 without,
            and in training.
        references: [K, B, M, 2], (center, width) that each step read at, in training; else None.
        offsets: [K, B, M, heads * points], where around them, in half-widths, in training; None
            otherwise, and where the reader samples no points.
        peaks: [K, B], the greatest saliency over the clips at each step; None in training.
    """

    spans: Tensor
    class_logits: Tensor
    actionness: Tensor
    saliency: Tensor
    dense: Tensor
    visual: Tensor
    sentence: Tensor
    scale: Tensor
    fit: Tensor | float = 0.0
    references: Tensor | None = None
    offsets: Tensor | None = None
    peaks: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """[K, B, M], p(class) * actionness."""
        return self.class_logits.sigmoid() * self.actionness

    @property
    def evidence(self) -> Tensor:
        """[B, K + 1], the evidence that the video has what the sentence says: peaks and `fit`."""
        assert self.peaks is not None  # there are some but in training
        fit = torch.as_tensor(self.fit, device=self.peaks.device).expand(self.peaks.shape[1])
        return torch.cat((self.peaks.T, fit[:, None].float()), 1)


# `torch.export` and all that maps over tensors find those of the outputs.
torch.export.register_dataclass(Outputs, serialized_type_name="sdst.model.Outputs")


class SDST(OnDisk):
    """Finds the moments of a video that a sentence describes, and scores every clip.

    Source: Pujol-Perich, Escalera, Clapes, ICCV 2025 (arXiv 2507.07744).
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        config = config or ModelConfig()
        if problems := config.problems():
            raise ValueError("; ".join(problems))
        self.config = config
        self.visual_projection = Projection(
            config.video_width, config.width, config.projection_dropout
        )
        self.text_projection = Projection(
            config.text_width, config.width, config.projection_dropout
        )
        self.text_pooling = TextPooling(config.width)
        self.fusion = nn.Parameter(torch.zeros(config.layers))  # b_l; beta_l = sigmoid(b_l) [P, D]
        self.dense_block = DenseBlock(config)
        self.queries = MomentQueries(config)
        self.sparse_block = SparseBlock(config)
        self.mark = SaliencyMark(config.width) if config.reads == "saliency" else None
        self.heads = MomentHeads(config.width, config.refinement)
        # Inverse temperature of the contrastive losses, learned from 1/0.07, as in CLIP [D].
        self.log_scale = nn.Parameter(torch.tensor(-math.log(0.07)))
        self.selection = TokenSelection(config) if config.context == "sparse" else None
        self.calibration: Calibration | None = None  # after training
        self._fused: Blocks | None = None

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        video_lengths: Tensor,
        text_lengths: Tensor,
        scales: Tensor | None = None,
    ) -> Outputs:
        """Ground a batch of sentences.

        Args:
            video: [B, K, L, P, Dv], frozen tokens of the last K blocks, shallow to deep.
            text: [B, K, N, Dt], frozen text tokens of the last K blocks.
            video_lengths: [B], valid clips of L; padding changes nothing.
            text_lengths: [B], valid tokens of N.
            scales: [B, K, L, P], what a video of int8 is multiplied by (`sdst.kernels.quantize`).
        """
        return self.answer(self.encode_video(video, video_lengths, scales), text, text_lengths)

    def encode_video(
        self, video: Tensor, lengths: Tensor, scales: Tensor | None = None
    ) -> EncodedVideo:
        """The part of the computation that does not depend on the sentence, for V videos.

        Args:
            video: [V, K, L, P, Dv], frozen tokens of the last K blocks, shallow to deep. A layer
                that serves all steps may be repeated by a stride of 0.
            lengths: [V], valid clips of L; padding changes nothing.
            scales: [V, K, L, P], what a video of int8 is multiplied by.
        """
        self._check("video", video, "[B, {}, L, P, {}]", self.config.video_width)
        check_scales("video", video, scales)
        tokens = video.transpose(0, 1)  # [K, V, ...], as the steps read them
        scales = None if scales is None else scales.transpose(0, 1)
        if self.selection is not None and tokens.shape[3] > 1:
            return EncodedVideo(lengths, tokens, scales, None, None)
        visual = self._project(self._pool(tokens, scales), lengths)
        steps = dense_inputs(visual, lengths, self.config.strides)
        if self.selection is None:
            tokens = scales = None
        return EncodedVideo(lengths, tokens, scales, visual, steps)

    def answer(
        self,
        video: EncodedVideo,
        text: Tensor,
        text_lengths: Tensor,
        videos: Tensor | None = None,
        every_step: bool = True,
        beyond: Sequence[SelectedTokens] | None = None,
    ) -> Outputs:
        """Ground a batch of sentences in encoded videos.

        Args:
            video: V videos: one for each sentence, or a single one for all of them, of which no
                copies are made.
            text: [B, K, N, Dt], frozen text tokens of the last K blocks.
            text_lengths: [B], valid tokens of N.
            videos: [B], the index of each sentence's video, where it is neither.
            every_step: return the predictions of every step, as training needs, or the last ones:
                the first axis of `spans` to `dense` is then 1.
            beyond: for every step a sample of tokens from elsewhere (`RunningSelection`), which the
                moment queries attend to beside those selected here.
        """
        self._check("text", text, "[B, {}, N, {}]", self.config.text_width)
        batch = text.shape[0]
        video = video.for_queries(batch, videos)
        blocks = self._blocks()
        projected_text, dense_text, sparse_text = blocks.read_text(text, text_lengths)
        sentence = self._pool_text(projected_text, text_lengths)
        visual, inputs, contexts = self._read_video(video, sentence)
        fit: Tensor | float = 0.0
        if self.selection is not None and contexts is not None and not self.training:
            fit = log_fit(contexts)
        if beyond is not None:
            assert contexts is not None  # only a model that selects tokens has others to join
            strides = self.config.context_strides
            contexts = [x.joined(y, strides) for x, y in zip(contexts, beyond, strict=True)]

        hidden, references = self.queries(batch)
        beta = self.fusion.sigmoid()
        steps, looks, peaks = [], [], []
        dense = inputs[0].source  # D^0 = V^1 [P]
        shared = (self.dense_block, self.sparse_block, self.heads) if blocks is self else ()
        with shared_weights(*shared):
            for step, (source, time, lengths, stride) in enumerate(inputs):
                if step > 0:
                    before = inputs[step - 1]
                    dense = resample(dense, before.lengths, before.stride, stride, source.shape[1])
                    dense = blend(source.to(dense.dtype), dense, beta[step])
                dense = blocks.dense_block(dense, dense_text[step], text_lengths, time, lengths)
                seen = dense if self.mark is None else self.mark(dense, sentence[:, step], lengths)
                context = None if contexts is None else contexts[step]
                hidden, offsets = blocks.sparse_block(
                    hidden, references, seen, lengths, sparse_text[step], text_lengths, context
                )
                spans = blocks.heads.refine(hidden, references)
                if every_step or step == len(inputs) - 1:
                    full = resample(dense, lengths, stride, 1, video.clips)
                    steps.append((spans, hidden, full))
                looks.append((references, offsets))
                if not self.training:
                    peaks.append(saliency_peak(dense, sentence[:, step], lengths))
                references = spans.detach()  # between steps [D: DAB-/Deformable-DETR]
        spans, hidden, dense = (torch.stack(outputs) for outputs in zip(*steps, strict=True))
        ratings = blocks.heads.rate(hidden.flatten(0, 1))
        class_logits, actionness = (x.unflatten(0, hidden.shape[:2]) for x in ratings)
        sentence = sentence.transpose(0, 1)
        saliency = saliency_scores(dense, sentence[-len(dense) :])
        outputs = Outputs(
            spans, class_logits, actionness, saliency, dense, visual, sentence, self.scale, fit
        )
        if self.training:
            outputs.references, outputs.offsets = map(_stacked, zip(*looks, strict=True))
        else:
            outputs.peaks = torch.stack(peaks)
        return outputs

    def direction(self, text: Tensor, text_lengths: Tensor) -> Tensor:
        """Direction that scores frozen tokens at every step, [K, B, Dv], of `answer`'s text."""
        assert self.selection is not None  # without one, no tokens are scored
        projected, *_ = self._blocks().read_text(text, text_lengths)
        return self.selection.direction(self._pool_text(projected, text_lengths).transpose(0, 1))

    def for_inference(self) -> "SDST":
        """Answer from now on, with the weights as they are, as fast as this machine can.

        On a CPU the blocks run as row programs, which hold copies of the weights
        (`sdst.model.fused`). They serve where no gradient is needed; hooks do not see them. `train`
        and `load_state_dict` end it; after any other change of the weights call it again.
        """
        self.eval()
        self._fused = fuse(self)
        return self

    def train(self, mode: bool = True) -> "SDST":
        if mode:
            self._fused = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        self._fused = None
        return super().load_state_dict(*args, **options)

    @property
    def scale(self) -> Tensor:
        """[], inverse temperature of the contrastive losses, at most 100."""
        return self.log_scale.clamp(0.0, math.log(100.0)).exp()

    def read_text(self, text: Tensor, lengths: Tensor) -> tuple[Tensor, KeysValues, KeysValues]:
        """Projections of the sentences for all steps, from one matrix multiply each.

        Args:
            text: [B, K, N, Dt].
            lengths: [B], valid part of N.

        Returns:
            Projected words [B, K, N, F], and their keys and values in the dense and in the sparse
            stream.
        """
        real = torch.where(length_mask(lengths, text.shape[2])[:, None, :, None], text, 0.0)
        projected = self.text_projection(real)
        dense, sparse = (
            by_step(*block.text_attention.keys_values(projected))
            for block in (self.dense_block, self.sparse_block)
        )
        return projected, dense, sparse

    def project_clips(self, clips: Tensor, lengths: Tensor) -> Tensor:
        """Clip features [K, V, L, Dv] into width F [K, V, L, F], all steps in one product."""
        real = length_mask(lengths, clips.shape[2])[..., None]
        clips = torch.where(real, clips, 0.0)  # as narrow as they are stored
        return self.visual_projection(clips.to(self.fusion.dtype))

    def _blocks(self) -> "Blocks | SDST":
        """The blocks as they run now: programs after `for_inference`, else the modules."""
        return self._fused if self._fused is not None and can_serve(self.fusion) else self

    def _pool_text(self, projected: Tensor, lengths: Tensor) -> Tensor:
        """Pooled sentences [B, K, F] of projected words [B, K, N, F]."""
        return self.text_pooling(projected, length_mask(lengths, projected.shape[2])[:, None])

    def _read_video(
        self, video: EncodedVideo, sentence: Tensor
    ) -> tuple[Tensor, list[DenseInput], list[SelectedTokens] | None]:
        """Visual features [K, B, L, F], each step's dense input, and its context where it has."""
        if self.selection is None:
            assert video.visual is not None and video.steps is not None
            return video.visual, video.steps, None
        assert video.tokens is not None  # a model that selects tokens keeps them
        u = self.selection.direction(sentence.transpose(0, 1))
        contexts = self.selection.select(video.tokens, u, video.lengths, video.scales)
        if video.visual is not None and video.steps is not None:
            return video.visual, video.steps, contexts
        pooled = self.selection.pool_clips(video.tokens, u, video.lengths, video.scales)
        visual = self._project(pooled, video.lengths)
        return visual, dense_inputs(visual, video.lengths, self.config.strides), contexts

    def _pool(self, tokens: Tensor, scales: Tensor | None) -> Tensor:
        """Frozen tokens [K, V, L, P, Dv] -> one vector per clip [K, V, L, Dv], without a sentence.

        A layer that serves all steps is computed once, as long as no dropout makes steps differ.
        """
        if tokens.stride(0) == 0 and not self.training:
            tokens, scales = tokens[:1], None if scales is None else scales[:1]
        if tokens.shape[3] > 1 and self.config.pooling == "prefix":
            tokens, scales = tokens[:, :, :, :1], None if scales is None else scales[..., :1]
        if scales is not None:
            tokens = dequantize(tokens, scales)
        if tokens.shape[3] > 1:
            return tokens.mean(3, dtype=self.fusion.dtype)
        return tokens[:, :, :, 0]

    def _project(self, clips: Tensor, lengths: Tensor) -> Tensor:
        """Clip features [K or 1, V, L, Dv] into width F [K, V, L, F]."""
        visual = self._blocks().project_clips(clips, lengths)
        return visual.expand(self.config.layers, -1, -1, -1)

    def _check(self, name: str, features: Tensor, expected: str, width: int) -> None:
        """Refuse frozen features of another number of axes, layers or width."""
        layers = self.config.layers
        shape = features.shape
        if len(shape) != expected.count(",") + 1 or (shape[1], shape[-1]) != (layers, width):
            raise ValueError(
                f"{name} has shape {tuple(shape)}, expected {expected.format(layers, width)}"
            )


def _stacked(of_steps: Sequence[Tensor | None]) -> Tensor | None:
    tensors = [x for x in of_steps if x is not None]
    return torch.stack(tensors) if tensors else None


def parameter_count(model: nn.Module) -> dict[str, int]:
    """Trainable parameters by top-level part of `model`, in the order of definition."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[name.split(".")[0]] += parameter.numel()
    return dict(counts)
