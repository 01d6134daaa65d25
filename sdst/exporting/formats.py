"""The formats of exported programs, and what writes and runs them."""

from __future__ import annotations

from importlib import import_module

from sdst.errors import InputError

FORMATS = ("pt2", "onnx")
_PACKAGES = {"pt2": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def check_format(format: str) -> None:
    """Refuse a format whose packages are missing.

    Raises:
        InputError: they are.
    """
    for package in _PACKAGES[format]:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise InputError(
                f"format {format}: needs {error.name}; pip install 'sdst[export]'"
            ) from None
