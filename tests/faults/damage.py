"""Damages every file of a store, a cache and a run folder, and looks whether the commands that read
it notice.

    python -m tests.faults.damage --tries 20

Each try flips a bit, zeroes a page's part or cuts the end off one copy of a file, and runs what
reads it. Noticed is an `InputError`, the very answer of the undamaged files (the byte decides
nothing, or the cache was made anew), or a warning that names the file: of a config, which its owner
may edit.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sdst.convert import repack
from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter
from sdst.errors import InputError
from sdst.index import main as index
from sdst.pretrained.folder import load_checkpoint
from sdst.train import main as train
from sdst.training.state import load_state
from tests import layouts
from tests.features import META, text_features, video_features
from tests.indexing.shelf import topic, write_store

KINDS = ("flip", "zero", "cut")
NOTICED = ("refused", "told", "same answer")


class Lines(logging.Handler):
    """Keeps the warnings of commands."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def damage(file: Path, kind: str, draw: random.Random) -> bool:
    """Change `file`; False where this kind of damage changes nothing of it."""
    content = bytearray(file.read_bytes())
    before = bytes(content)
    if not content:
        return False
    place = draw.randrange(len(content))
    if kind == "flip":
        content[place] ^= 1 << draw.randrange(8)
    elif kind == "zero":
        end = min(len(content), place + draw.choice((1, 64, 4096)))
        content[place:end] = bytes(end - place)
    else:
        del content[place:]
    file.write_bytes(content)
    return bytes(content) != before


def store_content(store: FeatureStore) -> list:
    """All that a store answers."""
    found: list = [store.meta, store.faults, store.video_origins, store.query_origins]
    for vid in store:
        video = store.video(vid)
        found += [vid, video.duration, np.array(video.tokens), np.array(video.embedding)]
        found += [None if video.scales is None else np.array(video.scales)]
    for qid in store.query_ids:
        query = store.query(qid)
        found += [qid, np.array(query.tokens), np.array(query.embedding)]
    return found


def make_store(folder: Path, dtype: str) -> None:
    """Two videos and two queries."""
    with FeatureWriter(folder / "store", META, dtype) as writer:
        for i, vid in enumerate("ab"):
            writer.add_video(vid, 9.5 + i, *video_features(5 + i, i))
            writer.add_query(i, *text_features(4, i))


def read_store(folder: Path) -> list:
    """As `ground --store`, `train`, `evaluate` and `inspect` read it."""
    return store_content(FeatureStore(folder / "store"))


def convert_store(folder: Path) -> list:
    """As `convert --store` copies it."""
    copy = repack(FeatureStore(folder / "store"), folder / "copy", progress=False)
    return store_content(copy)


def grow_store(folder: Path) -> list:
    """As `extract` lets it grow."""
    with FeatureWriter(folder / "store", META, resume=True) as writer:
        writer.add_query("new", *text_features(3))
    return store_content(FeatureStore(folder / "store"))


def make_index(folder: Path) -> None:
    """An index of a store, with fields of a video."""
    write_store(folder / "store", VIDEOS)
    (folder / "fields.csv").write_text("vid,year,place\npark,2020,north\n")
    place = ["--store", str(folder / "store"), "--output", str(folder / "index")]
    index([*place, "--metadata", str(folder / "fields.csv")])
    index(["--output", str(folder / "index"), "--remove", "city"])
    (folder / "fields.csv").unlink()


def read_index(folder: Path) -> list:
    """As `sdst.index` shows it, and `ground --index` searches it."""
    from sdst.indexing.clip_index import ClipIndex

    corpora = [ClipIndex(folder / "index", folder / "store", where=w) for w in (None, "year > 0")]
    table = corpora[0].table
    found = [corpus.candidates(topic(vid)) for corpus in corpora for vid in VIDEOS]
    nearest = [table.nearest(topic(vid), 99) for vid in VIDEOS]
    return [sorted(table.videos().items()), len(table), table.fields, found, nearest]


VIDEOS = {"park": 5, "lake": 7, "city": 4}
UNREAD = {"tensorboard", "curves.png", "reliability.png", "metrics.json", "predictions.jsonl"}


def make_run(folder: Path) -> None:
    """A finished training of two epochs."""
    layouts.write_annotations(folder / "data")
    options = ["--config", "demo", *layouts.write_features(folder / "data", "moment_detr")]
    options += [*layouts.training_options("moment_detr"), "--model.width", "16"]
    if train(["--output", str(folder / "run"), *options]):
        raise RuntimeError("the training failed")
    shutil.rmtree(folder / "data")
    for path in (folder / "run").iterdir():  # what no command reads
        if path.name in UNREAD:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_run(folder: Path) -> list:
    """As `ground` and `evaluate` read its model, and `train --resume` its state."""
    description, model = load_checkpoint(folder / "run")
    [state] = (folder / "run" / "checkpoints").iterdir()
    return [
        description,
        *(value.numpy() for value in model.state_dict().values()),
        *_leaves(load_state(state)),
    ]


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield np.array(value)


CASES: dict[str, tuple[Callable[[Path], object], Callable[[Path], list]]] = {
    "store": (lambda folder: make_store(folder, "float16"), read_store),
    "store of int8": (lambda folder: make_store(folder, "int8"), read_store),
    "store, converted": (lambda folder: make_store(folder, "float16"), convert_store),
    "store, growing": (lambda folder: make_store(folder, "float16"), grow_store),
    "run folder": (make_run, read_run),
    "index": (make_index, read_index),
}


def same(found: list, expected: list) -> bool:
    """Whether two answers are equal in every bit."""
    return len(found) == len(expected) and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(found, expected, strict=True)
    )


def try_case(name: str, tries: int, seed: int = 0) -> tuple[Counter, list[str]]:
    """How the damages of every file of a case ended, and those that nobody noticed."""
    make, read = CASES[name]
    ends: Counter[str] = Counter()
    unnoticed = []
    with tempfile.TemporaryDirectory() as scratch:
        whole, copy = Path(scratch, "whole"), Path(scratch, "copy")
        whole.mkdir()
        make(whole)
        shutil.copytree(whole, copy)
        expected = read(copy)
        files = [f.relative_to(whole) for f in sorted(whole.rglob("*")) if f.is_file()]
        for file in files:
            for number in range(tries):
                draw = random.Random(f"{seed} {file} {number}")
                shutil.rmtree(copy)
                shutil.copytree(whole, copy)
                kind = draw.choice(KINDS)
                if not damage(copy / file, kind, draw):
                    continue
                lines = Lines()
                logging.getLogger("sdst").addHandler(lines)
                try:
                    end = "same answer" if same(read(copy), expected) else "unnoticed"
                    if end == "unnoticed" and any(file.name in line for line in lines.said):
                        end = "told"
                except InputError as error:
                    end = "refused" if "\n" not in str(error) else "refused in several lines"
                finally:
                    logging.getLogger("sdst").removeHandler(lines)
                ends[end] += 1
                if end not in NOTICED:
                    unnoticed.append(f"{name}: {file}, {kind}, try {number}: {end}")
    return ends, unnoticed


def main(arguments: list[str] | None = None) -> int:
    """Print what was tried; exit code 1 if damage went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=20, help="for each file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    failed = []
    for name in CASES:
        ends, unnoticed = try_case(name, options.tries, options.seed)
        print(f"{name}: {dict(ends)}", *unnoticed, sep="\n  ", flush=True)
        failed += unnoticed
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
