"""English for what the demo shows: queries about moments, captions of still frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdst.demo.scenes import RESIZING, Look

_SIZES = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "middling"),
    "large": ("large", "big", "huge"),
}
_SHAPES = {
    "ball": ("ball", "circle", "disc"),
    "square": ("square", "box", "block"),
    "star": ("star",),
    "ring": ("ring", "hoop"),
}
_ANY_SHAPE = ("object", "shape", "thing")

# (third person, -ing form); the phrase that follows both.
_VERBS = {
    "left": (
        ("moves", "moving", "to the left"),
        ("slides", "sliding", "to the left"),
        ("drifts", "drifting", "leftwards"),
        ("goes", "going", "left"),
        ("travels", "travelling", "from right to left"),
    ),
    "right": (
        ("moves", "moving", "to the right"),
        ("slides", "sliding", "to the right"),
        ("drifts", "drifting", "rightwards"),
        ("goes", "going", "right"),
        ("travels", "travelling", "from left to right"),
    ),
    "grow": (
        ("grows", "growing", ""),
        ("gets", "getting", "bigger"),
        ("becomes", "becoming", "larger"),
        ("expands", "expanding", ""),
    ),
    "shrink": (
        ("shrinks", "shrinking", ""),
        ("gets", "getting", "smaller"),
        ("becomes", "becoming", "smaller"),
        ("contracts", "contracting", ""),
    ),
    "spin": (
        ("spins", "spinning", ""),
        ("turns", "turning", "around"),
        ("twirls", "twirling", ""),
        ("spins", "spinning", "like a coin"),
    ),
    "blink": (
        ("blinks", "blinking", ""),
        ("flashes", "flashing", ""),
        ("flickers", "flickering", ""),
        ("blinks", "blinking", "on and off"),
    ),
}
_ROLLS = {
    "left": ("rolls", "rolling", "to the left"),
    "right": ("rolls", "rolling", "to the right"),
}
_COLUMNS = ("on the far left", "on the left", "in the centre", "on the right", "on the far right")
_ROWS = ("at the top", "in the upper half", "halfway up", "in the lower half", "at the bottom")


@dataclass(frozen=True)
class Description:
    """The attributes a sentence names; None leaves one open."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def matches(self, look: Look) -> bool:
        """Whether `look` has every named attribute."""
        return all(
            named is None or named == has
            for named, has in (
                (self.size, look.size),
                (self.colour, look.colour),
                (self.shape, look.shape),
            )
        )


def describe(look: Look, action: str, rng: np.random.Generator) -> Description:
    """Attributes that a sentence about `look` doing `action` names: mostly all, at times fewer."""
    size = None if action in RESIZING else look.size
    levels = (
        Description(size, look.colour, look.shape),
        Description(None, look.colour, look.shape),
        Description(None, None, look.shape),
        Description(None, look.colour, None),
    )
    return levels[rng.choice(len(levels), p=(0.6, 0.24, 0.08, 0.08))]


def query(description: Description, action: str, rng: np.random.Generator) -> str:
    """One of many ways to ask for the moments in which such an object does `action`."""
    third, progressive, rest = _verb(description, action, rng)
    adjectives, noun = _words(description, rng)
    plain = " ".join([*adjectives, noun])
    article = _pick(("a", "the"), rng)
    subject = f"the {plain}" if article == "the" else with_article(plain)
    forms = [
        f"{subject} {third} {rest}",
        f"{subject} {third} {rest}",
        f"{subject} is {progressive} {rest}",
        f"{plain} {progressive} {rest}",
        f"there is {with_article(plain)} which {third} {rest}",
        f"we see {subject} {progressive} {rest}",
    ]
    if adjectives:
        forms.append(f"the {noun}, which is {' and '.join(adjectives)}, {third} {rest}")
    sentence = _pick(forms, rng).strip()
    sentence = sentence[0].upper() + sentence[1:] if rng.random() < 0.5 else sentence
    return sentence + "." if rng.random() < 0.4 else sentence


@dataclass(frozen=True)
class Seen:
    """An object in a still frame: look, centre, diameter (shares of the frame), width, opacity."""

    look: Look
    x: float
    y: float
    diameter: float
    stretch: float
    opacity: float


def caption(things: Sequence[Seen], rng: np.random.Generator) -> str:
    """A caption of a still frame: one object and its place, or two and their relation."""
    if not things:
        return _pick(("an empty scene", "nothing but the background", "no object at all"), rng)
    order = [things[i] for i in rng.permutation(len(things))]
    kind = rng.random()
    if len(order) == 1 or kind < 0.4:
        return f"{_noun_phrase(order[0], rng)} {_place(order[0], rng)}"
    if kind < 0.5:
        first, second = order[:2]
        return f"{_noun_phrase(first, rng)} {_relation(first, second)} {_noun_phrase(second, rng)}"
    return " and ".join(f"{_noun_phrase(thing, rng)} {_place(thing, rng)}" for thing in order[:2])


def name(thing: Seen, rng: np.random.Generator) -> Description:
    """A description of `thing` that leaves out some of what is seen."""
    size = size_of(thing.diameter) if rng.random() < 0.5 else None
    look = thing.look
    levels = (
        Description(size, look.colour, look.shape),
        Description(size, None, look.shape),
        Description(size, look.colour, None),
    )
    return levels[rng.choice(3, p=(0.7, 0.15, 0.15))]


def size_of(diameter: float) -> str | None:
    """The size that a still shows, None between small and large."""
    if diameter < 0.25:
        return "small"
    return "large" if diameter > 0.31 else None


def with_article(phrase: str) -> str:
    """`phrase` after "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _verb(description: Description, action: str, rng: np.random.Generator) -> tuple[str, str, str]:
    choices = list(_VERBS[action])
    if description.shape == "ball" and action in _ROLLS:
        choices.append(_ROLLS[action])
    return choices[rng.integers(len(choices))]


def _words(description: Description, rng: np.random.Generator) -> tuple[list[str], str]:
    adjectives = []
    if description.size:
        adjectives.append(_pick(_SIZES[description.size], rng))
    if description.colour:
        adjectives.append(description.colour)
    if description.shape is None:
        return adjectives, _pick(_ANY_SHAPE, rng)
    return adjectives, _pick(_SHAPES.get(description.shape, (description.shape,)), rng)


def _noun_phrase(thing: Seen, rng: np.random.Generator) -> str:
    adjectives, noun = _words(Description(None, thing.look.colour, thing.look.shape), rng)
    if thing.opacity < 0.5:
        adjectives.insert(0, "faint")
    if thing.stretch < 0.7:
        adjectives.insert(0, "narrow")
    if rng.random() < 0.8:
        adjectives.insert(0, _pick(_SIZES[size_of(thing.diameter) or "medium"], rng))
    return with_article(" ".join([*adjectives, noun]))


def _place(thing: Seen, rng: np.random.Generator) -> str:
    column, row = (_fifth(value) for value in (thing.x, thing.y))
    kind = rng.random()
    if kind < 0.15:
        return _COLUMNS[column]
    if kind < 0.3:
        return _ROWS[row]
    return f"{_COLUMNS[column]}, {_ROWS[row]}"


def _fifth(value: float) -> int:
    """Which fifth of the room that centres have in the frame."""
    return int(np.searchsorted((0.27, 0.42, 0.58, 0.73), value))


def _relation(first: Seen, second: Seen) -> str:
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
