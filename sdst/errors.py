"""Faults of input, and refusals of the system, in one line: the only place that words them.

Library calls that read a file go into `reading`, writes that know no name into `naming`. What comes
to the end of a command without being one of these is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from sdst.terminal.output import forgiving_output, printable_lines
from sdst.terminal.verbosity import is_verbose, talk

NAMED = 10  # faults of many files; the rest is counted
LONGEST = 2000  # characters of a message, some of which repeat what a file holds
FROM_WORKER = "Original Traceback"  # PyTorch puts it into what a data-loading process raised
# Messages of PyTorch, which has no type of its own for it on a CPU.
OUT_OF_MEMORY = re.compile(r"out of memory|can(?:'t|not) allocate memory|std::bad_alloc", re.I)

# What a file begins with that is something else than its name says.
DISGUISES = (
    (
        rb"version https://git-lfs\.github\.com/",
        "is a Git LFS pointer, not the file itself; fetch it with git lfs pull",
    ),
    (
        rb"\s*(<!doctype html|<html|<head|<body)",
        "is a web page (HTML), not the file itself; a download answered with a page, get it again",
    ),
    (
        rb"\s*<\?xml[^>]*>\s*<(error|html|!doctype html)",
        "is a server's error message, not the file itself; get it again",
    ),
)


class InputError(ValueError):
    """A fault in what the user gave: a file, a key, a value.

    The message is one line that names the file or key, what was found, what was expected and what
    to do about it.
    """


def run(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave the process the way a shell expects.

    Exit code 0 on success (or what `main` returned), 2 with a line on stderr where `explain` has
    one, 130 after Ctrl-C, as shells report it, and after SIGTERM, by which Slurm and Docker end a
    process. Output that nobody reads (`| head`) is dropped;
    output that cannot be written (a full disk) ends with exit code 2, after the work.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with forgiving_output() as output, talk():
        try:
            code = main()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            code = 130
        except Exception as error:
            line = explain(error)
            if line is None:
                raise
            if is_verbose():
                traceback.print_exc()
            code = _refuse(line)
        sys.stdout.flush()
        if output.fault is not None:
            code = _refuse(f"standard output: {os.strerror(output.fault)}")
    sys.exit(code)


def explain(error: BaseException) -> str | None:
    """The line for an error that a user can do something about; None for a bug of ours."""
    if FROM_WORKER in str(error):
        return str(error).strip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, InputError):
        return one_line(error)
    if (number := system_error(error)) is not None:
        names = [getattr(error, key, None) for key in ("filename", "filename2")]
        named = " and ".join(os.fsdecode(name) for name in names if isinstance(name, str | bytes))
        advice = "; make room and run the command again" if number == ENOSPC else ""
        return f"{named or 'the system refuses'}: {os.strerror(number)}{advice}"
    if _is_out_of_memory(error):
        return f"out of memory ({one_line(error)}); close other programs or take a smaller batch"
    if isinstance(error, RuntimeError):
        # Imported here: it brings PyTorch along, which no refused option should wait for.
        from sdst.kernels import ImplementationError

        return str(error) if isinstance(error, ImplementationError) else None
    return None


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name `path` in an error of the system that names no file, as of writing to an open one."""
    try:
        yield
    except OSError as error:
        name_file(error, path)
        raise
    except Exception as error:
        number = system_error(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def name_file(error: BaseException, path: str | Path) -> None:
    """Name `path` in an error of the system that names no file."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)


@contextmanager
def reading(path: str | Path, advice: str) -> Iterator[None]:
    """Make whatever a library raises while it reads `path` an `InputError`.

    For the library's call alone: a bug of ours in the block would be hidden.

    Args:
        advice: what was expected, or what to do.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, error, advice) from error


def unreadable(path: str | Path, error: Exception, advice: str) -> InputError:
    """The exception for a file on which a library failed with `error`."""
    if found := disguise(path):
        return InputError(f"{path}: {found}")
    number = system_error(error)
    reason = one_line(error) if number is None else os.strerror(number)
    if isinstance(error, RecursionError):
        reason = "nested too deeply"
    return InputError(f"{path}: cannot be read ({reason}); {advice}")


def disguise(path: str | Path) -> str | None:
    """Content that a file's name does not promise: empty, a web page, a Git LFS pointer."""
    try:
        if not Path(path).is_file():  # a pipe would wait, and what is read of it is lost
            return None
        with open(path, "rb") as file:
            head = file.read(512)
    except (OSError, ValueError):
        return None
    if not head:
        return "is empty; get it again"
    return next((what for start, what in DISGUISES if re.match(start, head, re.I)), None)


def refuse_all(faults: Iterable[str], what: str) -> None:
    """Raise the faults of many files as one error.

    Args:
        what: the files, in the plural.

    Raises:
        InputError: there is a fault.
    """
    faults = list(faults)
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        rest = len(faults) - NAMED
        more = f"; and {rest:,} more" if rest > 0 else ""
        raise InputError(f"{len(faults):,} {what}: {'; '.join(faults[:NAMED])}{more}")


@contextmanager
def collected(faults: list[str]) -> Iterator[None]:
    """Add the message of an `InputError` in the block to `faults` in place of raising it."""
    try:
        yield
    except InputError as error:
        faults.append(str(error))


def one_line(error: BaseException) -> str:
    """The message of an error in one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def system_error(error: BaseException) -> int | None:
    """The number of the system's error; libraries in Rust have it in the message."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None
    )


def _refuse(line: str) -> int:
    """Print what is wrong; what it repeats of a file cannot steer the terminal."""
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    print(f"error: {printable_lines(line)}", file=sys.stderr)
    return 2
