"""Where a run's figures come from: code, machine, settings and features."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

from sdst import __version__
from sdst.config import as_dict
from sdst.sources.dataset import Data

_PACKAGE = Path(__file__).parents[1]


def provenance(data: Data) -> dict:
    """The provenance of a run, for its `metrics.json`; every value is plain JSON.

    Args:
        data: what the run was opened on, with its resolved config.
    """
    config = data.config
    return {
        "version": __version__,
        "commit": commit(),
        "command": shlex.join(sys.orig_argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seed": config.train.seed,
        "features": features_fingerprint(data),
        "planted": config.data.planted,
        "limit": config.data.limit,
        "config": as_dict(config),
    }


def published(origin: dict) -> dict:
    """The part of a run's provenance for its model: no host, folder or second configuration."""
    program, *arguments = shlex.split(origin["command"])
    rest = {name: value for name, value in origin.items() if name not in ("config", "machine")}
    machine = {name: value for name, value in origin["machine"].items() if name != "host"}
    command = shlex.join([Path(program).name, *arguments])
    return rest | {"machine": machine, "command": command}


def commit(package: Path = _PACKAGE) -> str | None:
    """The git commit that `package` is checked out from, `-dirty` with changes of tracked files.

    None for an installed package, even where its folder is within some other repository.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    """Git's answer in `folder`; None where it fails or is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def machine() -> dict[str, object]:
    """The host, its processor and its GPUs."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _processor() -> str:
    """The processor's name where Linux reports it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def features_fingerprint(data: Data) -> str:
    """A digest of what decides the features, and of the features as far as that is cheap."""
    content = [data.meta, *data.source.identity]
    encoded = json.dumps(content, sort_keys=True, default=str).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]
