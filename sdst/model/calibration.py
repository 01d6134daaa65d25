"""From a model's scores to probabilities, by two curves of the validation split.

    presence(video, sentence) = sigmoid(sum_k w_k max_t S_k,t + w fit + b)
    p(IoU of a moment >= 0.5) = c(logit(score)), c rising and linear between a few knots

S_k is the saliency of step k, and fit how well the sentence fits the tokens selected (`log_fit`).
The second curve rises, so it changes no ranking.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import isfinite

import numpy as np

MARGIN = 5e-5  # of a score to 0 and 1, for its logit: predictions are written with four digits


@dataclass(frozen=True)
class Logistic:
    """p = sigmoid(w x + b).

    Args:
        weights: w, D of them.
        bias: b.
    """

    weights: tuple[float, ...]
    bias: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x [..., D] -> [...], probabilities."""
        return sigmoid(np.asarray(x, np.float64) @ np.asarray(self.weights) + self.bias)


@dataclass(frozen=True)
class Rising:
    """A curve from scores to probabilities, linear in logit(score) between its knots.

    Args:
        logits: of the scores at the knots, rising.
        probabilities: there, rising.
    """

    logits: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Scores [...] in [0, 1] -> [...], probabilities in their order."""
        return np.interp(logit(scores), self.logits, self.probabilities)


@dataclass(frozen=True)
class Calibration:
    """A calibration as JSON, beside a model's weights.

    Args:
        presence: of `Outputs.evidence`, that the video has what the sentence says, where as many
            sentences are asked that hold as others; None where too few were there to fit it.
        windows: that a moment has an IoU of at least 0.5 with a true one; None where too few
            moments were there, or scores do not rise with it.
    """

    presence: Logistic | None = None
    windows: Rising | None = None

    def scores(self, scores: np.ndarray) -> np.ndarray:
        """Scores [...] of moments as probabilities; as they are where no curve was fitted."""
        return scores if self.windows is None else self.windows(scores)

    def to_json(self) -> str:
        """As text, to be kept with the weights."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, steps: int) -> Calibration:
        """A calibration from what `to_json` wrote, of a model of so many steps.

        Raises:
            ValueError: it is something else.
        """
        try:
            parts = json.loads(text)
            presence, windows = parts["presence"], parts["windows"]
            if presence is not None:
                presence = Logistic(_numbers(presence["weights"], steps + 1), presence["bias"])
                _numbers([presence.bias], 1)
            if windows is not None:
                knots = len(windows["logits"])
                at, shares = (_numbers(windows[k], knots) for k in ("logits", "probabilities"))
                if not (
                    knots and _rises(at) and _rises(shares) and 0 <= shares[0] <= shares[-1] <= 1
                ):
                    raise ValueError("a curve that does not rise from 0 to 1")
                windows = Rising(at, shares)
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"no calibration: {error}") from error
        return cls(presence, windows)


UNCALIBRATED = Calibration()


def _numbers(values: list, count: int) -> tuple[float, ...]:
    """`values`, checked to be so many finite numbers."""
    if len(values) != count or not all(isinstance(x, float) and isfinite(x) for x in values):
        raise ValueError(f"{len(values)} numbers, expected {count} that are finite")
    return tuple(values)


def _rises(values: tuple[float, ...]) -> bool:
    return all(low < high for low, high in pairwise(values))


def logit(scores: np.ndarray) -> np.ndarray:
    """log(s / (1 - s)) of scores [...], finite."""
    inside = np.clip(np.asarray(scores, np.float64), MARGIN, 1 - MARGIN)
    return np.log(inside / (1 - inside))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, np.float64)))
