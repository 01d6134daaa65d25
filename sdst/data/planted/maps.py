"""The fixed random maps behind planted features: from meanings to what clips and tokens show.

A map is drawn once per data set and never shown; a model has to learn it from examples. D is the
number of dimensions of a meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdst.data.feature_files import unit_vectors

HIDDEN = 512  # units between the two layers of a nonlinear map
# Root mean square of |u| - E|u| and of tanh(u), u standard normal: divisors that keep variances.
ABS_DEVIATION = math.sqrt(1 - 2 / math.pi)
TANH_RMS = 0.6278

Draw = Callable[..., np.ndarray]  # standard normal numbers by (name, shape=...)


@dataclass(frozen=True)
class Phases:
    """How a moment changes from its first half to its second: by a quarter turn of its meaning.

        first = (m - m R) / sqrt(2)        second = (m + m R) / sqrt(2)

    R is orthogonal and skew-symmetric, so m R is orthogonal to m, both phases are as long as m, and
    orthogonal to each other. Each has a cosine of 1 / sqrt(2) with m: what is compared with m clip
    by clip sees neither which phase a clip shows nor in which order they come.

    Args:
        turn: R, [D, D].
    """

    turn: np.ndarray

    @classmethod
    def drawn(cls, draw: Draw, dimensions: int) -> Phases:
        """A quarter turn in each of D / 2 random planes."""
        basis = _orthogonal(draw("turn", shape=(dimensions, dimensions)))
        one, other = basis[: dimensions // 2], basis[dimensions // 2 :]
        return cls(one.T @ other - other.T @ one)

    def __call__(self, meaning: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and second phase of `meaning` [..., D]."""
        turned = meaning @ self.turn
        return (meaning - turned) / math.sqrt(2), (meaning + turned) / math.sqrt(2)


@dataclass(frozen=True)
class Binding:
    """Objects that show two attributes, an entity and a property, and what binds them.

    A meaning m has the attributes e = m S and p = m - e, S the projection on a random half of the
    space. An object with the entity of m and the property of n, two meanings or one, shows

        e_m + p_n + sqrt(D) (e_m E / |e_m|) * (p_n P / |p_n|)

    with random orthogonal E and P. The last term, the elementwise product of the attributes, is
    the bound part, about 1 long and uncorrelated with what is linear in m and n. Two objects sum
    to the same linear part whichever has which property.

    Args:
        select: S, [D, D].
        entity_map, property_map: E and P, [D, D].
    """

    select: np.ndarray
    entity_map: np.ndarray
    property_map: np.ndarray

    @classmethod
    def drawn(cls, draw: Draw, dimensions: int) -> Binding:
        """Random attributes and maps."""
        square = dimensions, dimensions
        half = _orthogonal(draw("attributes", shape=square))[: dimensions // 2]
        maps = (_orthogonal(draw(name, shape=square)) for name in ("entity map", "property map"))
        return cls(half.T @ half, *maps)

    def linear(self, entity_of: np.ndarray, property_of: np.ndarray) -> np.ndarray:
        """[D], the attributes e_m + p_n alone."""
        return entity_of @ self.select + property_of - property_of @ self.select

    def bound(self, entity_of: np.ndarray, property_of: np.ndarray) -> np.ndarray:
        """[D], the product of both attributes."""
        entity = unit_vectors(entity_of @ self.select) @ self.entity_map
        prop = unit_vectors(property_of - property_of @ self.select) @ self.property_map
        return math.sqrt(entity.shape[-1]) * entity * prop

    def __call__(self, entity_of: np.ndarray, property_of: np.ndarray) -> np.ndarray:
        """[D], an object with the entity of one meaning and the property of another."""
        return self.linear(entity_of, property_of) + self.bound(entity_of, property_of)


@dataclass(frozen=True)
class TokenMap:
    """From meanings to tokens of a backbone, partly by a two-layer map.

        f(x) = sqrt(1 - nonlinear) x A + sqrt(nonlinear) h(x U) V / sqrt(H)

    h is one of the functions below, of H hidden units. A number of a token has the variance |x|^2
    whatever the share.

    Args:
        linear: A, [D, F].
        inner, outer: U [D, H] and V [H, F]; None where the map is linear.
        hidden: h, [..., H] to [..., H].
        nonlinear: share of the tokens' variance, 0 to 1.
    """

    linear: np.ndarray
    inner: np.ndarray | None
    outer: np.ndarray | None
    hidden: Callable[[np.ndarray], np.ndarray]
    nonlinear: float

    @classmethod
    def drawn(
        cls,
        draw: Draw,
        name: str,
        shape: tuple[int, int],
        hidden: Callable[[np.ndarray], np.ndarray],
        nonlinear: float,
    ) -> TokenMap:
        """A random map of that name from D to F dimensions, `shape`."""
        linear = draw(name, shape=shape)
        if not nonlinear:
            return cls(linear, None, None, hidden, nonlinear)
        inner = draw(f"{name}, inner", shape=(shape[0], HIDDEN))
        outer = draw(f"{name}, outer", shape=(HIDDEN, shape[1]))
        return cls(linear, inner, outer / np.float32(math.sqrt(HIDDEN)), hidden, nonlinear)

    def __call__(self, meanings: np.ndarray) -> np.ndarray:
        """Tokens [..., F] of meanings [..., D]."""
        if not self.nonlinear:
            return meanings @ self.linear
        curved = self.hidden(meanings @ self.inner) @ self.outer
        shares = np.sqrt([1 - self.nonlinear, self.nonlinear], dtype=np.float32)
        return shares[0] * (meanings @ self.linear) + shares[1] * curved


def even(units: np.ndarray) -> np.ndarray:
    """|u|, centred over the units [..., H]: a meaning and its negative look the same."""
    sizes = np.abs(units)
    return (sizes - sizes.mean(axis=-1, keepdims=True)) / np.float32(ABS_DEVIATION)


def odd(units: np.ndarray) -> np.ndarray:
    """tanh(u): the negative of a meaning looks the opposite."""
    return np.tanh(units) / np.float32(TANH_RMS)


def _orthogonal(square: np.ndarray) -> np.ndarray:
    """A random orthogonal matrix from a standard normal one."""
    return np.linalg.qr(square.astype(np.float64))[0].astype(np.float32)
