"""Where an open_clip model comes from: its configuration and weights, here or fetched."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import download_pretrained_from_hf

from sdst.config import BACKBONES
from sdst.errors import InputError

LOCAL, HUB = "local-dir:", "hf-hub:"
ENDINGS = ("safetensors", "bin", "pth")


@dataclass(frozen=True)
class Source:
    """The files that open_clip makes a model of.

    Args:
        model: its name as open_clip takes it: a built-in one, or a folder or repository by scheme.
        weights: the file of its weights.
        preprocess: what a tag says of the preprocessing; else the model's configuration says it.
        quick_gelu: whether the weights were trained with it, as far as their name shows.
    """

    model: str
    weights: Path
    preprocess: dict[str, Any] = field(default_factory=dict)
    quick_gelu: bool = False


def locate(name: str, fetch: bool = True) -> Source:
    """The files of `MODEL:PRETRAINED`, `local-dir:FOLDER` or `hf-hub:ORG/REPO`.

    Args:
        name: without options.
        fetch: what is not on this machine may be downloaded.

    Raises:
        InputError: there are none, or they would have to be downloaded and must not.
    """
    if name.startswith(LOCAL):
        return _in_folder(name, Path(name.removeprefix(LOCAL)))
    if name.startswith(HUB):
        return _in_repository(name, fetch)
    model, _, pretrained = name.partition(":")
    if model not in open_clip.list_models():
        raise InputError(f"backbone {name}: no such open_clip model; expected {BACKBONES}")
    if not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(model)
        some = f"one of {', '.join(tags[:4])}, or " if tags else ""
        raise InputError(
            f"backbone {name}: names no weights; give {name}:PRETRAINED, {some}a file of them"
        )
    if tag := open_clip.get_pretrained_cfg(model, pretrained):
        file = open_clip.download_pretrained(tag) if fetch else _cached(tag)
        if file is None:
            raise unasked(name)
        preprocess = {key: value for key, value in tag.items() if key != "size"}
        return Source(model, Path(file), preprocess, tag.get("quick_gelu", False))
    if not Path(pretrained).is_file():
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise InputError(
            f"backbone {name}: {pretrained} is neither a file nor one of {model}'s weights "
            f"({', '.join(tags)})"
        )
    return Source(model, Path(pretrained), quick_gelu="openai" in Path(pretrained).name.lower())


def _in_folder(name: str, folder: Path) -> Source:
    if not (folder / HF_CONFIG_NAME).is_file():
        raise InputError(f"backbone {name}: {folder / HF_CONFIG_NAME} not found")
    files = sorted(
        filter(Path.is_file, chain(*(folder.glob(f"*.{ending}") for ending in ENDINGS))),
        key=lambda x: (not x.name.startswith("open_clip"), x.suffix != ".safetensors", x.name),
    )
    if not files:
        raise InputError(f"backbone {name}: {folder} holds no weights (.safetensors, .bin, .pth)")
    return Source(name, files[0])


def _in_repository(name: str, fetch: bool) -> Source:
    """A repository of the hub; without `fetch` its folder in the hub's cache."""
    repository = name.removeprefix(HUB)
    if fetch:
        return Source(name, Path(download_pretrained_from_hf(repository)))
    config = try_to_load_from_cache(repository, HF_CONFIG_NAME)
    if not isinstance(config, str):
        raise unasked(name)
    return _in_folder(f"{LOCAL}{Path(config).parent}", Path(config).parent)


def _cached(tag: dict[str, Any]) -> str | None:
    """A tag's weights in the cache that `open_clip.download_pretrained` keeps them in."""
    repository, _, file = tag.get("hf_hub", "").rpartition("/")
    if repository:
        names = [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
        found = (try_to_load_from_cache(repository, name) for name in names)
        return next((file for file in found if isinstance(file, str)), None)
    file = Path.home() / ".cache/clip" / Path(tag["url"]).name
    return str(file) if file.is_file() else None


def unasked(name: str) -> InputError:
    """The fault of a name that would have to be downloaded for a stranger's file."""
    return InputError(
        f"backbone {name}: not on this machine, and what a checkpoint names is not fetched "
        f"unasked; name it to fetch it: --backbone {name} (of sdst.evaluate, --data.backbone)"
    )
