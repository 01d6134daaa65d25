"""Training a side-tuner on a frozen backbone's features: steps, validations, checkpoints."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, gather_object, set_seed
from torch import Tensor
from tqdm import tqdm

from sdst.config import Config, PredictConfig
from sdst.data.annotations import Annotation
from sdst.data.batches import Batch
from sdst.data.samples import GroundingDataset
from sdst.errors import InputError
from sdst.evaluation.presence import of_others
from sdst.evaluation.protocols import PROTOCOLS, Protocol
from sdst.evaluation.report import figures_of, labelled
from sdst.grounding.predict import knows_presence, predict, predict_zero_shot
from sdst.kernels import NonFiniteCostError
from sdst.model import SDST
from sdst.model.health import HEALTH, collapses
from sdst.sources.dataset import Data
from sdst.terminal.verbosity import is_quiet, progress_bar
from sdst.training.graphs import make_capture
from sdst.training.initial import other_features, start_from
from sdst.training.loader import make_loader, multiples
from sdst.training.run_folder import Progress, RunFolder
from sdst.training.selection import selected_figure
from sdst.training.step import Stepper
from sdst.training.tracking import check_tracker, log

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
        self.length = config.train.length
        self.progress = Progress()
        self.faults: set[str] = set()  # of the sparse stream, that were said
        self.stop_asked = self.interrupted = False
        set_seed(config.train.seed)
        self.dataset = data.training()
        self.validation = data.dataset("val")
        labelled = [a.windows is not None for a in self.dataset.annotations]
        loss = config.loss
        if config.data.sentences == "none":
            loss = replace(loss, contrast=0.0, alignment=0.0, layer_alignment=0.0)
        self.learns_moments = loss.of_moments and any(labelled)
        partly = loss.of_moments and not all(labelled)
        capture = make_capture(config.train, accelerator.device, accelerator.num_processes)
        padding = multiples(config.data, in_graphs=capture is not None)
        loader = make_loader(self.dataset, config, accelerator.num_processes, padding)
        model = model_class(config.model)
        self.start = start_from(model, config.train.init) if config.train.init else None
        # Batches are moved where a step needs them, perhaps into the buffers of a graph.
        self.loader = accelerator.prepare(loader, device_placement=[False])
        self.steps_per_epoch = len(self.loader) // config.train.accumulation
        self.stepper = Stepper(
            model, config.train, loss, accelerator, self.total_steps, partly, capture, self.say
        )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.length.epochs * self.steps_per_epoch

    @property
    def bare_model(self) -> SDST:
        """The model without what `accelerate` wrapped around it."""
        return self.stepper.bare_model

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
            self.stepper.load(state)
            self.progress = self.folder.load_progress(state)
            self.say(f"resuming after epoch {self.progress.epoch} of {self.length.epochs}")
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
        epochs, validate_every = self.length
        bar = progress_bar(
            total=self.total_steps,
            initial=self.progress.step,
            desc="train",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        with bar, stop_on_interrupt(self.ask_to_stop):
            for epoch in range(self.progress.epoch + 1, epochs + 1):
                losses, health = self.train_epoch(epoch, bar)
                if self.interrupted:
                    break
                self.progress.epoch = epoch
                if epoch % validate_every == 0 or epoch == epochs:
                    self.validate(losses, health)
                if self.accelerator.is_main_process:
                    self.folder.save_state(self.progress, self.stepper.save)
                self.accelerator.wait_for_everyone()
        if self.progress.best is None and self.accelerator.is_main_process:
            self.folder.save_model(self.bare_model)

    def train_epoch(self, epoch: int, bar: tqdm) -> tuple[dict[str, float], dict[str, float]]:
        """One pass over the training queries; means of every loss term and of `SparseHealth`."""
        set_seed(self.config.train.seed * 1_000_003 + epoch, device_specific=True)
        self.dataset.epoch = epoch
        self.loader.set_epoch(epoch)
        self.stepper.model.train()
        history = []
        for number, batch in enumerate(self.loader):
            if number >= self.steps_per_epoch * self.config.train.accumulation:
                continue  # too few are left for a step
            with self.accelerator.accumulate(self.stepper.model):
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
        """A step on a batch; the loss, its terms and the figures of `SparseHealth`."""
        try:
            return self.stepper.take(batch)
        except NonFiniteCostError as error:
            raise self.diverged(math.nan) from error

    def log_step(self, epoch: int, terms: dict[str, Tensor], bar: tqdm) -> None:
        """Show the loss and hand it to the tracker."""
        values = {name: float(term.item()) for name, term in terms.items()}
        self.check_finite(values["loss"])
        rate = self.stepper.rate
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
        """The figure that ranks checkpoints: `train.select_by`, averaged over the datasets."""
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


def _protocol(data: Data) -> Protocol:
    return PROTOCOLS[data.config.data.protocol]


def _headline(figures: dict[str, float], protocol: Protocol) -> str:
    """The figures that papers report, in a line."""
    headline = labelled(figures, protocol.headline)
    return "  ".join(f"{label} {figure:4.1f}" for label, figure in headline.items())


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
