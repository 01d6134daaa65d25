"""Many queries on one video, and one query over many videos, through the public `Grounder`.

An untrained side-tuner of the paper's block (F = 256, K = 4, video 768 wide, 75 clips) answers.
The frozen backbone is a stand-in with random features that cost nothing: what a real one takes to
read sentences and videos comes on top.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from benchmarks.measuring.interleave import interleave, ratio
from sdst import SDST, Grounder
from sdst.backbones import FrameFeatures, TextFeatures
from sdst.config import load_config
from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter
from sdst.demo.render import FPS, FRAME_SIZE, encode
from sdst.grounding.answers import Grounding
from sdst.grounding.search import Found
from sdst.training.run_folder import RunFolder

LAYERS, CLIPS, WIDTH = 4, 75, 768
CLIP_LENGTH = 2.0
QUERIES, VIDEOS = 1000, 1000  # timed once; parts of them in turns:
AT_ONCE, ALONE = 64, 16  # together, one at a time
ROUNDS = 3
MOMENTS = 10 * AT_ONCE  # all of the videos answered together
WORDS = (6, 20)  # of a sentence, least and most


class RandomBackbone:
    """Gives random features of the paper's shapes in no time, the same ones for a sentence."""

    name = fingerprint = "random"
    device = torch.device("cpu")
    image_size = (FRAME_SIZE, FRAME_SIZE)
    layers, frames_at_once, tokens_per_frame = LAYERS, 1, 1
    video_width = text_width = WIDTH
    embed_width = 1

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._words = torch.randn(LAYERS, 2 * QUERIES, WIDTH, generator=generator)
        self._frames = torch.randn(LAYERS, CLIPS, 1, WIDTH, generator=generator)

    def encode_frames(self, frames: np.ndarray) -> FrameFeatures:
        return FrameFeatures(self._frames[:, : len(frames)], torch.ones(len(frames), 1))

    def encode_text(self, texts: Sequence[str]) -> list[TextFeatures]:
        return [TextFeatures(self._tokens(text), torch.ones(1)) for text in texts]

    def unread(self, texts: Sequence[str]) -> list[str]:
        return ["" for _ in texts]

    def _tokens(self, text: str) -> torch.Tensor:
        """Of `query 17 ...` the words from the 17th on."""
        words = text.split()
        first = int(words[1])
        return self._words[:, first : first + len(words)]


