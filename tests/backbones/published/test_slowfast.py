"""SlowFast against plain formulas at a small width, and the files that its weights come in."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdst.backbones.published.slowfast import (
    Sizes,
    SlowFast,
    SlowFastFeatures,
    read_weights,
)
from sdst.errors import InputError
from tests.backbones.published.tiny_slowfast import TINY, caffe2_name, random_weights, write_pickle


def plain(weights: dict[str, Tensor], clips: Tensor, sizes: Sizes) -> Tensor:
    """The network as its paper and PySlowFast's configuration have it, on the weights alone."""

    def conv(name: str, x: Tensor, stride: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        weight = weights[f"{name}.weight"]
        return functional.conv3d(x, weight, None, stride, [k // 2 for k in weight.shape[2:]])

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance, scale, shift = (
            weights[f"{name}.{part}"].view(-1, 1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def block(name: str, x: Tensor, stride: int) -> Tensor:
        y = norm(f"{name}.branch2.a_bn", conv(f"{name}.branch2.a", x)).clamp(min=0)
        y = conv(f"{name}.branch2.b", y, (1, stride, stride))
        y = norm(f"{name}.branch2.b_bn", y).clamp(min=0)
        y = norm(f"{name}.branch2.c_bn", conv(f"{name}.branch2.c", y))
        if f"{name}.branch1.weight" in weights:
            x = norm(f"{name}.branch1_bn", conv(f"{name}.branch1", x, (1, stride, stride)))
        return (x + y).clamp(min=0)

    def fuse(name: str, slow: Tensor, fast: Tensor) -> Tensor:
        joining = norm(f"{name}.bn", conv(f"{name}.conv_f2s", fast, (4, 1, 1))).clamp(min=0)
        return torch.cat([slow, joining], 1)

    paths = [clips[:, :, [0, 4, 8, 13, 17, 22, 26, 31]], clips]
    for i in (0, 1):
        name = f"s1.pathway{i}_stem"
        x = norm(f"{name}.bn", conv(f"{name}.conv", paths[i], (1, 2, 2))).clamp(min=0)
        down, across = ((size + 1) // 2 * 2 for size in x.shape[-2:])
        x = functional.pad(x, (1, 2, 1, 2))  # zeros, which no maximum after a ReLU sees
        corners = [x[..., a : a + down : 2, b : b + across : 2] for a in range(3) for b in range(3)]
        paths[i] = torch.stack(corners).amax(0)
    paths[0] = fuse("s1_fuse", *paths)
    last = 1 + len(sizes.depths)
    for stage, depth in enumerate(sizes.depths, 2):
        for i in (0, 1):
            for number in range(depth):
                stride = 2 if number == 0 and stage > 2 else 1
                paths[i] = block(f"s{stage}.pathway{i}_res{number}", paths[i], stride)
        if stage < last:
            paths[0] = fuse(f"s{stage}_fuse", *paths)
    return torch.cat([x.mean((2, 3, 4)) for x in paths], 1)


@torch.no_grad()
def test_the_network_is_the_plain_formula() -> None:
    network, weights = SlowFast(TINY).double().eval(), random_weights()
    network.load_state_dict(weights, strict=False)
    clips = torch.randn(2, 3, 32, 32, 48, dtype=torch.double)
    expected = plain({k: v.double() for k, v in weights.items()}, clips, TINY)
    torch.testing.assert_close(network(clips), expected)
    assert expected.shape == (2, TINY.features) and expected.std() > 0.1


def test_the_published_network_has_its_published_size() -> None:
    with torch.device("meta"):
        network = SlowFast()
    # 34.57 M with the classifier of 400 classes (pytorchvideo's model zoo).
    size = sum(x.numel() for x in network.parameters()) + 2304 * 400 + 400
    assert round(size / 1e6, 2) == 34.57
    assert Sizes().features == SlowFastFeatures.width == 2304


@pytest.mark.parametrize(
    ("caffe2", "ours"),
    [
        ("conv1_w", "s1.pathway0_stem.conv.weight"),
        ("t_res_conv1_bn_riv", "s1.pathway1_stem.bn.running_var"),
        ("t_pool1_subsample_w", "s1_fuse.conv_f2s.weight"),
        ("t_res4_5_branch2c_bn_subsample_bn_rm", "s4_fuse.bn.running_mean"),
        ("res4_0_branch1_bn_s", "s4.pathway0_res0.branch1_bn.weight"),
        ("t_res3_2_branch2b_w", "s3.pathway1_res2.branch2.b.weight"),
    ],
)
def test_caffe2_names(tmp_path: Path, caffe2: str, ours: str) -> None:
    file = tmp_path / "weights.pkl"
    blobs = {caffe2: np.ones(2, np.float32), "lr": np.zeros(1), "pred_w": np.zeros(3)}
    file.write_bytes(pickle.dumps({"blobs": {**blobs, f"{caffe2}_momentum": np.ones(2)}}, 2))
    assert list(read_weights(file)) == [ours]
    assert caffe2_name(ours, Sizes()) == caffe2


def test_weights_come_from_both_kinds_of_files(tmp_path: Path) -> None:
    weights = random_weights()
    pickled = SlowFastFeatures(write_pickle(tmp_path / "w.pkl"), torch.device("cpu"), TINY)
    torch.save({"model_state": weights}, tmp_path / "w.pyth")
    saved = SlowFastFeatures(tmp_path / "w.pyth", torch.device("cpu"), TINY)
    assert pickled.digest == saved.digest
    clips = np.random.default_rng(0).integers(0, 255, (2, 60, 40, 56, 3), np.uint8)
    features = pickled.encode(clips)
    assert features.equal(saved.encode(clips))
    assert features.shape == (2, TINY.features)
    assert not features[0].allclose(features[1])


def test_which_pictures_are_seen() -> None:
    seen = SlowFastFeatures.pictures(60)
    assert len(seen) == 32
    assert seen[:4].tolist() == [0, 2, 4, 6] and seen[-3:].tolist() == [58, 59, 59]
    assert SlowFastFeatures.pictures(30).max() == 29


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": Hostile()}}))
    with pytest.raises(InputError, match=r"mkdir, expected arrays alone"):
        read_weights(tmp_path / "w.pkl")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({"blobs": {"conv1_w": np.ones(3)}}), "are missing"),
        (pickle.dumps([1, 2]), "has no `blobs`"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"", "is empty"),
        (b"\x80\x02garbage", "cannot be read"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        SlowFastFeatures(tmp_path / "w.pkl", torch.device("cpu"), TINY)
    assert "w.pkl" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pkl"):
        SlowFastFeatures(tmp_path / "none.pkl", torch.device("cpu"), TINY)
