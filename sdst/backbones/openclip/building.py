"""Models and tokenizers as open_clip makes them, without copies of weights; faults in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import open_clip
import torch
from torch import Tensor

from sdst.backbones.openclip.files import HUB, LOCAL, Source, locate, unasked
from sdst.backbones.openclip.options import Options
from sdst.errors import InputError, disguise, one_line
from sdst.hub.network import downloads, hub

Made = TypeVar("Made")

_one_at_a_time = Lock()  # of the models that are made, for which logging is silenced


def located(name: str, fetch: bool) -> Source:
    """As `locate`, with the faults of downloads in one line."""
    from_hub = fetch and not name.startswith(LOCAL)
    with _one_at_a_time:
        return _made(name, partial(locate, name, fetch), from_hub, fetch)


def create_model(source: Source, options: Options, fetch: bool) -> Any:
    """One of open_clip's models, whose classes share methods but no base that declares them."""
    create = partial(
        open_clip.create_model,
        source.model,
        force_quick_gelu=source.quick_gelu if options.quick_gelu is None else options.quick_gelu,
        force_image_size=options.image_size,
        force_preprocess_cfg=source.preprocess,
        pretrained_text=False,
    )

    def make() -> Any:
        model = _with_weights_in_place(create, source.weights)
        if model is None:
            named = source.model.startswith((LOCAL, HUB))
            pretrained = None if named else str(source.weights)
            model = create(pretrained=pretrained, require_pretrained=True)
        return model

    with _one_at_a_time:
        return _made(options.model, make, _needs_hub(source.model), fetch, source=source)


def create_tokenizer(source: Source, name: str, fetch: bool) -> Any:
    """The model's tokenizer; a local folder may bring its own BPE merges as `*.txt.gz`."""
    merges = sorted(filter(Path.is_file, Path(source.model.removeprefix(LOCAL)).glob("*.txt.gz")))
    found = merges and source.model.startswith(LOCAL)
    options = {"bpe_path": str(merges[0])} if found else {}
    make = partial(open_clip.get_tokenizer, source.model, **options)
    return _made(name, make, _needs_hub(source.model), fetch, "its tokenizer: ")


def _needs_hub(model: str) -> bool:
    """Whether open_clip asks the hub for parts of a model beside its weights."""
    if model.startswith((LOCAL, HUB)):
        return model.startswith(HUB)
    text = (open_clip.factory.get_model_config(model) or {}).get("text_cfg", {})
    return "hf_tokenizer_name" in text or "hf_model_name" in text


def _made(
    name: str,
    make: Callable[[], Made],
    needs_hub: bool,
    fetch: bool,
    what: str = "",
    source: Source | None = None,
) -> Made:
    """A model made by open_clip; errors of its downloads and parsers become one line.

    Args:
        needs_hub: it may have to be downloaded.
        fetch: it may be.
        what: it is.
        source: its files, where they are known.
    """
    with downloads(fetch) if needs_hub else nullcontext(True) as online, _silent_logging():
        try:
            return make()
        except InputError:
            raise
        except Exception as error:
            found = None if source is None else _disguise(source)
            reason = found or f"{what}{one_line(error)}"
            if not online and _is_of_the_system(error):
                if not fetch:
                    raise unasked(name) from None
                model = "MODEL" if name.startswith(HUB) else name.partition(":")[0]
                reason = (
                    f"{hub()} cannot be reached, and the cache of downloads lacks it; give a local "
                    f"checkpoint, {model}:/path/file.safetensors"
                )
            raise InputError(f"backbone {name}: {reason}") from None


def _is_of_the_system(error: BaseException | None) -> bool:
    """Whether a file or the network is behind an error, as libraries raise it in others' place."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error is not None


def _disguise(source: Source) -> str | None:
    """A description of a file that is not the model it should be."""
    files = [source.weights]
    if source.model.startswith(LOCAL):
        files += Path(source.model.removeprefix(LOCAL)).glob("open_clip_*")
    return next((f"{file} {found}" for file in files if (found := disguise(file))), None)


def _with_weights_in_place(create: Callable[..., Any], weights: Path) -> Any | None:
    """A model whose weights are those of its checkpoint's file, without copies.

    open_clip draws random weights and copies a checkpoint's into them. Here the model is built
    without any and takes the checkpoint's as they come: of a `.safetensors` file mapped, so that
    they are no memory of this process and shared by all that read them. Weights of 16 bits become
    fp32.

    Returns:
        None where open_clip must do it: for files of big_vision, which are copied into weights that
        are there, and for towers that compute with numbers of their own while they are built.
    """
    if weights.suffix in (".npz", ".npy"):
        return None
    try:
        with torch.device("meta"):
            model = create(load_weights=False, device="meta")
    except (RuntimeError, NotImplementedError):
        return None
    model.load_state_dict = partial(model.load_state_dict, assign=True)
    open_clip.load_checkpoint(model, str(weights))
    del model.load_state_dict
    for module in model.modules():
        mask = getattr(module, "attn_mask", None)
        if isinstance(mask, Tensor) and mask.is_meta:  # causal; not part of a checkpoint
            module.attn_mask = torch.full(mask.shape, -torch.inf).triu(1)
    if any(x.is_meta for x in chain(model.parameters(), model.buffers())):
        return None
    return model.float()


@contextmanager
def _silent_logging() -> Iterator[None]:
    """open_clip also logs the faults that it raises, and the hub every attempt at a download."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
