"""Does a video have what a sentence says: its own sentences against those of other videos."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from sdst.data.annotations import Annotation
from sdst.evaluation.retrieval import percent

MOST = 1000  # pairs: the standard error of AUROC is then about half a point
TRIES = 20  # pairs looked at for each, where most sentences are alike
_ARTICLES = {"a", "an", "the"}


def of_others(
    annotations: Sequence[Annotation], most: int = MOST, seed: int = 0
) -> list[Annotation]:
    """At most so many annotations of which each asks a video for another video's sentence.

    Pairs are drawn at random, none twice. A sentence with no other words than one of the video's
    own is not taken: it holds there as well.
    """
    own = defaultdict(list)
    for annotation in annotations:
        own[annotation.vid].append(words(annotation.query))
    drawn: dict[tuple[str, int | str], Annotation] = {}
    for video, sentence in islice(_rolled(some_of(annotations, seed=seed)), TRIES * most):
        if len(drawn) == most:
            break
        if not any(words(sentence.query) <= said for said in own[video.vid]):
            pair = replace(video, qid=sentence.qid, query=sentence.query)
            drawn.setdefault((video.vid, sentence.qid), pair)
    return list(drawn.values())


def some_of(
    annotations: Sequence[Annotation], most: int | None = None, seed: int = 0
) -> list[Annotation]:
    """The annotations in random order, or `most` of them."""
    order = np.random.default_rng(seed).permutation(len(annotations))
    return [annotations[i] for i in order[:most]]


def words(sentence: str) -> frozenset[str]:
    """The words of a sentence, but for articles, case and punctuation."""
    return frozenset(re.findall(r"\w+", sentence.casefold())) - _ARTICLES


def presence_figures(own: Sequence[dict], others: Sequence[dict]) -> dict[str, float]:
    """`{"presence-AUROC": percent}` of records with `pred_presence`; nothing without any.

    Args:
        own: answers to a video's own sentences.
        others: answers to `of_others`.
    """
    key = "pred_presence"
    if not (own and others and key in own[0]):
        return {}
    return {"presence-AUROC": auroc([x[key] for x in own], [x[key] for x in others])}


def auroc(own: Sequence[float], others: Sequence[float]) -> float:
    """Chance in percent that a score of `own` is above one of `others`; a tie counts half."""
    from scipy.stats import mannwhitneyu

    above = mannwhitneyu(own, others).statistic
    return percent(above / (len(own) * len(others)))


def reliability(
    probability: np.ndarray, happened: np.ndarray, weight: np.ndarray, bins: int = 10
) -> list[list[float]]:
    """How often what was given a probability happened.

    Args:
        probability: [N].
        happened: [N], bool.
        weight: [N], of each.
        bins: equal parts of [0, 1].

    Returns:
        `[[mean probability, share that happened, share of the weight], ...]` of each bin that has
        something.
    """
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    rows = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        of_bin, total = weight[inside], weight[inside].sum()
        shares = [probability[inside] @ of_bin / total, happened[inside] @ of_bin / total]
        rows.append([round(float(x), 4) for x in (*shares, total / weight.sum())])
    return rows


def calibration_error(rows: Sequence[Sequence[float]]) -> float:
    """Expected calibration error in percent, the mean distance in the rows of `reliability`."""
    return percent(sum(abs(given - found) * share for given, found, share in rows))


def _rolled(annotations: list[Annotation]) -> Iterator[tuple[Annotation, Annotation]]:
    """Every pair of two annotations, each once, those of a batch and the batch rolled together."""
    for shift in range(1, len(annotations)):
        yield from zip(annotations, annotations[shift:] + annotations[:shift], strict=True)
