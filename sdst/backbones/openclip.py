"""Any open_clip model as a frozen backbone."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import open_clip
import torch
import torchvision.transforms.v2.functional as F
from open_clip.transform import PreprocessCfg, center_crop_or_pad
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import InterpolationMode

from sdst.backbones import FrameFeatures, TextFeatures
from sdst.backbones.network import downloads, hub
from sdst.backbones.options import parse_options
from sdst.errors import InputError, disguise, one_line

LOCAL, HUB = "local-dir:", "hf-hub:"
FRAMES_AT_ONCE = {"cpu": 32, "cuda": 256}
TEXTS_AT_ONCE = 256

Made = TypeVar("Made")
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Options:
    """What a backbone's name says: `MODEL[:PRETRAINED][,option=value...]`.

    Args:
        model: as for `load_backbone`, `demo` resolved.
        dtype: of the arithmetic under autocast: `float32` (none), `bfloat16` or `float16`; by
            default the last on a GPU, the first on a CPU. Features do not tell which it was.
        image_size: pixels of a side that pictures are brought to; the positions of the patches are
            interpolated, which PyTorch does not do in fp16 on a CPU: weights stored so are refused.
            By default what the model was trained with.
        quick_gelu: x * sigmoid(1.702 x) in place of GELU, which OpenAI's weights were trained with
            [P]; by default for the tags that open_clip knows to need it and for files named so.
        channels_last: keep pictures with their channels together; pays for convolutions.
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
    """

    def __init__(
        self,
        name: str,
        layers: int,
        device: str | torch.device | None = None,
        shown_as: str | None = None,
    ):
        self.name = shown_as or name
        self.layers = layers
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        options = Options.parse(name)
        self.model = _create_model(options).to(self.device).eval().requires_grad_(False)
        self._format = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model.visual.to(memory_format=self._format)
        self._config = open_clip.factory.get_model_config(_split(options.model)[0])
        self._tokenizer = _create_tokenizer(options.model)
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

    def encode_images(self, images: Tensor) -> FrameFeatures:
        """Encode preprocessed pictures `[T, 3, h, w]`, with gradients if the weights want any."""
        with self._autocast():
            output = self.model.forward_intermediates(
                image=images.contiguous(memory_format=self._format),
                image_indices=self.layers,
                image_output_fmt="NLC",
                image_output_extra_tokens=True,
            )
        tokens = torch.stack(output["image_intermediates"])
        if output.get("image_intermediates_prefix") is not None:
            tokens = torch.cat([torch.stack(output["image_intermediates_prefix"]), tokens], dim=2)
        return FrameFeatures(normalized(tokens), output["image_features"].float())

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
        return normalized(torch.stack(output["text_intermediates"])), output[
            "text_features"
        ].float()

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


def _create_model(options: Options) -> Any:
    """One of open_clip's models, whose classes share methods but no base that declares them."""
    name = options.model
    model, pretrained = _split(name)
    if ":" not in name:
        if name not in open_clip.list_models():
            raise InputError(
                f"backbone {name}: no such open_clip model; see open_clip.list_models(), or give "
                "demo, MODEL:PRETRAINED or local-dir:FOLDER"
            )
        warnings.warn(
            f"backbone {name} has random weights; give {name}:PRETRAINED for trained ones",
            stacklevel=4,
        )
    weights = open_clip.get_pretrained_cfg(model, pretrained) if pretrained else {}
    quick_gelu = options.quick_gelu
    if quick_gelu is None:  # open_clip only warns, and of files not even that
        of_openai = "openai" in Path(pretrained or "").name.lower()
        quick_gelu = weights.get("quick_gelu", of_openai)
    create = partial(
        open_clip.create_model,
        model,
        pretrained=pretrained,
        force_quick_gelu=quick_gelu,
        force_image_size=options.image_size,
        require_pretrained=":" in name,
    )
    if ":" in name:
        create = partial(_with_weights_in_place, create)
    with _one_at_a_time:
        return _made(name, create, needs_hub=bool(weights) or name.startswith(HUB))


