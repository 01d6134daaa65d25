"""A training step on a GPU, followed without one: shapes, number types and devices.

Nothing is computed. Autocast has other rules on a GPU than on a CPU, and what crosses between host
and device makes the host wait and cannot be in a CUDA graph.
"""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from test_compile import VARIANTS, make_model
from test_tuner import random_inputs, random_targets
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdst.kernels import gpu
from sdst.model import SDST, LossConfig, ModelConfig, Targets
from sdst.trainer import batch_loss


class NothingCrosses(TorchDispatchMode):
    """Fails where an operation takes or gives tensors of more than one device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors}
        assert len(devices) < 2, f"{func} takes or gives tensors of {sorted(devices)}"
        return result


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of one, of compute capability 9."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Mock(major=9))
    monkeypatch.setattr(gpu, "missing_reason", lambda: None)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)


def follow(config: ModelConfig) -> Tensor:
    """The loss of a batch."""
    inputs, targets = random_inputs(config), vars(random_targets()).values()
    with FakeTensorMode():
        with torch.device("cuda"):
            model = SDST(config).train()
        inputs, targets = (
            [torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in tensors]
            for tensors in (inputs, targets)
        )
        with NothingCrosses():
            targets = Targets(*targets)
            return batch_loss(model, tuple(inputs), targets, LossConfig(), torch.bfloat16)[0]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(str(x) for x in v.values()))
def test_number_types_fit_and_nothing_crosses(variant: dict) -> None:
    loss = follow(make_model(variant).config)
    assert loss.dtype == torch.float32
    assert loss.device.type == "cuda"


def test_a_crossing_is_seen() -> None:
    with FakeTensorMode(), NothingCrosses(), pytest.raises(AssertionError, match=r"cpu.*cuda"):
        torch.ones(3).to("cuda")
    with FakeTensorMode(), NothingCrosses(), pytest.raises(AssertionError, match=r"cpu.*cuda"):
        torch.tensor([1.0, 2.0], device="cuda")
