"""The plot of a demo video: when each object appears, what it does, and what can be asked.

Everything is planned in whole seconds and in shares of the frame (x to the right, y downwards), so
that pixels (`render`), English (`sentences`) and labels (`labels`) all derive from the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

SHAPES = ("ball", "square", "star", "ring")
COLOURS = ("red", "yellow", "green", "blue", "white")
SIZES = ("small", "large")
ACTIONS = ("left", "right", "grow", "shrink", "spin", "blink")

DIAMETER = {"small": 0.21, "large": 0.35}
GROWTH = 2.5  # factor between the sizes of an object that grows or shrinks
RESIZING = ("grow", "shrink")
_DIRECTION = {"left": -1, "right": 1}
_AT_ONCE = 2  # objects in view
_TOGETHER = 0.15  # how often a stay does not evade the others
_FADE = 0.3  # seconds in which an object appears or disappears


@dataclass(frozen=True)
class Look:
    """The attributes of an object that do not change; `size` says nothing where it is resized."""

    size: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Moment:
    """One action of one object from `start` to `end` (whole seconds).

    `amount` is the distance moved (share of the frame) or the factor of growth.
    """

    action: str
    start: int
    end: int
    amount: float


@dataclass(frozen=True)
class Stay:
    """An object in view from `start` to `end`: motionless but for its moments."""

    look: Look
    start: int
    end: int
    moments: tuple[Moment, ...]
    x: float = 0.5
    y: float = 0.5
    diameter: float = 0.2


@dataclass(frozen=True)
class Scene:
    """A video before it has pixels; `seed` decides its backdrop."""

    vid: str
    split: Split
    duration: int
    stays: tuple[Stay, ...]
    seed: int


@dataclass(frozen=True)
class Trace:
    """A stay over time, each [T]: centre, diameter (of the frame), width over height, opacity."""

    x: np.ndarray
    y: np.ndarray
    diameter: np.ndarray
    stretch: np.ndarray
    opacity: np.ndarray


def unseen(look: Look, action: str) -> bool:
    """Whether this (shape, colour, action) is kept for the test split: about one in five.

    Every shape, colour and action, and every pair of them, is still seen in training.
    """
    index = SHAPES.index(look.shape) + COLOURS.index(look.colour) + ACTIONS.index(action)
    return index % 5 == 0


def trace(stay: Stay, times: np.ndarray, duration: float) -> Trace:
    """Where and how the object of `stay` is seen at `times` [T] (seconds); opacity 0: out of view.

    Periods are chosen so that one frame a second, taken in the middle of the second, still shows:
    blinking alternates from second to second, spinning (a coin's) changes the width.
    """
    x, y = np.full_like(times, stay.x), np.full_like(times, stay.y)
    diameter, stretch = np.full_like(times, stay.diameter), np.ones_like(times)
    opacity = ((times >= stay.start) & (times < stay.end)).astype(times.dtype)
    if stay.start > 0:
        opacity *= np.clip((times - stay.start) / _FADE, 0, 1)
    if stay.end < duration:
        opacity *= np.clip((stay.end - times) / _FADE, 0, 1)
    for moment in stay.moments:
        length = moment.end - moment.start
        phase = np.clip(times - moment.start, 0, length)
        match moment.action:
            case "left" | "right":
                x = x + _DIRECTION[moment.action] * moment.amount * phase / length
            case "grow":
                diameter = diameter * moment.amount ** (phase / length)
            case "shrink":
                diameter = diameter / moment.amount ** (phase / length)
            case "spin":
                half_turns = round(length * 2 / 3)
                stretch = stretch * np.abs(np.cos(np.pi * half_turns * phase / length))
            case "blink":
                hidden = (phase < length) & (times >= moment.start) & (phase % 2 < 1)
                opacity = np.where(hidden, 0.12 * opacity, opacity)
    return Trace(x, y, diameter, np.maximum(stretch, 0.15), opacity)


def plan_scene(split: Split, index: int, seed: int) -> Scene:
    """The `index`-th scene of a split: a function of its arguments alone.

    A hero performs the moment of interest. Around it stand what could be mistaken for it: the hero
    doing something else, the hero doing it again, and twins which differ in one attribute doing the
    same, at other times or at the same time.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    duration = int(rng.integers(28, 41))
    stays = _schedule(_cast(split, rng), duration, rng)
    placed: list[Stay] = []
    for stay in stays:
        placed.append(_place(stay, placed, duration, rng))
    return Scene(f"{split}_{index:04d}", split, duration, tuple(placed), int(rng.integers(2**31)))


def _cast(split: Split, rng: np.random.Generator) -> list[tuple[Look, list[list[str]]]]:
    """Who does what, most important first: sequences of actions, of which the first that fits."""
    hero, action = _hero(split, rng)
    looks = (hero, *(_twin(split, hero, action, rng) for _ in range(2)))
    cast = [(look, [_sequence(split, look, action, rng), [action]]) for look in looks]
    return [*cast, (hero, [[action]])]


def _allowed(split: Split, look: Look, action: str) -> bool:
    return split == "test" or not unseen(look, action)


def _hero(split: Split, rng: np.random.Generator) -> tuple[Look, str]:
    while True:
        look = Look(*(str(rng.choice(names)) for names in (SIZES, COLOURS, SHAPES)))
        action = str(rng.choice(ACTIONS))
        if unseen(look, action) == (split == "test"):
            return look, action


def _twin(split: Split, look: Look, action: str, rng: np.random.Generator) -> Look:
    """A look that differs from `look` in exactly one attribute that tells them apart."""
    while True:
        attribute = str(rng.choice(("size", "colour", "shape")))
        if attribute == "size" and action in RESIZING:
            continue
        names = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}[attribute]
        twin = replace(look, **{attribute: str(rng.choice(names))})
        if twin != look and _allowed(split, twin, action):
            return twin


