"""Batches of the training queries."""

from __future__ import annotations

from functools import partial

import torch
from torch.utils.data import DataLoader

from sdst.config import Config, DataConfig
from sdst.data.batches import BUCKETS, TIGHT, Multiples, collate
from sdst.data.joined import JoinedQueries
from sdst.data.samples import GroundingDataset
from sdst.errors import InputError


def multiples(data: DataConfig, in_graphs: bool) -> Multiples:
    """The sizes that training batches are padded to; few by default where each takes a graph."""
    if data.pad_to == "auto":
        return BUCKETS if in_graphs else TIGHT
    return Multiples(data.pad_to, data.pad_to, data.pad_to)


def make_loader(
    dataset: GroundingDataset | JoinedQueries,
    config: Config,
    processes: int = 1,
    padding: Multiples = TIGHT,
) -> DataLoader:
    """Shuffled batches of one forward pass, `train.accumulation` of them to an optimiser step.

    The queries left over at the end of an epoch wait for the next one; a dataset of fewer queries
    than `train.batch_size` is one batch.

    Args:
        processes: that will share each of them.
        padding: of the batches.
    """
    few = len(dataset) < config.train.batch_size
    if few and (processes > 1 or config.train.accumulation > 1):
        raise InputError(
            f"train.batch_size {config.train.batch_size} is more than the {len(dataset)} training "
            "queries; lower it"
        )
    at_once = config.train.batch_size // config.train.accumulation
    if at_once % processes:
        raise InputError(
            f"train.batch_size {config.train.batch_size} in {config.train.accumulation} passes are "
            f"{at_once} queries at once, which {processes} processes do not share evenly; change "
            "one of the three"
        )
    return DataLoader(
        dataset,
        at_once,
        shuffle=True,
        drop_last=not few,
        collate_fn=partial(collate, multiples=padding),
        num_workers=config.train.workers,
        pin_memory=torch.cuda.is_available(),
    )
