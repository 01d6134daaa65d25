"""Make a dataset of your own videos from moments in another program's file.

python -m sdst.import moments.csv --videos DIR --output DATASET

Reads CSV and TSV with a header (video, start, end, sentence, under many names), JSON and JSON
lines, ELAN (.eaf), Label Studio and VIA exports, and subtitles (SRT, VTT; a file for each video).
Times are seconds, mm:ss or h:mm:ss.mmm. Durations come from the videos, whose names may lack their
endings; videos are split into train, val and test, unless the file has a column `split`.

Whatever is doubtful is left out and listed with file and line, and the exit code is 1; with
--strict nothing is written then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdst.data.annotations import Annotation
from sdst.errors import InputError, collected, refuse_all, run
from sdst.importing.dataset import check_output, write_dataset
from sdst.importing.fields import parse_columns
from sdst.importing.formats import read_rows
from sdst.importing.library import Library, Video, ids_of
from sdst.importing.moments import Moments, gather
from sdst.importing.rows import Doubt, Query, Row
from sdst.importing.splits import split_queries
from sdst.terminal.options import OneLineParser


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OneLineParser("python -m sdst.import", __doc__)
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="annotations, by their endings")
    add("--videos", type=Path, nargs="+", metavar="DIR", help="folders, files, or lists in .txt")
    add("--output", type=Path, metavar="DATASET", help="folder of the dataset")
    add(
        "--columns",
        nargs="+",
        default=[],
        metavar="FIELD=COLUMN",
        help="video, start, end, sentence or split by its name in the file, or by its number "
        "where there is no header; of ELAN sentence=TIER, of VIA sentence=ATTRIBUTE",
    )
    add("--val", type=float, default=0.1, metavar="SHARE", help="of videos (default: %(default)s)")
    add("--test", type=float, default=0.1, metavar="SHARE", help="of videos (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the splits (default: %(default)s)")
    add(
        "--frame-rate",
        type=float,
        metavar="FPS",
        help="of times that count frames, as Label Studio's (default: the video's own)",
    )
    add("--strict", action="store_true", help="write nothing where anything is doubtful")
    add("--overwrite", action="store_true", help="replace the annotations in DATASET")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.import --help`. Exit code 1 where something is left out."""
    options = make_parser().parse_args(arguments)
    _check_options(options)
    rows = _read(options.files, parse_columns(options.columns))
    library = Library(options.videos)
    moments = gather(rows, library, options.frame_rate)
    for note in moments.notes:
        print(f"damaged: {note}", file=sys.stderr)
    doubts = [str(doubt) for doubt in moments.doubts]
    if doubts and (options.strict or not moments.queries):
        for line in doubts:
            print(line, file=sys.stderr)
        raise InputError(
            f"{len(doubts):,} of {len(rows):,} moments are doubtful; nothing is written"
        )
    splits = split_queries(moments.queries, options.val, options.test, options.seed)
    ids = ids_of(list(moments.lengths), library)
    annotations = _annotations(moments, splits, ids)
    write_dataset(options.output, annotations, {vid: video.path for video, vid in ids.items()})
    for line in doubts:
        print(f"left out: {line}", file=sys.stderr)
    for split, of_it in annotations.items():
        print(_describe(options.output / f"{split}.jsonl", of_it))
    return 1 if doubts else 0


def _read(files: Sequence[Path], columns: Mapping[str, str]) -> list[Row | Doubt]:
    """The rows of all files; what is wrong with whole files is refused at once."""
    rows: list[Row | Doubt] = []
    faults: list[str] = []
    for path in files:
        with collected(faults):
            rows += read_rows(path, columns)
    refuse_all(faults, "annotation files cannot be read")
    return rows


def _annotations(
    moments: Moments, splits: Mapping[str, Sequence[Query]], ids: Mapping[Video, str]
) -> dict[str, list[Annotation]]:
    """Annotations by split, whose ids count the queries in the order of the files."""
    numbers = {id(query): number for number, query in enumerate(moments.queries)}
    return {
        split: [
            Annotation(
                qid=numbers[id(query)],
                query=query.sentence,
                vid=ids[query.video],
                duration=moments.lengths[query.video].duration,
                windows=tuple(query.windows),
            )
            for query in queries
        ]
        for split, queries in splits.items()
    }


def _describe(path: Path, annotations: Sequence[Annotation]) -> str:
    windows = sum(len(annotation.windows or ()) for annotation in annotations)
    videos = len({annotation.vid for annotation in annotations})
    return f"{path}: {len(annotations):,} queries, {windows:,} moments, {videos:,} videos"


def _check_options(options: argparse.Namespace) -> None:
    if options.videos is None:
        raise InputError("--videos is missing: the folder of the videos that the moments are of")
    if options.output is None:
        raise InputError("--output is missing: the folder of the dataset to write")
    for name in ("val", "test"):
        if not 0 <= getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name):g}: expected a share below 1")
    if options.val == 0 or options.val + options.test >= 1:
        raise InputError(
            f"--val {options.val:g} --test {options.test:g}: expected a share above 0 to validate "
            "on, and videos left to train on"
        )
    if options.frame_rate is not None and not options.frame_rate > 0:
        raise InputError(f"--frame-rate {options.frame_rate:g}: expected frames per second above 0")
    check_output(options.output, options.overwrite)


if __name__ == "__main__":
    run(main)
