"""The Sparse-Dense Side-Tuner: one block, run once per frozen layer, shallow to deep [P].

    D^(l+1), R^(l+1), H^(l+1) = SDST(D^l, R^l, H^l, V^l, T^l)

The frozen backbone is not part of it: its hidden states come in as tensors, and no gradient leaves.
"""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from sdst.model.config import ModelConfig
from sdst.model.context import SelectedTokens, TokenSelection
from sdst.model.dense import DenseBlock, average_stride, resample
from sdst.model.heads import MomentHeads, TextPooling, saliency_scores
from sdst.model.layers import Projection, length_mask
from sdst.model.sparse import MomentQueries, SparseBlock


@dataclass
class Outputs:
    """What every step predicts; the last one ([-1]) is the answer, the others train it.

    Attributes:
        spans: [K, B, M, 2], moments as (center, width) in units of the video.
        class_logits: [K, B, M], that a query is a moment.
        actionness: [K, B, M], estimated IoU of a query's span with the truth.
        saliency: [K, B, L], cosine of every clip with the sentence.
        dense: [K, B, L, F], the dense stream at full resolution.
        visual: [K, B, L, F], projected visual features, before the recurrence.
        sentence: [K, B, F], pooled sentences.
        scale: [], inverse temperature of the contrastive losses.
    """

    spans: Tensor
    class_logits: Tensor
    actionness: Tensor
    saliency: Tensor
    dense: Tensor
    visual: Tensor
    sentence: Tensor
    scale: Tensor

    @property
    def scores(self) -> Tensor:
        """[K, B, M], p(class) * actionness."""
        return self.class_logits.sigmoid() * self.actionness


class SDST(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="sdst",
    tags=["video-temporal-grounding", "moment-retrieval", "highlight-detection"],
):
    """Finds the moments of a video that a sentence describes, and scores every clip.

    Source: Pujol-Perich, Escalera, Clapes, ICCV 2025 (arXiv 2507.07744).
    """

    # No postponed annotations in this file: the hub mixin reads this one to rebuild the config.
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
        self.heads = MomentHeads(config.width)
        # Inverse temperature of the contrastive losses, learned from 1/0.07, as in CLIP [D].
        self.log_scale = nn.Parameter(torch.tensor(-math.log(0.07)))
        self.selection = TokenSelection(config) if config.context == "sparse" else None

    def forward(
        self, video: Tensor, text: Tensor, video_lengths: Tensor, text_lengths: Tensor
    ) -> Outputs:
        """Ground a batch of sentences.

        Args:
            video: [B, K, L, P, Dv], frozen tokens of the last K blocks, shallow to deep.
            text: [B, K, N, Dt], frozen text tokens of the last K blocks.
            video_lengths: [B], valid clips of L. What lies beyond changes nothing.
            text_lengths: [B], valid tokens of N.
        """
        self._check(video, text)
        config = self.config
        batch, _, clips = video.shape[:3]
        tokens = video.transpose(0, 1).contiguous()  # [K, B, ...]: a step's tokens lie together
        text_mask = length_mask(text_lengths, text.shape[2])
        real_text = text.masked_fill(~text_mask[:, None, :, None], 0.0)
        projected_text = self.text_projection(real_text)  # [B, K, N, F], all steps in one product
        sentence = self.text_pooling(projected_text, text_mask[:, None])  # [B, K, F]
        clip_features, contexts = self._read_video(tokens, sentence, video_lengths)
        visual = self.visual_projection(clip_features)  # [K, B, L, F], all steps in one product
        dense_text = self._keys_values(self.dense_block, projected_text)
        sparse_text = self._keys_values(self.sparse_block, projected_text)

        hidden, references = self.queries(batch)
        beta = self.fusion.sigmoid()
        dense, lengths, previous = visual[0], video_lengths, 1  # D^0 = V^1 [P]
        steps = []
        for step, stride in enumerate(config.strides):
            source, source_lengths = average_stride(visual[step], video_lengths, stride)
            if step == 0:
                dense = source
            else:
                dense = resample(dense, lengths, previous, stride, source.shape[1])
                dense = torch.lerp(source, dense, beta[step])
            lengths, previous = source_lengths, stride
            dense = self.dense_block(dense, dense_text[step], text_mask, lengths, stride)
            hidden = self.sparse_block(
                hidden, references, dense, lengths, sparse_text[step], text_mask, contexts[step]
            )
            spans, class_logits, actionness = self.heads(hidden, references)
            references = spans.detach()  # between steps [D: DAB-/Deformable-DETR]
            full = resample(dense, lengths, stride, 1, clips)
            saliency = saliency_scores(full, sentence[:, step])
            steps.append((spans, class_logits, actionness, saliency, full))
        return Outputs(
            *(torch.stack(outputs) for outputs in zip(*steps, strict=True)),
            visual=visual,
            sentence=sentence.transpose(0, 1),
            scale=self.log_scale.clamp(0.0, math.log(100.0)).exp(),
        )

    def _read_video(
        self, tokens: Tensor, sentence: Tensor, lengths: Tensor
    ) -> tuple[Tensor, list[SelectedTokens | None]]:
        """Clip features [K, B, L, Dv] for the dense stream, and each step's context (or None)."""
        config = self.config
        contexts: list[SelectedTokens | None] = [None] * config.layers
        several = tokens.shape[3] > 1
        if self.selection is not None:
            u = self.selection.direction(sentence.transpose(0, 1))
            contexts = self.selection.select(tokens, u, lengths)
        if several and self.selection is not None:
            clips = self.selection.pool_clips(tokens, u, lengths).to(sentence.dtype)
        elif several and config.pooling == "mean":
            clips = tokens.mean(3, dtype=sentence.dtype)
        else:
            clips = tokens[:, :, :, 0].to(sentence.dtype)
        padding = ~length_mask(lengths, tokens.shape[2])
        return clips.masked_fill(padding[..., None], 0.0), contexts

    def _keys_values(
        self, block: DenseBlock | SparseBlock, text: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the sentence for every step, from one matrix product."""
        keys, values = block.text_attention.keys_values(text)
        return list(zip(keys.unbind(1), values.unbind(1), strict=True))

    def _check(self, video: Tensor, text: Tensor) -> None:
        config = self.config
        if video.ndim != 5 or (video.shape[1], video.shape[4]) != (
            config.layers,
            config.video_width,
        ):
            raise ValueError(
                f"video has shape {tuple(video.shape)}, expected "
                f"[B, {config.layers}, L, P, {config.video_width}]"
            )
        if text.ndim != 4 or (text.shape[1], text.shape[3]) != (config.layers, config.text_width):
            raise ValueError(
                f"text has shape {tuple(text.shape)}, expected "
                f"[B, {config.layers}, N, {config.text_width}]"
            )


def parameter_count(model: nn.Module) -> dict[str, int]:
    """Trainable parameters by top-level part of `model`, in the order of definition."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[name.split(".")[0]] += parameter.numel()
    return dict(counts)
