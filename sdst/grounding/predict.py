"""Predictions of a model for every query of a split, as records of a submission."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sdst.config import PredictConfig
from sdst.data.annotations import Annotation
from sdst.data.batches import collate
from sdst.data.samples import GroundingDataset
from sdst.errors import InputError
from sdst.evaluation.presence import of_others
from sdst.grounding.decode import Prediction, check_precision, decode, inference
from sdst.grounding.graphs import AnswerGraphs, make_capture
from sdst.grounding.zero_shot import zero_shot_moments
from sdst.model import SDST, Outputs
from sdst.pretrained.folder import load_checkpoint
from sdst.pretrained.unchanged import check_source
from sdst.sources.dataset import open_data
from sdst.terminal.verbosity import progress_bar


def predict(
    model: nn.Module,
    dataset: GroundingDataset,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = True,
    options: PredictConfig | None = None,
    precision: str = "fp32",
) -> list[dict]:
    """Predictions for every query of `dataset`, in its order, as official submission records.

    Args:
        precision: of the model's products, one of PRECISIONS or `auto`.

    Raises:
        InputError: an answer is not finite, or the CPU lacks the precision.
    """
    calibration = model.calibration if isinstance(model, SDST) else None
    records = []
    batches = outputs_of(model, dataset, batch_size, device, progress, precision)
    for queries, lengths, outputs in batches:
        check_finite(outputs)
        durations = [annotation.duration for annotation in queries]
        answers = decode(outputs, lengths, durations, dataset.clip_length, options, calibration)
        records += [as_record(a, answer) for a, answer in zip(queries, answers, strict=True)]
    return records


def outputs_of(
    model: nn.Module,
    dataset: GroundingDataset,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = True,
    precision: str = "fp32",
) -> Iterator[tuple[list[Annotation], Tensor, Outputs]]:
    """The outputs for every query of `dataset` in batches, with the clips that each video has.

    Args:
        precision: as for `predict`.

    Raises:
        InputError: the CPU lacks the precision.
    """
    device = torch.device(device)
    precision = check_precision(precision, device)
    model.eval()
    if isinstance(model, SDST):
        model.for_inference()
    answers = _answers(model, device)
    loader = DataLoader(dataset, batch_size, collate_fn=lambda samples: samples)
    for samples in progress_bar(loader, desc="predict", leave=False, disable=not progress):
        batch = collate(samples).to(device)
        with inference(device, precision):
            outputs = answers(*batch.inputs())
        yield [sample.annotation for sample in samples], batch.video_lengths, outputs


def _answers(model: nn.Module, device: torch.device) -> Callable[..., Outputs]:
    """`model`, whose answers are graphs where the device has them."""
    capture = make_capture(device)
    if capture is None or not isinstance(model, SDST):
        return model
    graphs = AnswerGraphs(model, capture)

    def answers(
        video: Tensor, text: Tensor, clips: Tensor, words: Tensor, scales: Tensor | None = None
    ) -> Outputs:
        return graphs.answer(model.encode_video(video, clips, scales), text, words)

    return answers


def check_finite(outputs: Outputs) -> None:
    """Refuse answers of a model whose training diverged."""
    if not (outputs.spans[-1].isfinite().all() and outputs.scores[-1].isfinite().all()):
        raise InputError(
            "the model's answers are not finite: its training diverged; lower train.lr or check "
            "the features for NaN"
        )


def predict_zero_shot(dataset: GroundingDataset) -> list[dict]:
    """Answers of the frozen backbone alone, by similarity of clips and sentence; the baseline.

    Raises:
        InputError: the features come without embeddings in a space shared by video and text.
    """
    if not dataset.source.shapes["embed_width"]:
        raise InputError(
            f"{dataset.source.path}: zero-shot needs features with embeddings in a space shared by "
            "video and text; these have none"
        )
    records = []
    for annotation in dataset.annotations:
        clips = _on_host(dataset.source.video(annotation.vid).embedding)
        sentence = _on_host(dataset.source.query(annotation.qid).embedding)
        windows, saliency = zero_shot_moments(
            clips, sentence, dataset.clip_length, annotation.duration
        )
        records.append(as_record(annotation, Prediction(np.asarray(windows), saliency)))
    return records


def _on_host(embedding: np.ndarray | Tensor | None) -> np.ndarray:
    """An embedding as an array, also of a store in the memory of a device."""
    assert embedding is not None  # the store's shapes say that there are some
    return embedding.cpu().numpy() if isinstance(embedding, Tensor) else embedding


def as_record(annotation: Annotation, answer: Prediction) -> dict:
    """One line of an official submission file."""
    record = {
        "qid": annotation.qid,
        "query": annotation.query,
        "vid": annotation.vid,
        "pred_relevant_windows": [[round(float(x), 4) for x in row] for row in answer.windows],
        "pred_saliency_scores": [float(x) for x in answer.saliency],
    }
    if answer.presence is not None:
        record["pred_presence"] = answer.presence
    return record


class SplitPredictions(NamedTuple):
    """A checkpoint's answers to the queries of a split.

    Args:
        records: its predictions.
        annotations: the queries.
        clip_length: seconds of a clip.
        others: predictions for sentences of other videos, `of_others`; none without presence.
    """

    records: list[dict]
    annotations: list[Annotation]
    clip_length: float
    others: list[dict]


def predict_split(
    checkpoint: str | Path,
    split: str,
    precision: str = "fp32",
    overrides: Sequence[str] = (),
    others: bool = False,
) -> SplitPredictions:
    """Predictions of a checkpoint on a split.

    Args:
        overrides: of the checkpoint's config, as `--data.root DIR` where its data was moved.
        others: answer sentences of other videos as well.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    description, model = load_checkpoint(checkpoint, overrides)
    config = description.config
    asked_for = any(option.startswith("--data.backbone") for option in overrides)
    data = open_data(config, fetch=asked_for)
    check_source(checkpoint, description.features, data.meta)
    dataset = data.dataset(split)
    answer = partial(
        predict,
        model.to(device),
        batch_size=config.train.batch_size,
        device=device,
        options=config.predict,
        precision=precision,
    )
    asked = of_others(dataset.annotations) if others and knows_presence(model) else []
    return SplitPredictions(
        answer(dataset),
        dataset.annotations,
        config.data.clip_length,
        answer(dataset.asking(asked)) if asked else [],
    )


def knows_presence(model: SDST) -> bool:
    """Whether a model's answers say how likely the video has what is asked for."""
    return model.calibration is not None and model.calibration.presence is not None
