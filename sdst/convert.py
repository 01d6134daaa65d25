"""Pack features into a new store: published files, or the content of another store.

python -m sdst.convert --config NAME --data.root DIR    files, as a store for `sdst.train`
python -m sdst.convert --store STORE --output NEW       a store, without replaced entries

It may be stopped at any moment; the same command resumes it. With --verify nothing is packed, and
the existing store is compared with its checksums.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sdst.config import Config, load_config
from sdst.config.files import packaged_configs
from sdst.config.renames import rename_options
from sdst.data.annotations import Annotation
from sdst.data.store.origins import lacking
from sdst.data.store.reader import DTYPES, FeatureSource, FeatureStore
from sdst.data.store.writer import FeatureWriter
from sdst.errors import InputError, collected, refuse_all, run
from sdst.terminal.options import OneLineParser, add_verbosity
from sdst.terminal.verbosity import progress_bar

# What needs PyTorch is imported where work begins: options are checked without waiting for it.
if TYPE_CHECKING:
    from sdst.sources.splits import Splits

Key = TypeVar("Key")
Features = TypeVar("Features")


def convert(config: Config, dtype: str = "float16", progress: bool = True) -> FeatureStore:
    """Pack the feature files that `config.data` names; training with it then finds the store.

    What is packed already, by an interrupted run or of another topic, is not read again.

    Args:
        dtype: numbers of the store, one of `DTYPES`.

    Raises:
        InputError: a file is missing, corrupt or does not fit, or the store has other numbers; what
            is packed stays.
    """
    from sdst.sources.dataset import dataset_root
    from sdst.sources.files import files_identity, open_files, packed_path
    from sdst.sources.splits import read_splits

    root = dataset_root(config)
    path = packed_path(config, root)
    splits = read_splits(config, root)
    if path.exists() and not _lacks(FeatureStore(path), config, splits, dtype):
        return FeatureStore(path)
    splits, files = open_files(config, root, splits)
    annotations = [a for split in splits.values() for a in split]
    return pack(
        files,
        list(dict.fromkeys(a.vid for a in annotations)),
        _qids(config, annotations),
        path,
        files_identity(config),
        dtype,
        progress,
    )


def _qids(config: Config, annotations: Sequence[Annotation]) -> list[int | str]:
    """The queries that have features."""
    if config.data.sentences == "none":
        return []
    return list(dict.fromkeys(a.qid for a in annotations))


def _lacks(store: FeatureStore, config: Config, splits: Splits, dtype: str) -> bool:
    """Whether packing these annotations would change the store, or be refused."""
    annotations = [a for split in splits.values() for a in split]
    vids, qids = {a.vid for a in annotations}, _qids(config, annotations)
    there = vids <= set(store.video_ids) and set(qids) <= set(store.query_ids)
    return not there or store.dtype != dtype


def pack(
    files: FeatureSource,
    vids: Sequence[str],
    qids: Sequence[int | str],
    path: Path,
    meta: dict,
    dtype: str = "float16",
    progress: bool = True,
) -> FeatureStore:
    """Write the features of these videos and queries to a store at `path`, or finish writing it.

    Raises:
        InputError: files cannot be used, all of which it names; the others are packed.
    """
    faults: list[str] = []
    with FeatureWriter(path, meta, dtype, resume=True) as writer:
        done_videos = set(writer.video_ids).intersection(vids)
        done_queries = set(writer.query_ids).intersection(qids)
        with progress_bar(
            desc="convert",
            unit="file",
            total=len(vids) + len(qids),
            initial=len(done_videos) + len(done_queries),
            disable=not progress,
        ) as bar:
            for qid in qids:
                if qid not in done_queries:
                    if query := _unless_faulty(files.query, qid, faults):
                        writer.add_query(qid, np.asarray(query.tokens))
                    bar.update()
            for vid in vids:
                if vid not in done_videos:
                    if video := _unless_faulty(files.video, vid, faults):
                        writer.add_video(vid, video.duration, np.asarray(video.tokens))
                    bar.update()
        refuse_all(faults, "feature files cannot be used (the others are kept for the next run)")
    return FeatureStore(path)


def _unless_faulty(read: Callable[[Key], Features], key: Key, faults: list[str]) -> Features | None:
    """The features read; None after a fault of their file, which is added to `faults`."""
    with collected(faults):
        return read(key)
    return None


def repack(
    store: FeatureStore, path: Path, dtype: str | None = None, progress: bool = True
) -> FeatureStore:
    """Copy what `store` holds to `path`, or what a store there lacks of it.

    Entries that others have taken the place of stay behind.

    Args:
        dtype: numbers of the copy, one of `DTYPES`; None: as they are.

    Raises:
        InputError: at `path` is something else, or features made with other settings.
    """
    if path.resolve() == store.path.resolve():
        raise InputError(f"--output {path}: is the store itself; choose another folder")
    with FeatureWriter(path, store.meta, dtype or store.dtype, resume=True) as writer:
        queries = lacking(store.query_origins, writer.query_origins)
        videos = lacking(store.video_origins, writer.video_origins)
        entries = len(queries) + len(videos)
        with progress_bar(desc="convert", unit="entry", total=entries, disable=not progress) as bar:
            for qid in queries:
                writer.copy_query(store, qid)
                bar.update()
            for vid in videos:
                writer.copy_video(store, vid)
                bar.update()
    return FeatureStore(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.convert --help`."""
    options, overrides = make_parser().parse_known_args(rename_options(arguments))
    if (options.config is None) == (options.store is None):
        raise InputError("give either --config or --store; see python -m sdst.convert --help")
    make = _store_of_files if options.store is None else _store_of_store
    store = make(options, overrides)
    if options.verify:
        store.verify()
    print(
        f"{store.path}: {len(store)} videos, {len(store.query_ids)} queries, "
        f"{store.nbytes / 1e9:.2f} GB{', intact' if options.verify else ''}"
    )
    return 0


