"""The state of training comes back as it was, and nothing of it is unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from sdst.errors import InputError
from sdst.training.state import STATE, load_state, save_state


def step(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    scaler.scale(model(torch.ones(2, 3)).square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def parts() -> dict:
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(
        [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias]}], lr=1e-2
    )
    return {
        "model": model,
        "optimizer": optimizer,
        "schedule": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
        "scaler": torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2),
    }


def test_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, resumed = parts(), parts()
    for number in range(6):
        step(whole["model"], whole["optimizer"], whole["scaler"])
        whole["schedule"].step()
        if number == 2:
            save_state(tmp_path, {name: part.state_dict() for name, part in whole.items()})
    state = load_state(tmp_path)
    for name, part in resumed.items():
        part.load_state_dict(state[name])
    for _ in range(3):
        step(resumed["model"], resumed["optimizer"], resumed["scaler"])
        resumed["schedule"].step()
    for name in ("weight", "bias"):
        assert torch.equal(getattr(resumed["model"], name), getattr(whole["model"], name))
    assert resumed["scaler"].state_dict() == whole["scaler"].state_dict()
    assert resumed["schedule"].get_last_lr() == whole["schedule"].get_last_lr()


@pytest.mark.parametrize("content", [b"", b"\0" * 400, b"half a file", b"\x80\x04N."])
def test_a_damaged_state_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(InputError, match=r"without --resume|empty"):
        load_state(tmp_path)


class Planted:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("ran-code"),)


@pytest.mark.parametrize("name", ["custom_checkpoint_0.pkl", "optimizer.bin", "scaler.pt"])
def test_the_pickles_of_an_earlier_version_are_not_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Planted()))
    with pytest.raises(InputError, match="pickles of an earlier version, which are not read"):
        load_state(tmp_path)
    assert not Path("ran-code").exists()
