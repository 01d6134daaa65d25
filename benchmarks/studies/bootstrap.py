"""How sure a difference between two variants is: a paired bootstrap over queries and seeds.

The same queries are answered by both variants, and the same seeds are trained, so what is resampled
is the difference per query and seed. Drawing both with replacement covers both sources of chance:
which queries the benchmark happens to have, and how a run happens to end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Of two variants' figures.

    Attributes:
        mean: in points, positive where the variant is better than the baseline.
        low, high: bounds of the 95 % interval.
        p: two-sided, the share of draws on the other side of 0, doubled.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired_difference(variant: np.ndarray, baseline: np.ndarray, seed: int = 0) -> Difference:
    """The difference of two variants, and how sure it is.

    Args:
        variant, baseline: [seeds, queries] a figure of every query, in percent.
        seed: of the draws.
    """
    gain = variant - baseline
    seeds, queries = gain.shape
    generator = np.random.default_rng(seed)
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    means = np.empty(DRAWS)
    for start in range(0, DRAWS, 500):  # [draws, queries] of all at once would be large
        stop = min(start + 500, DRAWS)
        weights = generator.multinomial(queries, np.full(queries, 1 / queries), stop - start)
        means[start:stop] = ((weights @ gain.T / queries) * of_seeds[start:stop]).sum(axis=1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    p = min(1.0, 2 * min((means <= 0).mean(), (means >= 0).mean()))
    return Difference(float(gain.mean()), float(low), float(high), float(p))
