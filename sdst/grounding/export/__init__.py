"""Moments as files of other programs: tables, subtitles, time lines; and clips cut from videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sdst.errors import InputError
from sdst.files.publish import replace_text
from sdst.grounding.export.moment import Moment, moments_found, moments_of
from sdst.grounding.export.subtitles import as_srt, as_vtt
from sdst.grounding.export.tables import as_csv, as_json
from sdst.grounding.export.timelines import as_edl, as_fcpxml, as_otio

__all__ = [
    "FORMATS",
    "ON_ONE_VIDEO",
    "Moment",
    "check_export_name",
    "export",
    "moments_found",
    "moments_of",
]

FORMATS: dict[str, Callable[[Sequence[Moment]], str]] = {
    ".csv": as_csv,
    ".json": as_json,
    ".srt": as_srt,
    ".vtt": as_vtt,
    ".edl": as_edl,
    ".otio": as_otio,
    ".fcpxml": as_fcpxml,
}
ON_ONE_VIDEO = (".srt", ".vtt")


def check_export_name(out: Path, one_video: bool) -> None:
    """Refuse a file whose ending names no format, or none for moments of many videos.

    Raises:
        InputError: it is so.
    """
    if out.suffix.lower() not in FORMATS:
        raise InputError(
            f"--export {out}: no format of this ending; expected one of {', '.join(FORMATS)}"
        )
    if not one_video and out.suffix.lower() in ON_ONE_VIDEO:
        raise InputError(f"--export {out}: subtitles are of one video; give --video FILE")


def export(moments: Sequence[Moment], out: Path) -> None:
    """Write moments into a file in the format that its ending names, one of `FORMATS`.

    Raises:
        InputError: the ending names none, or a time line's video cannot be read.
    """
    check_export_name(out, len({moment.video for moment in moments}) <= 1)
    replace_text(out, FORMATS[out.suffix.lower()](moments))
