"""SlowFast at a small width, with random weights in PySlowFast's file of Caffe2's blobs."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from sdst.backbones.published.slowfast import Sizes, SlowFast

TINY = Sizes(width=16, depths=(1, 2), slow_kernels=(1, 3), fast_kernels=(3, 3))
_PARTS = {"bias": "b", "running_mean": "rm", "running_var": "riv"}


def random_weights(sizes: Sizes = TINY) -> dict[str, Tensor]:
    """Weights whose activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = SlowFast(sizes).state_dict()
    weights = {}
    for name, like in shapes.items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(like.shape, generator=generator)
        if like.dim() > 1:
            weights[name] = noise * (2 / like[0].numel()) ** 0.5
        elif name.endswith(("running_var", "weight")):
            weights[name] = 1 + 0.2 * noise.abs()
        else:
            weights[name] = 0.2 * noise
    return weights


def caffe2_name(name: str, sizes: Sizes) -> str:
    """Caffe2's name of a weight."""
    module, part = name.rsplit(".", 1)
    norm = module.endswith("bn")
    part = _PARTS.get(part, "s" if norm else "w")
    if found := re.match(r"s(\d)_fuse", module):
        stage = int(found[1])
        last = f"res{stage}_{sizes.depths[stage - 2] - 1}_branch2c_bn" if stage > 1 else "pool1"
        return f"t_{last}_subsample{'_bn' * norm}_{part}"
    fast = "t_" if "pathway1" in module else ""
    if "stem" in module:
        return f"{fast}res_conv1_bn_{part}" if norm else f"{fast}conv1_{part}"
    found = re.match(r"s(\d)\.pathway\d_res(\d+)\.branch(\d.*)", module)
    assert found is not None
    stage, block, branch = found.groups()
    branch = branch.replace(".", "")
    return f"{fast}res{stage}_{block}_branch{branch}_{part}"


def write_pickle(file: Path, sizes: Sizes = TINY) -> Path:
    """As PySlowFast's model zoo has it."""
    blobs = {caffe2_name(name, sizes): x.numpy() for name, x in random_weights(sizes).items()}
    file.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    return file
