"""Checks before a run begins, so that it does not fail hours later."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from accelerate import Accelerator

from sdst.config import Config
from sdst.data.annotations import Annotation
from sdst.data.batches import collate
from sdst.errors import InputError
from sdst.evaluation.protocols import PROTOCOLS
from sdst.evaluation.report import figures_of
from sdst.grounding.decode import Prediction
from sdst.grounding.predict import as_record
from sdst.kernels import NonFiniteCostError
from sdst.model import SDST, grounding_loss
from sdst.sources.dataset import Data
from sdst.training.loader import make_loader
from sdst.training.selection import selected_figure
from sdst.training.step import autocast_dtype, targets_of


def check_run(
    config: Config, data: Data, accelerator: Accelerator, model_class: type[SDST] = SDST
) -> None:
    """Refuse a run that would fail after its start: batch size, scoring, kernels.

    Needs this process alone and changes nothing on disk.

    Raises:
        InputError: the queries cannot be shared out in batches or scored.
        ImplementationError: a requested implementation of an op does not fit.
    """
    make_loader(data.training(), config, accelerator.num_processes)
    for scored in (data, *data.others.values()):
        check_scoring(scored.config, scored)
    check_kernels(config, data, accelerator, model_class)


def check_scoring(config: Config, data: Data) -> None:
    """Score some answer to every query that will be scored."""
    protocol, reports = PROTOCOLS[config.data.protocol], {}
    for split in filter(data.has_truth, ("val", "test")):
        annotations = data.splits[split]
        answers = [whole_video(a) for a in annotations]
        try:
            reports[split] = protocol.score(answers, annotations, config.data.clip_length)
        except InputError as error:
            raise InputError(f"{split}: {error}") from None
    selected_figure(figures_of(reports["val"]), config.train.select_by)


def check_kernels(
    config: Config, data: Data, accelerator: Accelerator, model_class: type[SDST]
) -> None:
    """The loss of one query, by an untrained model."""
    batch = collate([data.dataset("train")[0]]).to(accelerator.device)
    model = model_class(config.model).to(accelerator.device)
    precision = autocast_dtype(config.train.precision)
    with torch.no_grad(), suppress(NonFiniteCostError):  # the first step reports what to do
        with torch.autocast(accelerator.device.type, precision, enabled=precision is not None):
            outputs = model(*batch.inputs())
        grounding_loss(outputs, targets_of(batch), config.loss)


def whole_video(annotation: Annotation) -> dict:
    """An answer to any query, as a submission record."""
    answer = Prediction(np.array([[0.0, annotation.duration, 0.0]]), np.zeros(1))
    return as_record(annotation, answer)
