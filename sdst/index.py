"""Index videos, so that a search looks into a few of them instead of all.

python -m sdst.index --videos PATH ... --backbone NAME --output INDEX   encode and index videos
python -m sdst.index --store STORE --output INDEX           index a store of sdst.extract
python -m sdst.index --output INDEX --remove VID ...        take videos out
python -m sdst.index --output INDEX                         show what is in it
python -m sdst.ground --index INDEX --checkpoint DIR --query TEXT       search it

The same command again adds the videos that are new or changed, and completes a killed run.
--output may be a URL of object storage (s3://, gs://, az://), with --store. --metadata names a CSV
or JSON file with fields of the videos, which `sdst.ground --where "year >= 2020"` narrows a search
by; it may be given at any time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdst.config import BACKBONES
from sdst.data.remote import as_place, find_anywhere
from sdst.data.store.reader import INDEX, STORED, FeatureStore
from sdst.errors import InputError, run
from sdst.indexing.build import Changes, remove_videos, update_index
from sdst.indexing.clip_index import FEATURES, ClipTable
from sdst.indexing.metadata import read_metadata
from sdst.terminal.options import OneLineParser, add_verbosity

# What needs PyTorch is imported where work begins: options are checked without waiting for it.

ENCODING = ("backbone", "layers", "clip_length", "frames_per_clip", "store_dtype", "ray")


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OneLineParser("python -m sdst.index", __doc__)
    add = parser.add_argument
    add("--output", required=True, metavar="INDEX", help="folder, or URL, of the index")
    add(
        "--videos",
        type=as_place,
        nargs="+",
        metavar="PATH",
        help="files, folders, or lists in .txt; with --ray also s3://, gs:// and the like",
    )
    add("--store", type=Path, metavar="DIR", help="a store of sdst.extract, all of it")
    add("--remove", nargs="+", metavar="VID", help="take these videos out")
    add("--metadata", type=Path, metavar="FILE", help="fields of videos, in .csv, .json or .jsonl")
    encoding = parser.add_argument_group("how --videos are encoded, as by sdst.extract")
    add = encoding.add_argument
    add("--backbone", metavar="NAME", help=f"{BACKBONES}")
    add("--layers", type=int, default=4, help="last blocks kept (default: %(default)s)")
    add("--clip-length", type=float, default=2.0, help="seconds (default: %(default)s)")
    add("--frames-per-clip", type=int, default=1, help="default: %(default)s")
    add("--store-dtype", choices=STORED, default="float16", help="default: %(default)s")
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="encode by Ray, on the cluster there (default: $RAY_ADDRESS, or this machine)",
    )
    add_verbosity(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.index --help`."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    _check_options(options, parser)
    if options.remove:
        removed = remove_videos(options.output, options.remove)
        print(f"{options.output}: {_videos(removed)} removed")
        return 0
    metadata = read_metadata(options.metadata) if options.metadata else None
    if options.videos:
        return _index_videos(options, metadata)
    if options.store:
        _show_changes(options.output, update_index(options.output, _store(options), None, metadata))
    elif metadata is not None:
        store = FeatureStore(Path(options.output, FEATURES))
        _show_changes(options.output, update_index(options.output, store, (), metadata))
    _show(options.output)
    return 0


def _index_videos(options: argparse.Namespace, metadata: dict | None) -> int:
    """Exit code 1 where a video is left out or damaged, 0 where all are whole."""
    videos = find_anywhere(options.videos, remote=options.ray is not None)

    from sdst.backbones import load_backbone
    from sdst.extraction.pipeline import Report, extract_features
    from sdst.extraction.settings import Settings

    backbone = load_backbone(options.backbone, options.layers)
    settings = Settings(options.clip_length, options.frames_per_clip, options.store_dtype)
    report, engine = Report(), None
    if options.ray is not None:
        from sdst.extraction.ray_data import RayEngine

        engine = RayEngine(options.backbone, options.layers, settings, options.ray or None)
    store = extract_features(
        videos,
        {},
        backbone,
        Path(options.output, FEATURES),
        settings,
        resume=True,
        report=report,
        engine=engine,
    )
    _show_changes(options.output, update_index(options.output, store, videos, metadata))
    _show(options.output)
    for line in report.faults:
        print(f"damaged: {line}", file=sys.stderr)
    for line in report.skipped:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if report.faults or report.skipped else 0


def _store(options: argparse.Namespace) -> FeatureStore:
    if not (options.store / INDEX).is_file():
        raise InputError(
            f"--store {options.store}: no feature store there; expected one of sdst.extract"
        )
    return FeatureStore(options.store)


def _show_changes(path: str, changes: Changes) -> None:
    counts = {name: getattr(changes, name) for name in ("added", "replaced", "removed")}
    done = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    print(f"{path}: {done or 'nothing new'}, {changes.unchanged:,} unchanged")
    if changes.unknown:
        print(
            f"--metadata: {_videos(len(changes.unknown))} not in the index, the first "
            f"{changes.unknown[0]}",
            file=sys.stderr,
        )


def _show(path: str) -> None:
    table = ClipTable.open(path)
    fields = ", ".join(table.fields) or "none"
    print(f"{path}: {_videos(len(table.videos()))}, {len(table):,} clips; fields: {fields}")


def _videos(count: int) -> str:
    return f"{count:,} video{'' if count == 1 else 's'}"


def _check_options(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse what does not go together before anything is loaded."""
    given = [name for name in ("videos", "store", "remove") if getattr(options, name)]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]} do not go together; give one of them")
    if options.remove and options.metadata:
        raise InputError("--remove and --metadata do not go together; give one of them")
    if options.videos is None:
        for name in ENCODING:
            if getattr(options, name) != parser.get_default(name):
                raise InputError(f"--{name.replace('_', '-')} goes with --videos")
    elif "://" in options.output:
        raise InputError(
            f"--output {options.output}: features of --videos are kept in a folder; encode them "
            "with sdst.extract, and give its --store"
        )
    elif options.backbone is None:
        raise InputError(f"--videos needs --backbone NAME: {BACKBONES}")
    if options.metadata and not (given or Path(options.output, FEATURES, INDEX).is_file()):
        raise InputError(
            f"--metadata: the features that {options.output} was made of are needed; give --store"
        )


if __name__ == "__main__":
    run(main)
