"""Moments one behind the other on an editor's time line, each a part of its file."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from sdst.data.video import VideoInfo, probe
from sdst.grounding.export.moment import Moment

NAME = "sdst moments"
RATE = Fraction(25)  # frames per second of a time line where its files say none that serves
# Those that time codes know (SMPTE 12M).
BROADCAST = {*map(Fraction, (24, 25, 30, 48, 50, 60))}
BROADCAST |= {Fraction(1000 * whole, 1001) for whole in (24, 30, 60)}
MOST_DENOMINATOR = 1001  # of a rate: 30000/1001 and the like are recognized by their decimals
RECORD_START = 3600  # s; a time line begins at one hour, as is the custom


@dataclass(frozen=True)
class Part:
    """A moment in whole frames: `start` in its file, `place` on the time line, `count` of them."""

    moment: Moment
    start: int
    count: int
    place: int


def as_edl(moments: Sequence[Moment]) -> str:
    """CMX 3600, in frames of the first video's rate, of `RATE` where time codes do not know it."""
    rate = _rate(_sources(moments))
    rate = rate if rate in BROADCAST else RATE
    lines = [f"TITLE: {NAME}", "FCM: NON-DROP FRAME", ""]
    for number, part in enumerate(_parts(moments, rate), 1):
        record = RECORD_START * round(rate) + part.place
        times = (part.start, part.start + part.count, record, record + part.count)
        clocks = " ".join(_timecode(frames, rate) for frames in times)
        lines += [
            f"{number:03}  AX       V     C        {clocks}",
            f"* FROM CLIP NAME: {Path(part.moment.name).name}",
            f"* COMMENT: {part.moment.title}",
        ]
    return "\n".join(lines) + "\n"


def as_otio(moments: Sequence[Moment]) -> str:
    """OpenTimelineIO."""
    sources = _sources(moments)
    rate = _rate(sources)
    clips = []
    for part in _parts(moments, rate):
        moment, info = part.moment, sources[part.moment.video]
        media = {
            "OTIO_SCHEMA": "ExternalReference.1",
            "target_url": moment.uri,
            "available_range": _range(0, round(info.duration * rate), rate),
        }
        clips.append(
            {
                "OTIO_SCHEMA": "Clip.2",
                "name": moment.title,
                "source_range": _range(part.start, part.count, rate),
                "media_references": {"DEFAULT_MEDIA": media},
                "active_media_reference_key": "DEFAULT_MEDIA",
                "metadata": {"sdst": {"rank": moment.rank, "score": round(moment.score, 4)}},
            }
        )
    track = {"OTIO_SCHEMA": "Track.1", "name": "moments", "kind": "Video", "children": clips}
    stack = {"OTIO_SCHEMA": "Stack.1", "name": "tracks", "children": [track]}
    return json.dumps({"OTIO_SCHEMA": "Timeline.1", "name": NAME, "tracks": stack}, indent=1) + "\n"


def as_fcpxml(moments: Sequence[Moment]) -> str:
    """Final Cut Pro X, which others read as well."""
    sources = _sources(moments)
    rate = _rate(sources)
    root = ET.Element("fcpxml", version="1.8")
    resources = ET.SubElement(root, "resources")
    first = next(iter(sources.values()), VideoInfo(0.0, float(RATE), 1920, 1080, 0))
    size = {"width": str(first.width), "height": str(first.height)}
    ET.SubElement(resources, "format", {"id": "r1", "frameDuration": _seconds(1, rate), **size})
    names = {}
    shown = {moment.video: moment for moment in moments}
    for number, (video, info) in enumerate(sources.items(), 2):
        names[video] = f"r{number}"
        length = _seconds(round(info.duration * rate), rate)
        moment = shown[video]
        about = {"name": Path(moment.name).stem, "src": moment.uri, "start": "0s"}
        about |= {"duration": length, "hasVideo": "1", "format": "r1"}
        ET.SubElement(resources, "asset", {"id": names[video], **about})
    event = ET.SubElement(ET.SubElement(root, "library"), "event", name=NAME)
    project = ET.SubElement(event, "project", name=NAME)
    parts = _parts(moments, rate)
    length = _seconds(sum(part.count for part in parts), rate)
    sequence = ET.SubElement(project, "sequence", format="r1", duration=length, tcStart="0s")
    spine = ET.SubElement(sequence, "spine")
    for part in parts:
        about = {"offset": _seconds(part.place, rate), "start": _seconds(part.start, rate)}
        about |= {"duration": _seconds(part.count, rate), "name": part.moment.title}
        clip = ET.SubElement(spine, "asset-clip", {"ref": names[part.moment.video], **about})
        note = f"rank {part.moment.rank}, score {part.moment.score:.4f}"
        ET.SubElement(clip, "note").text = note
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n{body}\n'


def _sources(moments: Sequence[Moment]) -> dict[Path, VideoInfo]:
    return {video: probe(video) for video in dict.fromkeys(moment.video for moment in moments)}


def _rate(sources: dict[Path, VideoInfo]) -> Fraction:
    """Frames per second of the time line: those of the first video."""
    fps = next((info.fps for info in sources.values() if info.fps), 0.0)
    return Fraction(fps).limit_denominator(MOST_DENOMINATOR) or RATE


def _parts(moments: Sequence[Moment], rate: Fraction) -> list[Part]:
    parts, place = [], 0
    for moment in moments:
        start = round(moment.start * rate)
        count = max(round(moment.end * rate) - start, 1)
        parts.append(Part(moment, start, count, place))
        place += count
    return parts


def _timecode(frames: int, rate: Fraction) -> str:
    """HH:MM:SS:FF at the whole rate next to `rate`, as time codes that drop no frame count."""
    seconds, frames = divmod(frames, round(rate))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frames:02}"


def _range(start: int, count: int, rate: Fraction) -> dict:
    def time(frames: int) -> dict:
        return {"OTIO_SCHEMA": "RationalTime.1", "rate": float(rate), "value": float(frames)}

    return {"OTIO_SCHEMA": "TimeRange.1", "start_time": time(start), "duration": time(count)}


def _seconds(frames: int, rate: Fraction) -> str:
    """A time as Final Cut writes it: a fraction of seconds that is a whole number of frames."""
    time = frames / rate
    whole = time.denominator == 1
    return f"{time.numerator}s" if whole else f"{time.numerator}/{time.denominator}s"
