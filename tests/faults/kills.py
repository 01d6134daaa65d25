"""Kills trainings, extractions and updates of an index at random moments, starts them again, and
compares all bytes with those of a run that nobody disturbed; of an index all rows.

    python -m tests.faults.kills --trainings 100 --extractions 150 --indexings 50

Every run is a process of its own, which is forked from this one so that nothing is imported twice.
SIGKILL comes after a random time, or at a random event that Python audits (a file is opened,
renamed, removed, ...), so that it also falls between any two operations on files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sdst.index import main as index
from sdst.indexing import build, clip_index
from sdst.train import main as train
from tests import layouts
from tests.extraction.grey import extract, write_video
from tests.indexing.shelf import write_store

LAYOUT = "moment_detr"
SMALL = {"model.layers": 2, "model.width": 16, "model.queries": 2, "train.epochs": 3}
MOST_KILLS = 3  # of one run, before it may end
VARYING = {  # hold times; the library's version
    *("metrics.json", "grounding.json", "README.md"),
    *("curves.png", "reliability.png"),
}


class Campaign:
    """A command to kill, and the files of an undisturbed run of it.

    Args:
        run: one sitting, which resumes where the last one was stopped.
        left: the files of a folder that are compared, by name.
    """

    def __init__(
        self, folder: Path, run: Callable[[Path], object], left: Callable[[Path], dict[str, bytes]]
    ) -> None:
        self._folder, self._run, self._left = folder, run, left
        folder.mkdir()
        counted = folder / "events"
        began = time.monotonic()
        assert not sit(lambda: run(folder / "whole" / "out"), count_into=counted)
        self.seconds = time.monotonic() - began
        self.events = int(counted.read_text())
        self.expected = left(folder / "whole")

    def try_one(self, seed: int) -> tuple[int, str | None]:
        """How often a run was killed, and what is wrong in the end."""
        draw = random.Random(seed)
        place = self._folder / str(seed)
        place.mkdir()
        kills = 0
        for _ in range(draw.randint(1, MOST_KILLS)):
            by_time = draw.random() < 0.5
            kills += sit(
                lambda: self._run(place / "out"),
                seconds=draw.uniform(0, self.seconds) if by_time else None,
                event=None if by_time else draw.randint(1, self.events),
            )
        if sit(lambda: self._run(place / "out")):
            return kills, "the last sitting did not end"
        found = self._left(place)
        different = [name for name in {*found, *self.expected} if not self._same(name, found)]
        return kills, f"differs in {', '.join(sorted(different))}" if different else None

    def _same(self, name: str, found: dict[str, bytes]) -> bool:
        return found.get(name) == self.expected.get(name)


def sit(
    run: Callable[[], object],
    seconds: float | None = None,
    event: int | None = None,
    count_into: Path | None = None,
) -> bool:
    """Run in a forked process; whether it was killed, after `seconds` or at an audited event.

    Raises:
        RuntimeError: it failed by itself.
    """
    child = os.fork()
    if not child:
        _in_child(run, event, count_into)
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if done:
            break
        if end is not None and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            end = None
        time.sleep(0.001)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise RuntimeError(f"a sitting ended with status {os.waitstatus_to_exitcode(status)}")
    return False


def _in_child(run: Callable[[], object], event: int | None, count_into: Path | None) -> None:
    count = 0

    def audit(name: str, _: tuple) -> None:
        nonlocal count
        if name.startswith(("open", "os.", "shutil.", "fcntl.")):
            count += 1
            if count == event:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        errors = os.open(f"/tmp/kills-{os.getppid()}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(silence, 1)
        os.dup2(errors, 2)
        sys.addaudithook(audit)
        code = int(run() not in (None, 0))
        if count_into is not None:
            count_into.write_text(str(count))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def trainings(folder: Path) -> Campaign:
    """Trainings of three epochs on features of twelve videos."""
    data = folder / "data"
    layouts.write_annotations(data)
    options = ["--config", "demo", *layouts.write_features(data, LAYOUT)]
    options += layouts.training_options(LAYOUT)
    options += [part for key, value in SMALL.items() for part in (f"--{key}", str(value))]

    def run(out: Path) -> object:
        began = (out / "config.yaml").is_file()
        return train(["--output", str(out), *options, *(["--resume"] if began else [])])

    def left(place: Path) -> dict[str, bytes]:
        """All files of the run, whose folder has no other beside it."""
        found = {str(f.relative_to(place)): f for f in place.rglob("*") if f.is_file()}
        return {
            name: file.read_bytes()
            for name, file in found.items()
            if file.name not in VARYING and "tensorboard" not in name
        }

    return Campaign(folder / "trainings", run, left)


def extractions(folder: Path) -> Campaign:
    """Extractions of three videos and many sentences, in batches."""
    videos = folder / "videos"
    videos.mkdir()
    films = {
        f"v{i}": write_video(videos / f"v{i}.mp4", [40 + 20 * i + 5 * k for k in range(8)])
        for i in range(3)
    }
    queries = {i: "word " * (1 + i % 7) for i in range(600)}

    def run(out: Path) -> None:
        extract(films, out, queries, clip_length=1.0, resume=True)

    def left(place: Path) -> dict[str, bytes]:
        found = [file for file in place.rglob("*") if file.is_file()]
        return {str(file.relative_to(place)): file.read_bytes() for file in found}

    return Campaign(folder / "extractions", run, left)


def indexings(folder: Path) -> Campaign:
    """Updates of an index: to one store, then to another one with fields, in many commits."""
    build.CLIPS_AT_ONCE, clip_index.TRAINED_FROM = 8, 300
    first, then = folder / "first", folder / "then"
    write_store(first, {"park": 400, "lake": 7, "city": 9, "hill": 3})
    write_store(then, {"park": 400, "lake": 7, "wood": 12})
    write_store(then, {"city": 5}, seed=1)
    (folder / "fields.csv").write_text("vid,year\nlake,2020\nwood,2021\n")

    def run(out: Path) -> object:
        to = ["--output", str(out), "--quiet"]
        index(["--store", str(first), *to])
        return index(["--store", str(then), *to, "--metadata", str(folder / "fields.csv")])

    def write_rows(place: Path) -> None:
        rows = clip_index.ClipTable.open(place / "out")._table.to_arrow().to_pylist()
        (place / "rows").write_text("\n".join(sorted(map(str, rows))))

    def left(place: Path) -> dict[str, bytes]:
        # In a fork, as LanceDB's threads do not come along into the next one.
        assert not sit(lambda: write_rows(place))
        return {"rows": (place / "rows").read_bytes()}

    return Campaign(folder / "indexings", run, left)


def main(arguments: list[str] | None = None) -> int:
    """Print what was tried; exit code 1 if bytes differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=100)
    parser.add_argument("--extractions", type=int, default=150)
    parser.add_argument("--indexings", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first (default: %(default)s)")
    options = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for make in (trainings, extractions, indexings):
            many = getattr(options, make.__name__)
            if not many:
                continue
            campaign, kills, wrong = make(Path(folder)), 0, []
            for seed in range(options.seed, options.seed + many):
                killed, fault = campaign.try_one(seed)
                kills += killed
                if fault:
                    wrong.append(f"seed {seed}: {fault}")
                    print(wrong[-1], flush=True)
            failed += len(wrong)
            counts = {"runs": many, "kills": kills, "different": len(wrong)}
            print(f"{make.__name__}: {json.dumps(counts)}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
