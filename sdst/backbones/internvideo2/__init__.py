"""InternVideo2 stage 2 as a frozen backbone: a clip of frames at a time, and BERT for the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn
from transformers import BertTokenizer

from sdst.backbones import FrameFeatures, TextFeatures
from sdst.backbones.internvideo2.towers import InternVideo2, Sizes
from sdst.backbones.internvideo2.weights import Weights
from sdst.backbones.openclip.preprocessing import Preprocess
from sdst.backbones.openclip.states import normalized
from sdst.backbones.options import parse_options
from sdst.backbones.text_length import unread
from sdst.errors import InputError
from sdst.files.text import read_json
from sdst.hub.network import downloads

SCHEME = "internvideo2"
VOCABULARY = "bert-large-uncased"  # on the hub
LARGEST = 2**16  # of the numbers in a config.json
MULTIPLES = (
    ("image_size", "patch_size"),
    ("width", "heads"),
    ("width", "pool_heads"),
    ("text_width", "text_heads"),
)
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")
POOLINGS = ("attention", "mean", "cls", "none")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CLIPS_AT_ONCE = {"cpu": 1, "cuda": 16}
TEXTS_AT_ONCE = 64

# The published evaluation transform: bicubic to the square, whatever the shape; ImageNet's mean and
# deviation (OpenGVLab/InternVideo, InternVideo2/multi_modality/dataset, get_test_transform).
TRANSFORM = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
    "resize_mode": "squash",
}

# What SDST's published features were made with: four frames through the frozen attention pool.
PUBLISHED = {"pooling": "attention", "frames_at_once": 4, "video_width": 768, "text_width": 1024}


@dataclass(frozen=True)
class Options:
    """A backbone's name, parsed: `internvideo2:PATH[,option=value...]`.

    Args:
        path: the published weights (`.pt`, `.pth`, `.bin`, `.safetensors`), or a folder with one
            such file and, if there, `config.json` (other `Sizes`) and `vocab.txt`.
        tokenizer: a folder with `vocab.txt`; by default that of `path`, else
            `bert-large-uncased` from the hub or its cache.
        frames: per clip; 0 is what the weights were trained with.
        pooling: of a clip's tokens at each layer: `attention` is the frozen pool of the last
            layer, one token of 768, as in SDST's published features; `mean`, `cls`, or `none`,
            which keeps CLS and all patches.
        dtype: `float32` or `bfloat16`; by default the second on a GPU, the first on a CPU.
        stream: keep a block in memory only while it runs; slower, the same to the last bit.
    """

    path: Path
    tokenizer: str = ""
    frames: int = 0
    pooling: str = "attention"
    dtype: str = ""
    stream: bool = False

    @classmethod
    def parse(cls, name: str) -> Options:
        """Read the name of a backbone."""
        kinds = {
            "tokenizer": str,
            "frames": int,
            "pooling": POOLINGS,
            "dtype": tuple(DTYPES),
            "stream": bool,
        }
        base, options = parse_options(name, kinds)
        path = base.partition(":")[2]
        if not path:
            raise InputError(
                f"backbone {name}: expected {SCHEME}:FILE with the weights of InternVideo2 stage 2 "
                "(InternVideo2-stage2_1b-224p-f4.pt)"
            )
        return cls(Path(path), **options)


class InternVideo2Backbone:
    """Both towers of InternVideo2 stage 2, frozen; see `sdst.backbones.Backbone`.

    Tokens come at the scale of SDST's published features, not normalised: the attention pool and
    BERT end in one of their own. The residual stream itself (`mean`, `cls`, `none`) is normalised.

    Args:
        name: see `Options`.
        layers: K, the last blocks of the vision tower, and of the text part of BERT, that are read.
        device: default: CUDA where present, else the CPU.
        fetch: as for `load_backbone`.

    Raises:
        InputError: the name, the weights or the vocabulary are not as expected.
    """

    def __init__(
        self,
        name: str,
        layers: int,
        device: str | torch.device | None = None,
        fetch: bool = True,
    ):
        self.name, self.layers = name, layers
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.options = options = Options.parse(name)
        self._dtype = DTYPES[
            options.dtype or ("bfloat16" if self.device.type == "cuda" else "float32")
        ]
        self._weights = Weights(_weights_file(options.path), self.device, self._dtype)
        self.sizes = sizes = _sizes(options.path, self._weights)
        if not 1 <= layers <= min(sizes.depth, sizes.text_depth):
            raise InputError(
                f"backbone {name}: {layers} layers of {sizes.depth} blocks of video and "
                f"{sizes.text_depth} of text; expected 1 to {min(sizes.depth, sizes.text_depth)}"
            )
        self._model, self._keys = self._load()
        self._one_at_a_time = Lock() if options.stream else nullcontext()
        self._tokenizer = _tokenizer(options, sizes, fetch)
        self._tokenizing = Lock()  # tokenizers in Rust serve one thread at a time
        self._preprocess = Preprocess(PreprocessCfg(size=sizes.image_size, **TRANSFORM))
        self._preprocess.to(self.device)
        self.image_size = self._preprocess.size
        self.frames_at_once = options.frames or sizes.frames
        everything = 1 + self.frames_at_once * sizes.patches
        self.tokens_per_frame = everything if options.pooling == "none" else 1
        self.video_width = sizes.pooled_width if options.pooling == "attention" else sizes.width
        self.text_width, self.embed_width = sizes.text_width, sizes.embed_width

    @property
    def fingerprint(self) -> str:
        """`internvideo2-<hash of weights, sizes, preprocessing, pooling, vocabulary>-k<layers>`.

        Neither where the weights lie nor the precision of the arithmetic changes it.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        description = [
            self._weights.digest(self._keys),
            asdict(self.sizes),
            asdict(self._preprocess.config),
            self.frames_at_once,
            self.options.pooling,
            self._tokenizer.get_vocab(),
        ]
        digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
        return f"{SCHEME}-{digest.hexdigest()[:16]}-k{self.layers}"

    def check_published(self) -> None:
        """Refuse to serve a checkpoint trained on SDST's published features, if unlike them.

        Layers are for the caller to take as many of as the checkpoint has; they run up to the last.
        """
        found = {**vars(self), "pooling": self.options.pooling}
        for name, expected in PUBLISHED.items():
            if found[name] != expected:
                raise InputError(
                    f"backbone {self.name}: {name} {found[name]}, expected {expected}; SDST's "
                    "published features need InternVideo2-1B stage 2 as it was published"
                )

    @property
    def preprocessing(self) -> dict:
        """open_clip's `PreprocessCfg`, as plain JSON."""
        return self._preprocess.described()

    @torch.inference_mode()
    def encode_frames(self, frames: np.ndarray) -> FrameFeatures:
        """Encode RGB frames of any size, uint8 `[T * frames_at_once, H, W, 3]`, T clips."""
        clips = self._preprocess(torch.from_numpy(frames).to(self.device)).to(self._dtype)
        clips = clips.unflatten(0, (-1, self.frames_at_once)).transpose(1, 2)
        tower, tokens = self._model.vision_encoder, []
        stream = None
        with self._one_at_a_time:
            for block, stream in enumerate(tower(clips, self._clips_at_once)):
                if block >= self.sizes.depth - self.layers:
                    tokens.append(self._pool(stream))
        assert stream is not None  # the last block's
        embedding = self._model.vision_proj(self._attention_pool(stream))
        return FrameFeatures(torch.stack(tokens), F.normalize(embedding.float(), dim=-1))

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences, each trimmed to its own tokens, [CLS] and [SEP] among them."""
        features = []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            features += self._encode_texts(list(texts[first : first + TEXTS_AT_ONCE]))
        return features

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The end of each sentence that BERT has no position for; mostly empty."""
        return [unread(text, self._token_count, self.sizes.text_positions) for text in texts]

    def _token_count(self, text: str) -> int:
        with self._tokenizing:
            return len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])

    def release_text(self) -> None:
        """Free the memory of the text tower; `encode_text` cannot be called any more."""
        del self._model.text_encoder, self._model.text_proj

    def _encode_texts(self, texts: list[str]) -> list[TextFeatures]:
        with self._tokenizing:
            batch = self._tokenizer(
                texts,
                padding=True,
                truncation=True,
                max_length=self.sizes.text_positions,
                return_tensors="pt",
            ).to(self.device)
        places = torch.arange(batch["input_ids"].shape[1], device=self.device)
        with self._one_at_a_time:
            output = self._model.text_encoder["bert"](
                **batch, position_ids=places[None], output_hidden_states=True
            )
        tokens = torch.stack(output.hidden_states[-self.layers :])  # [K, B, N, Dt]
        embedding = F.normalize(self._model.text_proj(tokens[-1, :, 0]).float(), dim=-1)
        return [
            TextFeatures(tokens[:, i, :length].float(), embedding[i])
            for i, length in enumerate(batch["attention_mask"].sum(dim=1).tolist())
        ]

    def _pool(self, stream: Tensor) -> Tensor:
        """The tokens of a layer that are kept, fp32: `[T, N, width]` -> `[T, P, Dv]`."""
        if self.options.pooling == "attention":
            return self._attention_pool(stream).float().unsqueeze(1)
        if self.options.pooling == "mean":
            stream = stream.mean(dim=1, keepdim=True)
        elif self.options.pooling == "cls":
            stream = stream[:, :1]
        return normalized(stream)

    def _attention_pool(self, stream: Tensor) -> Tensor:
        pool = self._model.vision_encoder.clip_projector
        return torch.cat([pool(part) for part in stream.split(self._clips_at_once)])

    @property
    def _clips_at_once(self) -> int:
        return CLIPS_AT_ONCE.get(self.device.type, 1)

    def _load(self) -> tuple[InternVideo2, list[str]]:
        """The towers with their weights, and the keys of these in the checkpoint."""
        with torch.device("meta"):
            model = InternVideo2(self.sizes)
        needed = model.state_dict()
        self._weights.check(needed, self.sizes.text_depth)
        layers = {
            **_numbered("vision_encoder.blocks", model.vision_encoder.blocks),
            **_numbered(
                "text_encoder.bert.encoder.layer",
                model.text_encoder.get_submodule("bert.encoder.layer"),
            ),
        }
        streamed = layers if self.options.stream else {}
        self._weights.fill(model, without=tuple(streamed))
        for prefix, layer in streamed.items():
            self._weights.stream(layer, prefix)
        return model.eval().requires_grad_(False), list(needed)


