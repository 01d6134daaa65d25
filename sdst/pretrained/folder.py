"""A model's folder on the disk: written as a whole, read in whichever form it has.

    config.json, model.safetensors   the network, by `SDST.save_pretrained`
    grounding.json                   its `Description`
    README.md                        the model card

A training run keeps one as `model/`. Its own `config.yaml` and `features.json`, which may have been
edited since, decide where the run's folder is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sdst.config import as_dict, load_config, parse_config
from sdst.errors import InputError, one_line
from sdst.files.publish import publish, replace_text, scratch_folder
from sdst.files.sealed import read_sealed, seal
from sdst.hub.models import find_model
from sdst.model import SDST
from sdst.model.on_disk import CONFIG_FILE, TAKE_A_COPY, WEIGHTS_FILE
from sdst.pretrained.card import model_card
from sdst.pretrained.description import Description
from sdst.pretrained.unchanged import RUN_CONFIG, check_features, report_edits

DESCRIPTION_FILE, CARD_FILE = "grounding.json", "README.md"
RUN_FEATURES, RUN_MODEL = "features.json", "model"  # of a training run's folder


def load_checkpoint(
    checkpoint: str | Path, overrides: Sequence[str] = ()
) -> tuple[Description, SDST]:
    """A model and its description, the config with `overrides`.

    Args:
        checkpoint: a folder of a model or of a training run, or a name (`find_model`).

    Raises:
        InputError: it is no model, or its parts do not belong together.
    """
    folder = find_model(checkpoint)
    is_run = any((folder / name).is_file() for name in (RUN_CONFIG, RUN_FEATURES))
    weights = folder / RUN_MODEL if is_run else folder
    _check_parts(folder, weights, is_run)
    description = describe_run(folder, overrides) if is_run else _read(folder, overrides)
    model = _load(weights)
    if model.config != description.config.model:
        source = RUN_CONFIG if is_run else DESCRIPTION_FILE
        raise InputError(
            f"checkpoint {folder}: {source} and {weights / CONFIG_FILE} describe different models; "
            "they must come from one training run"
        )
    check_features(checkpoint, description.config, description.features)
    return description, model


def save_model(folder: Path, model: SDST, description: Description) -> None:
    """Write a model and its description into `folder`, over an existing one."""
    with scratch_folder(folder) as building:
        model.save_pretrained(building)
        save_description(building, description)
        folder.mkdir(exist_ok=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE, DESCRIPTION_FILE, CARD_FILE):
            publish(building / name, folder / name)


def save_description(folder: Path, description: Description) -> None:
    """Write a description, and its model card, into the folder of its model."""
    data = description.config.data
    root = data.root and Path(data.root).name  # the rest is of no use elsewhere
    config = replace(description.config, data=replace(data, root=root))
    description = replace(description, config=config)
    content = asdict(description) | {"config": as_dict(config)}
    replace_text(folder / DESCRIPTION_FILE, seal(content, indent=2) + "\n")
    replace_text(folder / CARD_FILE, model_card(description))


def describe_run(folder: Path, overrides: Sequence[str] = ()) -> Description:
    """The description of a training run's model."""
    config, features = load_config(folder / RUN_CONFIG, overrides), features_of_run(folder)
    report_edits(folder, load_config(folder / RUN_CONFIG) if overrides else config)
    saved = folder / RUN_MODEL / DESCRIPTION_FILE
    if not saved.is_file():  # of an earlier version
        return Description(config, features)
    rest = {name: value for name, value in _content(saved).items() if name not in _OWN}
    return Description(config, features, **rest)


_OWN = ("config", "features")  # of a description, which a run has files of its own for


def features_of_run(folder: Path) -> dict:
    """The settings that decide the features the run in `folder` is trained on.

    Raises:
        InputError: the file that says so is damaged.
    """
    return read_sealed(folder / RUN_FEATURES, TAKE_A_COPY)


def features_of(folder: Path) -> dict | None:
    """The settings that decide the features of a run's or a model's folder, if it has them.

    Raises:
        InputError: the file that says so is damaged.
    """
    if (folder / RUN_FEATURES).is_file():
        return features_of_run(folder)
    described = folder / DESCRIPTION_FILE
    return _content(described)["features"] if described.is_file() else None


def _read(folder: Path, overrides: Sequence[str]) -> Description:
    file = folder / DESCRIPTION_FILE
    content = _content(file)
    config = parse_config(content.pop("config"), str(file), overrides)
    return Description(config, **content)


def _content(file: Path) -> dict:
    """The fields of a `Description` as they are written; those of later versions are left out."""
    content = read_sealed(file, TAKE_A_COPY)
    kinds = {"config": dict, "features": dict, "results": dict, "provenance": dict, "license": str}
    for name, kind in kinds.items():
        needed = name in _OWN
        if not isinstance(content.get(name), kind) and (needed or content.get(name) is not None):
            raise InputError(f"{file}: {name} is no {kind.__name__}; {TAKE_A_COPY}")
    return {name: content.get(name) for name in kinds}


def _check_parts(folder: Path, weights: Path, is_run: bool) -> None:
    """Refuse a folder that lacks a part, by the part's name."""
    own = (RUN_CONFIG, RUN_FEATURES) if is_run else (DESCRIPTION_FILE,)
    parts = (*(folder / name for name in own), weights / CONFIG_FILE, weights / WEIGHTS_FILE)
    for part in parts:
        if not part.is_file():
            raise InputError(
                f"checkpoint {folder}: {part.relative_to(folder)} not found; expected the --output "
                "folder of a training run, or its model/"
                + (f": give {folder.parent}" if _is_old_model(folder) else "")
            )


def _is_old_model(folder: Path) -> bool:
    """Whether it is the `model/` of a run of an earlier version, which has no description."""
    return (folder / WEIGHTS_FILE).is_file() and (folder.parent / RUN_CONFIG).is_file()


def _load(folder: Path) -> SDST:
    try:
        return SDST.from_pretrained(folder)
    except InputError:
        raise
    except Exception as error:  # safetensors and torch each have their own
        raise InputError(f"checkpoint {folder}: cannot be loaded: {one_line(error)}") from error
