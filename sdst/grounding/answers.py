"""The answer to a query, as a value to keep, print, draw and send."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sdst.times import format_time


@dataclass(frozen=True, eq=False)
class Grounding:
    """The answer to one query; comparable and picklable. A notebook shows it as a table.

    Args:
        query: the sentence.
        windows: `[[start, end, score], ...]`, seconds, best first.
        saliency: how well each of L clips fits the sentence, `[L]`, in [-1, 1].
        clip_length: seconds per clip.
        duration: seconds of the video.
        unread: the end of a sentence that is longer than the backbone's text tower reads.
        video: the file that was asked.
    """

    query: str
    windows: list[list[float]]
    saliency: np.ndarray
    clip_length: float
    duration: float
    unread: str = ""
    video: str = ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grounding):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]  # it holds an array

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, under the names of the attributes."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"saliency": self.saliency.tolist()}

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def plot(self, out: str | Path) -> None:
        """Draw thumbnails, saliency and windows into a picture file (png, pdf, svg, ...).

        Raises:
            InputError: the video cannot be read, or `out` names no picture.
        """
        from sdst.plots import plot_groundings

        plot_groundings(self.video, [self], out)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{rank}</td><td>{format_time(start)}</td><td>{format_time(end)}</td>"
            f"<td>{score:.3f}</td></tr>"
            for rank, (start, end, score) in enumerate(self.windows, 1)
        )
        return (
            f"<table><caption>{html.escape(self.query)}</caption>"
            "<tr><th>rank</th><th>start</th><th>end</th><th>score</th></tr>"
            f"{rows}</table>"
        )
