"""SlowFast 8x8 R50 (Feichtenhofer et al., ICCV 2019) without its classifier, in PySlowFast's names.

Two networks see a clip: the slow one a few frames in many channels, the fast one all frames in an
eighth of the channels. After every stage but the last the fast one's features, strided in time,
join the slow one's.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from sdst.backbones.openclip.preprocessing import Preprocess
from sdst.errors import InputError, reading

PICTURES = 32  # of the fast network
ALPHA = 4  # as many times fewer of the slow one
SPAN = 64  # pictures at 30 a second that a clip of Kinetics lasts (sampling rate 2)
CLIPS_AT_ONCE = {"cuda": 16}
MEAN, STD = (0.45,) * 3, (0.225,) * 3
WEIGHTS = "expected SLOWFAST_8x8_R50.pkl of PySlowFast's model zoo (Kinetics 400)"


@dataclass(frozen=True)
class Sizes:
    """Of the published network; tests have smaller ones.

    Args:
        width: channels behind the slow stem.
        beta: as many times fewer of the fast one.
        depths: blocks of the four stages.
        fusion: channels that join the slow network, for each of the fast one.
        fusion_kernel: pictures that these look at.
        slow_kernels, fast_kernels: pictures that a block of each stage looks at.
    """

    width: int = 64
    beta: int = 8
    depths: tuple[int, ...] = (3, 4, 6, 3)
    fusion: int = 2
    fusion_kernel: int = 7
    slow_kernels: tuple[int, ...] = (1, 1, 3, 3)
    fast_kernels: tuple[int, ...] = (3, 3, 3, 3)

    @property
    def features(self) -> int:
        """Channels of both networks' last stage."""
        last = self.width * 4 * 2 ** (len(self.depths) - 1)
        return last + last // self.beta


