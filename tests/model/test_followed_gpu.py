"""A training step and answers on a GPU, followed without one: shapes, number types and devices.

Nothing is computed. Autocast has other rules on a GPU than on a CPU, and what crosses between host
and device makes the host wait and cannot be in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdst.kernels import cuda_kernels, triton_support
from sdst.model import SDST, LossConfig, ModelConfig, Outputs, Targets
from sdst.training.step import batch_loss
from tests.model.small import VARIANTS, make_model, random_inputs, random_targets


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
    """The properties that are asked of one, of compute capability 9."""
    try:
        with FakeTensorMode():
            torch.empty(1, device="cuda").uniform_()
    except RuntimeError:
        pytest.skip(f"fake tensors of PyTorch {torch.__version__} ask for a CUDA driver")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Mock(major=9))
    monkeypatch.setattr(triton_support, "missing_reason", lambda: None)
    monkeypatch.setattr(cuda_kernels, "missing_reason", lambda source, device: None)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)


def there(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Of the same shapes and types on the GPU; under `FakeTensorMode`."""
    return [torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in tensors]


def model_there(config: ModelConfig) -> SDST:
    with torch.device("cuda"):
        return SDST(config)


def follow_training(config: ModelConfig) -> Tensor:
    """The loss of a batch."""
    inputs, targets = random_inputs(config), vars(random_targets()).values()
    with FakeTensorMode():
        model, inputs, targets = model_there(config), tuple(there(inputs)), there(targets)
        with NothingCrosses():
            targets = Targets(*targets)
            return batch_loss(model.train(), inputs, targets, LossConfig(), torch.bfloat16)[0]


def follow_answers(config: ModelConfig) -> Outputs:
    """The answers to a batch on one video."""
    inputs = random_inputs(config)
    with FakeTensorMode(), torch.no_grad():
        model = model_there(config).eval()
        video, text, lengths, words = there(inputs)
        with NothingCrosses():
            encoded = model.encode_video(video[:1], lengths[:1])
            return model.answer(encoded, text, words, every_step=False)


every_variant = pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda v: "-".join(str(x) for x in v.values())
)


@every_variant
def test_number_types_of_training_fit_and_nothing_crosses(variant: dict) -> None:
    loss = follow_training(make_model(variant).config)
    assert loss.dtype == torch.float32
    assert loss.device.type == "cuda"


@every_variant
def test_nothing_crosses_on_the_way_to_an_answer(variant: dict) -> None:
    scores = follow_answers(make_model(variant).config).scores
    assert scores.dtype == torch.float32
    assert scores.device.type == "cuda"


def test_a_crossing_is_seen() -> None:
    with FakeTensorMode(), NothingCrosses(), pytest.raises(AssertionError, match=r"cpu.*cuda"):
        torch.ones(3).to("cuda")
    with FakeTensorMode(), NothingCrosses(), pytest.raises(AssertionError, match=r"cpu.*cuda"):
        torch.tensor([1.0, 2.0], device="cuda")
