"""How each dataset of the field is scored, and which figures its papers report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdst.data.annotations import Annotation
from sdst.evaluation import evaluate, windows_and_moments
from sdst.evaluation.domains import evaluate_tvsum, evaluate_youtube
from sdst.evaluation.recall import Recall, evaluate_didemo, evaluate_overlap_with_moment


@dataclass(frozen=True)
class Protocol:
    """How a dataset is scored.

    Args:
        title: the dataset's name, as papers write it.
        headline: the figures that they report, by their labels in `sdst.evaluation.report`.
        clip_length: seconds that a saliency score stands for; None where the clips are the file's.
        by_domain: for a dataset whose labels are of clips, not windows: what scores it.
        figures: what its own evaluator counts otherwise than QVHighlights', from windows and
            moments; takes the place of figures of the same name.
    """

    title: str
    headline: tuple[str, ...]
    clip_length: float | None
    by_domain: Callable[..., dict] | None = None
    figures: tuple[Callable[..., dict[str, float]], ...] = ()

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
        report = evaluate(predictions, annotations, clip_length, source)
        if self.figures:
            windows, moments = windows_and_moments(predictions, annotations, source)
            for count in self.figures:
                report |= count(windows, moments)
        return report


_RECALL = ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU")
_EGO4D = ("R1@0.3", "R1@0.5", "R5@0.3", "R5@0.5", "mIoU")

# EGO4D/episodic-memory, NLQ/VSLNet/utils/evaluate_ego4d_nlq.py: `overlap > threshold`; GoalStep's
# step grounding is evaluated by the same code (facebookresearch/ego4d-goalstep, step_grounding).
_ego4d_recall = Recall(top=(1, 5), thresholds=(0.3, 0.5), strict=True)
# Soldelli/MAD, baselines/VLG-Net/lib/engine/evaluation.py; the paper's table has IoU 0.1, 0.3, 0.5.
_mad_recall = Recall(top=(1, 5, 10, 50, 100), thresholds=(0.1, 0.3, 0.5))
# jayleicn/TVRetrieval, standalone_eval/eval.py, SVMR: arrays are fp32.
_tvr_recall = Recall(top=(1, 5, 10, 100), thresholds=(0.5, 0.7), single=True)
# j-min/HiREST, evaluate.py, moment_retrieval: 1e-8 beside the union, so that an IoU of t is below.
_hirest_recall = Recall(top=(1,), thresholds=(0.5, 0.7), strict=True)

PROTOCOLS = {
    "qvhighlights": Protocol(
        "QVHighlights",
        ("R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.75", "mAP", "HD mAP VeryGood", "HIT@1 VeryGood"),
        clip_length=2.0,
    ),
    "charades": Protocol("Charades-STA", _RECALL, clip_length=1.0),
    "tacos": Protocol("TACoS", _RECALL, clip_length=2.0),
    "activitynet": Protocol("ActivityNet Captions", _RECALL, clip_length=1.0),
    "ego4d-nlq": Protocol("Ego4D-NLQ", _EGO4D, 2.0, figures=(_ego4d_recall,)),
    "ego4d-goalstep": Protocol("Ego4D GoalStep", _EGO4D, 2.0, figures=(_ego4d_recall,)),
    "mad": Protocol(
        "MAD",
        tuple(f"R{k}@{t}" for t in (0.1, 0.3, 0.5) for k in (1, 5, 10, 50, 100)),
        clip_length=1.0,
        figures=(_mad_recall,),
    ),
    "didemo": Protocol(
        "DiDeMo", ("Rank@1", "Rank@5", "mIoU"), clip_length=5.0, figures=(evaluate_didemo,)
    ),
    "tvr": Protocol(
        "TVR, single video",
        tuple(f"R{k}@{t}" for t in (0.5, 0.7) for k in (1, 5, 10, 100)),
        clip_length=1.5,
        figures=(_tvr_recall,),
    ),
    "hirest": Protocol(
        "HiREST, moment retrieval", ("R1@0.5", "R1@0.7"), clip_length=1.0, figures=(_hirest_recall,)
    ),
    "youcook2": Protocol("YouCook2", _RECALL, clip_length=2.0),
    "nextgqa": Protocol(
        "NExT-GQA, grounding",
        ("mIoP", "IoP@0.3", "IoP@0.5", "mIoU", "R1@0.3", "R1@0.5"),
        clip_length=1.0,
        figures=(evaluate_overlap_with_moment,),
    ),
    "timelens": Protocol("TimeLens-Bench", _RECALL, clip_length=1.0),
    "tvsum": Protocol("TVSum, top-5", ("HD mAP",), None, evaluate_tvsum),
    "youtube": Protocol("YouTube Highlights", ("HD mAP",), None, evaluate_youtube),
    "custom": Protocol("Moments", ("R1@0.5", "R1@0.7", "mAP", "mIoU"), clip_length=2.0),
}
