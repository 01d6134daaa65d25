"""Which column or key holds what, by the names that people give them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sdst.errors import InputError
from sdst.importing.rows import Unit
from sdst.terminal.suggest import did_you_mean

# Of several columns that fit, the one whose name comes first here is taken.
NAMES: dict[str, tuple[str, ...]] = {
    "video": (
        *("video", "vid", "video_id", "video_name", "video_file", "video_path", "video_uid"),
        *("videoid", "videoname", "file", "filename", "file_name", "file_list", "path"),
        *("media", "media_file", "movie", "film", "clip_uid", "youtube_id", "clip", "source"),
    ),
    "start": (
        *("start", "begin", "start_time", "begin_time", "starttime", "begintime", "t_start"),
        *("time_start", "start_timestamp", "timestamp_start", "segment_start", "clip_start"),
        *("temporal_segment_start", "moment_start", "from", "onset", "tc_in", "in", "time_in"),
    ),
    "end": (
        *("end", "stop", "end_time", "stop_time", "endtime", "stoptime", "t_end", "time_end"),
        *("end_timestamp", "timestamp_end", "segment_end", "clip_end", "temporal_segment_end"),
        *("moment_end", "to", "finish", "offset", "tc_out", "out", "time_out"),
    ),
    "sentence": (
        *("sentence", "query", "caption", "description", "text", "sentences", "captions"),
        *("annotation", "transcript", "transcription", "utterance", "phrase", "desc", "comment"),
        *("action", "event", "label", "labels", "name", "title", "value", "tag"),
    ),
    "split": ("split", "subset", "partition", "set"),
    "windows": (
        *("relevant_windows", "windows", "window", "timestamps", "timestamp", "moments", "moment"),
        *("segments", "segment", "intervals", "interval", "ranges", "range", "spans", "span"),
        *("temporal_coordinates", "times", "time"),
    ),
}
REQUIRED = ("video", "start", "end", "sentence")
CHOOSABLE = (*REQUIRED, "split")
# What names end with that have a unit, the longest first.
_UNITS: tuple[tuple[str, Unit], ...] = (
    (r"(?:_h+)?(?:_m+)?_ss?(?:_m?sec|_ms|_mmm)?", "s"),
    (r"_(?:sec|secs|second|seconds)", "s"),
    (r"_(?:ms|msec|millis|milliseconds?)", "ms"),
    (r"_frames?", "frames"),
)


class Field(NamedTuple):
    """The column or key of a field, and what its times are in."""

    key: str
    unit: Unit


def parse_columns(given: Sequence[str]) -> dict[str, str]:
    """`FIELD=COLUMN` of the command line, by field.

    Raises:
        InputError: it is written otherwise, or there is no such field.
    """
    columns: dict[str, str] = {}
    for text in given:
        field, found, column = text.partition("=")
        if not found or not column or field not in CHOOSABLE:
            raise InputError(
                f"--columns {text}: expected FIELD=COLUMN with a FIELD of {', '.join(CHOOSABLE)}"
                f"{did_you_mean(field, CHOOSABLE)}"
            )
        columns[field] = column
    return columns


def recognise(keys: Collection[str], columns: Mapping[str, str]) -> dict[str, Field]:
    """The field that each of some keys stands for, those of `columns` by choice."""
    plain = {key: _split_unit(key) for key in keys}
    found: dict[str, Field] = {}
    for field, names in NAMES.items():
        if (chosen := columns.get(field)) is not None:
            if chosen in plain:
                found[field] = Field(chosen, plain[chosen][1])
            continue
        ranked = [(names.index(name), key) for key, (name, _) in plain.items() if name in names]
        if ranked:
            key = min(ranked, key=lambda entry: entry[0])[1]
            found[field] = Field(key, plain[key][1])
    return found


def _split_unit(key: str) -> tuple[str, Unit]:
    """A name in small letters joined by `_`, and the unit that it ended with."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key.strip())
    name = re.sub(r"\W+|_+", "_", spaced.casefold()).strip("_")
    for pattern, unit in _UNITS:
        if found := re.fullmatch(rf"(.+?)(?:_in)?{pattern}", name):
            return found[1], unit
    return name, "s"
