"""Any open_clip model as a frozen backbone."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import accumulate, chain
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import open_clip
import torch
import torchvision.transforms.v2.functional as F
from open_clip.transform import PreprocessCfg, center_crop_or_pad
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import InterpolationMode

from sdst.backbones import FrameFeatures, TextFeatures
from sdst.backbones.openclip.files import HUB, LOCAL, Source, locate, unasked
from sdst.backbones.options import parse_options
from sdst.backbones.text_length import unread
from sdst.errors import InputError, disguise, one_line
from sdst.hub.network import downloads, hub

FRAMES_AT_ONCE = {"cpu": 32, "cuda": 256}
TEXTS_AT_ONCE = 256


Made = TypeVar("Made")
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Options:
    """A backbone's name, parsed: `MODEL[:PRETRAINED][,option=value...]`.

    Args:
        model: as for `load_backbone`, `demo` resolved.
        dtype: of the arithmetic under autocast: `float32` (none), `bfloat16` or `float16`; by
            default the last on a GPU, the first on a CPU. Features do not record which it was.
        image_size: pixels of a side that frames are resized to; the positions of the patches are
            interpolated, which PyTorch does not do in fp16 on a CPU: weights stored so are refused.
            By default what the model was trained with.
        quick_gelu: x * sigmoid(1.702 x) in place of GELU, which OpenAI's weights were trained with
            [P]; by default for the tags that open_clip knows to need it and for files named so.
        channels_last: keep frames with their channels together; pays for convolutions.
        compile: compile the vision tower by `torch.compile`, once a process.
    """

    model: str
    dtype: str = ""
    image_size: int | None = None
    quick_gelu: bool | None = None
    channels_last: bool = False
    compile: bool = False

    @classmethod
    def parse(cls, name: str) -> Options:
        """Read the name of a backbone."""
        kinds = {
            "dtype": tuple(DTYPES),
            "image_size": int,
            "quick_gelu": bool,
            "channels_last": bool,
            "compile": bool,
        }
        model, options = parse_options(name, kinds)
        return cls(model, **options)


class OpenClipBackbone:
    """The towers of an open_clip model, frozen; see `sdst.backbones.Backbone`.

    Args:
        name: as for `load_backbone`, `demo` resolved; `Options` may follow.
        layers: K, the last blocks of either tower whose hidden states are given.
        device: default: CUDA where present, else the CPU.
        shown_as: the name to go by, where it is not `name`.
        fetch: as for `load_backbone`.
    """

    def __init__(
        self,
        name: str,
        layers: int,
        device: str | torch.device | None = None,
        shown_as: str | None = None,
        fetch: bool = True,
    ):
        self.name = shown_as or name
        self.layers = layers
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        options = Options.parse(name)
        source = _located(options.model, fetch)
        model = _create_model(source, options, fetch)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self._format = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model.visual.to(memory_format=self._format)
        self._config = open_clip.factory.get_model_config(source.model)
        self._tokenizer = _create_tokenizer(source, options.model, fetch)
        self._tokenizing = Lock()  # tokenizers in Rust serve one thread at a time
        self._dtype = DTYPES[
            options.dtype or ("float16" if self.device.type == "cuda" else "float32")
        ]
        self.preprocess = Preprocess(
            PreprocessCfg(**open_clip.get_model_preprocess_cfg(self.model))
        )
        self.preprocess.to(self.device)
        if self._dtype is not None and self.device.type == "cpu":
            _ = self.fingerprint  # is of the weights as they were published
            _round_weights(self.model.visual, self._dtype)
        self.image_size = self.preprocess.size
        self.frames_at_once = 1
        self._measure()
        if options.compile:
            tower = self.model.visual
            tower.forward_intermediates = torch.compile(tower.forward_intermediates, dynamic=True)

    @property
    def fingerprint(self) -> str:
        """`openclip-<hash of weights, architecture and preprocessing>-k<layers>`."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        activations = sorted({type(module).__name__ for module in self.model.modules()})
        description = [self._config, activations, asdict(self.preprocess.config)]
        digest.update(json.dumps(description, sort_keys=True).encode())
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(
                value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
        return f"openclip-{digest.hexdigest()[:16]}-k{self.layers}"

    @property
    def preprocessing(self) -> dict:
        """open_clip's `PreprocessCfg`, as plain JSON."""
        return self.preprocess.described()

    @torch.inference_mode()
    def encode_frames(self, frames: np.ndarray) -> FrameFeatures:
        """Encode RGB frames of any size, uint8 `[T, H, W, 3]`, a batch at a time."""
        parts = [
            self.encode_images(self.preprocess(torch.from_numpy(part).to(self.device)))
            for part in np.split(frames, range(self._batch, len(frames), self._batch))
        ]
        return FrameFeatures(
            tokens=torch.cat([part.tokens for part in parts], dim=1),
            embedding=torch.cat([part.embedding for part in parts]),
        )

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences, each trimmed to its own tokens (with the start and end marks)."""
        features = []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            ids, lengths = self.tokenize(texts[first : first + TEXTS_AT_ONCE])
            if self._reads_in_order:
                ids = ids[:, : max(lengths)]
            tokens, embedding = self.encode_ids(ids)
            features += [
                TextFeatures(tokens[:, i, :length], embedding[i])
                for i, length in enumerate(lengths)
            ]
        return features

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The end of each sentence that the text tower has no room for; mostly empty."""
        return [unread(text, self._token_count, self._context_length) for text in texts]

    def release_text(self) -> None:
        """Free the memory of the text tower; `encode_text` cannot be called any more."""
        _ = self.fingerprint  # is of both towers
        for name, _ in [*self.model.named_children()]:
            if name != "visual":
                delattr(self.model, name)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Token ids `[B, context]` of sentences, and how many of each are its own."""
        with self._tokenizing:
            ids = self._tokenizer(list(texts)).to(self.device)
        return ids, self._lengths(ids)

    @property
    def _context_length(self) -> int:
        return self._tokenizer.context_length

    def _token_count(self, text: str) -> int:
        """Tokens of a sentence, whatever the tower has room for; about one for a byte at most."""
        room = 2 * len(text.encode(errors="replace")) + self._context_length
        with self._tokenizing:
            return self._lengths(self._tokenizer([text], context_length=room))[0]

    def encode_images(self, images: Tensor) -> FrameFeatures:
        """Encode preprocessed frames `[T, 3, h, w]`, with gradients if the weights want any."""
        images = images.contiguous(memory_format=self._format)
        if self._gives_maps:
            return self._encode_by_stages(images)
        with self._autocast():
            output = self.model.forward_intermediates(
                image=images,
                image_indices=self.layers,
                image_output_fmt="NLC",
                image_output_extra_tokens=True,
            )
        tokens = torch.stack(output["image_intermediates"])
        if output.get("image_intermediates_prefix") is not None:
            tokens = torch.cat([torch.stack(output["image_intermediates_prefix"]), tokens], dim=2)
        return FrameFeatures(self.scaled(tokens), output["image_features"].float())

    def _encode_by_stages(self, images: Tensor) -> FrameFeatures:
        """`encode_images` of a convolutional tower, whose layers are its stages."""
        with self._autocast():
            output = self.model.forward_intermediates(
                image=images, image_indices=self.layers, image_output_fmt="NCHW"
            )
        maps = output["image_intermediates"]
        tokens = in_slots([self.scaled(as_tokens(x, maps[-1].shape[-2:])) for x in maps])
        return FrameFeatures(tokens, output["image_features"].float())

    @cached_property
    def _gives_maps(self) -> bool:
        """Whether the vision tower's layers are maps [T, C, h, w], of a shape for every stage."""
        tower = self.model.visual
        if not isinstance(tower, open_clip.timm_model.TimmModel):
            return isinstance(tower, open_clip.modified_resnet.ModifiedResNet)
        takes = inspect.signature(tower.trunk.forward_intermediates).parameters
        return "return_prefix_tokens" not in takes  # as those of transformers do

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encode token ids `[B, N]`, with gradients if the weights want any.

        Args:
            ids: N is the model's context, or less where it reads texts in order.

        Returns:
            Tokens `[K, B, N, Dt]`, those of padding included, and embeddings `[B, E]`.
        """
        model = self.model
        if self._reads_in_order and ids.shape[1] < len(model.positional_embedding):
            model = _ShortContext(model, ids.shape[1])
        with self._autocast():
            output = type(self.model).forward_intermediates(
                model, text=ids, text_indices=self.layers
            )
        return self.scaled(torch.stack(output["text_intermediates"])), output[
            "text_features"
        ].float()

    def scaled(self, states: Tensor) -> Tensor:
        """Hidden states as they are given, fp32."""
        return normalized(states)

    def _lengths(self, ids: Tensor) -> list[int]:
        """Tokens before the padding: id 0 [P], unless the tokenizer names another."""
        padding = getattr(getattr(self._tokenizer, "tokenizer", None), "pad_token_id", None) or 0
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        # The last token that is no padding: id 0 is also a legal token inside a sentence ("!").
        return ((ids != padding) * places).amax(dim=1).clamp(min=1).tolist()

    @property
    def _reads_in_order(self) -> bool:
        """Whether no token of a text depends on one behind it, so that padding need not be read."""
        model = self.model
        causal = isinstance(model, open_clip.CLIP) and model.attn_mask is not None
        return causal and model.text_pool_type in ("first", "argmax", "eos")

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None)

    @property
    def _batch(self) -> int:
        return FRAMES_AT_ONCE.get(self.device.type, 32)

    def _measure(self) -> None:
        """Learn the shapes from one blank frame, which also shows whether the model can serve."""
        try:
            frame = self.encode_frames(np.zeros((1, *self.image_size, 3), np.uint8))
            text = self.encode_text([""])[0]
        except (AttributeError, TypeError, AssertionError, NotImplementedError) as error:
            raise InputError(
                f"backbone {self.name}: cannot give the hidden states of its last {self.layers} "
                f"blocks ({error or type(error).__name__}); take fewer layers or another model"
            ) from None
        _, _, self.tokens_per_frame, self.video_width = frame.tokens.shape
        self.text_width = text.tokens.shape[-1]
        self.embed_width = text.embedding.shape[-1]


def _round_weights(tower: nn.Module, dtype: torch.dtype) -> None:
    """Keep rounded what autocast would round anew in every batch, which takes a CPU several times
    as long as the products."""
    for module in tower.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)):
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.to(dtype)


class _ShortContext:
    """A CLIP model as its own functions find it where texts have `length` tokens at most."""

    def __init__(self, model: Any, length: int):
        self._model = model
        self.positional_embedding = model.positional_embedding[:length]
        self.attn_mask = model.attn_mask[:length, :length]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def normalized(tokens: Tensor) -> Tensor:
    """Hidden states [..., D] at unit scale: LayerNorm without weights, fp32.

    The residual stream of a deep tower has a few huge channels; normalised it fits fp16, and
    scores against it start at unit scale. The tuner's projections begin with a LayerNorm, which
    sees no difference.
    """
    return functional.layer_norm(tokens.float(), tokens.shape[-1:])


def as_tokens(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Maps [T, C, H, W] averaged over the cells of a coarser `grid`, as tokens [T, P, C]."""
    return functional.adaptive_avg_pool2d(maps.float(), list(grid)).flatten(2).mT


def in_slots(stages: Sequence[Tensor]) -> Tensor:
    """Tokens [T, P, C_k] of K stages as [K, T, P, C_1 + ... + C_K], 0 outside of their own slot.

    Channels of one stage mean nothing in another: in slots of their own, each has its own rows of
    the projection that the tuner shares among layers.
    """
    widths = [stage.shape[-1] for stage in stages]
    room = stages[0].new_zeros(len(stages), *stages[0].shape[:-1], sum(widths))
    for number, (stage, end) in enumerate(zip(stages, accumulate(widths), strict=True)):
        room[number, ..., end - stage.shape[-1] : end] = stage
    return room


class Preprocess(nn.Module):
    """open_clip's own evaluation transform, on a batch of uint8 frames instead of one PIL image.

    torchvision resizes uint8 tensors in fixed point, as PIL does: the two differ by a grey level
    here and there. Scaling to [0, 1] and normalising are one multiplication and one addition.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: PreprocessCfg):
        super().__init__()
        self.config = config
        size = config.size
        self.size = (size, size) if isinstance(size, int) else (size[0], size[-1])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def described(self) -> dict:
        """Its configuration, as plain JSON."""
        return json.loads(json.dumps(asdict(self.config)))

    def forward(self, frames: Tensor) -> Tensor:
        """`[T, H, W, 3]` uint8 -> `[T, 3, h, w]` fp32."""
        return self.normalize(self.fit(frames))

    def normalize(self, frames: Tensor) -> Tensor:
        """`[T, 3, h, w]` uint8 -> fp32, what the towers take."""
        return torch.addcmul(self.shift, frames, self.scale)

    def fit(self, frames: Tensor) -> Tensor:
        """Resize and crop: `[T, H, W, 3]` -> `[T, 3, h, w]`, both uint8."""
        frames = frames.permute(0, 3, 1, 2)
        mode, interpolation = self.config.resize_mode, self.config.interpolation
        if mode == "squash":
            return _resize(frames, self.size, interpolation)
        ratios = [have / want for have, want in zip(frames.shape[-2:], self.size, strict=True)]
        if mode == "longest":
            size = [round(have / max(ratios)) for have in frames.shape[-2:]]
            frames = _resize(frames, size, interpolation)
            return center_crop_or_pad(frames, list(self.size), fill=self.config.fill_color)
        if self.size[0] == self.size[1]:
            frames = _resize(frames, self.size[:1], interpolation)
        else:
            # open_clip takes bicubic here whatever the configuration says.
            size = [round(have / min(ratios)) for have in frames.shape[-2:]]
            frames = _resize(frames, size, "bicubic")
        return F.center_crop(frames, list(self.size))


def _resize(frames: Tensor, size: Sequence[int], interpolation: str) -> Tensor:
    bilinear = interpolation == "bilinear"
    mode = InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC
    return F.resize(frames, list(size), mode, antialias=True)


_one_at_a_time = Lock()  # of the models that are made, for which logging is silenced


def _located(name: str, fetch: bool) -> Source:
    from_hub = fetch and not name.startswith(LOCAL)
    with _one_at_a_time:
        return _made(name, partial(locate, name, fetch), from_hub, fetch)


def _create_model(source: Source, options: Options, fetch: bool) -> Any:
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


def _create_tokenizer(source: Source, name: str, fetch: bool) -> Any:
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
