"""`python -m benchmarks.studies.planted_oracle --annotations DIR`: how hard planted features are.

Two matched filters on the features of `qvhighlights_internvideo2`, for every kind of planted
features (`sdst.data.planted`), scored as a model is. The oracle knows the maps, the strengths and
the kind: an estimate of the ceiling. The naive filter is linear in the clip and in the sentence,
learned from the training queries, and knows neither order nor binding: what a projected cosine
can find. DIR holds `highlight_{train,val}_release.jsonl`; further options are a config's, such as
`--planted.noise 0.5`, and hold for every kind.

x(t) [F] is the mean over the tokens of clip t in the layers that may show moments, z a sentence's
meaning, m what a phase of its moment shows, n what decoys show of that (with `binding` all but the
bound part, else 0), f the map to tokens, b the background:

    oracle: r(t) = x(t) C^-1 d / (d C^-1 d),  d = E_b f(m + b) - E_b f(n + b),  C = cov x + ridge
    naive:  r(t) = x(t) W z,  W = argmin sum_t |x(t) W - sum_q a_q(t) z_q|^2 + ridge

A window scores the sum of r - threshold over its clips, by the first phase's r in its first half
and by the second's in its second. Of all windows the best are answered, without those that overlap
a better one, at the threshold of the best mAP on the training queries.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from benchmarks.studies.runs import FIGURES
from sdst.config import Config, load_config
from sdst.data.annotations import Annotation
from sdst.data.planted.features import MEANINGS, PlantedConfig, PlantedFeatures
from sdst.data.planted.timing import relevance
from sdst.errors import run
from sdst.evaluation import evaluate
from sdst.evaluation.retrieval import temporal_iou
from sdst.sources.files import open_files
from sdst.sources.splits import read_splits

RECIPE = "qvhighlights_internvideo2"
ORDER, BINDING = ["--planted.order", "true"], ["--planted.binding", "true"]
NONLINEAR = ["--planted.nonlinear", "1"]
KINDS = {
    "linear": [],
    "order": ORDER,
    "binding": BINDING,
    "nonlinear": NONLINEAR,
    "order, binding": [*ORDER, *BINDING],
    "order, binding, nonlinear": [*ORDER, *BINDING, *NONLINEAR],
}
DRAWS = 256  # of the background, for an expectation over it
RIDGE = 0.01  # relative to the mean variance of a feature
QUANTILES = (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # of all curves, for a threshold
SMEAR = PlantedConfig.smear  # clips over which phases blend
WINDOWS = 10  # of an answer
OVERLAP = 0.5  # IoU above which the worse of two windows is suppressed

# [2, L], how relevant a clip is as one of a moment's first half, and of its second.
Curves = np.ndarray


@dataclass(frozen=True)
class Videos:
    """The queries of a split and the clips that they are about.

    Args:
        clips: [L, F] of every video, the mean over the tokens and layers that may show moments.
    """

    annotations: Sequence[Annotation]
    source: PlantedFeatures
    clip_length: float
    clips: dict[str, np.ndarray]


Filter = Callable[[Videos, Annotation], Curves]


def make_up(annotations: Sequence[Annotation], source: PlantedFeatures, config: Config) -> Videos:
    """The features of a split, reduced to a vector per clip."""
    width = source.to_video.linear.shape[1]  # without endpoints
    clips = {}
    for vid in dict.fromkeys(a.vid for a in annotations):
        tokens = source.video(vid).tokens[-config.planted.layers :, ..., :width]
        clips[vid] = np.mean(np.asarray(tokens), axis=(0, 2))
    return Videos(annotations, source, config.data.clip_length, clips)


def shown_by(videos: Videos) -> np.ndarray:
    """[all clips, MEANINGS], the sentences of the queries, where they are relevant."""
    shown = {vid: np.zeros((len(clips), MEANINGS)) for vid, clips in videos.clips.items()}
    for annotation in videos.annotations:
        meanings = shown[annotation.vid]
        share = relevance(annotation, len(meanings), videos.clip_length)
        meanings += share[:, None] * videos.source.sentence(annotation.qid)
    return np.concatenate(list(shown.values()))


def covariance(clips: np.ndarray) -> np.ndarray:
    """[F, F] of centred clips [N, F], plus the ridge."""
    found = clips.T @ clips / len(clips)
    return found + RIDGE * np.trace(found) / len(found) * np.eye(len(found), dtype=found.dtype)


class NaiveFilter:
    """A ridge regression of meanings on clips, compared with the sentence's."""

    def __init__(self, train: Videos) -> None:
        clips = np.concatenate(list(train.clips.values()))
        self._mean = clips.mean(axis=0)
        clips = clips - self._mean
        covered = clips.T @ shown_by(train) / len(clips)
        self._weights = np.linalg.solve(covariance(clips), covered)

    def __call__(self, videos: Videos, annotation: Annotation) -> Curves:
        meanings = (videos.clips[annotation.vid] - self._mean) @ self._weights
        return np.repeat((meanings @ videos.source.sentence(annotation.qid))[None], 2, axis=0)


