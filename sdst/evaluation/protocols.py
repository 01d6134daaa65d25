"""How each dataset of the field is scored, and which figures its papers report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdst.data.annotations import Annotation
from sdst.evaluation import evaluate
from sdst.evaluation.domains import evaluate_tvsum, evaluate_youtube


@dataclass(frozen=True)
class Protocol:
    """How a dataset is scored.

    Args:
        title: the dataset's name, as papers write it.
        headline: the figures that they report, by their labels in `sdst.evaluation.report`.
        clip_length: seconds that a saliency score stands for; None where the clips are the file's.
        by_domain: for a dataset whose labels are of clips, not windows: what scores it.
    """

    title: str
    headline: tuple[str, ...]
    clip_length: float | None
    by_domain: Callable[..., dict] | None = None

    def score(
        self,
        predictions: Sequence[dict],
        annotations: Sequence[Annotation],
        clip_length: float | None,
        source: str = "predictions",
    ) -> dict:
        """The report of `sdst.evaluation.evaluate`, or of `by_domain`.

        Args:
            clip_length: seconds that a saliency score stands for; not read of a dataset with
                `by_domain`.
            source: what to call the predictions in an error.
        """
        if self.by_domain is not None:
            return self.by_domain(predictions, annotations, source)
        assert clip_length is not None
        return evaluate(predictions, annotations, clip_length, source)


_RECALL = ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU")

PROTOCOLS = {
    "qvhighlights": Protocol(
        "QVHighlights",
        ("R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.75", "mAP", "HD mAP VeryGood", "HIT@1 VeryGood"),
        clip_length=2.0,
    ),
    "charades": Protocol("Charades-STA", _RECALL, clip_length=1.0),
    "tacos": Protocol("TACoS", _RECALL, clip_length=2.0),
    "activitynet": Protocol("ActivityNet Captions", _RECALL, clip_length=1.0),
    "ego4d-nlq": Protocol(
        "Ego4D-NLQ", ("R1@0.3", "R1@0.5", "R5@0.3", "R5@0.5", "mIoU"), clip_length=2.0
    ),
    "tvsum": Protocol("TVSum, top-5", ("HD mAP",), None, evaluate_tvsum),
    "youtube": Protocol("YouTube Highlights", ("HD mAP",), None, evaluate_youtube),
    "custom": Protocol("Moments", ("R1@0.5", "R1@0.7", "mAP", "mIoU"), clip_length=2.0),
}
