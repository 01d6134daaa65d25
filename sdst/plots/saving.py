"""Pictures as files: their formats, and fonts for all of their text."""

from __future__ import annotations

import logging
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from sdst.errors import InputError
from sdst.files.publish import replacing
from sdst.plots.fonts import drawable, families_for, silent
from sdst.plots.style import DPI

NAMED = 10  # characters that no font has

logger = logging.getLogger(__name__)


def check_picture_name(out: str | Path) -> None:
    """Refuse a name whose ending is no image format, before any work is done."""
    formats = FigureCanvasAgg.get_supported_filetypes()
    ending = Path(out).suffix.lower().lstrip(".")
    if ending not in formats:
        raise InputError(f"{out}: no picture format {ending!r}; expected .png, .pdf or .svg")


def save(figure: Figure, out: str | Path) -> None:
    """Write the figure, whole or not at all."""
    with replacing(out) as file, silent():
        _choose_fonts(figure, out)
        figure.savefig(file, dpi=DPI, format=Path(out).suffix.lower().lstrip("."))


def _choose_fonts(figure: Figure, out: str | Path) -> None:
    """Draw all text in fonts that have its characters; what none has is named."""
    texts = figure.findobj(Text)
    for text in texts:
        text.set_text(drawable(text.get_text()))
    families, missing = families_for("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_fontfamily(families)
    if missing:
        logger.warning(
            "%s: no font here has %s%s, drawn as boxes; install one, such as Noto Sans",
            out,
            " ".join(missing[:NAMED]),
            f" and {len(missing) - NAMED} more characters" if len(missing) > NAMED else "",
        )
