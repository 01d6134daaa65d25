"""Videos are encoded one after the other, in the background."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread
from traceback import format_exception
from typing import Literal

from sdst.serving.library import Video, renamed
from sdst.serving.refusals import BUSY, Refused, status_and_line

logger = logging.getLogger(__name__)

State = Literal["waiting", "encoding", "ready", "failed"]


@dataclass(frozen=True)
class Job:
    """How far the encoding of a video is.

    Args:
        state: questions are answered once it is `ready`.
        progress: share that is encoded, in [0, 1].
        error: why it failed, one line.
    """

    state: State = "waiting"
    progress: float = 0.0
    error: str = ""


class Encodings:
    """The jobs of a library's videos, by id; threads may share it.

    Args:
        encode: encodes a video and reports the share that is done; encoding again costs nothing.
        room: videos that may wait before uploads are refused.
    """

    def __init__(
        self, encode: Callable[[Video, Callable[[float], None]], object], room: int
    ) -> None:
        self._encode, self._room = encode, room
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Video] = deque()
        self._changed = Condition()
        self._stopped = False
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def of(self, vid: str) -> Job:
        """How far a video is."""
        return self._jobs.get(vid, Job("failed", error="the video was removed"))

    def check_room(self, coming: int) -> None:
        """Refuse an upload where too many videos wait already.

        Args:
            coming: uploads that are being received.

        Raises:
            Refused: it is so.
        """
        waiting = len(self._waiting) + coming
        if waiting >= self._room:
            raise Refused(BUSY, f"{waiting} videos wait to be encoded already; try again later")

    def add(self, video: Video) -> None:
        """Encode a video when its turn comes."""
        with self._changed:
            self._jobs[video.id] = Job()
            self._waiting.append(video)
            self._changed.notify()

    def cancel(self, vid: str) -> None:
        """Drop a video's job; one that runs ends at its next batch of frames."""
        with self._changed:
            self._jobs.pop(vid, None)
            self._waiting = deque(video for video in self._waiting if video.id != vid)

    def stop(self) -> None:
        """End the job that runs, and the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                video = self._waiting.popleft()
                self._jobs[video.id] = Job("encoding")
            self._encode_one(video)

    def _encode_one(self, video: Video) -> None:
        def report(share: float) -> None:
            if self._stopped or video.id not in self._jobs:
                raise _CancelledError
            self._set(video.id, Job("encoding", min(share, 1.0)))

        try:
            self._encode(video, report)
        except _CancelledError:
            return
        except Exception as error:
            known = status_and_line(error)
            reason = "".join(format_exception(error)) if known is None else error
            logger.error("%s cannot be encoded: %s", video.path, reason)
            line = known[1] if known else "cannot be encoded; the server's log has the reason"
            self._set(video.id, Job("failed", error=renamed(line, video.path, video.name)))
            return
        self._set(video.id, Job("ready", 1.0))

    def _set(self, vid: str, job: Job) -> None:
        with self._changed:
            if vid in self._jobs:
                self._jobs[vid] = job


class _CancelledError(Exception):
    """The video was removed, or the server stops."""
