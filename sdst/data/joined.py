"""Queries of several datasets as one, some of them more often than others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from sdst.data.annotations import Annotation
from sdst.data.samples import GroundingDataset, Sample


class JoinedQueries(Dataset):
    """The queries of several datasets, of each as many in an epoch as its weight says.

    A weight of 1 is every query once, of 0.5 every other one, of 2.5 each twice and every other one
    a third time. Which ones are drawn is a function of (seed, epoch) alone, so that a resumed run
    sees what an uninterrupted one would have seen.

    Args:
        parts: of features of one shape, each with its weight, more than 0.
        seed: of the draws.
    """

    def __init__(self, parts: Sequence[tuple[GroundingDataset, float]], seed: int = 0) -> None:
        self.parts = [part for part, _ in parts]
        self.seed = seed
        self._counts = [max(1, round(weight * len(part))) for part, weight in parts]
        self.epoch = 0

    def __len__(self) -> int:
        return sum(self._counts)

    def __getitem__(self, index: int) -> Sample:
        part, query = self._drawn[index]
        return self.parts[part][query]

    @property
    def annotations(self) -> list[Annotation]:
        """All that are drawn from."""
        return [annotation for part in self.parts for annotation in part.annotations]

    @property
    def epoch(self) -> int:
        """The epoch whose queries these are."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._drawn: list[tuple[int, int]] = []
        for number, (part, count) in enumerate(zip(self.parts, self._counts, strict=True)):
            part.epoch = epoch
            whole, rest = divmod(count, len(part))
            order = np.random.default_rng((self.seed, epoch, number)).permutation(len(part))
            queries = [*range(len(part))] * whole + sorted(order[:rest].tolist())
            self._drawn += [(number, query) for query in queries]
