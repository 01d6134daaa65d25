"""Pack feature files into one memory-mapped store, which `sdst.train` then reads instead.

python -m sdst.convert --config NAME --data.root DIR [--dtype float16|float32]
python -m sdst.convert --config NAME --data.root DIR --verify

May be stopped at any moment, and goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sdst.config import Config, load_config, packaged_configs
from sdst.data.feature_writer import FeatureWriter
from sdst.data.features import DTYPES, FeatureSource, FeatureStore
from sdst.data.sources import dataset_root, files_identity, open_files, packed_path, read_splits
from sdst.errors import InputError, run


def convert(config: Config, dtype: str = "float16", progress: bool = True) -> FeatureStore:
    """Pack the feature files that `config.data` names; training with it then finds the store.

    What an interrupted run has packed is not read again.

    Args:
        dtype: numbers of the store, `float16` or `float32`.

    Raises:
        InputError: the store exists already, or a file is missing, corrupt or does not fit; what
            was packed before it is kept for the next run.
    """
    root = dataset_root(config)
    path = packed_path(config, root)
    if path.exists():
        raise InputError(f"{path}: packed already; --verify checks it, remove it to pack anew")
    splits, files = open_files(config, root, read_splits(config, root))
    annotations = [a for split in splits.values() for a in split]
    return pack(
        files,
        list(dict.fromkeys(a.vid for a in annotations)),
        list(dict.fromkeys(a.qid for a in annotations)),
        path,
        files_identity(config),
        dtype,
        progress,
    )


def pack(
    files: FeatureSource,
    vids: Sequence[str],
    qids: Sequence[int | str],
    path: Path,
    meta: dict,
    dtype: str = "float16",
    progress: bool = True,
) -> FeatureStore:
    """Write the features of these videos and queries to a store at `path`, or finish writing it."""
    with FeatureWriter(path, meta, dtype, resume=True) as writer:
        done_videos, done_queries = set(writer.video_ids), set(writer.query_ids)
        with tqdm(
            desc="convert",
            unit="file",
            total=len(vids) + len(qids),
            initial=len(done_videos) + len(done_queries),
            disable=not progress,
        ) as bar:
            for qid in qids:
                if qid not in done_queries:
                    writer.add_query(qid, files.query(qid).tokens)
                    bar.update()
            for vid in vids:
                if vid not in done_videos:
                    video = files.video(vid)
                    writer.add_video(vid, video.duration, video.tokens)
                    bar.update()
    return FeatureStore(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.convert --help`."""
    options, overrides = make_parser().parse_known_args(arguments)
    config = load_config(options.config, overrides)
    if config.data.features == "encode":
        raise InputError(
            f"config {options.config}: data.features is encode, there are no feature files to "
            "pack; python -m sdst.extract encodes videos"
        )
    if options.verify:
        store = FeatureStore(packed_path(config, dataset_root(config)))
        store.verify()
    else:
        store = convert(config, options.dtype)
    print(
        f"{store.path}: {len(store)} videos, {len(store.query_ids)} queries, "
        f"{store.nbytes / 1e9:.2f} GB{', intact' if options.verify else ''}"
    )
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Options of the command; every field of the config is one more, as `--section.key`."""
    parser = argparse.ArgumentParser(
        prog="python -m sdst.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        required=True,
        help=f"packaged config ({', '.join(packaged_configs())}) or YAML file",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float16", help="of the store (default: %(default)s)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare a packed store with its checksums"
    )
    return parser


if __name__ == "__main__":
    run(main)