def _made(name: str, make: Callable[[], Made], needs_hub: bool, what: str = "") -> Made:
    """What open_clip makes; what it raises, from its downloads and parsers, is one line.

    Args:
        needs_hub: it may have to be downloaded.
        what: it is.
    """
    with downloads() if needs_hub else nullcontext(True) as online, _silent_logging():
        try:
            return make()
        except Exception as error:
            reason = _disguise(name) or f"{what}{one_line(error)}"
            if not online and _is_of_the_system(error):
                model = "MODEL" if name.startswith(HUB) else _split(name)[0]
                reason = (
                    f"{hub()} cannot be reached, and the cache of downloads lacks it; give a local "
                    f"checkpoint, {model}:/path/file.safetensors"
                )
            raise InputError(f"backbone {name}: {reason}") from None


_one_at_a_time = Lock()  # of the models that are made, for which whole classes are changed


def _with_weights_in_place(create: Callable[[], nn.Module]) -> nn.Module:
    """A model whose weights are those of its checkpoint's file, without copies.

    open_clip draws random weights and copies a checkpoint's into them. Here what it creates has
    none and takes the checkpoint's as they come: of a `.safetensors` file mapped, so that they are
    no memory of this process and shared by all that read them. Weights of 16 bits become fp32.
    """
    register, load, to = nn.Module.register_parameter, nn.Module.load_state_dict, nn.Module.to
    thread = get_ident()

    def changed(original: Callable, here: Callable) -> Callable:
        """A method of modules that is another one in this thread."""

        def method(module: nn.Module, *args: object, **kwargs: object) -> object:
            return (here if get_ident() == thread else original)(module, *args, **kwargs)

        return method

    def register_without_weights(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = nn.Parameter(param.to("meta"), param.requires_grad)
        register(module, name, param)

    def assign(module: nn.Module, weights: dict[str, Tensor], strict: bool = True) -> object:
        with patch.object(nn.Module, "register_parameter", register):
            return load(module, weights, strict, assign=True)

    def stay(module: nn.Module, *_: object, **__: object) -> nn.Module:
        return module  # there is nothing to bring anywhere

    with (
        patch.object(nn.Module, "register_parameter", changed(register, register_without_weights)),
        patch.object(nn.Module, "load_state_dict", changed(load, assign)),
        patch.object(nn.Module, "to", changed(to, stay)),
    ):
        model = create()
    if any(weight.is_meta for weight in model.parameters()):
        return create()  # files of big_vision are copied into the weights, which must be there
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


def _create_tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    """The model's tokenizer; a local folder may bring its own BPE merges as `*.txt.gz`."""
    model, _ = _split(name)
    folder = Path(model.removeprefix(LOCAL))
    merges = sorted(folder.glob("*.txt.gz")) if model.startswith(LOCAL) else []
    options: dict[str, Any] = {"bpe_path": str(merges[0])} if merges else {}
    config = {} if name.startswith((LOCAL, HUB)) else open_clip.factory.get_model_config(model)
    from_hub = name.startswith(HUB) or "hf_tokenizer_name" in (config or {}).get("text_cfg", {})
    make = partial(open_clip.get_tokenizer, model, **options)
    return _made(name, make, from_hub, "its tokenizer: ")


def _is_of_the_system(error: BaseException | None) -> bool:
    """Whether a file or the network is behind an error, as libraries raise it in others' place."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error is not None


def _disguise(name: str) -> str | None:
    """What a file of weights is in place of that."""
    model, pretrained = _split(name)
    folder = Path(model.removeprefix(LOCAL))
    files = [Path(pretrained)] if pretrained else folder.glob("open_clip_*")
    return next((f"{file} {found}" for file in files if (found := disguise(file))), None)


def _split(name: str) -> tuple[str, str | None]:
    """`MODEL:PRETRAINED` -> its parts; a name with a scheme stays whole."""
    if name.startswith((LOCAL, HUB)) or ":" not in name:
        return name, None
    model, pretrained = name.split(":", 1)
    return model, pretrained
