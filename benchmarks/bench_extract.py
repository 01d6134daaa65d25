"""`sdst.extract` against its bare backbone: the cost of decoding and writing beside encoding."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.decoding import write_minute
from benchmarks.measuring.interleave import interleave, ratio
from sdst.backbones import Backbone, load_backbone
from sdst.data.video import ClipReader
from sdst.extraction.pipeline import extract_features
from sdst.extraction.settings import Settings
from sdst.kernels import library

# Random weights: as fast as trained ones.
BACKBONES = ("ViT-B-32", "ViT-B-16", "ViT-B-32,dtype=bfloat16")
CLIP_LENGTH = 2.0
GROUP = 2  # seconds between key frames
ROUNDS = 2


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    if "bfloat16" in request.param and not library.multiplies_bf16():
        pytest.skip("this CPU has no bf16 matrix multiplies (AVX512_BF16)")
    name, *options = request.param.split(",")
    weights = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
    save_file(open_clip.create_model(name).state_dict(), weights)
    return load_backbone(",".join((f"{name}:{weights}", *options)), layers=4)


def bench_extract(benchmark, backbone: Backbone, tmp_path: Path) -> None:
    """A minute of 480p from its file to a store, against frames that lie decoded in memory.

    On a CPU decoding takes its part of the cores, the less of it the larger the backbone is. What
    can be reached is that no core waits: the encoding's time and, shared, the decoding's.
    """
    video, store = tmp_path / "video.mp4", tmp_path / "store"
    write_minute(video, GROUP)
    batches = list(ClipReader(video, CLIP_LENGTH))

    def extract() -> None:
        extract_features(
            {"video": video}, {}, backbone, store, Settings(CLIP_LENGTH), progress=False
        )
        shutil.rmtree(store)

    def encode() -> None:
        for frames in batches:
            backbone.encode_frames(frames)

    def decode() -> None:
        for _ in ClipReader(video, CLIP_LENGTH):
            pass

    seconds = interleave({"extract": extract, "encode": encode, "decode": decode}, ROUNDS)
    threads = torch.get_num_threads()
    shared = statistics.median(seconds["decode"]) / threads
    share = ratio(seconds["encode"], seconds["extract"])
    reached = ratio([second + shared for second in seconds["encode"]], seconds["extract"])
    benchmark.group = f"a minute of 480p through {backbone.name.partition(':')[0]}"
    benchmark.extra_info |= {
        "of the bare backbone's rate": share,
        "of what encoding and decoding need": reached,
        "threads": threads,
        "device": "cpu",
    }
    benchmark.pedantic(extract, rounds=1)
    print(
        f"\n{backbone.name}: {share['median']:.0%} of the bare backbone's rate, "
        f"{reached['median']:.0%} of what encoding and decoding need on these cores"
    )
