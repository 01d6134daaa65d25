"""Find the moments of a video file that sentences describe.

python -m sdst.ground --video FILE --query TEXT     the demo's model, which knows coloured shapes
python -m sdst.ground --checkpoint MODEL --video FILE --query TEXT [...]
python -m sdst.ground --checkpoint MODEL --video FILE   highlights, of a model without sentences
python -m sdst.ground --zero-shot --backbone NAME --video FILE --query TEXT [...]
python -m sdst.ground --checkpoint MODEL --videos PATH ... --query TEXT  across many videos
python -m sdst.ground --checkpoint MODEL --store STORE --query TEXT      across a feature store
python -m sdst.ground --checkpoint MODEL --index INDEX --query TEXT      across an index

A moment's score is the probability that it has an IoU of at least 0.5 with what the sentence
describes, given that the video has it; presence is the probability that the video has it. Both are
calibrated on the validation split of the training. The table leaves out duplicates of a better
moment, and unlikely ones; --json has them all. Across many videos, a score is lowered where the
video more likely lacks what is described. With --zero-shot there is no presence, and a score is no
probability: it is how far the clips' similarity to the sentence exceeds the rest of the video.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.data.store.reader import FeatureStore
from sdst.data.video_files import FRAME_RATE, as_spelled, is_picture_folder, is_url
from sdst.errors import InputError, run
from sdst.files.publish import replace_text
from sdst.grounding.answerer import add_answerer, check_answerer, open_answerer
from sdst.grounding.corpus import Corpus, open_corpus
from sdst.grounding.export import (
    FORMATS,
    Moment,
    check_export_name,
    export,
    moments_found,
    moments_of,
)
from sdst.grounding.export.clips import cut_all
from sdst.grounding.queries import as_queries, read_queries
from sdst.grounding.report import as_json, format_found, format_table, format_video, found_as_json
from sdst.indexing.clip_index import CANDIDATES, ClipIndex
from sdst.terminal.options import OneLineParser, add_verbosity

# What needs PyTorch is imported by `main`: options are checked without waiting for it.
if TYPE_CHECKING:
    from sdst.grounding.grounder import Grounder
    from sdst.grounding.zero_shot_grounder import ZeroShotGrounder

PIPE = Path("-")
NO_QUERY = "no query given; give --query TEXT or --queries FILE"


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OneLineParser("python -m sdst.ground", __doc__)

    add_answerer(parser)

    where = parser.add_argument_group("where to look")
    one = where.add_mutually_exclusive_group()
    one.add_argument(
        "--video",
        type=_video,
        metavar="FILE",
        help="one video: a file, a folder of pictures with a frame_rate.txt, or http(s)://...",
    )
    one.add_argument("--videos", type=Path, nargs="+", metavar="PATH", help="files or folders")
    add = where.add_argument
    add("--store", type=Path, metavar="DIR", help="a store of sdst.extract")
    add("--index", metavar="INDEX", help="of sdst.index; with the --store it was made of, if any")
    add("--where", metavar="SQL", help="with --index, a condition on the fields of videos")
    add(
        "--candidates",
        type=int,
        metavar="N",
        help=f"with --index, videos that are looked into for a query (default: {CANDIDATES})",
    )

    asked = parser.add_argument_group("what to look for")
    add = asked.add_argument
    add("--query", action="append", default=[], metavar="TEXT", help="may be given repeatedly")
    add("--queries", type=Path, metavar="FILE", help="queries, one a line; - reads the input")
    add("--top", type=int, default=5, metavar="N", help="windows per query (default: %(default)s)")
    add(
        "--min-presence",
        type=float,
        default=0.0,
        metavar="P",
        help="no moments where the video has the sentence with less probability, 0 to 1",
    )

    output = parser.add_argument_group("what to write, besides the table")
    add = output.add_argument
    add("--json", type=Path, metavar="OUT", help="the answers; - writes them in the table's place")
    add("--plot", type=Path, metavar="OUT.png", help="the answers on the time line of --video")
    add(
        "--export",
        type=Path,
        metavar="OUT",
        help=f"the moments for another program, by the ending: {', '.join(FORMATS)}",
    )
    add("--clips", type=Path, metavar="DIR", help="each moment as a video file, cut from its own")
    add_verbosity(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.ground --help`."""
    options = make_parser().parse_args(arguments)
    if isinstance(options.video, Path):
        options.video = as_spelled(options.video)
    options.query += read_queries(options.queries) if options.queries else []
    _check_options(options)
    corpus = _open_corpus(options)
    grounder = open_answerer(options, lazy=True)
    options.query = _asked(grounder, options.query)
    _report_unread(grounder, options.query)
    if corpus is not None:
        return _search(grounder, corpus, options)
    return _ground(grounder, options)


def _ground(grounder: Grounder | ZeroShotGrounder, options: argparse.Namespace) -> int:
    """Print the moments of one video."""
    ask = partial(grounder.ground, options.video, options.query, options.top, progress=True)
    answers = ask(**_least(options))
    tables = [format_video(Path(options.video).name, answers[0]), *map(format_table, answers)]
    if options.plot:
        from sdst.plots import plot_groundings

        plot_groundings(options.video, answers, options.plot)
    _take_away([moment for answer in answers for moment in moments_of(answer)], options)
    _write("\n\n".join(tables), as_json(options.video, answers), options.json)
    return 0


