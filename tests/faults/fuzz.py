"""Commands on files that were made hostile: exit code 0, 1 or 2, one line, no hang, bounded memory.

    python -m tests.faults.fuzz --n 10000 --seed 0
    python -m tests.faults.fuzz --only 1234            one input again, with all that it prints
    python -m tests.faults.fuzz --n 1000 --imported    files of other programs, by sdst.import
    python -m tests.faults.fuzz --n 1000 --indexed     indexes of videos, and all that goes into one

Every input is a function of the seed and its number. The commands run in a fork of this process,
which is replaced after one that hung or ended it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TextIO
from unittest.mock import patch

from sdst.errors import run
from sdst.indexing import clip_index
from tests.faults.good_files import prepare
from tests.faults.kinds import IMPORTED, INDEXED, KINDS, Kind

SECONDS = 60  # on a machine that is busy with other things
MEMORY = 2**30  # bytes that a command may take beyond what the process had
WORST = 10  # failures that are shown whole
REPORTED = re.compile(r"^(damaged|left out): ", re.MULTILINE)  # with exit code 1
RENEWED = 500  # inputs after which the process that runs commands is another one


@dataclass
class Tally:
    """Results of the inputs of a kind."""

    codes: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    memory: int = 0
    faults: int = 0


def make_hostile(root: Path, good: Path, kind: Kind, rng: random.Random) -> Path:
    """Put a hostile version of a good file in its place, rarely something that is no file."""
    sources = sorted(file for file in good.glob(kind.file) if file.is_file())
    source = sources[0] if len(sources) == 1 else rng.choice(sources)
    file = root / source.relative_to(good)
    content = source.read_bytes()
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(kind.changes)(content, rng)
    file.unlink()
    special = rng.random()
    if special < 0.005:
        os.mkfifo(file)
    elif special < 0.01:
        file.mkdir()
    elif special < 0.015:
        file.symlink_to(rng.choice(("/dev/zero", "/dev/null", file.name, "/dev/full", "/tmp")))
    else:
        file.write_bytes(content)
    return file


class Worker:
    """A fork of this process that runs commands, one after the other, until one of them ends it."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._process: int | None = None

    def run(self, command: Sequence[str]) -> tuple[int | None, float, int]:
        """A command's exit code (None: it hung), seconds, and bytes of memory at its peak."""
        if self._process is None:
            self._start()
        began = time.monotonic()
        os.write(self._commands, json.dumps(command).encode() + b"\n")
        ended = select.select([self._results], [], [], SECONDS)[0]
        told = os.read(self._results, 100) if ended else b""
        seconds = time.monotonic() - began
        if told:
            code, memory = map(int, told.split())
            return code, seconds, memory
        code = self.stop()
        return None if not ended else code, seconds, 0

    def stop(self) -> int:
        """End the process; its exit code."""
        if self._process is None:
            return 0
        os.kill(self._process, signal.SIGKILL)
        _, status = os.waitpid(self._process, 0)
        os.close(self._commands)
        os.close(self._results)
        self._process = None
        return os.waitstatus_to_exitcode(status)

    def _start(self) -> None:
        commands, self._commands = os.pipe()
        self._results, results = os.pipe()
        self._process = os.fork()
        if self._process:
            os.close(commands)
            os.close(results)
            return
        try:
            self._serve(os.fdopen(commands), results)
        finally:
            os._exit(1)

    def _serve(self, commands: TextIO, results: int) -> None:
        limit = 4 * MEMORY + _status("VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        handle = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
        for line in commands:
            os.ftruncate(handle, 0)
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            before = _status("VmRSS")
            code = _code_of(json.loads(line))
            os.write(results, f"{code} {max(_status('VmHWM') - before, 0)}".encode())


def _code_of(command: Sequence[str]) -> int:
    """The exit code of a command that is run here."""
    verb, *options = command
    code: object = 1
    try:
        run(lambda: import_module(f"sdst.{verb}").main(options))
    except SystemExit as end:
        code = end.code or 0
    except Exception:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


def _status(field: str) -> int:
    """Bytes, as the kernel counts them."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{field}:\s+(\d+)", status, re.MULTILINE)[1])


def fault(code: int | None, memory: int, printed: str) -> str | None:
    """A fault in how a command ended; None where there is none."""
    if code is None:
        return f"hung for {SECONDS} s"
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if "Traceback" in printed or (code == 1 and not REPORTED.search(printed)):
        return "traceback"
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    if code == 2 and (len(lines) != 1 or not printed.rstrip().endswith(lines[0].rstrip())):
        return f"{len(lines)} lines of errors, or more behind it"
    if memory > MEMORY:
        return f"{memory / 1e9:.1f} GB of memory"
    return None


def fuzz(
    numbers: Sequence[int],
    seed: int,
    say: Callable[[str], None] = print,
    kinds: Mapping[str, Kind] = KINDS,
) -> tuple[dict[str, Tally], list[str]]:
    """Try these inputs; what came of each kind, and a line for each input that failed."""
    import torch

    torch.set_num_threads(1)
    for module in ("ground", "evaluate", "convert", "inspect", "info", "import", "index"):
        import_module(f"sdst.{module}")
    import_module("sdst.grounding.grounder")
    import_module("sdst.training.run_folder")
    tallies, failures = {name: Tally() for name in kinds}, []
    with tempfile.TemporaryDirectory() as folder:
        good, root = Path(folder) / "good", Path(folder) / "tried"
        os.environ["SDST_CACHE"] = str(Path(folder) / "cache")
        prepare(good)
        output = Path(folder) / "output"
        worker = Worker(output)
        if kinds is INDEXED:
            write_index(good, worker)
        shutil.copytree(good, root)
        for name, kind in kinds.items():
            if worker.run(command_of(kind, root / kind.file, root))[0] != 0:
                raise RuntimeError(f"{name}: the good file fails: {output.read_text()}")
            _restore(good, root, kind)
        for number in numbers:
            rng = random.Random(f"{seed} {number}")
            name = rng.choices(list(kinds), [kind.share for kind in kinds.values()])[0]
            kind, tally = kinds[name], tallies[name]
            command = command_of(kind, make_hostile(root, good, kind, rng), root)
            code, seconds, memory = worker.run(command)
            printed = output.read_text("utf-8", "replace")
            tally.codes[code] += 1
            tally.seconds += seconds
            tally.memory = max(tally.memory, memory)
            if wrong := fault(code, memory, printed):
                tally.faults += 1
                failures.append(f"{number} ({name}): {wrong}")
                if len(failures) <= WORST or len(numbers) == 1:
                    say(f"{failures[-1]}\n{' '.join(command)}\n{printed[-3000:]}")
            elif len(numbers) == 1:
                say(printed)
            _restore(good, root, kind)
            if number % RENEWED == 0:
                worker.stop()
        worker.stop()
    return tallies, failures


def write_index(good: Path, worker: Worker) -> None:
    """An index with partitions, and the same as earlier versions left it, without checksums.

    The worker writes it: LanceDB's threads, started here, would be missing in its fork.
    """
    with patch.object(clip_index, "TRAINED_FROM", 256):  # `write_indexed` has more clips
        worker.run(command_of(INDEXED["fields, table"], good / "fields.csv", good))
    shutil.copytree(good / "index", good / "earlier")
    (good / "earlier" / "checksums.json").unlink()


def command_of(kind: Kind, file: Path, root: Path) -> list[str]:
    """The words of a command on a file of `root`."""
    words = kind.command.replace("{ground}", "ground --checkpoint {root}/run --query x").split()
    text = ""
    if "{text}" in words and file.is_file():
        text = os.fsdecode(file.read_bytes().replace(b"\0", b""))  # as a shell gives it
    return [word.format(file, root=root, text=text) for word in words]


def _restore(good: Path, root: Path, kind: Kind) -> None:
    """Bring back what a command read and may have written beside."""
    for name in {kind.file.split("/")[0], kind.written}:
        source, path = good / name, root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if source.exists():
            (shutil.copytree if source.is_dir() else shutil.copy)(source, path)


def table(tallies: dict[str, Tally]) -> str:
    """Markdown, a row for each kind."""
    rows = ["| files | inputs | exit 0 | exit 2 | other | ms each | most memory | failed |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name, tally in tallies.items():
        count = tally.codes.total()
        if count:
            other = count - tally.codes[0] - tally.codes[2]
            rows.append(
                f"| {name} | {count:,} | {tally.codes[0]:,} | {tally.codes[2]:,} | {other:,} | "
                f"{1000 * tally.seconds / count:.0f} | {tally.memory / 1e6:.0f} MB | "
                f"{tally.faults:,} |"
            )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--imported", action="store_true", help="what sdst.import reads, alone")
    parser.add_argument("--indexed", action="store_true", help="what sdst.index reads, alone")
    parser.add_argument("--only", type=int, help="try this input alone, and show what it prints")
    options = parser.parse_args()
    kinds = IMPORTED if options.imported else INDEXED if options.indexed else KINDS
    numbers = range(options.first, options.first + options.n)
    if options.only is not None:
        numbers = [options.only]
    sys.stdout.reconfigure(line_buffering=True)
    tallies, failures = fuzz(numbers, options.seed, kinds=kinds)
    print(table(tallies))
    print(*failures[WORST:], f"{len(failures):,} of {len(numbers):,} inputs failed", sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