def _store_of_files(options: argparse.Namespace, overrides: list[str]) -> FeatureStore:
    """The store of a config's feature files, made unless it is only to be verified."""
    if options.output is not None:
        raise InputError("--output goes with --store; with --config the store has its place")
    config = load_config(options.config, overrides)
    if config.data.features == "encode":
        raise InputError(
            f"config {options.config}: data.features is encode, there are no feature files to "
            "pack; python -m sdst.extract encodes videos"
        )
    if options.verify:
        from sdst.sources.dataset import dataset_root
        from sdst.sources.files import packed_path

        return FeatureStore(packed_path(config, dataset_root(config)))
    return convert(config, options.store_dtype or "float16")


def _store_of_store(options: argparse.Namespace, overrides: list[str]) -> FeatureStore:
    """The copy of a store, or the store itself where it is only to be verified."""
    if overrides:
        raise InputError(f"unknown option {overrides[0]}; see python -m sdst.convert --help")
    if (options.output is None) != options.verify:
        raise InputError("--store goes with --output, the folder of the copy, or with --verify")
    store = FeatureStore(options.store)
    return store if options.verify else repack(store, options.output, options.store_dtype)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command; every field of the config is one more, as `--section.key`."""
    parser = OneLineParser("python -m sdst.convert", __doc__)
    add = parser.add_argument
    add("--config", help=f"packaged config ({', '.join(packaged_configs())}) or YAML file")
    add("--store", type=Path, help="folder of a store, of sdst.extract or packed")
    add("--output", type=Path, metavar="NEW", help="folder of the copy of --store")
    add("--store-dtype", choices=DTYPES, help="default: float16, of --store its own")
    add("--verify", action="store_true", help="compare the existing store with its checksums")
    add_verbosity(parser)
    return parser


if __name__ == "__main__":
    run(main)
