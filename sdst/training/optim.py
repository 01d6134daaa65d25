"""AdamW, its parameter groups and its learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sdst.config import TrainConfig
from sdst.model.rdsa import DeformableReader


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only: not biases, norms, scalars, nor the learned queries.

    What decides where a reader samples learns at `config.offsets_lr` of the rate.
    """
    slow = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, DeformableReader)
        for parameter in module.steering()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {
        (config.lr, config.weight_decay): [],
        (config.lr, 0.0): [],
    }
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and not name.startswith("queries.")
        decay = config.weight_decay if is_matrix else 0.0
        lr = config.lr * config.offsets_lr if id(parameter) in slow else config.lr
        groups.setdefault((lr, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": params, "lr": lr, "weight_decay": decay}
            for (lr, decay), params in groups.items()
        ],
        lr=config.lr,
        fused=True,
    )


def make_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainConfig, total_steps: int
) -> LambdaLR:
    """Linear warm-up, then a step decay or a cosine to zero over `total_steps`."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, config, total_steps))


def lr_factor(step: int, config: TrainConfig, total_steps: int) -> float:
    """Share of the peak learning rate at optimiser step `step`, counted from 0."""
    warmup = min(config.warmup_steps, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.lr_schedule == "step":
        return 0.1 if step >= config.decay_at * total_steps else 1.0
    done = (step - warmup) / max(total_steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def place_rates(optimizer: torch.optim.Optimizer, device: torch.device | None) -> None:
    """Keep the learning rates on `device`, where a graph of a step reads what the schedule writes.

    Again after `load_state_dict`, which brings those of the run that was saved.

    Args:
        device: None keeps them as numbers, for steps that are not in graphs.
    """
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        group["lr"] = rate if device is None else torch.tensor(rate, device=device)
        group["capturable"] = device is not None and device.type == "cuda"
