"""Batches move between kinds of memory without changing, and no layer travels twice."""

from __future__ import annotations

from dataclasses import fields

import torch

from sdst.data.batches import Batch


def batch(device: str = "cpu") -> Batch:
    """Two samples of one stored layer that serves three steps."""
    video = torch.randn(1, 2, 5, 4, 8, device=device).transpose(0, 1).expand(-1, 3, -1, -1, -1)
    text = torch.randn(2, 1, 6, 8, device=device).expand(-1, 3, -1, -1)
    others = (torch.ones(2, n + 1, device=device) for n in range(6))
    return Batch(video, text, *others)


def test_a_batch_keeps_its_strides_when_pinned_and_a_repeated_layer_is_pinned_once(monkeypatch):
    sizes = []

    def pin(values: torch.Tensor) -> torch.Tensor:
        sizes.append(values.numel())
        return values.clone()  # with the same strides, as pinning does

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    plain = batch()
    pinned = plain.pin_memory()
    for name in (f.name for f in fields(Batch) if f.name != "scales"):
        found, expected = getattr(pinned, name), getattr(plain, name)
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()
    assert pinned.scales is None
    assert sizes[:2] == [plain.video.numel() / 3, plain.text.numel() / 3]


def test_a_batch_on_a_device_is_not_pinned():
    assert batch("meta").pin_memory().video.device.type == "meta"
