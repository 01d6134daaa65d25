"""A training step: forward, loss, backward and update, launched or replayed as a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sdst.config import TrainConfig
from sdst.data.batches import Batch
from sdst.errors import InputError, one_line
from sdst.graphs import Capture
from sdst.model import SDST, LossConfig, Targets, grounding_loss
from sdst.model.health import SparseHealth, sparse_health
from sdst.training.compiling import compile_blocks
from sdst.training.distributed import agree_on_sizes, gather_batch
from sdst.training.graphs import Step, StepGraphs
from sdst.training.optim import make_optimizer, make_scheduler, place_rates
from sdst.training.run_folder import ANEW
from sdst.training.state import load_state, save_state

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful


class Stepper:
    """Takes steps with a model, of which the last pass of each updates it.

    Args:
        model: on any device; `self.model` is it as `accelerate` wraps it.
        total_steps: of the optimiser, in the whole run.
        partly: as for `grounding_loss`.
        capture: makes graphs of the steps; None launches every kernel.
        say: receives a line where a step cannot be a graph.
    """

    def __init__(
        self,
        model: SDST,
        config: TrainConfig,
        loss: LossConfig,
        accelerator: Accelerator,
        total_steps: int,
        partly: bool,
        capture: Capture | None,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.loss, self.accelerator, self.partly = config, loss, accelerator, partly
        optimizer = make_optimizer(model, config)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # Autocast is for training alone (`batch_loss`): rounded scores of validation would tie.
        self.precision = autocast_dtype(config.precision)
        is_fp16 = self.precision is torch.float16  # small gradients need scaling to survive
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=is_fp16)
        if config.compile != "no":
            compile_blocks(self.bare_model)
        self.scheduler = make_scheduler(optimizer, config, total_steps)
        # Of more passes than one, or with a scale to be decided on, an update stays outside.
        self.updates_at_once = config.accumulation == 1 and not is_fp16
        self.step: Callable[[Batch], Step] = self.pass_and_update
        if not self.updates_at_once:
            self.step = self.pass_alone
        self.is_in_graphs = capture is not None
        if capture is not None:
            self.step = StepGraphs(
                self.step, self._changed_by_steps, capture, accelerator.device, say
            )
        self._place_rates()

    @property
    def bare_model(self) -> SDST:
        """The model without what `accelerate` wrapped around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        return float(self.scheduler.get_last_lr()[0])

    def take(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, loss, backward, and an update when the gradients are complete.

        Returns:
            The loss, its terms and the figures of `SparseHealth`.

        Raises:
            NonFiniteCostError: of a match on the CPU; a GPU continues, and the loss shows it.
        """
        if self.accelerator.num_processes > 1:
            batch = agree_on_sizes(batch)
        if not self.is_in_graphs:
            batch = batch.to(self.accelerator.device)
        terms = self.step(batch).terms
        if self.accelerator.sync_gradients:
            if not self.updates_at_once:
                self.update()
            self.scheduler.step()
        # A copy: those of a graph lie where the next step's will.
        values = torch.stack([*terms.values()])
        return dict(zip(terms, values.unbind(), strict=True))

    def pass_and_update(self, batch: Batch) -> Step:
        """A whole step but for the schedule."""
        terms = self.pass_through(batch)
        return Step(terms, self.update())

    def pass_alone(self, batch: Batch) -> Step:
        """A step's part that adds to the gradients."""
        terms = self.pass_through(batch)
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return Step(terms, torch.stack([grad.norm() for grad in grads]).norm())

    def pass_through(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, loss and backward of a batch on its device."""
        loss, terms, health = batch_loss(
            self.model,
            batch.inputs(),
            targets_of(batch),
            self.loss,
            self.precision,
            self.partly,
        )
        self.accelerator.backward(self.scaler.scale(loss))
        figures = {"loss": loss, **terms, **vars(health)}
        return {name: figure.detach() for name, figure in figures.items()}

    def update(self) -> Tensor:
        """Clip the gradients, follow them and drop them; [], their norm before that."""
        self.scaler.unscale_(self.optimizer)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # A graph of `pass_alone` adds to the gradients where they were when it was captured.
        self.optimizer.zero_grad(set_to_none=self.updates_at_once)
        assert norm is not None  # it is of DeepSpeed alone
        return norm

    def _changed_by_steps(self) -> Iterator[Tensor]:
        """The weights, the optimizer's state, and gradients that outlive a step."""
        yield from self.model.parameters()
        yield from (p.grad for p in self.model.parameters() if p.grad is not None)
        for moments in self.optimizer.state.values():
            yield from moments.values()

    @property
    def _stateful(self) -> dict[str, Stateful]:
        """All that changes from step to step. Random numbers begin anew with every epoch."""
        parts = {"model": self.bare_model, "optimizer": self.optimizer, "schedule": self.scheduler}
        return {**parts, "scaler": self.scaler} if self.scaler.is_enabled() else parts

    def _place_rates(self) -> None:
        place_rates(self.optimizer, self.accelerator.device if self.is_in_graphs else None)

    def save(self, folder: Path) -> None:
        """Write all that changes from step to step, as `sdst.training.state` does."""
        save_state(folder, {name: part.state_dict() for name, part in self._stateful.items()})

    def load(self, folder: Path) -> None:
        """Take what `save` wrote.

        Raises:
            InputError: it is of another model or optimizer.
        """
        state = load_state(folder)
        try:
            for name, part in self._stateful.items():
                part.load_state_dict(state[name])
            self._place_rates()
        except Exception as error:  # PyTorch trusts what a state holds
            reason = one_line(error)
            raise InputError(
                f"--resume: {folder} does not fit this model and optimizer ({reason}); {ANEW}"
            ) from error


def batch_loss(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    targets: Targets,
    config: LossConfig,
    precision: torch.dtype | None = None,
    partly: bool = False,
) -> tuple[Tensor, dict[str, Tensor], SparseHealth]:
    """The loss of a batch, in all and by its terms, and the health of the sparse stream.

    Args:
        precision: of the model, by autocast; None is fp32, which the losses are in any case.
        partly: as for `grounding_loss`.
    """
    device = inputs[0].device.type
    with torch.autocast(device, precision, enabled=precision is not None):
        outputs = model(*inputs)
    loss, terms = grounding_loss(outputs, targets, config, gather_batch, partly)
    return loss, terms, sparse_health(outputs)


def targets_of(batch: Batch) -> Targets:
    """The part of a batch that the loss compares with."""
    return Targets(
        spans=batch.spans,
        counts=batch.span_counts,
        saliency=batch.saliency,
        lengths=batch.video_lengths,
        positive_clip=batch.positive_clip,
    )


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The dtype of training under `train.precision`, by autocast; None is fp32.

    `auto` is bf16 on a GPU that computes it natively, fp16 on others, and fp32 on a CPU.

    Raises:
        InputError: fp16 without a GPU.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise InputError("train.precision fp16: needs a GPU, and there is none; take bf16 or fp32")
    if precision == "auto":
        if not torch.cuda.is_available():
            return None
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
