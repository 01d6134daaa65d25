"""The model, or the backbone alone, that answers for `sdst ground` and `sdst serve`."""

from __future__ import annotations

import logging
import math
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from sdst.config import BACKBONES, PRECISIONS
from sdst.errors import InputError
from sdst.hub.models import DEMO_MODEL

if TYPE_CHECKING:
    from sdst.grounding.grounder import Grounder
    from sdst.grounding.zero_shot_grounder import ZeroShotGrounder

logger = logging.getLogger(__name__)

CLIP_LENGTH = 2.0  # seconds, of --zero-shot


def add_answerer(parser: ArgumentParser) -> None:
    """The options that say what answers."""
    group = parser.add_argument_group("what answers")
    one = group.add_mutually_exclusive_group()
    one.add_argument(
        "--checkpoint",
        metavar="MODEL",
        help="a training run's folder, its model/, ORG/REPO of a hub, or a packaged model "
        f"(default: {DEMO_MODEL})",
    )
    one.add_argument("--zero-shot", action="store_true", help="the frozen backbone alone")
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help=f"with --zero-shot, or where a checkpoint needs one: {BACKBONES}",
    )
    group.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        help="with --checkpoint, of the side-tuner's matrix multiplies (default: fp32); bf16 is "
        "about twice as fast on a CPU with native bf16, auto is bf16 where it is native",
    )
    group.add_argument(
        "--clip-length",
        type=float,
        metavar="S",
        help=f"with --zero-shot, seconds (default: {CLIP_LENGTH:g})",
    )


def check_answerer(options: Namespace) -> None:
    """Refuse options that do not go together, before anything is loaded.

    Raises:
        InputError: there are some.
    """
    if not options.zero_shot:
        if options.clip_length is not None:
            raise InputError("--clip-length goes with --zero-shot; a checkpoint knows its own")
        return
    if options.backbone is None:
        raise InputError(f"--zero-shot needs --backbone NAME: {BACKBONES}")
    if options.precision is not None:
        raise InputError("--precision goes with --checkpoint; a backbone's follows its name")
    if options.clip_length is not None and not 0 < options.clip_length < math.inf:
        raise InputError(f"--clip-length {options.clip_length:g}: expected seconds above 0")


def name_of(options: Namespace) -> str:
    """Of what answers, as it was given."""
    return options.backbone if options.zero_shot else options.checkpoint or DEMO_MODEL


def open_answerer(options: Namespace, lazy: bool = False) -> Grounder | ZeroShotGrounder:
    """Load what answers.

    Args:
        lazy: as for `Grounder`.

    Raises:
        InputError: it cannot be loaded.
    """
    logger.info("loading %s", name_of(options))
    from sdst.grounding.grounder import Grounder
    from sdst.grounding.zero_shot_grounder import ZeroShotGrounder

    if options.zero_shot:
        return ZeroShotGrounder(options.backbone, options.clip_length or CLIP_LENGTH)
    precision = options.precision or "fp32"
    return Grounder(name_of(options), None, options.backbone, precision, lazy)
