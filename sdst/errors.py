"""What a user did wrong, told in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class InputError(ValueError):
    """A fault in what the user gave: a file, a key, a value.

    The message is one line that names the file or key, what was found, what was expected and what
    to do about it.
    """


def run(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave the process the way a shell expects.

    Exit code 0 on success (or what `main` returned), 2 after an `InputError` or where the kernels
    asked for do not fit (a line on stderr, no traceback), 130 after Ctrl-C, as shells report it.
    """
    try:
        code = main()
    except InputError as error:
        code = _refuse(error)
    except RuntimeError as error:
        # Imported here: it brings PyTorch along, which no refused option should wait for.
        from sdst.kernels import ImplementationError

        if not isinstance(error, ImplementationError):
            raise
        code = _refuse(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output (`| head`) went away; nothing is left to say at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _refuse(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
