"""Fonts of the system that have the characters of a figure's text."""

from __future__ import annotations

import logging
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from sdst.files.text import whole_characters

BASE = "DejaVu Sans"  # comes with matplotlib


def drawable(text: str) -> str:
    """`text` without what joins or steers characters, which would be drawn as a box."""
    kept = (c for c in whole_characters(text) if c == "\n" or not _is_invisible(c))
    return "".join(kept)


def families_for(text: str) -> tuple[list[str], str]:
    """Font families that have the characters of `text` between them, and those that none has.

    Families are in the order in which matplotlib should look a character up.
    """
    shown = {c for c in text if not c.isspace()}
    missing, families = shown - _covered(font_manager.findfont(BASE), shown), [BASE]
    paths = font_manager.findSystemFonts() if missing else []
    covered = {path: _covered(path, missing) for path in paths}
    while missing and covered:
        # The font that has most of them, and of several a plain one.
        path = min(covered, key=lambda p: (-len(covered[p] & missing), _is_fancy(p), p))
        if not covered[path] & missing:
            break
        font_manager.fontManager.addfont(path)
        families.append(FT2Font(path).family_name)
        missing -= covered[path]
    return families, "".join(sorted(missing))


@contextmanager
def silent() -> Iterator[None]:
    """Keep matplotlib from repeating which characters and weights fonts lack."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            yield
    finally:
        logger.setLevel(level)


def _covered(path: str, characters: set[str]) -> set[str]:
    """Those of `characters` that a font can draw: none of a font of bitmaps, as emoji often are."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # no font, or a damaged one
        return set()
    return {c for c in characters if font.get_char_index(ord(c))} if font.scalable else set()


def _is_fancy(path: str) -> bool:
    name = path.rsplit("/", 1)[-1].casefold()
    return any(word in name for word in ("serif", "mono", "italic", "oblique", "lastresort"))


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf") or "\ufe00" <= character <= "\ufe0f"
