"""The state that training resumes from, as safetensors and JSON: reading it runs no code.

The parts are state dictionaries, of a model, an optimizer, a schedule. They are JSON in the header
of a file of their tensors, which are named there by `{"tensor": NAME}`. Dictionaries are lists of
pairs, `{"items": [[KEY, VALUE], ...]}`, as their keys may be numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from sdst.errors import InputError
from sdst.files.sealed import load_tensors, save_tensors
from sdst.training.run_folder import ANEW

STATE = "state.safetensors"
_PICKLES = ("*.bin", "*.pkl", "*.pt")  # of earlier versions


def save_state(folder: Path, parts: dict[str, dict]) -> None:
    """Write the state dictionaries `parts` into `folder`."""
    tensors: dict[str, Tensor] = {}
    values = json.dumps(_without_tensors(parts, "", tensors))
    save_tensors(folder / STATE, tensors, values=values)


def load_state(folder: Path) -> dict[str, dict]:
    """The state that `save_state` wrote into `folder`, tensors in host memory.

    Raises:
        InputError: it is damaged, or of an earlier version, which would have to be unpickled.
    """
    if not (folder / STATE).is_file() and any(p for kind in _PICKLES for p in folder.glob(kind)):
        raise InputError(
            f"--resume: {folder} holds pickles of an earlier version, which are not read since "
            f"they can run code; {ANEW}"
        )
    tensors, metadata = load_tensors(folder / STATE, ANEW)
    try:
        parts = _with_tensors(json.loads(metadata["values"]), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{folder / STATE}: damaged ({error}); {ANEW}") from None
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        raise InputError(f"{folder / STATE}: damaged (no state dictionaries); {ANEW}")
    return parts


def _without_tensors(value: object, name: str, tensors: dict[str, Tensor]) -> object:
    """`value` in types of JSON; its tensors are added to `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {
            "items": [
                [key, _without_tensors(item, f"{name}/{key}".lstrip("/"), tensors)]
                for key, item in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        return [_without_tensors(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _with_tensors(value: object, tensors: dict[str, Tensor]) -> object:
    if isinstance(value, list):
        return [_with_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _with_tensors(item, tensors) for key, item in value["items"]}