def _sequence(split: Split, look: Look, action: str, rng: np.random.Generator) -> list[str]:
    """The actions of an object in one stay: `action`, mostly before or after another one.

    A stay either resizes its object or leaves its size alone, so "small" and "large" stay true.
    """
    others = [
        name
        for name in ACTIONS
        if name != action
        and (name in RESIZING) == (action in RESIZING)
        and _allowed(split, look, name)
    ]
    if not others:
        return [action]
    other = str(rng.choice(others))
    sequences = ([action], [action, other], [other, action], [action, other, action])
    return sequences[rng.choice(4, p=(0.1, 0.35, 0.35, 0.2))]


def _schedule(
    cast: Sequence[tuple[Look, list[list[str]]]], duration: int, rng: np.random.Generator
) -> list[Stay]:
    """Give every stay its seconds: at most two objects at once, never two of the same look.

    A stay that finds no room is left out.
    """
    stays: list[Stay] = []
    busy = np.zeros(duration, dtype=int)
    for look, sequences in cast:
        for actions in sequences:
            fitting = _fitting(look, actions, stays, busy, rng)
            if not fitting:
                continue
            # Now and then together, mostly one after the other.
            if rng.random() >= _TOGETHER:
                fitting.sort(key=lambda stay: busy[stay.start : stay.end].sum())
            stays.append(fitting[0])
            busy[fitting[0].start : fitting[0].end] += 1
            break
    return stays


def _fitting(
    look: Look,
    actions: Sequence[str],
    stays: Sequence[Stay],
    busy: np.ndarray,
    rng: np.random.Generator,
) -> list[Stay]:
    """Stays of `look` that fit beside `stays`, out of 20 tries; `busy` counts objects a second."""
    fitting: list[Stay] = []
    for _ in range(20):
        stay = _timed(look, actions, rng)
        if stay.end > len(busy):
            continue
        stay = _shifted(stay, int(rng.integers(0, len(busy) - stay.end + 1)))
        apart = all(
            other.look != look or other.end <= stay.start or stay.end <= other.start
            for other in stays
        )
        if apart and busy[stay.start : stay.end].max() < _AT_ONCE:
            fitting.append(stay)
    return fitting


def _timed(look: Look, actions: Sequence[str], rng: np.random.Generator) -> Stay:
    """A stay from second 0: idle, a moment, idle, another moment, idle and so on."""
    clock = int(rng.integers(4, 8))
    moments = []
    for action in actions:
        length = int(rng.integers(5, 11))
        moments.append(Moment(action, clock, clock + length, _amount(action, rng)))
        clock += length + int(rng.integers(4, 8))
    return Stay(look, 0, clock, tuple(moments))


def _amount(action: str, rng: np.random.Generator) -> float:
    if action in RESIZING:
        return GROWTH
    return float(rng.uniform(0.42, 0.6))


def _shifted(stay: Stay, by: int) -> Stay:
    moments = tuple(replace(m, start=m.start + by, end=m.end + by) for m in stay.moments)
    return replace(stay, start=stay.start + by, end=stay.end + by, moments=moments)


def _place(stay: Stay, others: Sequence[Stay], duration: int, rng: np.random.Generator) -> Stay:
    """Put a stay where it remains inside the frame and covers the others as little as possible."""
    first = stay.moments[0].action
    if first in RESIZING:
        diameter = 0.18 * (GROWTH if first == "shrink" else 1) * rng.uniform(0.95, 1.05)
    else:
        diameter = DIAMETER[stay.look.size] * rng.uniform(0.93, 1.07)
    times = np.arange(duration * 4) / 4
    traces = [trace(other, times, duration) for other in others]
    stay = replace(stay, diameter=float(diameter))
    rooms = _rooms(stay, times, duration)
    while any(low > high for low, high in rooms):
        shorter = (
            m if m.action in RESIZING else replace(m, amount=0.9 * m.amount) for m in stay.moments
        )
        stay = replace(stay, moments=tuple(shorter))
        rooms = _rooms(stay, times, duration)
    best, least = stay, np.inf
    for _ in range(30):
        x, y = (float(rng.uniform(low, high)) for low, high in rooms)
        placed = replace(stay, x=x, y=y)
        covered = _covering(placed, traces, times, duration)
        if covered < least:
            best, least = placed, covered
        if least <= 0:
            break
    return best


def _rooms(stay: Stay, times: np.ndarray, duration: int) -> list[tuple[float, float]]:
    """Lowest and highest starting x, and y, that keep the object inside the frame at all times."""
    at = trace(replace(stay, x=0.0, y=0.0), times, duration)
    margin = at.diameter / 2 + 0.01
    return [((margin - c).max(), (1 - margin - c).min()) for c in (at.x, at.y)]


def _covering(stay: Stay, others: Sequence[Trace], times: np.ndarray, duration: int) -> float:
    """How deep, at worst, the stay's circle reaches into another's while both are in view."""
    own = trace(stay, times, duration)
    worst = 0.0
    for other in others:
        both = (own.opacity > 0) & (other.opacity > 0)
        if both.any():
            apart = np.hypot(own.x - other.x, own.y - other.y)
            depth = (own.diameter + other.diameter) / 2 - apart
            worst = max(worst, float(depth[both].max()))
    return worst
