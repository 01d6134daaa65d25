"""Videos longer than those a model was trained on, in bounded memory.

A moment is predicted relative to its video, by a few queries: on an hour, a model that has seen
150 s cannot say where ten seconds are. So a long video is processed in overlapping windows of about
the training length, a batch at a time, straight from the store. A moment that reaches a border
inside the video is left to the neighbour, which sees it whole; a moment found twice is kept once;
saliency is blended from one window into the next.

A moment's score is a probability within its window, as in training, where every video holds what
is asked for. Saliency says which window holds it, trained against other videos as well, and
by the frozen tokens that the sentence selects under `context: sparse`, patches among them:

    score(m) = p(m | window) * E / (that of the best window)
    E = sum_t exp(scale * S_t) * sqrt(mean_j exp(s_j))

with S_t the window's saliency, scale its learned inverse temperature, and s_j the scores of its
selected tokens, whose mean is taken at every step and geometrically over the steps. A video of one
window is scored as if it were not cut. Presence is that of the window
where it is greatest.

The moment queries attend to the tokens selected in their window. Under `predict.select_from:
video`, a first pass over the store selects from the whole video, and they attend to both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sdst.config import PredictConfig
from sdst.grounding.decode import Prediction, presence_of, rank, round_ends, smooth
from sdst.grounding.snapping import snap
from sdst.model import SDST, EncodedVideo, Outputs
from sdst.model.calibration import UNCALIBRATED, Calibration
from sdst.model.context import SelectedTokens
from sdst.model.running_selection import RunningSelection
from sdst.model.spans import to_ends

BYTES_AT_ONCE = 64 * 2**20  # of frozen tokens, in a batch of windows
STRETCHES_AT_ONCE = 32
MOMENTS_KEPT = 1000  # of a query, before suppression
BORDER = 0.5  # clips; what ends as near to a border as that reaches it
FIT_WEIGHT = 0.5  # the root over the selected tokens' mean; how chosen: benchmarks/RESULTS.md
SAME_MOMENT = 0.5  # IoU above which two moments are one that two windows found


@torch.inference_mode()
def ground_long(
    model: SDST,
    tokens: np.ndarray | Tensor,
    texts: Sequence[Tensor],
    clip_length: float,
    duration: float,
    options: PredictConfig,
    scales: np.ndarray | Tensor | None = None,
    answer: Callable[[EncodedVideo, Tensor, Tensor], Outputs] | None = None,
) -> list[Prediction]:
    """The moments of a long video that each sentence describes, and its saliency.

    Args:
        model: in eval mode.
        tokens: [K, L, P, Dv], frozen tokens as the store maps them, or [1, L, P, Dv] where one
            layer serves all steps. Never read as a whole.
        texts: frozen tokens of each sentence, [K, N, Dt] or [1, N, Dt] likewise.
        clip_length: seconds per clip.
        duration: seconds of the video.
        options: `stretch` and `overlap` say how the video is cut. Moments found twice are dropped
            even where `nms` is none.
        scales: [K, L, P] or [1, L, P], what tokens of int8 are multiplied by.
        answer: answers queries about encoded windows, as `AnswerGraphs.answer`; None: the model.

    Returns:
        For each sentence at most `MOMENTS_KEPT` windows, best first, and the saliency of L clips.
    """
    layers, device = model.config.layers, model.fusion.device
    calibration = model.calibration or UNCALIBRATED
    answers = [_Answer(tokens.shape[1], calibration) for _ in texts]
    texts = [text.to(device).expand(layers, -1, -1) for text in texts]
    beyond: list[list[SelectedTokens] | None] = [None for _ in texts]
    stretch, overlap = options.stretches
    if options.select_from == "video" and model.selection and tokens.shape[1] > stretch:
        beyond = [*_select_from_all(model, tokens, texts, scales)]
    for starts, stack in _batches(tokens, options):
        video = stack(tokens).to(device).expand(-1, layers, -1, -1, -1)
        lengths = torch.full((len(starts),), video.shape[2], device=device)
        by_token = None if scales is None else stack(scales).to(device).expand(-1, layers, -1, -1)
        encoded = model.encode_video(video, lengths, by_token)
        for so_far, text, context in zip(answers, texts, beyond, strict=True):
            words = torch.full_like(lengths, text.shape[1])
            text = text.expand(len(starts), -1, -1, -1)
            if answer is not None and context is None:
                outputs = answer(encoded, text, words)
            else:
                outputs = model.answer(encoded, text, words, every_step=False, beyond=context)
            so_far.add(starts, outputs, overlap)
    return [so_far.predict(clip_length, duration, options) for so_far in answers]


def stretch_starts(length: int, options: PredictConfig) -> list[int]:
    """First clips of the windows of a video of `length` clips; the last ends with it."""
    stretch, overlap = options.stretches
    last = max(length - stretch, 0)
    return [*range(0, last, stretch - overlap), last]


def _batches(
    tokens: np.ndarray | Tensor, options: PredictConfig
) -> Iterator[tuple[list[int], Callable[[np.ndarray | Tensor], Tensor]]]:
    """Some neighbouring windows at a time: their first clips, and a function that cuts them out.

    It makes of tokens [K, L, ...], or their scales, [S, K, l, ...].
    """
    starts = stretch_starts(tokens.shape[1], options)
    stretch = options.stretches.clips
    size = tokens[:, :stretch].nbytes
    at_once = max(min(BYTES_AT_ONCE // max(size, 1), STRETCHES_AT_ONCE), 1)

    for first in range(0, len(starts), at_once):
        some = starts[first : first + at_once]
        yield some, partial(_cut, starts=some, size=stretch)


def _cut(values: np.ndarray | Tensor, starts: Sequence[int], size: int) -> Tensor:
    """[S, K, size, ...], copies of values [K, L, ...] from each of `starts` on."""
    if isinstance(values, Tensor):
        return torch.stack([values[:, start : start + size] for start in starts])
    return torch.from_numpy(np.stack([values[:, start : start + size] for start in starts]))


def _select_from_all(
    model: SDST,
    tokens: np.ndarray | Tensor,
    texts: Sequence[Tensor],
    scales: np.ndarray | Tensor | None,
) -> list[list[SelectedTokens]]:
    """For each sentence and step the tokens of the whole video that are kept, in one pass over it.

    Takes what `ground_long` does, the texts as [K, N, Dt].
    """
    layers, device = model.config.layers, model.fusion.device
    _, length, per_clip, _ = tokens.shape
    running = []
    for text in texts:
        words = torch.tensor([text.shape[1]], device=device)
        u = model.direction(text[None], words)[:, 0]
        running.append(RunningSelection(model.config, u, length, per_clip))
    at_once = BYTES_AT_ONCE // tokens[:, :1].nbytes
    for first, last in running[0].parts(at_once):
        cut = partial(_cut, starts=[first], size=last - first)
        part = cut(tokens)[0].to(device).expand(layers, -1, -1, -1)
        by_token = None if scales is None else cut(scales)[0].to(device).expand(layers, -1, -1)
        for selection in running:
            selection.add(first, part, by_token)
    return [selection.selected() for selection in running]


class _Answer:
    """One query's answer, as far as the video has been read."""

    def __init__(self, length: int, calibration: Calibration = UNCALIBRATED) -> None:
        self.length, self.calibration = length, calibration
        self.presence: float | None = None  # in the window where it is greatest
        self.ends = torch.empty(0, 2)  # clips
        self.evidence = torch.empty(0)  # log of a moment's score, before it is compared
        self.best = -torch.inf  # log E of the best window
        self.saliency, self.weight = np.zeros((2, length), np.float32)

    def add(self, starts: Sequence[int], outputs: Outputs, overlap: int) -> None:
        """Add the windows that begin at `starts`."""
        saliency, scores = outputs.saliency[-1].float().cpu(), outputs.scores[-1].float().cpu()
        size = saliency.shape[1]
        self._blend(starts, saliency.numpy())
        self._add_presence(outputs)
        mass = (outputs.scale.float().cpu() * saliency).logsumexp(1)
        mass += FIT_WEIGHT * torch.as_tensor(outputs.fit).float().cpu()
        self.best = max(self.best, float(mass.max()))

        first = torch.tensor(starts)[:, None]
        start, end = (to_ends(outputs.spans[-1].float().cpu()).clamp(0, 1) * size).unbind(-1)
        cut = (first > 0) & (start < BORDER)
        cut |= (first + size < self.length) & (end > size - BORDER)
        kept = ~(cut & (end - start < overlap))  # else the neighbour sees it whole
        ends = torch.stack((start + first, end + first), -1)
        self.ends = torch.cat((self.ends, ends[kept]))
        self.evidence = torch.cat((self.evidence, (scores.log() + mass[:, None])[kept]))
        best = self.evidence.topk(min(MOMENTS_KEPT, len(self.evidence))).indices
        self.ends, self.evidence = self.ends[best], self.evidence[best]

    def _add_presence(self, outputs: Outputs) -> None:
        found = [self.presence, *presence_of(outputs, self.calibration)]
        self.presence = max((x for x in found if x is not None), default=None)

    def _blend(self, starts: Sequence[int], saliency: np.ndarray) -> None:
        """Add up saliency [S, l], that of a clip counting the more the farther from a border."""
        clip = np.arange(saliency.shape[1], dtype=np.float32)
        fade = np.minimum(clip, clip[::-1]) + 1
        for start, curve in zip(starts, saliency, strict=True):
            self.saliency[start : start + len(clip)] += fade * curve
            self.weight[start : start + len(clip)] += fade

    def predict(self, clip_length: float, duration: float, options: PredictConfig) -> Prediction:
        """Moments in seconds, each found once, and the blended saliency."""
        ends, length = self.ends[None], torch.tensor([self.length])
        saliency = torch.from_numpy(self.saliency / self.weight)[None]
        if isinstance(options.snap, float):
            ends = snap(ends, saliency, length, options.snap)
        if options.smooth:
            saliency = smooth(saliency, length)
        ends = (ends * clip_length).clamp(max=duration)
        if options.round_to is not None:
            ends = round_ends(ends, torch.tensor(duration), options.round_to)
        if options.nms == "none":
            options = replace(options, nms="hard", nms_threshold=SAME_MOMENT)
        [order], [scores] = rank(ends, (self.evidence - self.best).exp()[None], options)
        count = int((order >= 0).sum())
        windows = torch.cat((ends[0, order[:count]], scores[:count, None]), 1)
        windows[:, 2] = torch.from_numpy(self.calibration.scores(windows[:, 2].numpy()))
        return Prediction(windows.numpy(), saliency[0].numpy(), self.presence)