def _search(
    grounder: Grounder | ZeroShotGrounder, corpus: Corpus | ClipIndex, options: argparse.Namespace
) -> int:
    """Print the best moments across many videos; exit code 1 if one was left out."""
    skipped: list[str] = []
    ask = partial(grounder.search, corpus, options.query, options.top, skipped, progress=True)
    answers = ask(**_least(options))
    read = len(corpus) - len(skipped)
    if not read:
        raise InputError(f"none of {len(corpus):,} videos can be read; the first: {skipped[0]}")
    tables = map(format_found, options.query, answers, [read] * len(answers))
    unread = grounder.backbone.unread(options.query)
    files = corpus if isinstance(corpus, Mapping) else {}
    pairs = zip(options.query, answers, strict=True)
    _take_away([moment for pair in pairs for moment in moments_found(*pair, files)], options)
    _write("\n\n".join(tables), found_as_json(options.query, answers, unread), options.json)
    for line in skipped:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if skipped else 0


def _asked(grounder: Grounder | ZeroShotGrounder, queries: list[str]) -> list[str]:
    """The sentences; for a model without sentences what stands for one."""
    from sdst.grounding.grounder import Grounder

    if not isinstance(grounder, Grounder):
        return queries
    if not queries and grounder.config.data.sentences == "own":
        raise InputError(NO_QUERY)
    return grounder.asked(queries)


def _least(options: argparse.Namespace) -> dict[str, float]:
    """The presence asked for, which a backbone alone does not know."""
    return {} if options.zero_shot else {"min_presence": options.min_presence}


def _take_away(moments: list[Moment], options: argparse.Namespace) -> None:
    if options.export:
        export(moments, options.export)
    if options.clips:
        cut_all(moments, options.clips)


def _write(table: str, record: str, out: Path | None) -> None:
    """The table to the output, the record to its file, or to the output in the table's place."""
    if out == PIPE:
        sys.stdout.write(record)
        return
    if out is not None:
        replace_text(out, record)
    print(table)


def _open_corpus(options: argparse.Namespace) -> Corpus | ClipIndex | None:
    """The videos to search; None where a single video is asked about."""
    if options.video is not None:
        return None
    if options.index is not None:
        candidates = CANDIDATES if options.candidates is None else options.candidates
        return ClipIndex(options.index, options.store, candidates, options.where)
    corpus = open_corpus(options.videos) if options.videos else FeatureStore(options.store)
    if not len(corpus):
        given = " ".join(map(str, options.videos or [options.store]))
        raise InputError(f"{given}: names no video; expected at least one to search in")
    return corpus


def _report_unread(grounder: Grounder | ZeroShotGrounder, queries: list[str]) -> None:
    from sdst.backbones.text_length import describe_unread

    if cut := describe_unread(grounder.backbone, queries):
        print(f"cut: {cut}", file=sys.stderr)


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what does not go together before anything is loaded."""
    _check_places(options)
    check_answerer(options)
    if options.zero_shot and options.min_presence:
        raise InputError("--min-presence goes with --checkpoint; a backbone alone knows none")
    if options.query:
        as_queries(options.query)
    elif options.checkpoint is None:
        raise InputError(NO_QUERY)
    if options.top < 1:
        raise InputError(f"--top {options.top}: expected at least 1")
    if not 0 <= options.min_presence <= 1:
        raise InputError(f"--min-presence {options.min_presence:g}: expected 0 to 1")
    if options.video is None and options.plot:
        raise InputError("--plot draws one video; give --video FILE, or leave --plot out")
    _check_video(options.video)
    if options.json != PIPE:
        _check_output("--json", options.json)
    _check_output("--plot", options.plot)
    _check_output("--export", options.export)
    if options.export:
        check_export_name(options.export, one_video=options.video is not None)
    if is_url(options.video or "") and (options.export or options.clips):
        raise InputError("--export and --clips are of files; get the video, and give --video FILE")
    if options.clips and not (options.video or options.videos):
        given = "--index" if options.index else "--store"
        raise InputError(f"--clips cuts video files; give --video or --videos in place of {given}")
    if options.clips and options.clips.exists() and not options.clips.is_dir():
        raise InputError(f"--clips {options.clips}: is a file; expected a folder")
    if options.plot:
        from sdst.plots import check_picture_name

        check_picture_name(options.plot)


def _check_places(options: argparse.Namespace) -> None:
    """One place to look in; a store may be beside an index."""
    given = [name for name in ("video", "videos", "index", "store") if getattr(options, name)]
    if given not in (["video"], ["videos"], ["index"], ["store"], ["index", "store"]):
        raise InputError(
            "give one of --video FILE, --videos PATH ..., --store DIR and --index INDEX"
        )
    for name in ("where", "candidates"):
        if getattr(options, name) is not None and options.index is None:
            raise InputError(f"--{name} goes with --index")


def _video(text: str) -> str | Path:
    return text if is_url(text) else Path(text)


def _check_video(video: str | Path | None) -> None:
    if video is None or is_url(video) or is_picture_folder(video):
        return
    video = Path(video)
    if video.is_dir():
        raise InputError(
            f"--video {video}: is a folder; expected a video file, or search it with "
            f"--videos {video}; a folder of pictures has a {FRAME_RATE} with pictures per second"
        )
    if not video.is_file():
        raise InputError(f"--video {video}: no such video file")


def _check_output(option: str, path: Path | None) -> None:
    if path is None:
        return
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: no such folder {path.parent}; create it first")
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; expected the name of a file")


if __name__ == "__main__":
    run(main)
