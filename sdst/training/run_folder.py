"""The files of a training run, and how it resumes.

    config.yaml           the whole configuration
    config.json           the same, with a checksum: what `config.yaml` was before it was edited
    features.json         what decides the features it was trained on
    model/                the best weights so far, as `sdst.pretrained.folder` says
    checkpoints/epoch-N/  everything that training resumes from after epoch N (the last one only)
    metrics.jsonl         a line per validation, with the epoch's losses and the figures of
                          `sdst.model.health`
    metrics.json, predictions.jsonl, curves.png, reliability.png, tensorboard/

Every file and folder appears complete or not at all, so a run may be killed at any moment. Nothing
is written through a symbolic link: a run that came from somebody else may hold some.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Set
from dataclasses import asdict, dataclass, replace
from os.path import samestat
from pathlib import Path
from weakref import WeakSet

import yaml

from sdst.config import LEFT_OPEN, NOT_LEARNED, Config, as_dict, load_config, save_config
from sdst.errors import InputError
from sdst.files.publish import (
    lock,
    own_file,
    publish,
    remove_leftovers,
    replace_text,
    scratch_folder,
    sync,
)
from sdst.files.sealed import read_sealed, seal
from sdst.model import SDST
from sdst.pretrained.description import Description
from sdst.pretrained.folder import (
    RUN_FEATURES,
    RUN_MODEL,
    features_of_run,
    save_description,
    save_model,
)
from sdst.pretrained.unchanged import RUN_CONFIG, SEALED_CONFIG, changes, report_edits

_PROGRESS = "progress.json"
ANEW = "start again without --resume, which keeps this run under another name"


@dataclass
class Progress:
    """Where a run stands: epochs and optimiser steps done, and its best validation."""

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0


_folders: WeakSet[RunFolder] = WeakSet()


def _let_go() -> None:
    """Processes that load batches are no reason to keep other runs out of a folder."""
    for folder in list(_folders):
        folder.close()


os.register_at_fork(after_in_child=_let_go)


class RunFolder:
    """The `--output` folder of a training run, which keeps other runs out until it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: int | None = None
        _folders.add(self)
        self.model = path / RUN_MODEL
        self.checkpoints = path / "checkpoints"
        self.metrics_log = path / "metrics.jsonl"

    def check_free(self) -> None:
        """Refuse a folder that no new run can have; keep other runs out of an existing one.

        Raises:
            InputError: the folder holds something else, another run is under way in it, or it
                cannot be written to.
        """
        if self.path.is_dir():
            self._hold()
        if self.path.exists() and not self._has_run() and not self._is_blank():
            raise InputError(
                f"--output {self.path}: holds something that is not a training run; "
                "choose an empty or new folder"
            )
        present = next(place for place in (self.path, *self.path.parents) if place.exists())
        if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
            raise InputError(
                f"--output {self.path}: {present} is no folder that can be written to; "
                "choose another one"
            )

    def begin(self, config: Config) -> None:
        """Make the folder for a new run; an earlier run found there is kept under another name.

        Raises:
            InputError: as `check_free`.
        """
        self.check_free()
        if self._has_run():
            self._clean()
            kept = self._free_name()
            self.path.rename(kept)
            print(f"{self.path} held an earlier run; it is now {kept}")
        self.path.mkdir(parents=True, exist_ok=True)
        self._hold()
        save_config(config, self._config_file)

    def close(self) -> None:
        """Let other runs have the folder."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def resume(self, config: Config) -> None:
        """Check that the run in this folder can be resumed under `config`.

        Raises:
            InputError: there is none, or another one, or one under way, or its last state is gone.
        """
        if not self._config_file.is_file():
            raise InputError(
                f"--resume: {self.path} holds no training run; start one without --resume"
            )
        self._hold()
        self._clean()
        self._refuse_links()
        self.check_config(config)
        if self.last_state() is None and any(r["epoch"] > 1 for r in self.read_metrics()):
            raise InputError(
                f"--resume: {self.checkpoints} holds nothing to resume from, and a new start would "
                f"replace {self.model}; without --resume this run is kept under another name"
            )

    def check_config(self, config: Config) -> None:
        """Refuse a run of other settings, as far as they change what is learned."""
        started = load_config(self._config_file)
        report_edits(self.path, started)
        if different := _differences(as_dict(started), as_dict(config), NOT_LEARNED):
            raise InputError(
                f"--resume: {self.path} was started with another configuration "
                f"({'; '.join(different)}); give the same one, or another --output"
            )

    def settle(self, config: Config, features: dict) -> None:
        """Keep what opening the data has decided of `config`, and what its features are.

        A resumed run keeps the lengths that long videos are cut into.

        Raises:
            InputError: the run in this folder was started on other features.
        """
        if self._features_file.is_file():
            started = features_of_run(self.path)
            # A name says nothing where there is a fingerprint.
            names = set(features) - ({"backbone"} if "fingerprint" in started else set())
            if different := changes(started, features, names):
                raise InputError(
                    f"--resume: {self.path} was started on other features "
                    f"(features.{'; features.'.join(different)}); give the same ones, or another "
                    "--output"
                )
        decided = load_config(self._config_file).predict
        started = {"stretch": decided.stretch, "overlap": decided.overlap}
        kept = {name: value for name, value in started.items() if value is not None}
        self._keep(replace(config, predict=replace(config.predict, **kept)))
        self.write(RUN_FEATURES, seal(features, indent=2) + "\n")

    def decide(self, **predict: object) -> None:
        """Keep what training has decided of the `predict` section."""
        config = load_config(self._config_file)
        self._keep(replace(config, predict=replace(config.predict, **predict)))

    def last_state(self) -> Path | None:
        """The newest complete training state, None before the first epoch's end."""
        states = sorted(self.checkpoints.glob("epoch-*"))
        return states[-1] if states else None

    def save_state(self, progress: Progress, save: Callable[[Path], object]) -> None:
        """Keep the training state after `progress.epoch`; older ones are removed afterwards.

        Args:
            save: writes the state into the folder it is given.
        """
        older = list(self.checkpoints.glob("epoch-*"))
        place = self.checkpoints / f"epoch-{progress.epoch:05d}"
        with scratch_folder(place) as building:
            save(building)
            replace_text(building / _PROGRESS, seal(asdict(progress)) + "\n")
            publish(building, place)
        for folder in older:
            shutil.rmtree(folder)

    def load_progress(self, state: Path) -> Progress:
        """Where the run stood when `state` was kept.

        Raises:
            InputError: the file that says so is damaged.
        """
        found, known = read_sealed(state / _PROGRESS, ANEW), asdict(Progress())
        numbers = [value for name, value in found.items() if (name, value) != ("best", None)]
        if not (found.keys() <= known.keys() and _are_numbers(numbers)):
            raise InputError(f"{state / _PROGRESS}: expected numbers of {', '.join(known)}; {ANEW}")
        return Progress(**found)

    def save_model(self, model: SDST) -> None:
        """Make `model` the one that is found here."""
        save_model(self.model, model, self._description())

    def describe_model(self, results: dict, provenance: dict) -> None:
        """Say of the model what the finished training knows."""
        described = replace(self._description(), results=results, provenance=provenance)
        save_description(self.model, described)

    def _description(self) -> Description:
        config = load_config(self._config_file)
        # All that a model of the demo is made of is this package's.
        licence = "mit" if config.data.dataset == "demo" else None
        return Description(config, features_of_run(self.path), license=licence)

    def log_metrics(self, record: dict) -> None:
        """Append one validation to `metrics.jsonl`."""
        with own_file(self.metrics_log, append=True) as file:
            file.write(json.dumps(record).encode() + b"\n")
        sync(self.metrics_log)

    def read_metrics(self) -> list[dict]:
        """All validations so far, but for one that was being written when the run was killed.

        Raises:
            InputError: a line is damaged.
        """
        if not self.metrics_log.is_file():
            return []
        *lines, _ = self.metrics_log.read_bytes().split(b"\n")
        return [self._metrics_of(number, line) for number, line in enumerate(lines, start=1)]

    def _metrics_of(self, number: int, line: bytes) -> dict:
        try:
            record = json.loads(line)
            drawn = [record["epoch"]]
            for group in ("losses", "val"):
                drawn += record.get(group, {}).values()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{self.metrics_log}:{number}: damaged ({error}); remove that line"
            ) from None
        if not _are_numbers(drawn):
            raise InputError(f"{self.metrics_log}:{number}: expected numbers; remove that line")
        return record

    def truncate_metrics(self, epoch: int) -> None:
        """Forget validations after `epoch`: they will be made again."""
        kept = [record for record in self.read_metrics() if record["epoch"] <= epoch]
        self.write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in kept))

    def write(self, name: str, text: str) -> None:
        """Write a text file of the run, atomically."""
        replace_text(self.path / name, text)

    def _keep(self, config: Config) -> None:
        """Make `config` that of this run, with the copy that reveals edits."""
        self.write(SEALED_CONFIG, seal(as_dict(config), indent=2) + "\n")
        save_config(config, self._config_file)

    def _refuse_links(self) -> None:
        """Refuse a run whose parts are elsewhere, or are pipes, which training would write to."""
        for place, folders, files in os.walk(self.path):
            for path in (Path(place, name) for name in (*folders, *files)):
                mode = path.lstat().st_mode
                if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                    kind = "a symbolic link" if stat.S_ISLNK(mode) else "no file"
                    raise InputError(
                        f"--resume: {path} is {kind}, which training does not write through; put "
                        "the file or folder itself there"
                    )

    def _clean(self) -> None:
        """Remove what killed processes left while they wrote here."""
        for folder in (self.path, self.checkpoints, self.model):
            remove_leftovers(folder)

    def _hold(self) -> None:
        """Lock the folder; the lock goes with the process at the latest, and leaves no file."""
        if self._held is not None and samestat(os.fstat(self._held), self.path.stat()):
            return
        self.close()
        self._held = os.open(self.path, os.O_RDONLY)
        if lock(self._held) is False:
            raise InputError(
                f"--output {self.path}: another run is under way there; choose another folder, or "
                "wait for its end"
            )

    def _has_run(self) -> bool:
        """Whether a run was started here and has got as far as opening its data."""
        left = (self._features_file, self.model, self.checkpoints)
        return self._config_file.is_file() and any(path.exists() for path in left)

    def _is_blank(self) -> bool:
        """Whether the folder is empty, or holds but the config of a start that failed at once."""
        if not self.path.is_dir():
            return False
        found = {path.name for path in self.path.iterdir()}
        of_start = {self._config_file.name, SEALED_CONFIG}
        return not found or (found <= of_start and _is_saved_config(self._config_file))

    @property
    def _config_file(self) -> Path:
        return self.path / RUN_CONFIG

    @property
    def _features_file(self) -> Path:
        return self.path / RUN_FEATURES

    def _free_name(self) -> Path:
        number = 1
        while (path := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        return path


def _are_numbers(values: Iterable[object]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _is_saved_config(file: Path) -> bool:
    """Whether `file` is as `save_config` writes it, with every key and no comment."""
    try:
        whole = as_dict(load_config(file))
    except InputError:
        return False
    return file.read_text() == yaml.safe_dump(whole, sort_keys=False)


def _differences(old: dict, new: dict, ignored: Set[str]) -> list[str]:
    """Keys of `new`, section by section, that are not as in `old`, but for what it leaves open."""
    return [
        f"{section}.{key} was {old[section].get(key)!r}, now {value!r}"
        for section, values in new.items()
        for key, value in values.items()
        if old[section].get(key) != value
        and value != LEFT_OPEN.get(f"{section}.{key}", ...)
        and f"{section}.{key}" not in ignored
    ]
