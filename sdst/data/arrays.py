"""Arrays in `.npy`, `.npz` and `.pt` files, whose headers are checked before memory is taken."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from sdst.errors import InputError, disguise, one_line, reading
from sdst.files.text import open_file
from sdst.memory import available_memory, format_bytes

ADVICE = "get it again, or make it again by np.save or np.savez"
NPY, ZIP, ZIP_END = b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06"
ZIP_END_BYTES = 22  # of the record that ends a zip without a comment, as NumPy writes it
MOST_PACKED = 1032  # times that deflate makes something smaller at best
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_array(path: Path, keys: Sequence[str]) -> np.ndarray:
    """The array of an `.npy` file, the first of `keys` that an `.npz` file has, or the tensor of a
    `.pt` file.

    Raises:
        InputError: it cannot be read, is damaged, has none of `keys`, or holds what does not fit
            into the memory.
    """
    with open_file(path) as file, reading(path, ADVICE):
        if file.read(len(ZIP)) != ZIP:
            return _read_npy(file, os.fstat(file.fileno()).st_size, path)
        if path.suffix == ".pt":
            return _read_tensor(path)
        with zipfile.ZipFile(file) as archive:
            member = _member(archive, path, keys)
            with archive.open(member) as array:
                return _read_npy(array, member.file_size, path)


def _read_tensor(path: Path) -> np.ndarray:
    """The only tensor of a file of `torch.save`; no code in it is run."""
    import torch  # few layouts need it

    try:
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # of its archive, or of what is not unpickled
        raise InputError(f"{path}: no tensor can be read ({one_line(error)}); {ADVICE}") from None
    if not isinstance(found, torch.Tensor):
        raise InputError(f"{path}: holds {type(found).__name__}, expected one tensor; {ADVICE}")
    if found.dtype == torch.bfloat16:  # which NumPy does not know
        found = found.float()
    return found.detach().numpy()


def fault_of(path: Path) -> str | None:
    """Faults of such a file that its ends show, without reading it."""
    try:
        with open_file(path) as file, reading(path, ADVICE):
            size = os.fstat(file.fileno()).st_size
            head = file.read(len(NPY))
            if head == NPY:
                _shape_and_type(file, size, path)
            elif head.startswith(ZIP):
                file.seek(max(size - ZIP_END_BYTES, 0))
                if not file.read().startswith(ZIP_END):
                    zipfile.ZipFile(file).close()  # raises unless a comment follows
            else:
                what = disguise(path) or f"begins with {head!r}, which is no .npy or .npz; {ADVICE}"
                return f"{path}: {what}"
    except InputError as error:
        return str(error)
    return None


def _member(archive: zipfile.ZipFile, path: Path, keys: Sequence[str]) -> zipfile.ZipInfo:
    there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    found = next((there[key] for key in keys if key in there), None)
    if found is None:
        names = ", ".join(sorted(there)[:10]) or "no array"
        raise InputError(f"{path}: has {names}, expected {' or '.join(keys)}")
    if found.file_size > MOST_PACKED * max(found.compress_size, 1):
        raise InputError(
            f"{path}: says that {found.compress_size:,} bytes unpack to {found.file_size:,}; it is "
            f"damaged, {ADVICE}"
        )
    return found


def _read_npy(file: IO[bytes], size: int, path: Path) -> np.ndarray:
    """The array of an open file of `size` bytes."""
    file.seek(0)
    shape, by_column, dtype = _shape_and_type(file, size, path)
    values = np.empty(math.prod(shape), dtype)
    rest = values.view(np.uint8).data
    while rest:
        if not (read := file.readinto(rest)):  # pyright: ignore[reportAttributeAccessIssue]
            raise InputError(f"{path}: cut short; {ADVICE}")
        rest = rest[read:]
    return values.reshape(shape[::-1]).T if by_column else values.reshape(shape)


def _shape_and_type(file: IO[bytes], size: int, path: Path) -> tuple[tuple, bool, np.dtype]:
    """The header's values, which must agree with the file's size and fit into memory."""
    file.seek(0)
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise InputError(f"{path}: NumPy format {version}, expected 1.0 or 2.0; {ADVICE}")
    shape, by_column, dtype = HEADERS[version](file)
    if dtype.hasobject or any(isinstance(n, bool) or n < 0 for n in shape):
        raise InputError(f"{path}: holds {dtype} of shape {shape}, expected numbers; {ADVICE}")
    nbytes = math.prod(shape) * dtype.itemsize
    if file.tell() + nbytes > size:
        raise InputError(
            f"{path}: its header says shape {shape}, {nbytes:,} bytes; it has "
            f"{size - file.tell():,}; {ADVICE}"
        )
    if nbytes > available_memory():
        raise InputError(
            f"{path}: holds {format_bytes(nbytes)}, more than the memory that is free here"
        )
    return shape, by_column, dtype