def _numbered(name: str, modules: nn.Module) -> dict[str, nn.Module]:
    return {f"{name}.{i}.": module for i, module in enumerate(modules.children())}


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
    if len(files) != 1:
        raise InputError(
            f"{path}: has {len(files)} files of weights ({', '.join(WEIGHTS)}), expected one"
        )
    return files[0]


def _sizes(path: Path, weights: Weights) -> Sizes:
    """From `config.json` in the folder, else as published; frames as the weights have them."""
    sizes = Sizes()
    file = path / "config.json"
    if file.is_file():
        known, found = asdict(sizes), read_json(file)
        if not (isinstance(found, dict) and found.keys() <= known.keys()):
            raise InputError(f"{file}: expected a JSON object of some of {', '.join(known)}")
        for name, size in found.items():
            if type(size) is not int or not 0 < size <= LARGEST:
                raise InputError(f"{file}: {name} is {size!r}, expected a number up to {LARGEST:,}")
        sizes = Sizes(**found)
        for whole, part in MULTIPLES:
            if getattr(sizes, whole) % getattr(sizes, part):
                raise InputError(
                    f"{file}: {whole} {getattr(sizes, whole)} is no multiple of {part} "
                    f"{getattr(sizes, part)}"
                )
    positions = weights.shapes.get("vision_encoder.pos_embed", (1, 0))[1]
    frames, rest = divmod(positions - 1, sizes.patches)
    return replace(sizes, frames=frames) if frames > 0 and not rest else sizes


