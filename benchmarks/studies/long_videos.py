"""`python -m benchmarks.studies.long_videos`: what long videos cost, and whether moments are found.

Without arguments: processor time and peak memory of one query on 75 to 72,000 clips (ten hours at
two a second), pooled and patch tokens, in a table and `--plot`. Every point is a process of its
own. Memory is what the process holds for itself (RssAnon, beyond the model and the libraries):
pages of the mapped store are the kernel's, which takes them back when it likes. The pooled store
is random numbers, repeated. The patch store, 22 GB, is a file with holes, which read as zeros: its
arithmetic is at least that of other tokens, but no disk is waited for. `--select-from video`
selects context tokens from the whole video as well.

With `--checkpoint DIR` of the demo: its test videos in a row, 1, 10 and 50 at a time, where every
moment that fits a query is known from the scenes, answered as a whole and in windows: as is the
default, with windows compared by their saliency alone, and with context of the whole video.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from sdst.config import PredictConfig
from sdst.demo import DemoSize
from sdst.demo.labels import Question, ask, matching
from sdst.demo.scenes import Scene, plan_scene
from sdst.evaluation.retrieval import evaluate_retrieval
from sdst.grounding.decode import Prediction, decode
from sdst.grounding.long_videos import ground_long
from sdst.model import SDST, ModelConfig
from sdst.pretrained.folder import load_checkpoint
from sdst.sources.dataset import open_data

LENGTHS = (75, 600, 4_800, 36_000, 72_000)
LAYERS, WIDTH, WORDS = 4, 768, 20
TOKENS = {"pooled tokens": 1, "patch tokens": 50}
CUT = PredictConfig(stretch=75, overlap=25)  # QVHighlights' videos
DEMO_STRETCH = 40  # clips of the demo's longest video; its longest moment has 17
TOGETHER = (1, 10, 50)  # demo videos in a row


@dataclass(frozen=True)
class Cost:
    """Of one query on a video of `clips`: seconds of the processor, and bytes at the peak."""

    kind: str
    clips: int
    seconds: float
    memory: int


def measure(kind: str, clips: int, file: Path, options: PredictConfig) -> Cost:
    """Ground one query in the first `clips` of the store in `file`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = ModelConfig(LAYERS, WIDTH, 512, context="sparse", schedule=(4, 2, 1, 1))
    model = SDST(config).for_inference()
    shape = (LAYERS, max(LENGTHS), TOKENS[kind], WIDTH)
    store = np.memmap(file, np.float16, "r", shape=shape)
    texts = [torch.randn(LAYERS, WORDS, config.text_width)]

    def ground(clips: int) -> None:
        ground_long(model, store[:, :clips], texts, 2.0, 2.0 * clips, options)

    ground(min(LENGTHS))  # what is loaded with the first call is the libraries'
    before = anonymous()
    with peak_of(anonymous) as peak:
        start = time.process_time()
        ground(clips)
        seconds = time.process_time() - start
    return Cost(kind, clips, seconds, max(peak.value - before, 0))


