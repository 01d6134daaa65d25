"""Linear assignment by scipy: the truth that every other implementation is held to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def linear_assignment(cost: Tensor, sizes: Tensor) -> Tensor:
    """See `sdst.kernels.linear_assignment`. Runs on the host, one problem after the other."""
    from scipy.optimize import linear_sum_assignment  # takes a third of a second to import

    batch, _, columns = cost.shape
    costs, counts = cost.detach().cpu().double().numpy(), sizes.clamp(0, columns).tolist()
    rows = np.full((batch, columns), -1, dtype=np.int64)
    for problem, count in enumerate(counts):
        valid = costs[problem, :, :count]
        if not np.isfinite(valid).all():
            raise NonFiniteCostError(problem)
        row, column = linear_sum_assignment(valid)
        rows[problem, column] = row
    return torch.from_numpy(rows).to(cost.device)


class NonFiniteCostError(ValueError):
    """A problem has no answer, as one of its costs is infinite or not a number."""

    def __init__(self, problem: int) -> None:
        super().__init__(f"linear_assignment: problem {problem} has a non-finite cost")