class Oracle:
    """Fisher's discriminant for what a query's moment adds to the tokens in expectation."""

    def __init__(self, train: Videos, config: PlantedConfig) -> None:
        self._signal = config.signal
        normal = np.random.default_rng(0).standard_normal((DRAWS, MEANINGS)).astype(np.float32)
        self._background = config.noise / np.sqrt(MEANINGS) * normal
        clips = np.concatenate(list(train.clips.values()))
        self._mean = clips.mean(axis=0)
        self._whiten = np.linalg.inv(covariance(clips - self._mean))

    def __call__(self, videos: Videos, annotation: Annotation) -> Curves:
        clips = videos.clips[annotation.vid] - self._mean
        shown, shared = self._expected(videos.source, annotation)
        distinct = shown - shared
        filters = distinct @ self._whiten
        return (filters @ clips.T) / (filters * distinct).sum(axis=1, keepdims=True)

    def _expected(self, source: PlantedFeatures, annotation: Annotation) -> np.ndarray:
        """[2, 2, F], mean tokens of what a moment's phases show, and of what decoys share."""
        meaning = source.sentence(annotation.qid)
        pair = meaning, np.zeros_like(meaning)
        if source.binding is not None:  # the companion is not known to the query
            pair = source.binding(meaning, meaning), source.binding.linear(meaning, meaning)
        phases = [(m, m) if source.phases is None else source.phases(m) for m in pair]
        return np.stack([[self._tokens(source, phase) for phase in both] for both in phases])

    def _tokens(self, source: PlantedFeatures, meaning: np.ndarray) -> np.ndarray:
        shown = self._background + self._signal * meaning
        return source.to_video(shown.astype(np.float32)).mean(axis=0)


def windows_of(clips: int) -> np.ndarray:
    """[N, 2], all windows of whole clips."""
    starts, ends = np.triu_indices(clips + 1, k=1)
    return np.stack((starts, ends), axis=1)


def scores_of(curves: Curves, windows: np.ndarray) -> np.ndarray:
    """[N], the sum of the first curve in every window's first half and of the second in the other.

    A clip in the middle counts half in both.
    """
    sums = np.concatenate((np.zeros((2, 1)), curves.cumsum(axis=1)), axis=1)
    starts, ends = windows.T
    below, above = (starts + ends) // 2, (starts + ends + 1) // 2
    middle = (sums[:, below] + sums[:, above]) / 2
    return middle[0] - sums[0, starts] + sums[1, ends] - middle[1]


def best_windows(curves: Curves) -> np.ndarray:
    """[n, 3], start, end (clips) and score of the best windows that overlap little, best first."""
    windows = windows_of(curves.shape[1])
    scores = scores_of(curves, windows)
    found = []
    for _ in range(WINDOWS):
        best = scores.argmax()
        if scores[best] == -np.inf:
            break
        found.append((*windows[best], scores[best]))
        scores[temporal_iou(windows[best] * 1.0, windows * 1.0) > OVERLAP] = -np.inf
    return np.array(found)


def saliency_of(curves: Curves, start: int, end: int) -> np.ndarray:
    """[L], how relevant clips are to a moment; those from `start` to `end` are above all others.

    Where a share w of a clip is of the second half, its amplitude a is estimated by least squares
    of (1 - w) a and w a; edges blur over `SMEAR` clips.
    """
    middle = (start + end) / 2
    later = ndtr((np.arange(curves.shape[1]) + 0.5 - middle) / SMEAR)
    amplitude = ((1 - later) * curves[0] + later * curves[1]) / ((1 - later) ** 2 + later**2)
    amplitude[start:end] += np.ptp(amplitude)
    return amplitude


def answer(annotation: Annotation, curves: Curves, clip_length: float) -> dict:
    """The official record of a query."""
    windows = best_windows(curves)
    start, end = windows[0, :2].astype(int)
    saliency = saliency_of(curves, start, end)
    windows[:, :2] = (windows[:, :2] * clip_length).clip(0, annotation.duration)
    return {
        "qid": annotation.qid,
        "query": annotation.query,
        "vid": annotation.vid,
        "pred_relevant_windows": windows.tolist(),
        "pred_saliency_scores": saliency.tolist(),
    }


def report(videos: Videos, curves: Sequence[Curves], threshold: float) -> dict[str, float]:
    """The official figures of answers at a threshold."""
    answers = [
        answer(annotation, curve - threshold, videos.clip_length)
        for annotation, curve in zip(videos.annotations, curves, strict=True)
    ]
    return evaluate(answers, videos.annotations, videos.clip_length)["brief"]


def figures(rate: Filter, train: Videos, val: Videos) -> dict[str, float]:
    """The figures on val, at the threshold that is best on train."""
    curves = [rate(train, annotation) for annotation in train.annotations]
    thresholds = np.quantile(np.concatenate(curves, axis=1), QUANTILES)
    best = max(thresholds, key=lambda t: report(train, curves, t)["MR-full-mAP"])
    return report(val, [rate(val, annotation) for annotation in val.annotations], best)


def main() -> None:
    """Score both filters on all kinds and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True, metavar="DIR")
    parser.add_argument("--queries", type=int, default=2000, help="the first of each split")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    known, others = parser.parse_known_args()
    common = {"data.root": known.annotations, "data.planted": "true", "data.limit": known.queries}
    options = [part for key, value in common.items() for part in (f"--{key}", str(value))]
    print(f"| planted val, {known.queries} queries | filter | {' | '.join(FIGURES)} |")
    print("|---" * (len(FIGURES) + 2) + "|")
    for kind in known.kinds:
        config = load_config(RECIPE, [*options, *KINDS[kind], *others])
        splits, source = open_files(
            config, known.annotations, read_splits(config, known.annotations)
        )
        assert isinstance(source, PlantedFeatures)  # as `data.planted` asks
        train, val = (make_up(splits[name], source, config) for name in ("train", "val"))
        filters = {"oracle": Oracle(train, config.planted), "naive": NaiveFilter(train)}
        for name, rate in filters.items():
            found = figures(rate, train, val)
            cells = " | ".join(f"{found[key]:.1f}" for key in FIGURES.values())
            print(f"| {kind} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    run(main)