def anonymous() -> int:
    """Bytes of memory that this process holds and no file stands behind, Linux only."""
    status = Path("/proc/self/status").read_text()
    [kilobytes] = re.findall(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(kilobytes)


class peak_of:
    """The highest `value` of a function, asked every few milliseconds, while the block runs."""

    def __init__(self, function: Callable[[], int]) -> None:
        self.function, self.value = function, function()
        self.done = threading.Event()
        self.watcher = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.done.wait(0.005):
            self.value = max(self.value, self.function())

    def __enter__(self) -> peak_of:
        self.watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.watcher.join()


def write_store(kind: str, file: Path) -> None:
    """The longest video's tokens [K, L, P, Dv] in half precision; holes for patch tokens."""
    values = LAYERS * max(LENGTHS) * TOKENS[kind] * WIDTH
    if kind == "patch tokens":
        file.touch()
        with file.open("r+b") as holes:
            holes.truncate(2 * values)
        return
    clips = np.random.default_rng(0).standard_normal((600, WIDTH), np.float32).astype(np.float16)
    with file.open("wb") as out:
        for _ in range(0, values, clips.size):
            out.write(clips.data)


def costs(lengths: Sequence[int], options: PredictConfig) -> Iterator[Cost]:
    """Every point in a fresh process, the stores deleted at the end."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in TOKENS:
            file = Path(folder) / kind
            write_store(kind, file)
            for clips in lengths:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    yield pool.apply(measure, (kind, clips, file, options))


def draw(points: Sequence[Cost], file: Path) -> None:
    """Time and memory over length, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for kind, colour, marker in zip(TOKENS, ("#1f6f8b", "#d1603d"), "os", strict=True):
        mine = [point for point in points if point.kind == kind]
        clips = [point.clips for point in mine]
        style = {"color": colour, "marker": marker, "label": kind, "linewidth": 1.6}
        seconds.plot(clips, [point.seconds for point in mine], **style)
        memory.plot(clips, [point.memory / 2**20 for point in mine], **style)
    longest = [point.clips for point in points if point.clips >= 4_800]
    top = max(point.seconds for point in points)
    linear = [2 * top * clips / max(longest) for clips in sorted(set(longest))]
    seconds.plot(sorted(set(longest)), linear, ":", color="#888888", label="linear")
    for axes, title in ((seconds, "processor time, s"), (memory, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="clips", title=title)
        lengths = sorted({point.clips for point in points})
        axes.set_xticks(lengths, [f"{n:,}" for n in lengths], fontsize=8, rotation=30)
        axes.minorticks_off()
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    memory.set_ylim(bottom=1)
    figure.savefig(file, dpi=150)


@dataclass(frozen=True)
class Row:
    """Demo videos in a row: tokens [K, L, P, Dv], the queries' tokens, and all that fits them."""

    tokens: np.ndarray
    texts: list[Tensor]
    moments: list[np.ndarray]


def rows_of(checkpoint: Path, together: int, queries: int) -> Iterator[Row]:
    """The test videos in a random order, `together` in a row, with some of their queries."""
    description, _ = load_checkpoint(checkpoint)
    data = open_data(description.config).dataset("test")
    size, rng = DemoSize(), np.random.default_rng(0)
    scenes = [plan_scene("test", index, size.seed) for index in range(size.test)]
    order = rng.permutation(len(scenes))
    share = max(queries * together // len(scenes), 1)
    qids = {(item.vid, item.query): item.qid for item in data.annotations}
    for first in range(0, len(order) - together + 1, together):
        row = [scenes[i] for i in order[first : first + together]]
        videos = [data.source.video(scene.vid).tokens for scene in row]
        starts = [0, *accumulate(video.shape[1] for video in videos)]
        asked = [(s, q) for s in row for q in ask(s, size.eval_queries, size.seed)]
        chosen = [asked[i] for i in rng.permutation(len(asked))[:share]]
        texts = [data.source.query(qids[scene.vid, q.query]).tokens for scene, q in chosen]
        yield Row(
            np.concatenate(videos, 1),
            [torch.from_numpy(np.array(text, np.float32)) for text in texts],
            [fitting(question, row, starts) for _, question in chosen],
        )


def fitting(question: Question, scenes: Sequence[Scene], starts: Sequence[int]) -> np.ndarray:
    """[G, 2] seconds: every moment in the row that the question describes."""
    return np.array(
        [
            (start + moment.start, start + moment.end)
            for scene, start in zip(scenes, starts, strict=False)
            for _, moment in matching(scene, question.description, question.action)
        ],
        np.float64,
    )


@torch.inference_mode()
def as_a_whole(model: SDST, row: Row, options: PredictConfig) -> list[Prediction]:
    """The row as one video, whatever its length."""
    video = torch.from_numpy(row.tokens)[None]
    lengths, seconds = torch.tensor([video.shape[2]]), [float(video.shape[2])]
    encoded = model.encode_video(video, lengths)
    answers = (model.answer(encoded, t[None], torch.tensor([t.shape[1]])) for t in row.texts)
    return [decode(outputs, lengths, seconds, 1.0, options)[0] for outputs in answers]


def in_stretches(model: SDST, row: Row, options: PredictConfig) -> list[Prediction]:
    """The row as the long video that it is."""
    seconds = float(row.tokens.shape[1])
    return ground_long(model, row.tokens, row.texts, 1.0, seconds, options)


def by_saliency(model: SDST, row: Row, options: PredictConfig) -> list[Prediction]:
    """In windows, but without what the selected tokens say of a window."""
    with patch("sdst.grounding.long_videos.FIT_WEIGHT", 0.0):
        return in_stretches(model, row, options)


def with_the_video(model: SDST, row: Row, options: PredictConfig) -> list[Prediction]:
    """In windows, with context tokens of the whole row as well."""
    return in_stretches(model, row, replace(options, select_from="video"))


WAYS = {
    "as a whole": as_a_whole,
    "in windows": in_stretches,
    "in windows, compared by saliency": by_saliency,
    "in windows, context of the video": with_the_video,
}


def accuracy(checkpoint: Path, queries: int) -> Iterator[str]:
    """Lines of a table: R1 of all ways at every length."""
    description, model = load_checkpoint(checkpoint)
    options = replace(description.config.predict, stretch=DEMO_STRETCH, overlap=DEMO_STRETCH // 2)
    yield "| videos in a row | read | queries | R1@0.5 | R1@0.7 |\n|---|---|---|---|---|"
    for together in TOGETHER:
        rows = list(rows_of(checkpoint, together, queries))
        moments = [m for row in rows for m in row.moments]
        for name, way in WAYS.items():
            windows = [answer.windows for row in rows for answer in way(model, row, options)]
            recall = evaluate_retrieval(windows, moments)["full"]["MR-R1"]
            figures = f"{recall['0.5']:.1f} | {recall['0.7']:.1f}"
            yield f"| {together} | {name} | {len(moments)} | {figures} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.long_videos")
    parser.add_argument("--plot", type=Path, metavar="OUT.png")
    parser.add_argument("--longest", type=int, default=max(LENGTHS), metavar="CLIPS")
    parser.add_argument("--select-from", choices=("stretch", "video"), default=CUT.select_from)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a demo run's folder")
    parser.add_argument("--queries", type=int, default=80, help="of about so many at each length")
    options = parser.parse_args(arguments)
    if options.checkpoint:
        for line in accuracy(options.checkpoint, options.queries):
            print(line, flush=True)
        return
    print("| clips | tokens | processor time | ms a clip | memory |\n|---|---|---|---|---|")
    points, lengths = [], [clips for clips in LENGTHS if clips <= options.longest]
    for cost in costs(lengths, replace(CUT, select_from=options.select_from)):
        points.append(cost)
        each, memory = 1000 * cost.seconds / cost.clips, cost.memory / 2**20
        row = f"{cost.clips:,} | {cost.kind} | {cost.seconds:.2f} s | {each:.2f} | {memory:.0f} MiB"
        print(f"| {row} |", flush=True)
    if options.plot:
        draw(points, options.plot)


if __name__ == "__main__":
    main()
