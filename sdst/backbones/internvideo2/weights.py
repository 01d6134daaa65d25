"""A published InternVideo2 checkpoint on disk, checked by name and read a part at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sdst.errors import InputError, unreadable

ROOTS = ("model", "module")  # where a training run keeps the weights; exported ones have no root
HASHED_AT_ONCE = 32  # tensors

# What the checkpoint has besides the two towers: positions and decoders that only pre-training
# used, the part of BERT that looks at the video, and the heads of the other losses.
EXTRA = re.compile(
    r"vision_encoder\.(clip_pos_embed|clip_img_pos_embed"
    r"|clip_decoder\.\d+\.(head|norm)\.(weight|bias)"
    r"|final_clip_decoder\.(head|norm)\.(weight|bias))"
    r"|text_encoder\.(cls\.predictions\..+|bert\.embeddings\.position_ids|bert\.pooler\..+)"
    r"|itm_head\.(weight|bias)|temp"
)
BERT_LAYER = re.compile(r"text_encoder\.bert\.encoder\.layer\.(\d+)\..+")


class Weights:
    """The tensors of a checkpoint file, which is mapped into memory only while it is read.

    Args:
        path: a file by `torch.save` or of safetensors.
        device, dtype: of the modules that are filled.

    Attributes:
        shapes: of all tensors, by key.

    Raises:
        InputError: the file is not there, or is no such file.
    """

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype):
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected the weights of InternVideo2 stage 2")
        self.path, self.device, self.dtype = path, device, dtype
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._map().items()}

    def check(self, needed: Mapping[str, Tensor], text_depth: int) -> None:
        """Refuse a file that lacks a tensor, has one of another shape, or one of no known use.

        Args:
            needed: tensors of the shapes needed, by key.
            text_depth: layers of BERT that encode text alone; those behind are known extras.
        """
        for key, tensor in needed.items():
            found, expected = self.shapes.get(key), tuple(tensor.shape)
            if found is None:
                raise InputError(
                    f"{self.path}: has no {key}; expected both towers of InternVideo2 stage 2"
                )
            if found != expected:
                raise InputError(
                    f"{self.path}: {key} has shape {found}, expected {expected}; expected "
                    "the 1B model with BERT-large, or its sizes in a config.json beside it"
                )
        for key in sorted(self.shapes.keys() - needed.keys()):
            layer = BERT_LAYER.fullmatch(key)
            fusion = layer is not None and int(layer[1]) >= text_depth
            if not (fusion or EXTRA.fullmatch(key)):
                raise InputError(
                    f"{self.path}: {key} is no part of InternVideo2 stage 2; expected the weights "
                    "as they were published"
                )

    def fill(self, module: nn.Module, prefix: str = "", without: tuple[str, ...] = ()) -> None:
        """Give `module` copies of its tensors, which are in the file under `prefix`.

        Args:
            without: beginnings of keys that are left as they are.
        """
        mapped = self._map()
        tensors = {
            key: mapped[prefix + key].to(self.device, self.dtype, copy=True)
            for key in module.state_dict()
            if not key.startswith(without)
        }
        module.load_state_dict(tensors, strict=not without, assign=True)

    def stream(self, module: nn.Module, prefix: str) -> None:
        """Let `module` hold its tensors only while it is called, by one thread at a time."""

        def fill(called: nn.Module, _: tuple) -> None:
            self.fill(called, prefix)

        def empty(called: nn.Module, *_: object) -> None:
            called.to("meta")

        module.register_forward_pre_hook(fill)
        module.register_forward_hook(empty, always_call=True)

    def digest(self, keys: Collection[str]) -> str:
        """A hash of the tensors under `keys`, wherever in which kind of file they lie."""
        digest = hashlib.sha256()
        ordered = sorted(keys)
        for first in range(0, len(ordered), HASHED_AT_ONCE):
            mapped = self._map()  # anew, which gives back what the group before has touched
            for key in ordered[first : first + HASHED_AT_ONCE]:
                tensor = mapped[key]
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _map(self) -> dict[str, Tensor]:
        """All tensors, mapped: what is not touched is not read."""
        try:
            if self.path.suffix == ".safetensors":
                return load_file(self.path)
            content = torch.load(self.path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # of safetensors, of PyTorch's archives and of pickles
            expected = "a safetensors file, or one that torch.save wrote with tensors alone in it"
            raise unreadable(self.path, error, f"expected {expected}") from None
        for root in ROOTS:
            if isinstance(content, Mapping) and isinstance(content.get(root), Mapping):
                content = content[root]
        if not isinstance(content, Mapping):
            raise InputError(f"{self.path}: holds a {type(content).__name__}, expected tensors")
        return {key: value for key, value in content.items() if isinstance(value, Tensor)}
