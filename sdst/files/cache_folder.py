"""Where rendered videos, encoded features and compiled kernels are kept."""

from __future__ import annotations

import os
from pathlib import Path

from sdst.errors import InputError


class NoCacheError(InputError):
    """The system has no place for a cache."""


def cache_dir() -> Path:
    """Where rendered and encoded things are kept: `$SDST_CACHE`, or `~/.cache/sdst`.

    Raises:
        NoCacheError: there is neither, as for a user id that the system has no entry for.
    """
    try:
        return Path(os.environ.get("SDST_CACHE") or Path.home() / ".cache" / "sdst").expanduser()
    except RuntimeError:  # of pathlib
        raise NoCacheError(
            "no home directory (HOME is not set); set SDST_CACHE to a folder for rendered videos "
            "and encoded features"
        ) from None
