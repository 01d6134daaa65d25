"""`python -m benchmarks.studies.presence --checkpoint DIR`: the value of presence on the demo.

Every query of the test split is asked of every test video; the scenes say in which of them it
holds. Two tables: how well a query's own video is separated from all others, and from those in
which the query does not hold (AUROC), by the score of the best moment, by saliency and by
presence; and for how many queries the first moment of a search over all videos is right, ranked by
each of these, in the query's own video or wherever it holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sdst.data.annotations import Annotation
from sdst.data.samples import GroundingDataset
from sdst.demo import DemoSize
from sdst.demo.labels import Question, ask, matching
from sdst.demo.scenes import Scene, plan_scene
from sdst.evaluation.presence import auroc
from sdst.evaluation.retrieval import temporal_iou
from sdst.grounding.decode import Prediction, decode
from sdst.grounding.search import Found, Ranking
from sdst.model import SDST
from sdst.model.calibration import UNCALIBRATED
from sdst.pretrained.folder import load_checkpoint
from sdst.sources.dataset import open_data

AT_ONCE = 64  # queries
RIGHT = 0.5  # IoU from which a moment is right
WAYS = ("score of the best moment", "saliency", "presence")


def scenes_and_questions() -> tuple[dict[str, Scene], list[Question]]:
    """The test split's scenes by video, and its questions in the order of its queries."""
    size = DemoSize()
    scenes = [plan_scene("test", index, size.seed) for index in range(size.test)]
    questions = [question for scene in scenes for question in ask(scene, 4, size.seed)]
    return {scene.vid: scene for scene in scenes}, questions


@torch.inference_mode()
def answers(model: SDST, dataset: GroundingDataset, vid: str, options) -> list[list[Prediction]]:
    """Predictions for every query of `dataset` on one of its videos, calibrated and not."""
    tokens = torch.from_numpy(np.array(dataset.source.video(vid).tokens, np.float32))[None]
    clips = torch.tensor([tokens.shape[2]])
    encoded = model.encode_video(tokens, clips)
    calibrated: list[Prediction] = []
    plain: list[Prediction] = []
    for first in range(0, len(dataset), AT_ONCE):
        qids = [query.qid for query in dataset.annotations[first : first + AT_ONCE]]
        texts = [np.array(dataset.source.query(qid).tokens, np.float32) for qid in qids]
        rows = [torch.from_numpy(text).transpose(0, 1) for text in texts]
        words = torch.tensor([len(row) for row in rows])
        text = pad_sequence(rows, batch_first=True).transpose(1, 2)
        outputs = model.answer(encoded, text, words, every_step=False)
        seconds = [float(clips) * dataset.clip_length] * len(rows)
        read = partial(
            decode, outputs, clips.expand(len(rows)), seconds, dataset.clip_length, options
        )
        calibrated += read(model.calibration)
        plain += read(UNCALIBRATED)
    return [calibrated, plain]


def fit_of(answer: Prediction, plain: Prediction, way: str, scale: float) -> float:
    """How well a video fits a query, by one of `WAYS`."""
    if way == "presence":
        assert answer.presence is not None
        return answer.presence
    if way == "saliency":
        return float(np.logaddexp.reduce(scale * plain.saliency) - np.log(len(plain.saliency)))
    return float(plain.windows[0, 2])


def is_right(found: Found, truth: dict[str, np.ndarray]) -> bool:
    """Whether a moment overlaps a true one of its video."""
    moments = truth.get(found.vid, np.empty((0, 2)))
    return bool((temporal_iou(np.array([[found.start, found.end]]), moments) >= RIGHT).any())


def fitting(question: Question, scenes: dict[str, Scene]) -> dict[str, np.ndarray]:
    """[G, 2] seconds by video: every moment that the question describes."""
    found = {
        vid: [(m.start, m.end) for _, m in matching(scene, question.description, question.action)]
        for vid, scene in scenes.items()
    }
    return {vid: np.array(moments, float) for vid, moments in found.items() if moments}


def study(checkpoint: Path) -> Iterator[str]:
    """Lines of both tables."""
    description, model = load_checkpoint(checkpoint)
    config = description.config
    dataset = open_data(config).dataset("test")
    queries = dataset.annotations
    scenes, questions = scenes_and_questions()
    truth = [fitting(question, scenes) for question in questions]
    scale = model.for_inference().scale.item()
    stretch = config.predict.stretches.clips
    rankings = {way: Ranking(len(queries), 1, scale, dataset.clip_length, stretch) for way in WAYS}
    fits: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for vid in scenes:
        calibrated, plain = answers(model, dataset, vid, config.predict)
        alike = [replace(answer, presence=0.5) for answer in plain]
        for way, given in zip(WAYS, (alike, plain, calibrated), strict=True):
            rankings[way].add(vid, given)
            pairs = zip(calibrated, plain, strict=True)
            fits[way].append([fit_of(*pair, way, scale) for pair in pairs])
    yield "| separated by | AUROC, all others | AUROC, others without it |\n|---|---|---|"
    for way in WAYS:
        everywhere, without = separations(np.array(fits[way]), list(scenes), queries, truth)
        yield f"| {way} | {everywhere:.1f} | {without:.1f} |"
    yield "\n| ranked by | right, in the own video | right |\n|---|---|---|"
    for way in WAYS:
        first = [found[0] for found in rankings[way].best()]
        own = [
            is_right(x, {q.vid: np.array(q.windows)}) for x, q in zip(first, queries, strict=True)
        ]
        right = [is_right(x, moments) for x, moments in zip(first, truth, strict=True)]
        yield f"| {way} | {100 * np.mean(own):.1f} | {100 * np.mean(right):.1f} |"


def separations(
    fits: np.ndarray,
    vids: Sequence[str],
    queries: Sequence[Annotation],
    truth: Sequence[dict[str, np.ndarray]],
) -> tuple[float, float]:
    """AUROC of own videos against all others, and against those in which a query does not hold.

    Args:
        fits: [V, Q], of every video with every query.
    """
    own = np.array([[query.vid == vid for query in queries] for vid in vids])
    holds = np.array([[vid in moments for moments in truth] for vid in vids])
    mine = fits[own].tolist()
    return auroc(mine, fits[~own].tolist()), auroc(mine, fits[~holds].tolist())


def main() -> None:
    """The command; prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run of the demo")
    print(*study(parser.parse_args().checkpoint), sep="\n")


if __name__ == "__main__":
    main()
