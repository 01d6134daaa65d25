"""Extraction within a memory budget: how many frames may be under way at once."""

from __future__ import annotations

import numpy as np
import torch

from sdst.backbones import Backbone
from sdst.data.video import VideoInfo
from sdst.errors import InputError
from sdst.memory import format_bytes, own_memory, peak_memory, release

TRIAL = 4  # frames or groups of frames that are encoded to see what they take
# Pictures that a decoder keeps for reference and for its threads, at 1.5 bytes a pixel.
KEPT_PICTURES = 20
COPIES_TO_ENCODE = 4  # of a frame, while it is brought to the backbone's size
SPARE = 0.1  # of the budget: what allocators hold back


class BudgetError(InputError):
    """The budget is too small; no other video would fit either."""


class MemoryBudget:
    """Sizes batches so that a process stays within a budget of its own memory (`own_memory`).

    What the process holds already and what the backbone needs for a frame are measured; what a
    frame takes on its way follows from its size. On a GPU the budget is that of the host.

    Args:
        limit: bytes.
        backbone: loaded.
        text: whether sentences will be encoded; if not, the backbone's text tower is freed.
        decoders: videos that are decoded at the same time.
        encoders: batches that are encoded at the same time.
        batches: batches that are under way at the same time, those being encoded included.

    Raises:
        BudgetError: the backbone alone does not fit.
    """

    def __init__(
        self,
        limit: int,
        backbone: Backbone,
        text: bool,
        decoders: int,
        encoders: int,
        batches: int,
    ) -> None:
        self._limit, self._decoders = limit, decoders
        self._encoders, self._batches = encoders, batches
        if (held := own_memory()) > limit:
            raise BudgetError(
                f"--memory-budget {format_bytes(limit)}: Python, its libraries and backbone "
                f"{backbone.name} take {format_bytes(held)} before the first frame; give more"
            )
        if not text:
            backbone.release_text()
        frames = np.zeros((TRIAL * backbone.frames_at_once, *backbone.image_size, 3), np.uint8)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self._per_frame = peak_memory(lambda: backbone.encode_frames(frames)) // len(frames)
        finally:
            torch.set_num_threads(threads)
        release()
        self._held = own_memory()

    def frames(self, info: VideoInfo, at_least: int) -> int:
        """Frames of a video that may make a batch.

        Args:
            at_least: frames that cannot be parted.

        Raises:
            BudgetError: not even those fit.
        """
        raw = 3 * info.width * info.height
        fixed = self._decoders * KEPT_PICTURES * raw // 2
        # Every batch under way, and those being put together twice; then what encoding takes.
        each = (self._batches + self._decoders) * raw
        each += self._encoders * (self._per_frame + COPIES_TO_ENCODE * raw)
        room = self._limit * (1 - SPARE) - self._held - fixed
        fit = int(room // each)
        if fit < at_least:
            needed = (self._held + fixed + at_least * each) / (1 - SPARE)
            raise BudgetError(
                f"--memory-budget {format_bytes(self._limit)}: too little for videos of "
                f"{info.width}x{info.height}; they need {format_bytes(needed)}"
            )
        return fit
