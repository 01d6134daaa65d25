"""The closest known names to one that is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

LIKENESS = 0.7  # of 1, below which a name is no suggestion
MOST = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean A or B?`, or nothing where no known name is close."""
    names = closest(word, known)
    return f"; did you mean {' or '.join(names)}?" if names else ""


def closest(word: str, known: Iterable[str]) -> list[str]:
    """At most `MOST` of the known names, closest first.

    A dotted name is close by its last part as well: `--epochs` is close to `--train.epochs`.
    Hyphens and underscores are the same.
    """
    likeness = {name: max(_ratio(word, name), _ratio(word, _last(name))) for name in known}
    best = max(likeness.values(), default=0.0)
    # A name that is right but for its section is not followed by others that are merely similar.
    least = max(LIKENESS, best if best == 1 else best - 0.1)
    found = sorted(
        (name for name in likeness if likeness[name] >= least), key=lambda x: -likeness[x]
    )
    return found[:MOST]


def _last(name: str) -> str:
    """`--key` of `--section.key`."""
    return f"--{name.rpartition('.')[2]}" if name.startswith("--") and "." in name else name


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a.replace("-", "_"), b.replace("-", "_")).ratio()
