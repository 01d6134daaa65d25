"""Encode videos and sentences with a frozen backbone, once for all.

python -m sdst.extract --config NAME --data.root DIR [...]     features for `sdst.train`
python -m sdst.extract --videos PATH ... --output STORE [...]  a store of any videos
torchrun --nproc_per_node N -m sdst.extract --videos ...       the same, by several processes
python -m sdst.extract --ray --videos ...                      the same, by a cluster of Ray

The same command resumes a run that was stopped or killed. On a finished store it adds the videos
and queries that are new or changed, without disturbing readers; a video has changed when its file
has another size, beginning or end. Damaged videos are used as far as they can be decoded;
unreadable ones are skipped and tried again the next time. Both are reported at the end, and with
--videos the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdst.config import BACKBONES, Config, load_config
from sdst.config.renames import rename_options
from sdst.data.annotations import read_annotations
from sdst.data.store.reader import INDEX, FeatureStore
from sdst.data.video import READERS
from sdst.data.video.decord_frames import check_decord
from sdst.errors import InputError, run
from sdst.extraction.options import (
    add_encoding,
    add_videos,
    engine_of,
    settings_of,
    show_faults,
    videos_of,
)
from sdst.memory import parse_bytes
from sdst.terminal.options import OneLineParser, add_verbosity

# What needs PyTorch is imported where work begins: options are checked without waiting for it.


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OneLineParser("python -m sdst.extract", __doc__)
    add = parser.add_argument
    add("--config", help="packaged config or YAML file; its keys are options, as in sdst.train")
    add_videos(parser)
    add("--annotations", type=Path, nargs="*", default=[], help="JSON lines: queries to encode")
    add_encoding(parser)
    add("--reader", choices=READERS, default="pyav", help="of video files (default: %(default)s)")
    add("--memory-budget", metavar="SIZE", help="like 2GB: what the process may take (no bound)")
    add("--strict", action="store_true", help="stop at the first video that cannot be read")
    add("--output", type=Path, help="folder of the store; an existing store grows")
    add_verbosity(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.extract --help`."""
    parser = make_parser()
    options, overrides = parser.parse_known_args(rename_options(arguments))
    if (options.config is None) == (options.videos is None):
        raise InputError("give either --config or --videos; see python -m sdst.extract --help")
    given = [name for name, value in vars(options).items() if value != parser.get_default(name)]
    if options.config is not None and len(given) > 1:
        other = next(name for name in given if name != "config").replace("_", "-")
        raise InputError(f"--{other} goes with --videos; with --config use its --section.key")
    if options.config is not None:
        _show(_extract_dataset(load_config(options.config, overrides)))
    elif overrides:
        raise InputError(f"unknown option {overrides[0]}; see python -m sdst.extract --help")
    elif options.output is None:
        raise InputError("--videos goes with --output, the folder of the store")
    elif options.backbone is None:
        raise InputError(f"--videos needs --backbone NAME: {BACKBONES}")
    else:
        return _extract_videos(options)
    return 0


def _show(store: FeatureStore) -> None:
    shapes = ", ".join(f"{name} {value}" for name, value in store.shapes.items())
    print(f"{store.path}: {len(store)} videos, {len(store.query_ids)} queries; {shapes}")


def _extract_dataset(config: Config) -> FeatureStore:
    if config.data.features != "encode":
        raise InputError(
            f"data.features is {config.data.features}: the features exist already; "
            "python -m sdst.convert packs them"
        )
    from sdst.extraction.shards import Share
    from sdst.sources.dataset import open_data

    if Share.of_environment().world > 1:
        raise InputError("several processes share out --videos; with --config start one alone")
    source = open_data(config, wait=False).source
    assert isinstance(source, FeatureStore)  # as `data.features: encode` gives
    return source


def _extract_videos(options: argparse.Namespace) -> int:
    """Exit code 1 where a video is left out or damaged, 0 where all are whole."""
    if options.ray is not None and options.memory_budget:
        raise InputError("--memory-budget bounds one process; with --ray leave it out")
    videos = videos_of(options)
    annotations = {str(path): read_annotations(path) for path in options.annotations}
    if options.output.exists() and not (options.output / INDEX).is_file():
        raise InputError(
            f"--output {options.output}: exists and is no feature store; choose another folder"
        )
    memory = parse_bytes(options.memory_budget) if options.memory_budget else None
    if options.reader == "decord":
        check_decord()

    from sdst.backbones import load_backbone
    from sdst.backbones.text_length import describe_unread
    from sdst.extraction.pipeline import Report, extract_features
    from sdst.extraction.shards import Share, extract_share
    from sdst.sources.splits import sentences

    share, queries = Share.of_environment(), sentences(annotations)
    backbone = load_backbone(options.backbone, options.layers, share.device)
    if share.rank == 0 and (cut := describe_unread(backbone, list(queries.values()))):
        print(f"cut: {cut}", file=sys.stderr)
    report = Report(options.strict)
    settings = settings_of(options, memory, options.reader)
    engine = engine_of(options, settings)
    inputs = (videos, queries, backbone, options.output, settings)
    if engine is not None or share.world == 1:
        store = extract_features(*inputs, resume=True, report=report, engine=engine)
    else:
        files = {vid: Path(place) for vid, place in videos.items()}
        store = extract_share(share, files, *inputs[1:], report)
    if store is None:  # the first process reports
        return 0
    _show(store)
    return show_faults(report)


if __name__ == "__main__":
    run(main)