class Stem(nn.Module):
    """Convolution and pooling, to a quarter of the size."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, width, (kernel, 7, 7), (1, 2, 2), (kernel // 2, 3, 3), bias=False)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu()
        return nn.functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))


class Bottleneck(nn.Module):
    """T x 1 x 1, 1 x 3 x 3 (strided), 1 x 1 x 1."""

    def __init__(self, taken: int, inner: int, given: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv3d(taken, inner, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False)
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.b_bn = nn.BatchNorm3d(inner)
        self.c = nn.Conv3d(inner, given, 1, bias=False)
        self.c_bn = nn.BatchNorm3d(given)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a_bn(self.a(x)).relu_()
        x = self.b_bn(self.b(x)).relu_()
        return self.c_bn(self.c(x))


class Block(nn.Module):
    """A bottleneck beside its input, which a convolution fits where the shape changes."""

    def __init__(self, taken: int, inner: int, given: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.fits = taken == given and stride == 1
        if not self.fits:
            self.branch1 = nn.Conv3d(taken, given, 1, (1, stride, stride), bias=False)
            self.branch1_bn = nn.BatchNorm3d(given)
        self.branch2 = Bottleneck(taken, inner, given, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.fits else self.branch1_bn(self.branch1(x))
        return (beside + self.branch2(x)).relu_()


class Fusion(nn.Module):
    """The fast network's features at the slow one's pictures."""

    def __init__(self, width: int, sizes: Sizes) -> None:
        super().__init__()
        kernel, padding = (sizes.fusion_kernel, 1, 1), (sizes.fusion_kernel // 2, 0, 0)
        self.conv_f2s = nn.Conv3d(
            width, width * sizes.fusion, kernel, (ALPHA, 1, 1), padding, bias=False
        )
        self.bn = nn.BatchNorm3d(width * sizes.fusion)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat([slow, self.bn(self.conv_f2s(fast)).relu_()], dim=1)


class SlowFast(nn.Module):
    """Clips [B, 3, 32, H, W] -> features [B, 2304], the slow network's first."""

    def __init__(self, sizes: Sizes = Sizes()) -> None:
        super().__init__()
        slow, fast = sizes.width, sizes.width // sizes.beta
        self.s1 = _paths(stem=(Stem(slow, 1), Stem(fast, 5)))
        self.s1_fuse = Fusion(fast, sizes)
        self.stages = [2 + i for i in range(len(sizes.depths))]
        for stage, depth, *kernels in zip(
            self.stages, sizes.depths, sizes.slow_kernels, sizes.fast_kernels, strict=True
        ):
            inner = sizes.width * 2 ** (stage - 2)
            stride = 1 if stage == 2 else 2
            slow_blocks = _blocks(slow + fast * sizes.fusion, inner, depth, kernels[0], stride)
            fast_blocks = _blocks(fast, inner // sizes.beta, depth, kernels[1], stride)
            pairs = enumerate(zip(slow_blocks, fast_blocks, strict=True))
            self.add_module(f"s{stage}", _paths(**{f"res{i}": pair for i, pair in pairs}))
            slow, fast = 4 * inner, 4 * inner // sizes.beta
            if stage != self.stages[-1]:
                self.add_module(f"s{stage}_fuse", Fusion(fast, sizes))

    def forward(self, clips: Tensor) -> Tensor:
        pictures = clips.shape[2]
        kept = torch.linspace(0, pictures - 1, pictures // ALPHA, device=clips.device).long()
        slow, fast = clips[:, :, kept], clips
        for stage in (1, *self.stages):
            paths = self.get_submodule(f"s{stage}")
            for name, module in paths.named_children():
                if name.startswith("pathway0"):
                    slow = module(slow)
                else:
                    fast = module(fast)
            if stage != self.stages[-1]:
                slow = self.get_submodule(f"s{stage}_fuse")(slow, fast)
        return torch.cat([x.mean(dim=(2, 3, 4)) for x in (slow, fast)], dim=1)


class SlowFastFeatures:
    """The published network on clips of video.

    Args:
        weights: `.pkl` of PySlowFast's model zoo, or a `.pyth` of PySlowFast.
        device: of the network.

    Attributes:
        digest: shows whether features came from the same weights.

    Raises:
        InputError: the weights are missing, damaged or of another network.
    """

    width = Sizes().features

    def __init__(self, weights: Path, device: torch.device, sizes: Sizes | None = None) -> None:
        self.device, self.width = device, (sizes or Sizes()).features
        with torch.device("meta"):
            network = SlowFast(sizes or Sizes())
        found = read_weights(weights)
        ours = network.state_dict()
        lacking = [x for x in ours if x not in found and not x.endswith("num_batches_tracked")]
        other = [x for x in ours if x in found and found[x].shape != ours[x].shape]
        if lacking or other:
            raise InputError(
                f"{weights}: {len(lacking)} of {len(ours)} weights of SlowFast are missing and "
                f"{len(other)} have another shape, such as {(lacking + other)[0]}; {WEIGHTS}"
            )
        batches = {x: torch.tensor(0) for x in ours if x.endswith("num_batches_tracked")}
        network.load_state_dict({x: found.get(x, batches.get(x)) for x in ours}, assign=True)
        self.digest = _digest({x: found[x] for x in ours if x in found})
        self._network = network.to(device).eval().requires_grad_(False)
        self._preprocess = Preprocess(PreprocessCfg(size=224, mean=MEAN, std=STD)).to(device)

    @staticmethod
    def pictures(count: int) -> np.ndarray:
        """Which of a clip's `count` pictures at 30 a second the fast network sees, of 32.

        Those of a span of 64 from the clip's start on; where the clip is shorter, its last picture
        again and again, as in the extractor that made the published files. (That one's span is of
        the file's own rate: it ends earlier in videos of fewer pictures a second.)
        """
        return np.linspace(0, SPAN - 1, PICTURES).clip(0, count - 1).astype(int)

    def encode(self, clips: np.ndarray) -> Tensor:
        """uint8 [T, pictures, H, W, 3] -> [T, 2304], fp32."""
        picked = clips[:, self.pictures(clips.shape[1])]
        batch = CLIPS_AT_ONCE.get(self.device.type, 1)
        parts = []
        for part in np.split(picked, range(batch, len(picked), batch)):
            frames = torch.from_numpy(part.reshape(-1, *part.shape[2:])).to(self.device)
            frames = self._preprocess(frames).unflatten(0, (len(part), -1))
            parts.append(self._network(frames.transpose(1, 2)))
        return torch.cat(parts).float()


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights of a file under PySlowFast's names. Nothing in the file is run.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    with reading(file, WEIGHTS):
        if file.suffix == ".pkl":
            with open(file, "rb") as opened:
                content = _Arrays(opened, encoding="latin1").load()
            blobs = content.get("blobs") if isinstance(content, dict) else None
            if not isinstance(blobs, Mapping):
                raise InputError(f"{file}: has no `blobs`; {WEIGHTS}")
            return dict(_from_caffe2(blobs))
        content = torch.load(file, "cpu", weights_only=True)
    state = content.get("model_state", content) if isinstance(content, dict) else {}
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


class _Arrays(pickle.Unpickler):
    """Reads a pickle of plain containers and NumPy's arrays, and refuses everything else."""

    _ALLOWED: ClassVar = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes of Python 2
        **{
            (f"numpy.{core}.multiarray", name): like.__reduce__()[0]
            for core in ("core", "_core")
            for name, like in (("_reconstruct", np.empty(0)), ("scalar", np.float32()))
        },
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise InputError(f"its pickle asks for {module}.{name}, expected arrays alone")
        return self._ALLOWED[module, name]


_PARTS = {
    "w": "weight",
    "s": "weight",
    "b": "bias",
    "rm": "running_mean",
    "riv": "running_var",
}
_STEM = re.compile(r"(t_)?(?:res_)?conv1(_bn)?_(\w+)")
_BLOCK = re.compile(r"(t_)?res(\d)_(\d+)_branch(1|2)([abc]?)(_bn)?_(\w+)")
_FUSION = re.compile(r"t_(?:pool1|res(\d)_\d+_branch2c_bn)_subsample(_bn)?_(\w+)")


def _from_caffe2(blobs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Tensor]]:
    """Caffe2's blobs under PySlowFast's names; the classifier and the optimizer's are left."""
    for blob, values in blobs.items():
        if (name := _renamed(blob)) is not None:
            yield name, torch.from_numpy(np.array(values, np.float32))


def _renamed(blob: str) -> str | None:
    if found := _FUSION.fullmatch(blob):
        stage, norm, part = found.groups()
        name = f"s{stage or 1}_fuse.{'bn' if norm else 'conv_f2s'}"
    elif found := _STEM.fullmatch(blob):
        fast, norm, part = found.groups()
        name = f"s1.pathway{int(bool(fast))}_stem.{'bn' if norm else 'conv'}"
    elif found := _BLOCK.fullmatch(blob):
        fast, stage, block, branch, layer, norm, part = found.groups()
        name = f"s{stage}.pathway{int(bool(fast))}_res{block}.branch{branch}"
        name += f".{layer}" * bool(layer) + "_bn" * bool(norm)
    else:
        return None
    return f"{name}.{_PARTS[part]}" if part in _PARTS else None


def _paths(**pairs: tuple[nn.Module, nn.Module]) -> nn.Module:
    """One module that has every pair as `pathway0_NAME` and `pathway1_NAME`."""
    joined = nn.Module()
    for name, (slow, fast) in pairs.items():
        joined.add_module(f"pathway0_{name}", slow)
        joined.add_module(f"pathway1_{name}", fast)
    return joined


def _blocks(taken: int, inner: int, depth: int, kernel: int, stride: int) -> list[Block]:
    first = Block(taken, inner, 4 * inner, kernel, stride)
    return [first, *(Block(4 * inner, inner, 4 * inner, kernel, 1) for _ in range(depth - 1))]


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