def sentences(count: int) -> list[str]:
    """`count` different ones of a caption's length."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(WORDS[0], WORDS[1], count, endpoint=True)
    return [f"query {i}{' word' * (length - 2)}" for i, length in enumerate(lengths)]


@pytest.fixture(scope="module")
def grounder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounder]:
    """Untrained, but a trained one takes as long."""
    options = {
        "data.features": "encode",
        "data.backbone": "random",
        "data.clip_length": CLIP_LENGTH,
        "model.layers": LAYERS,
        "model.text_width": WIDTH,
        "predict.round_to": "null",  # a hair's breadth must not become a whole clip
    }
    config = load_config(
        "qvhighlights_internvideo2",
        [part for key, value in options.items() for part in (f"--{key}", str(value))],
    )
    folder = tmp_path_factory.mktemp("ground")
    run = RunFolder(folder / "run")
    run.begin(config)
    run.settle(config, {"fingerprint": RandomBackbone.fingerprint})
    torch.manual_seed(0)
    run.save_model(SDST(config.model))
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("SDST_CACHE", str(folder / "cache"))
        patches.setattr("sdst.grounding.encoder.load_backbone", lambda *_, **__: RandomBackbone())
        yield Grounder(run.path, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 75 clips; its frames do not matter."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    picture = np.zeros((FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    with path.open("wb") as file:
        encode((picture for _ in range(int(CLIPS * CLIP_LENGTH * FPS))), file)
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FeatureStore, ...]]:
    """Of 1,000 videos, which take half a gigabyte of disk, and of its first few."""
    folder = tmp_path_factory.mktemp("stores")
    yield tuple(write_store(folder / str(count), count) for count in (VIDEOS, AT_ONCE, ALONE))
    shutil.rmtree(folder)


def write_store(path: Path, videos: int) -> FeatureStore:
    """Pooled tokens of `videos` videos."""
    meta = {
        "fingerprint": RandomBackbone.fingerprint,
        "clip_length": CLIP_LENGTH,
        "frames_per_clip": 1,
    }
    rng = np.random.default_rng(0)
    with FeatureWriter(path, meta) as writer:
        for i in range(videos):
            tokens = rng.standard_normal((LAYERS, CLIPS, 1, WIDTH), np.float32)
            writer.add_video(f"video{i}", CLIPS * CLIP_LENGTH, tokens)
    return FeatureStore(path)


def bench_many_queries_on_one_video(benchmark, grounder: Grounder, video: Path) -> None:
    """1,000 queries on a video that is encoded already, in one call against one call each."""
    queries = sentences(QUERIES)
    some = queries[:AT_ONCE]

    def together() -> list[Grounding]:
        return grounder.ground(video, some)

    def alone() -> list[Grounding]:
        return [answer for query in some[:ALONE] for answer in grounder.ground(video, [query])]

    for one, other in zip(together()[:ALONE], alone(), strict=True):
        assert len(one.saliency) == CLIPS
        np.testing.assert_allclose(one.windows, other.windows, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-4)
    seconds = interleave({"together": together, "alone": alone}, ROUNDS)
    benchmark.pedantic(grounder.ground, (video, queries), rounds=1)
    report(benchmark, seconds, f"{QUERIES:,} queries on a video of {CLIPS} clips", "query")


def bench_one_query_over_many_videos(
    benchmark, grounder: Grounder, stores: tuple[FeatureStore, FeatureStore, FeatureStore]
) -> None:
    """One query over a store of 1,000 videos, answered together against one video at a time."""
    everything, some, few = stores
    query = sentences(1)

    def together() -> list[list[Found]]:
        return grounder.search(some, query, top=MOMENTS)

    def alone(store: FeatureStore = few) -> list[list[Found]]:
        with patch.object(grounder, "clips_at_once", 1):
            return grounder.search(store, query, top=MOMENTS)

    [found], [expected] = together(), alone(some)
    # Of a video's windows that are nearly one, the best is found, and no video goes without.
    assert len(found) == len(expected) <= MOMENTS
    assert {moment.vid for moment in found} == set(some.video_ids)
    for one, other in zip(by_place(found), by_place(expected), strict=True):
        assert one.vid == other.vid
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=1e-2)
        assert one.score == pytest.approx(other.score, rel=1e-3)
    seconds = interleave({"together": together, "alone": alone}, ROUNDS)
    benchmark.pedantic(grounder.search, (everything, query), rounds=1)
    report(benchmark, seconds, f"a query over {VIDEOS:,} videos of {CLIPS} clips", "video")


def by_place(moments: list[Found]) -> list[Found]:
    """In an order that the last bits of a score do not change."""
    return sorted(moments, key=lambda moment: (moment.vid, moment.start, moment.end))


def report(benchmark, seconds: dict[str, list[float]], what: str, unit: str) -> None:
    """Note and print what a query or a video takes together with others and alone.

    Args:
        benchmark: has timed all of `what`.
        seconds: of `AT_ONCE` together and of `ALONE` one at a time, taken in turns.
    """
    together = [1e3 * second / AT_ONCE for second in seconds["together"]]
    alone = [1e3 * second / ALONE for second in seconds["alone"]]
    times, whole = ratio(alone, together), benchmark.stats.stats.median
    benchmark.group = what
    benchmark.extra_info |= {
        "against one at a time": times,
        f"ms per {unit}": statistics.median(together),
        f"ms per {unit} alone": statistics.median(alone),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    print(
        f"\n{what}: {whole:.1f} s; {statistics.median(together):.1f} ms per {unit} with others, "
        f"{statistics.median(alone):.1f} ms alone, {times['median']:.2f} times as long "
        f"({times['min']:.2f} to {times['max']:.2f})"
    )
