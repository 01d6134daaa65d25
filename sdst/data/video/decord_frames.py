"""Frames by decord, for those who ask for it: `pip install decord`.

It needs an index of the file, decodes no damaged one, handles neither rotated frames nor timestamps
that jump, and takes the last frame to be as long as the others. Folders of pictures and URLs are
read as without it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np

from sdst.data.video.container import file_start, open_video
from sdst.errors import InputError, reading

ROUNDING = 1e-6  # s
REFUSED = "a video that decord reads; leave the reader out, and PyAV does"


def check_decord() -> None:
    """Refuse to continue without decord.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("decord") is None:
        raise InputError(
            "decord is not installed; pip install decord, or leave the reader out and PyAV reads"
        )


class DecordFrames:
    """The frames of a file by their time, as `sdst.data.video.frames.Frames` has them.

    Args:
        path: a video file.

    Raises:
        InputError: decord is not installed, or cannot read the file.
    """

    def __init__(self, path: str | Path) -> None:
        check_decord()
        import decord

        with open_video(path) as container:
            start = file_start(container) or 0.0
        with reading(path, f"expected {REFUSED}"):
            self._reader: Any = decord.VideoReader(str(path), num_threads=1)
            spans = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))))
        self._starts, self._end = spans[:, 0] - start, float(spans[-1, 1]) - start
        self._path = path

    @property
    def end(self) -> float:
        """Seconds at which the last frame ends."""
        return self._end

    @property
    def reached(self) -> float:
        """The same: all frames are known."""
        return self._end

    def go_beyond(self, time: float) -> bool:
        """Whether there are frames after `time` (s)."""
        return self._end > time + ROUNDING

    def at(self, time: float) -> av.VideoFrame:
        """The last frame that starts no later than `time` (s); the first, if none does."""
        index = int(np.searchsorted(self._starts, time + ROUNDING, side="right")) - 1
        with reading(self._path, f"expected {REFUSED}"):
            pixels = self._reader[max(index, 0)].asnumpy()
        if pixels.shape[2] != 3:  # its filter that turns pictures gives an alpha channel, of 0.6.0
            raise InputError(f"{self._path}: asks to be turned; expected {REFUSED}")
        return av.VideoFrame.from_ndarray(pixels, format="rgb24")

    def losses(self) -> tuple[int, int]:
        """None that decord would report, of all frames."""
        return 0, len(self._starts)
