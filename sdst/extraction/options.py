"""Videos to encode, and how: the options that `sdst extract` and `sdst index` share."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from sdst.config import BACKBONES
from sdst.data.store.reader import STORED
from sdst.extraction.remote import Place, as_place, find_anywhere

if TYPE_CHECKING:  # these bring PyTorch along
    from sdst.data.video import Reader
    from sdst.extraction.pipeline import Engine, Report
    from sdst.extraction.settings import Settings


def add_videos(parser: ArgumentParser) -> None:
    """The option that names videos."""
    parser.add_argument(
        "--videos",
        type=as_place,
        nargs="+",
        metavar="PATH",
        help="files, folders, or lists in .txt; with --ray also s3://, gs:// and the like",
    )


def add_encoding(parser: ArgumentParser) -> None:
    """The options that say what encodes videos, and how finely."""
    add = parser.add_argument_group("how --videos are encoded").add_argument
    add("--backbone", metavar="NAME", help=f"{BACKBONES}; options follow as ,dtype=bfloat16")
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


def videos_of(options: Namespace) -> dict[str, Place]:
    """The videos that --videos names, by id.

    Raises:
        InputError: as `find_anywhere`.
    """
    return find_anywhere(options.videos, remote=options.ray is not None)


def settings_of(options: Namespace, memory: int | None = None, reader: Reader = "pyav") -> Settings:
    """The settings of an extraction with these options; the others as in `Settings`."""
    from sdst.extraction.settings import Settings

    return Settings(
        options.clip_length, options.frames_per_clip, options.store_dtype, memory, reader
    )


def engine_of(options: Namespace, settings: Settings) -> Engine | None:
    """The engine that encodes in place of this process, where --ray is given.

    Raises:
        InputError: as `RayEngine`.
    """
    if options.ray is None:
        return None
    from sdst.extraction.ray_data import RayEngine

    return RayEngine(options.backbone, options.layers, settings, options.ray or None)


def show_faults(report: Report) -> int:
    """Print what is wrong with the videos.

    Returns:
        The exit code: 1 where a video is left out or damaged, 0 where all are whole.
    """
    for line in report.faults:
        print(f"damaged: {line}", file=sys.stderr)
    for line in report.skipped:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if report.faults or report.skipped else 0
