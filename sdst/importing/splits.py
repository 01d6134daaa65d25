"""Which videos are trained on, and which are validated and tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sdst.errors import InputError
from sdst.importing.library import Video
from sdst.importing.rows import Query
from sdst.terminal.suggest import did_you_mean

SPLITS = ("train", "val", "test")
_OTHER_NAMES = {
    "training": "train",
    "trn": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
    "eval": "test",
}


def split_named(name: str) -> str:
    """The split that a file calls `name`.

    Raises:
        InputError: none is called so.
    """
    plain = name.strip().casefold()
    split = _OTHER_NAMES.get(plain, plain)
    if split not in SPLITS:
        raise InputError(
            f"split {name!r}: expected one of {', '.join(SPLITS)}{did_you_mean(plain, SPLITS)}"
        )
    return split


def split_queries(
    queries: Sequence[Query], val: float, test: float, seed: int
) -> dict[str, list[Query]]:
    """The queries of every split: as the files say, else by video.

    Validation has videos of training's share where the files name none for it.

    Args:
        val, test: shares of the videos, where the files name no split.
        seed: of what goes where.

    Raises:
        InputError: nothing is left to train on.
    """
    given = any(query.split for query in queries)
    open_to = [q for q in queries if q.split in (None, "train")]
    splits: dict[Video, str] = {}
    if not given or not any(q.split == "val" for q in queries):
        names = {query.video.name: query.video for query in open_to}
        shared = share_out(list(names), val, 0 if given else test, seed)
        splits = {names[name]: split for name, split in shared.items()}
    found: dict[str, list[Query]] = {split: [] for split in SPLITS}
    for query in queries:
        if query.split in (None, "train"):
            found[splits.get(query.video, "train")].append(query)
        else:
            found[query.split].append(query)
    if not found["train"]:
        raise InputError("no query is of split train; expected some to train on")
    return {split: of_it for split, of_it in found.items() if of_it}


def share_out(vids: Sequence[str], val: float, test: float, seed: int) -> dict[str, str]:
    """The split of every video, by chance that depends on its id and the seed alone.

    Args:
        val, test: shares of the videos, rounded; one video at least where a share is above 0 and
            there are enough.

    Raises:
        InputError: there are too few to train and to validate on.
    """
    if len(vids) < 2:
        raise InputError(
            f"{len(vids)} video with moments; expected at least 2, to train and to validate on"
        )
    order = sorted(vids, key=lambda vid: hashlib.sha256(f"{seed} {vid}".encode()).digest())
    tested = min(max(round(test * len(vids)), 1), len(vids) - 2) if test else 0
    validated = min(max(round(val * len(vids)), 1), len(vids) - tested - 1)
    splits = ["test"] * tested + ["val"] * validated
    splits += ["train"] * (len(vids) - len(splits))
    return dict(zip(order, splits, strict=True))
