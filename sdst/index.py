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
from sdst.data.store.reader import INDEX, FeatureStore
from sdst.errors import InputError, run
from sdst.extraction.options import (
    add_encoding,
    add_videos,
    engine_of,
    settings_of,
    show_faults,
    videos_of,
)
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
    add_videos(parser)
    add("--store", type=Path, metavar="DIR", help="a store of sdst.extract, all of it")
    add("--remove", nargs="+", metavar="VID", help="take these videos out")
    add("--metadata", type=Path, metavar="FILE", help="fields of videos, in .csv, .json or .jsonl")
    add_encoding(parser)
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
    videos = videos_of(options)

    from sdst.backbones import load_backbone
    from sdst.extraction.pipeline import Report, extract_features

    backbone = load_backbone(options.backbone, options.layers)
    settings, report = settings_of(options), Report()
    store = extract_features(
        videos,
        {},
        backbone,
        Path(options.output, FEATURES),
        settings,
        resume=True,
        report=report,
        engine=engine_of(options, settings),
    )
    _show_changes(options.output, update_index(options.output, store, videos, metadata))
    _show(options.output)
    return show_faults(report)


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
