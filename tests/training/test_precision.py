"""The precision that `auto` takes."""

from __future__ import annotations

import pytest
import torch

from sdst.training.step import autocast_dtype


@pytest.mark.parametrize(
    ("gpu", "native", "expected"),
    [(False, False, None), (True, True, torch.bfloat16), (True, False, torch.float16)],
)
def test_bf16_is_taken_where_it_is_native(
    gpu: bool, native: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native
    )
    assert autocast_dtype("auto") == expected
