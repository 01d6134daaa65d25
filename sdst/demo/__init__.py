"""The embedded default dataset: captioned moments rendered by code into real video files.

`train` and `val` never show a (shape, colour, action) combination of `scenes.unseen`; every video
of `test` does, and asks for it first. A still frame shows which objects there are and where, never
what they do, so a per-frame backbone cannot find the moments on its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from sdst.data.annotations import Annotation, write_annotations
from sdst.demo.labels import ask, ratings, relevant_clips
from sdst.demo.render import write_video
from sdst.demo.scenes import SPLITS, Scene, Split, plan_scene
from sdst.errors import InputError
from sdst.files.publish import lock, publish, scratch_folder
from sdst.files.text import read_json
from sdst.terminal.verbosity import progress_bar

logger = logging.getLogger(__name__)

DEMO_CLIP_LENGTH = 1.0  # seconds
BACKBONE = Path(__file__).parent / "backbone"
_RECIPE = "recipe.json"
_GENERATOR = ("__init__.py", "scenes.py", "sentences.py", "labels.py", "render.py")


@dataclass(frozen=True)
class DemoSize:
    """How much is rendered: videos per split, most queries per video, and the seed of it all."""

    train: int = 400
    val: int = 40
    test: int = 80
    train_queries: int = 8
    eval_queries: int = 4
    seed: int = 0


def prepare_demo(root: Path, size: DemoSize | None = None, threads: int = 4) -> Path:
    """Render the demo into `root`: `videos/<vid>.mp4`, `train.jsonl`, `val.jsonl`, `test.jsonl`.

    Returns at once where `root` holds the same recipe already; the demo of another recipe is
    replaced. The folder appears complete or not at all, and its content depends on `size` only. Of
    several processes one renders, and the others wait for it.

    Returns:
        `root`.

    Raises:
        InputError: `root` holds something else, which stays.
    """
    size = size or DemoSize()
    recipe = recipe_of(size)
    if _recipe_in(root) == recipe:
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(root.parent):
        if _recipe_in(root) != recipe:  # nor has another process made it meanwhile
            _replace(root, size, threads)
    return root


def is_of_demo(video: Path) -> bool:
    """Whether a video file is in a demo that was rendered here."""
    return _recipe_in(video.resolve().parent.parent) is not None


def recipe_of(size: DemoSize) -> dict:
    """The inputs of the rendered folder: `size`, and the source text of the generator."""
    sources = (Path(__file__).with_name(name).read_bytes() for name in _GENERATOR)
    digest = hashlib.sha256(b"\0".join(sources)).hexdigest()
    return {**asdict(size), "generator": digest[:16]}


def annotate(scene: Scene, count: int, seed: int, first_qid: int) -> list[Annotation]:
    """Annotations of up to `count` queries about `scene`, with qids from `first_qid` on."""
    return [
        Annotation(
            qid=first_qid + i,
            query=question.query,
            vid=scene.vid,
            duration=float(scene.duration),
            windows=tuple((float(start), float(end)) for start, end in question.windows),
            clip_ids=tuple(relevant_clips(question)),
            saliency=tuple(tuple(marks) for marks in ratings(scene, question, seed)),
        )
        for i, question in enumerate(ask(scene, count, seed))
    ]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here with the same folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if lock(handle) is False:
            logger.warning("%s: another process is rendering here; waiting for it", folder)
            lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _replace(root: Path, size: DemoSize, threads: int) -> None:
    """Render into a folder beside `root`, which then takes its place."""
    nothing = not root.exists() or (root.is_dir() and not any(root.iterdir()))
    if not nothing and _recipe_in(root) is None:
        raise InputError(
            f"data.root {root}: holds something else than the demo, which is rendered into a "
            "folder of its own; for a dataset of yours give --data.dataset custom"
        )
    with scratch_folder(root) as building, scratch_folder(root) as old:
        _render(building, size, threads)
        (building / _RECIPE).write_text(json.dumps(recipe_of(size), indent=2) + "\n")
        if root.exists():
            root.rename(old)
        publish(building, root)


def _render(folder: Path, size: DemoSize, threads: int) -> None:
    (folder / "videos").mkdir()
    jobs = [(split, index) for split in SPLITS for index in range(getattr(size, split))]
    for split in SPLITS:
        write_annotations(folder / f"{split}.jsonl", list(_annotations(split, size)))
    # Threads, as new processes would run the main module of a caller that has no guard.
    pool = ThreadPoolExecutor(threads)
    try:
        done = pool.map(partial(_render_one, folder, size.seed), jobs)
        for _ in progress_bar(done, total=len(jobs), desc="rendering", unit="video"):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _render_one(folder: Path, seed: int, job: tuple[Split, int]) -> None:
    scene = plan_scene(*job, seed)
    write_video(scene, folder / "videos" / f"{scene.vid}.mp4")


def _annotations(split: Split, size: DemoSize) -> Iterator[Annotation]:
    count = size.train_queries if split == "train" else size.eval_queries
    qid = 1_000_000 * SPLITS.index(split)
    for index in range(getattr(size, split)):
        for annotation in annotate(plan_scene(split, index, size.seed), count, size.seed, qid):
            qid += 1
            yield annotation


def _recipe_in(root: Path) -> dict | None:
    """The inputs that the demo in `root` was rendered from; None where there is none."""
    try:
        recipe = read_json(root / _RECIPE)
    except InputError:
        return None
    return recipe if isinstance(recipe, dict) and "generator" in recipe else None
