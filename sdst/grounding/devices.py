"""Where tensors are: the device that a user names, or the best there is."""

from __future__ import annotations

import torch

from sdst.errors import InputError


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """A device by its name; without one CUDA where present, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r}: expected cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name}: PyTorch finds {torch.cuda.device_count()} CUDA devices here; leave it "
            "out for the best there is"
        )
    return device
