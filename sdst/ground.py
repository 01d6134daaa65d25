"""Find the moments of a video file that sentences describe.

python -m sdst.ground --checkpoint DIR --video FILE --query TEXT [...]
python -m sdst.ground --zero-shot --backbone NAME --video FILE --query TEXT [...]
python -m sdst.ground --checkpoint DIR --videos PATH ... --query TEXT    of many videos the best
python -m sdst.ground --checkpoint DIR --store STORE --query TEXT        of those of sdst.extract
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdst.config import PRECISIONS
from sdst.data.store.reader import FeatureStore
from sdst.data.video_files import as_spelled, find_videos
from sdst.errors import InputError, run
from sdst.grounding.queries import check_queries, read_queries
from sdst.publish import replace_text
from sdst.times import format_time

# What needs PyTorch is imported by `main`: options are checked without waiting for it.
if TYPE_CHECKING:
    from sdst.grounding.grounder import Grounder, Grounding, ZeroShotGrounder
    from sdst.grounding.search import Found


def format_table(answer: Grounding) -> str:
    """The query and its windows, one a line, ranked."""
    lines = [answer.query.strip(), "  rank     start       end   score"]
    for rank, (start, end, score) in enumerate(answer.windows, 1):
        lines.append(f"  {rank:>4} {format_time(start):>9} {format_time(end):>9}   {score:5.3f}")
    return "\n".join(lines)


def format_found(query: str, found: Sequence[Found], videos: int) -> str:
    """The query and its moments of so many videos, one a line, ranked."""
    lines = [f"{query.strip()}, best of {videos:,} video{'' if videos == 1 else 's'}"]
    lines.append("  rank     start       end   score  video")
    for rank, moment in enumerate(found, 1):
        start, end = format_time(moment.start), format_time(moment.end)
        lines.append(f"  {rank:>4} {start:>9} {end:>9}   {moment.score:5.3f}  {moment.vid}")
    return "\n".join(lines)


def as_json(video: Path, answers: Sequence[Grounding]) -> str:
    """The answers under the names of the official submission."""
    first = answers[0]
    content = {
        "video": str(video),
        "duration": first.duration,
        "clip_length": first.clip_length,
        "answers": [
            {
                "query": answer.query,
                "pred_relevant_windows": np.round(answer.windows, 4).tolist(),
                "pred_saliency_scores": np.round(answer.saliency.astype(float), 4).tolist(),
            }
            for answer in answers
        ],
    }
    return json.dumps(content) + "\n"


def found_as_json(queries: Sequence[str], answers: Sequence[Sequence[Found]]) -> str:
    """The moments of many videos, a record for every query."""
    records = [
        {
            "query": query,
            "moments": [
                {
                    "vid": moment.vid,
                    "start": round(moment.start, 4),
                    "end": round(moment.end, 4),
                    "score": round(moment.score, 4),
                }
                for moment in found
            ],
        }
        for query, found in zip(queries, answers, strict=True)
    ]
    return json.dumps(records) + "\n"


def _check_output(option: str, path: Path | None) -> None:
    if path is None:
        return
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: no such folder {path.parent}; create it first")
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; expected the name of a file")


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m sdst.ground",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="DIR", help="a training run's folder")
    add("--zero-shot", action="store_true", help="answer with the frozen backbone alone")
    add(
        "--backbone",
        metavar="NAME",
        help="with --zero-shot (default: demo), or where a checkpoint needs one",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="with --checkpoint, of the side-tuner's products (default: fp32); bf16 is about "
        "twice as fast where the processor has it",
    )
    add("--clip-length", type=float, metavar="S", help="with --zero-shot (default: 2 seconds)")
    add("--video", type=Path, metavar="FILE")
    add("--videos", type=Path, nargs="+", metavar="PATH", help="files or folders to search in")
    add("--store", type=Path, metavar="DIR", help="a store of sdst.extract to search in")
    add("--query", action="append", default=[], metavar="TEXT", help="may be given repeatedly")
    add("--queries", type=Path, metavar="FILE", help="queries, one a line")
    add("--top", type=int, default=5, metavar="N", help="windows per query (default: %(default)s)")
    add("--json", type=Path, metavar="OUT", help="write the answers as JSON")
    add("--plot", type=Path, metavar="OUT.png", help="draw the answers on the time line")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.ground --help`."""
    options = make_parser().parse_args(arguments)
    options.video = options.video and as_spelled(options.video)
    options.query += read_queries(options.queries) if options.queries else []
    _check_options(options)
    videos = _open_videos(options)
    grounder = _open_grounder(options)
    if videos is not None:
        from sdst.grounding.grounder import Grounder

        assert isinstance(grounder, Grounder)  # `_check_options` refuses --zero-shot here
        return _search(grounder, videos, options)
    answers = grounder.ground(options.video, options.query, options.top, progress=True)
    if options.json:
        replace_text(options.json, as_json(options.video, answers))
    if options.plot:
        from sdst.plots import plot_groundings

        plot_groundings(options.video, answers, options.plot)
    first, clips = answers[0], len(answers[0].saliency)
    print(
        f"{options.video.name}: {format_time(first.duration)}, "
        f"{clips} clip{'' if clips == 1 else 's'} of {first.clip_length:g} s"
    )
    for answer in answers:
        print(f"\n{format_table(answer)}")
    return 0


