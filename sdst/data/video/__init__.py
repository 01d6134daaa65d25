"""Video files as frames: one frame per requested time, in constant memory.

Times count in seconds from the start of the file, the earlier of its sound and its frames, as
players, `ffmpeg -ss` and annotators count them. A video is as long as its frames go; what headers
say of lengths is an estimate. What can be decoded of a damaged file is used, and the rest is
reported.
"""

from sdst.data.video.container import VideoInfo
from sdst.data.video.kinds import READERS, Reader, probe
from sdst.data.video.reader import (
    ClipReader,
    Measured,
    clip_times,
    frame_at,
    measure,
    num_clips,
    thumbnails,
)

__all__ = [
    "READERS",
    "ClipReader",
    "Measured",
    "Reader",
    "VideoInfo",
    "clip_times",
    "frame_at",
    "measure",
    "num_clips",
    "probe",
    "thumbnails",
]
