"""Training a side-tuner on a frozen backbone's features: steps, validations, checkpoints."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, gather_object, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sdst.config import Config, DataConfig, PredictConfig
from sdst.data.annotations import Annotation
from sdst.data.batches import BUCKETS, TIGHT, Batch, GroundingDataset, Multiples, collate
from sdst.data.joined import JoinedQueries
from sdst.errors import InputError, one_line
from sdst.evaluation.presence import of_others
from sdst.evaluation.protocols import PROTOCOLS, Protocol
from sdst.evaluation.report import figures_of, labelled
from sdst.grounding.decode import Prediction
from sdst.grounding.predict import as_record, knows_presence, predict, predict_zero_shot
from sdst.kernels import NonFiniteCostError
from sdst.model import SDST, LossConfig, Targets, grounding_loss
from sdst.model.health import HEALTH, SparseHealth, collapses, sparse_health
from sdst.sources.dataset import Data
from sdst.terminal.verbosity import is_quiet, progress_bar
from sdst.training.compiling import compile_blocks
from sdst.training.distributed import agree_on_sizes, gather_batch
from sdst.training.graphs import Step, StepGraphs, make_capture
from sdst.training.initial import other_features, start_from
from sdst.training.optim import make_optimizer, make_scheduler, place_rates
from sdst.training.run_folder import ANEW, Progress, RunFolder
from sdst.training.state import load_state, save_state
from sdst.training.tracking import check_tracker, log

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful

# Optimiser steps between looks at the loss, and at whether another process was asked to stop: each
# of these waits for the device.
_LOOK_EVERY = 10


class Trainer:
    """One run: the model, what optimises it, and where it stands.

    The run is a function of the config: data order, positive clips and dropout depend on (seed,
    epoch) alone, so a resumed run repeats the uninterrupted one.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        folder: RunFolder,
        accelerator: Accelerator,
        model_class: type[SDST] = SDST,
    ) -> None:
        self.config, self.data, self.folder, self.accelerator = config, data, folder, accelerator
        self.progress = Progress()
        self.faults: set[str] = set()  # of the sparse stream, that were said
        self.stop_asked = self.interrupted = False
        set_seed(config.train.seed)
        self.dataset = data.training()
        self.validation = data.dataset("val")
        labelled = [a.windows is not None for a in self.dataset.annotations]
        self.loss = config.loss
        if config.data.sentences == "none":
            self.loss = replace(config.loss, contrast=0.0, alignment=0.0, layer_alignment=0.0)
        self.learns_moments = self.loss.of_moments and any(labelled)
        self.partly = self.loss.of_moments and not all(labelled)
        capture = make_capture(config.train, accelerator.device, accelerator.num_processes)
        padding = multiples(config.data, in_graphs=capture is not None)
        loader = make_loader(self.dataset, config, accelerator.num_processes, padding)
        model = model_class(config.model)
        self.start = start_from(model, config.train.init) if config.train.init else None
        optimizer = make_optimizer(model, config.train)
        # Batches are moved where a step needs them, perhaps into the buffers of a graph.
        self.model, self.optimizer, self.loader = accelerator.prepare(
            model, optimizer, loader, device_placement=[True, True, False]
        )
        # Autocast is for training alone (`batch_loss`): rounded scores of validation would tie.
        self.precision = autocast_dtype(config.train.precision)
        is_fp16 = self.precision is torch.float16  # small gradients need scaling to survive
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=is_fp16)
        if config.train.compile != "no":
            compile_blocks(self.bare_model)
        self.steps_per_epoch = len(self.loader) // config.train.accumulation
        self.scheduler = make_scheduler(optimizer, config.train, self.total_steps)
        # Of more passes than one, or with a scale to be decided on, an update stays outside.
        self.updates_at_once = config.train.accumulation == 1 and not is_fp16
        self.step: Callable[[Batch], Step] = self.pass_and_update
        if not self.updates_at_once:
            self.step = self.pass_alone
        self.is_in_graphs = capture is not None
        if capture is not None:
            self.step = StepGraphs(
                self.step, self._changed_by_steps, capture, accelerator.device, self.say
            )
        self._place_rates()

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch

    @property
    def bare_model(self) -> SDST:
        """The model without what `accelerate` wrapped around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def protocol(self) -> Protocol:
        """How predictions are scored."""
        return _protocol(self.data)

    def resume(self) -> None:
        """Go back to the end of the last complete epoch, or to the beginning without one."""
        state = self.folder.last_state()
        if state is None:
            self.say("nothing to resume yet; starting at the beginning")
        else:
            self._load_state(state)
            self.progress = self.folder.load_progress(state)
            self.say(f"resuming after epoch {self.progress.epoch} of {self.config.train.epochs}")
        if self.accelerator.is_main_process:
            self.folder.truncate_metrics(self.progress.epoch)
        self.accelerator.wait_for_everyone()

    def begin(self) -> None:
        """Say what the first weights are, where they are another run's."""
        if self.start is not None:
            self.say(str(self.start))
            if fault := other_features(self.start.source, self.data.meta):
                self.say(fault)

    def fit(self) -> None:
        """Train to the end, or until Ctrl-C or SIGTERM."""
        config = self.config.train
        bar = progress_bar(
            total=self.total_steps,
            initial=self.progress.step,
            desc="train",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        with bar, stop_on_interrupt(self.ask_to_stop):
            for epoch in range(self.progress.epoch + 1, config.epochs + 1):
                losses, health = self.train_epoch(epoch, bar)
                if self.interrupted:
                    break
                self.progress.epoch = epoch
                if epoch % config.validate_every == 0 or epoch == config.epochs:
                    self.validate(losses, health)
                if self.accelerator.is_main_process:
                    self.folder.save_state(self.progress, self._save_state)
                self.accelerator.wait_for_everyone()
        if self.progress.best is None and self.accelerator.is_main_process:
            self.folder.save_model(self.bare_model)

    def train_epoch(self, epoch: int, bar: tqdm) -> tuple[dict[str, float], dict[str, float]]:
        """One pass over the training queries; means of every loss term and of `SparseHealth`."""
        set_seed(self.config.train.seed * 1_000_003 + epoch, device_specific=True)
        self.dataset.epoch = epoch
        self.loader.set_epoch(epoch)
        self.model.train()
        history = []
        for number, batch in enumerate(self.loader):
            if number >= self.steps_per_epoch * self.config.train.accumulation:
                continue  # too few are left for a step
            with self.accelerator.accumulate(self.model):
                terms = self.train_step(batch)
            history.append(terms)
            if not self.accelerator.sync_gradients:
                continue
            self.progress.step += 1
            bar.update()
            if self.progress.step % _LOOK_EVERY == 0:
                self.log_step(epoch, terms, bar)
            if self.should_stop():
                self.interrupted = True
                break
        means = {name: torch.stack([t[name] for t in history]).mean().item() for name in history[0]}
        self.check_finite(means["loss"])
        health = {name: means.pop(name) for name in HEALTH}
        self.check_health(health)
        return means, health

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, loss, backward, and an optimiser step when its gradients are complete.

        Returns:
            The loss, its terms and the figures of `SparseHealth`.
        """
        if self.accelerator.num_processes > 1:
            batch = agree_on_sizes(batch)
        if not self.is_in_graphs:
            batch = batch.to(self.accelerator.device)
        try:
            terms = self.step(batch).terms
        except NonFiniteCostError as error:  # of a match; a GPU continues, and the loss shows it
            raise self.diverged(math.nan) from error
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
        norm = self.accelerator.clip_grad_norm_(
            self.model.parameters(), self.config.train.clip_norm
        )
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

    def log_step(self, epoch: int, terms: dict[str, Tensor], bar: tqdm) -> None:
        """Show the loss and hand it to the tracker."""
        values = {name: float(term.item()) for name, term in terms.items()}
        self.check_finite(values["loss"])
        rate = float(self.scheduler.get_last_lr()[0])
        bar.set_postfix(epoch=epoch, loss=f"{values['loss']:.3f}", lr=f"{rate:.1e}")
        logged = {f"train/{name}": value for name, value in values.items()} | {"train/lr": rate}
        self.log(logged)

    def log(self, values: dict[str, float]) -> None:
        """Hand values of this step to `train.tracker`."""
        log(self.accelerator, self.config.train.tracker, values, self.progress.step)

    def check_finite(self, loss: float) -> None:
        """End a run whose loss is not finite."""
        if not math.isfinite(loss):
            raise self.diverged(loss)

    def check_health(self, health: dict[str, float]) -> None:
        """Print one line the first time that the sparse stream is found collapsed."""
        if self.progress.step < self.config.train.warmup_steps or not self.learns_moments:
            return
        for fault in collapses(health) - self.faults:
            self.say(f"step {self.progress.step}: {fault}")
            self.faults.add(fault)

    def diverged(self, loss: float) -> InputError:
        """A message that ends such a run."""
        return InputError(
            f"training diverged by step {self.progress.step}: the loss is {loss}; lower train.lr "
            f"(now {self.config.train.lr}) or check the features for NaN"
        )

    def validate(self, losses: dict[str, float], health: dict[str, float]) -> None:
        """Evaluate on `val`, log it, and keep the model if it is the best so far."""
        records = self.predict(self.validation)
        others = self.reports_of_others({name: "val" for name in self.data.others})
        if not self.accelerator.is_main_process:
            return
        figures = figures_of(self.report(records, self.validation.annotations))
        of_others = {name: figures_of(report) for name, report in others.items()}
        score = self.score(figures, of_others)
        progress = self.progress
        is_best = progress.best is None or score > progress.best
        if is_best:
            progress.best, progress.best_epoch = score, progress.epoch
            self.folder.save_model(self.bare_model)
        record = {
            "epoch": progress.epoch,
            "step": progress.step,
            "losses": losses,
            "sparse_stream": health,
            "val": figures,
        }
        if of_others:
            record["val_of_others"] = of_others
        self.folder.log_metrics(record)
        self.log({f"val/{name}": value for name, value in figures.items()})
        best = "  (best)" if is_best else ""
        line = _headline(figures, self.protocol)
        self.say(f"epoch {progress.epoch:3d}  loss {losses['loss']:.3f}  val {line}{best}")
        for name, found in of_others.items():
            self.log({f"val/{name}/{label}": value for label, value in found.items()})
            self.say(
                f"           {name}  val {_headline(found, _protocol(self.data.others[name]))}"
            )

    def score(self, figures: dict[str, float], of_others: dict[str, dict[str, float]]) -> float:
        """What the best checkpoint is chosen by: `train.select_by`, averaged over the datasets."""
        scores = [selected_figure(figures, self.config.train.select_by)]
        for name, found in of_others.items():
            scores.append(selected_figure(found, self.data.others[name].config.train.select_by))
        return sum(scores) / len(scores)

    def reports_of_others(self, splits: dict[str, str]) -> dict[str, dict]:
        """Reports on a split of each dataset under `data.also`, as its own protocol has them."""
        reports = {}
        for name, split in splits.items():
            data = self.data.others[name]
            predict = data.config.predict
            if predict.snap == "auto":  # as decided on the first dataset
                predict = replace(predict, snap=self.config.predict.snap)
            records = self.predict(data.dataset(split), predict)
            if self.accelerator.is_main_process:
                clip_length = data.config.data.clip_length
                reports[name] = _protocol(data).score(records, data.splits[split], clip_length)
        return reports

    def predict(
        self, dataset: GroundingDataset, options: PredictConfig | None = None
    ) -> list[dict]:
        """Predictions for `dataset`, shared out over the processes and put together again.

        Args:
            options: in the place of the config's.
        """
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        records = predict(
            self.bare_model,
            dataset.share(rank, processes),
            device=self.accelerator.device,
            progress=rank == 0,
            options=options or self.config.predict,
        )
        if processes == 1:
            return records
        of_all: list[list[dict]] = gather_object([records])
        return [of_all[i % processes][i // processes] for i in range(len(dataset))]

    def predict_others(self, dataset: GroundingDataset) -> list[dict]:
        """Predictions for sentences of other videos (`of_others`); none without presence."""
        asked = of_others(dataset.annotations) if knows_presence(self.bare_model) else []
        return self.predict(dataset.asking(asked)) if asked else []

    def report(self, records: list[dict], annotations: list[Annotation]) -> dict:
        """The official figures, at this dataset's clip length."""
        return self.protocol.score(records, annotations, self.config.data.clip_length)

    def zero_shot_report(self, dataset: GroundingDataset) -> dict | None:
        """The baseline's figures; None for features that know no zero-shot answer."""
        if not dataset.source.shapes["embed_width"]:
            self.say("zero-shot: skipped, these features share no space between video and text")
            return None
        return self.report(predict_zero_shot(dataset), dataset.annotations)

    def ask_to_stop(self) -> None:
        """End training after the step in hand, or soon after where other processes take part."""
        self.stop_asked = True

    def should_stop(self) -> bool:
        """Whether this process was asked to stop; of several, any, which they share."""
        if self.accelerator.num_processes == 1:
            return self.stop_asked
        if self.progress.step % _LOOK_EVERY:
            return False
        if self.stop_asked:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def say(self, line: str) -> None:
        """Print a line above the progress bar, once for all processes."""
        if self.accelerator.is_main_process and not is_quiet():
            tqdm.write(line)

    @property
    def _stateful(self) -> dict[str, Stateful]:
        """All that changes from step to step. Random numbers begin anew with every epoch."""
        parts = {"model": self.bare_model, "optimizer": self.optimizer, "schedule": self.scheduler}
        return {**parts, "scaler": self.scaler} if self.scaler.is_enabled() else parts

    def _place_rates(self) -> None:
        place_rates(self.optimizer, self.accelerator.device if self.is_in_graphs else None)

    def _save_state(self, folder: Path) -> None:
        save_state(folder, {name: part.state_dict() for name, part in self._stateful.items()})

    def _load_state(self, folder: Path) -> None:
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


def make_accelerator(config: Config, output: Path) -> Accelerator:
    """Device, processes and trackers, by `accelerate`; precision is the trainer's."""
    tracker = config.train.tracker
    check_tracker(tracker)
    return Accelerator(
        # Without a GPU, accelerate joins the processes of torchrun only where the CPU is asked for.
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",
        gradient_accumulation_steps=config.train.accumulation,
        # A batch is split over processes, so that their number does not change what is learned.
        dataloader_config=DataLoaderConfiguration(
            split_batches=True, use_seedable_sampler=True, data_seed=config.train.seed
        ),
        step_scheduler_with_optimizer=False,
        log_with=None if tracker == "none" else tracker,
        project_dir=output,
    )


def check_run(
    config: Config, data: Data, accelerator: Accelerator, model_class: type[SDST] = SDST
) -> None:
    """Refuse a run that would fail after its start: batch size, scoring, kernels.

    Needs this process alone and changes nothing on disk.

    Raises:
        InputError: the queries cannot be shared out in batches or scored.
        ImplementationError: a requested implementation of an op does not fit.
    """
    make_loader(data.training(), config, accelerator.num_processes)
    for scored in (data, *data.others.values()):
        check_scoring(scored.config, scored)
    check_kernels(config, data, accelerator, model_class)


def check_scoring(config: Config, data: Data) -> None:
    """Score some answer to every query that will be scored."""
    protocol, reports = PROTOCOLS[config.data.protocol], {}
    for split in filter(data.has_truth, ("val", "test")):
        annotations = data.splits[split]
        answers = [whole_video(a) for a in annotations]
        try:
            reports[split] = protocol.score(answers, annotations, config.data.clip_length)
        except InputError as error:
            raise InputError(f"{split}: {error}") from None
    selected_figure(figures_of(reports["val"]), config.train.select_by)


def check_kernels(
    config: Config, data: Data, accelerator: Accelerator, model_class: type[SDST]
) -> None:
    """The loss of one query, by an untrained model."""
    batch = collate([data.dataset("train")[0]]).to(accelerator.device)
    model = model_class(config.model).to(accelerator.device)
    precision = autocast_dtype(config.train.precision)
    with torch.no_grad(), suppress(NonFiniteCostError):  # the first step reports what to do
        with torch.autocast(accelerator.device.type, precision, enabled=precision is not None):
            outputs = model(*batch.inputs())
        grounding_loss(outputs, targets_of(batch), config.loss)


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


def multiples(data: DataConfig, in_graphs: bool) -> Multiples:
    """The sizes that training batches are padded to; few by default where each takes a graph."""
    if data.pad_to == "auto":
        return BUCKETS if in_graphs else TIGHT
    return Multiples(data.pad_to, data.pad_to, data.pad_to)


def make_loader(
    dataset: GroundingDataset | JoinedQueries,
    config: Config,
    processes: int = 1,
    padding: Multiples = TIGHT,
) -> DataLoader:
    """Shuffled batches of one forward pass, `train.accumulation` of them to an optimiser step.

    The queries left over at the end of an epoch wait for the next one; a dataset of fewer queries
    than `train.batch_size` is one batch.

    Args:
        processes: that will share each of them.
        padding: of the batches.
    """
    few = len(dataset) < config.train.batch_size
    if few and (processes > 1 or config.train.accumulation > 1):
        raise InputError(
            f"train.batch_size {config.train.batch_size} is more than the {len(dataset)} training "
            "queries; lower it"
        )
    at_once = config.train.batch_size // config.train.accumulation
    if at_once % processes:
        raise InputError(
            f"train.batch_size {config.train.batch_size} in {config.train.accumulation} passes are "
            f"{at_once} queries at once, which {processes} processes do not share evenly; change "
            "one of the three"
        )
    return DataLoader(
        dataset,
        at_once,
        shuffle=True,
        drop_last=not few,
        collate_fn=partial(collate, multiples=padding),
        num_workers=config.train.workers,
        pin_memory=torch.cuda.is_available(),
    )


def targets_of(batch: Batch) -> Targets:
    """The part of a batch that the loss compares with."""
    return Targets(
        spans=batch.spans,
        counts=batch.span_counts,
        saliency=batch.saliency,
        lengths=batch.video_lengths,
        positive_clip=batch.positive_clip,
    )


def _protocol(data: Data) -> Protocol:
    return PROTOCOLS[data.config.data.protocol]


def _headline(figures: dict[str, float], protocol: Protocol) -> str:
    """The figures that papers report, in a line."""
    headline = labelled(figures, protocol.headline)
    return "  ".join(f"{label} {figure:4.1f}" for label, figure in headline.items())


def whole_video(annotation: Annotation) -> dict:
    """An answer to any query, as a submission record."""
    answer = Prediction(np.array([[0.0, annotation.duration, 0.0]]), np.zeros(1))
    return as_record(annotation, answer)


def selected_figure(figures: dict[str, float], name: str) -> float:
    """The one that decides which checkpoint is best."""
    if name not in figures:
        raise InputError(f"train.select_by {name!r}: expected one of {', '.join(sorted(figures))}")
    return figures[name]


@contextmanager
def stop_on_interrupt(ask_to_stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM ask training to stop; a second one ends it at once."""

    def interrupt(number: int, frame: object) -> None:
        ask_to_stop()
        tqdm.write("stopping after this step; press Ctrl-C again to quit at once")
        for each in signals:
            signal.signal(each, signal.default_int_handler)

    signals = signal.SIGINT, signal.SIGTERM
    previous = [signal.signal(each, interrupt) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, previous, strict=True):
            signal.signal(each, handler)