def _open_videos(options: argparse.Namespace) -> dict[str, Path] | FeatureStore | None:
    """What is searched; None where a single video is asked about."""
    if options.video is not None:
        return None
    videos = find_videos(options.videos) if options.videos else FeatureStore(options.store)
    if not len(videos):
        given = " ".join(map(str, options.videos or [options.store]))
        raise InputError(f"{given}: names no video; expected at least one to search in")
    return videos


def _open_grounder(options: argparse.Namespace) -> Grounder | ZeroShotGrounder:
    from sdst.grounding.grounder import Grounder, ZeroShotGrounder

    if options.zero_shot:
        return ZeroShotGrounder(options.backbone or "demo", options.clip_length or 2.0)
    precision = options.precision or "fp32"
    return Grounder(options.checkpoint, backbone=options.backbone, precision=precision)


def _search(
    grounder: Grounder, videos: dict[str, Path] | FeatureStore, options: argparse.Namespace
) -> int:
    """Print the best moments of many videos for every query; exit code 1 if one was left out."""
    skipped: list[str] = []
    answers = grounder.search(videos, options.query, options.top, skipped, progress=True)
    if len(skipped) == len(videos):
        raise InputError(f"none of {len(videos):,} videos can be read; the first: {skipped[0]}")
    if options.json:
        replace_text(options.json, found_as_json(options.query, answers))
    for query, found in zip(options.query, answers, strict=True):
        print(f"\n{format_found(query, found, len(videos) - len(skipped))}")
    for line in skipped:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if skipped else 0


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what does not go together before anything is loaded."""
    if options.zero_shot == (options.checkpoint is not None):
        raise InputError("give either --checkpoint DIR or --zero-shot")
    if [options.video, options.videos, options.store].count(None) != 2:
        raise InputError("give one of --video FILE, --videos PATH ... and --store DIR")
    if options.precision is not None and options.zero_shot:
        raise InputError("--precision goes with --checkpoint; a backbone's stands in its name")
    if options.clip_length is not None and not options.zero_shot:
        raise InputError("--clip-length goes with --zero-shot; a checkpoint knows its own")
    if options.clip_length is not None and not 0 < options.clip_length < math.inf:
        raise InputError(f"--clip-length {options.clip_length:g}: expected seconds above 0")
    if not options.query:
        raise InputError("no query given; give --query TEXT or --queries FILE")
    check_queries(options.query)
    if options.top < 1:
        raise InputError(f"--top {options.top}: expected at least 1")
    if options.video is None and options.zero_shot:
        raise InputError("--zero-shot answers on one --video FILE; search many with --checkpoint")
    if options.video is None and options.plot:
        raise InputError("--plot draws one video; give --video FILE, or leave --plot out")
    if options.video is not None and options.video.is_dir():
        raise InputError(
            f"--video {options.video}: is a folder; expected a video file, "
            f"or search it with --videos {options.video}"
        )
    if options.video is not None and not options.video.is_file():
        raise InputError(f"--video {options.video}: no such video file")
    _check_output("--json", options.json)
    _check_output("--plot", options.plot)
    if options.plot:
        from sdst.plots import check_picture_name

        check_picture_name(options.plot)


if __name__ == "__main__":
    run(main)
