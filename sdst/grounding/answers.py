"""The answer to a query, as a value to keep, print, draw and send."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sdst.grounding.zero_shot import suppress
from sdst.terminal.times import format_time

SAME_MOMENT = 0.5  # IoU above which two windows are one moment to who reads
UNLIKELY = 0.1  # probability below which a window is not shown behind the first


def moments_to_show(
    windows: Sequence[list[float]], floor: float = 0.0, top: int | None = None
) -> list[list[float]]:
    """The first of every window found several times, of at least a score of `floor`.

    Args:
        windows: `[[start, end, score], ...]`, best first; the first stays whatever its score.
        floor: `UNLIKELY` where scores are probabilities.
        top: most of them.
    """
    rows = np.asarray(windows, float).reshape(-1, 3)
    apart = suppress(rows[:, :2], rows[:, 2], SAME_MOMENT, top or len(rows))
    return [windows[i] for i in apart if i == 0 or rows[i, 2] >= floor]


@dataclass(frozen=True, eq=False)
class Grounding:
    """The answer to one query; comparable and picklable. A notebook shows it as a table.

    Args:
        query: the sentence.
        windows: `[[start, end, score], ...]`, seconds, best first; all that the model gave.
        saliency: how well each of L clips fits the sentence, `[L]`, in [-1, 1].
        clip_length: seconds per clip.
        duration: seconds of the video.
        unread: the end of a sentence that is longer than the backbone's text tower reads.
        video: the file that was asked.
        presence: probability that the video has what the sentence says, where as many sentences
            are asked that hold as others; None where the model was not calibrated for it.
        moments: the windows to show, `moments_to_show`; by default those of `windows`.
    """

    query: str
    windows: list[list[float]]
    saliency: np.ndarray
    clip_length: float
    duration: float
    unread: str = ""
    video: str = ""
    presence: float | None = None
    moments: list[list[float]] = None  # type: ignore[assignment]  # made of `windows`

    def __post_init__(self) -> None:
        if self.moments is None:
            object.__setattr__(self, "moments", moments_to_show(self.windows))

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
            for rank, (start, end, score) in enumerate(self.moments, 1)
        )
        return (
            f"<table><caption>{html.escape(self.query)}</caption>"
            "<tr><th>rank</th><th>start</th><th>end</th><th>score</th></tr>"
            f"{rows}</table>"
        )