def _tokenizer(options: Options, sizes: Sizes, fetch: bool) -> BertTokenizer:
    """BERT's own, from a folder or from the hub, where its cache serves first."""
    beside = options.path if options.path.is_dir() else options.path.parent
    folder = Path(options.tokenizer) if options.tokenizer else beside
    if (folder / "vocab.txt").is_file():
        tokenizer = BertTokenizer.from_pretrained(folder)
    elif options.tokenizer:
        raise InputError(f"tokenizer {folder}: has no vocab.txt; expected that of {VOCABULARY}")
    else:
        tokenizer = _hub_tokenizer(folder, fetch)
    if len(tokenizer) != sizes.vocabulary:
        raise InputError(
            f"tokenizer {tokenizer.name_or_path}: has {len(tokenizer)} words, the weights "
            f"{sizes.vocabulary}; expected the vocab.txt of {VOCABULARY}"
        )
    return tokenizer


def _hub_tokenizer(folder: Path, fetch: bool) -> BertTokenizer:
    for local in (True, False) if fetch else (True,):
        with nullcontext(True) if local else downloads():
            try:
                return BertTokenizer.from_pretrained(VOCABULARY, local_files_only=local)
            except (OSError, ValueError, TypeError):
                continue
    raise InputError(
        f"{folder}: has no vocab.txt, and {VOCABULARY} is not in the hub's cache or fetched; put "
        f"its vocab.txt there, or say ,tokenizer=FOLDER after {SCHEME}:PATH"
    )
