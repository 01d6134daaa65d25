"""JSON and tensors that carry a checksum of their content, which is compared when they are read.

Files of earlier versions carry none and are read as they are.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.errors import InputError, one_line, unreadable
from sdst.files.publish import replacing
from sdst.files.text import open_file, read_text

if TYPE_CHECKING:
    from torch import Tensor

_SEAL = re.compile(r',\s*"checksum": (\d+)\s*\}\s*\Z')
_LONGEST_SEAL = 100
_HEADER = "sdst"
_ALTERED = "its content is not what was written"


def seal(content: dict, indent: int | None = None) -> str:
    """`content` as JSON with one more key, `checksum`, of the text before it."""
    text = json.dumps(content, indent=indent)[:-1].rstrip()
    space, end = (" ", "") if indent is None else (f"\n{' ' * indent}", "\n")
    comma = "," if content else ""
    return f'{text}{comma}{space}"checksum": {zlib.crc32(text.encode())}{end}}}'


def read_sealed(path: Path, advice: str) -> dict:
    """The content of a file that `seal` made the text of.

    Args:
        advice: what to do where it is damaged.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({one_line(error)}); {advice}") from None
    found = _SEAL.search(text, max(0, len(text) - _LONGEST_SEAL))
    if found and int(found[1]) != zlib.crc32(text[: found.start()].encode()):
        raise InputError(f"{path}: damaged ({_ALTERED}); {advice}")
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object {{...}}; {advice}")
    content.pop("checksum", None)
    return content


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write a safetensors file whose header holds `metadata` and a checksum of it and `tensors`."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    sealed = json.dumps({**metadata, "checksum": _checksum(tensors, metadata)})
    with replacing(path) as file:
        # One key alone: safetensors writes several in an order that differs from run to run.
        file.write(save(tensors, {_HEADER: sealed}))


def load_tensors(path: Path, advice: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, in the memory of the host, and its metadata.

    Args:
        advice: what to do where it is damaged.

    Raises:
        InputError: it cannot be read, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    open_file(path).close()  # safetensors takes a file that may not be read for a missing one
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise unreadable(path, error, advice) from None
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: damaged (its header is no object); {advice}")
    expected = metadata.pop("checksum", None)
    if expected not in (None, _checksum(tensors, metadata)):
        raise InputError(f"{path}: damaged ({_ALTERED}); {advice}")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    import torch

    checksum = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        kind = f"{name} {value.dtype} {list(value.shape)}"
        checksum = zlib.crc32(kind.encode(), checksum)
        checksum = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum
