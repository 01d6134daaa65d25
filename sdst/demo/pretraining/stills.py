"""Still frames of demo scenes with captions: what the packaged backbone learns from."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from sdst.demo.render import encode, frames
from sdst.demo.scenes import ACTIONS, Scene, plan_scene, trace, unseen
from sdst.demo.sentences import Description, Seen, caption, describe, name, query

_PER_SCENE = 6
_SCENES_PER_FILE = 16
_MIRRORED = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Still:
    """A frame uint8 [size, size, 3] with what is in it and who is doing what at that time."""

    picture: np.ndarray
    seen: tuple[Seen, ...]
    doing: tuple[tuple[Seen, str], ...]

    def mirrored(self) -> Still:
        """The same still seen in a mirror; every shape and light of the demo is symmetric."""

        def mirror(thing: Seen) -> Seen:
            return replace(thing, x=1 - thing.x)

        return Still(
            self.picture[:, ::-1],
            tuple(mirror(thing) for thing in self.seen),
            tuple((mirror(thing), _MIRRORED.get(action, action)) for thing, action in self.doing),
        )

    def caption(self, rng: np.random.Generator) -> str:
        """A sentence about the still; as on the web, some name an action that no still can show."""
        if self.doing and rng.random() < 0.2:
            thing, action = self.doing[int(rng.integers(len(self.doing)))]
            return query(describe(thing.look, action, rng), action, rng)
        return caption(self.seen, rng)


def make_stills(count: int, size: int, seed: int, threads: int = 4) -> list[Still]:
    """`count` stills at `size` px from scenes that no split of the demo contains.

    They are scenes of the training kind, so the combinations kept for testing are never named; and
    they went through the video codec like every frame the backbone will see.
    """
    batches = -(-count // (_PER_SCENE * _SCENES_PER_FILE))
    with ThreadPoolExecutor(threads) as pool:
        made = pool.map(partial(_stills_of, size, seed), range(batches))
        return [
            still for batch in tqdm(made, total=batches, desc="rendering stills") for still in batch
        ][:count]


def _stills_of(size: int, seed: int, batch: int) -> list[Still]:
    first = batch * _SCENES_PER_FILE
    scenes = [plan_scene("train", first + i, seed) for i in range(_SCENES_PER_FILE)]
    moments = [_times(scene) for scene in scenes]
    pictures = (f for s, t in zip(scenes, moments, strict=True) for f in frames(s, t))
    contents = (_contents(s, float(t)) for s, ts in zip(scenes, moments, strict=True) for t in ts)
    return [
        Still(picture, *content)
        for picture, content in zip(_through_codec(pictures, size), contents, strict=True)
    ]


def _times(scene: Scene) -> np.ndarray:
    """Random times, mostly with something in view."""
    rng = np.random.default_rng(scene.seed + 1)
    busy = [t for stay in scene.stays for t in range(stay.start, stay.end)]
    seconds = rng.choice(busy, _PER_SCENE) + rng.random(_PER_SCENE)
    seconds[rng.random(_PER_SCENE) < 0.04] = rng.uniform(0, scene.duration)
    return np.clip(seconds, 0, scene.duration - 1e-3)


def _contents(scene: Scene, time: float) -> tuple[tuple[Seen, ...], tuple[tuple[Seen, str], ...]]:
    seen, doing = [], []
    for stay in scene.stays:
        at = trace(stay, np.array([time]), scene.duration)
        if at.opacity[0] > 0.06:
            thing = Seen(
                stay.look, *(float(v[0]) for v in (at.x, at.y, at.diameter, at.stretch, at.opacity))
            )
            seen.append(thing)
            doing += [(thing, m.action) for m in stay.moments if m.start <= time < m.end]
    return tuple(seen), tuple(doing)


def _through_codec(pictures: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    file = io.BytesIO()
    encode(pictures, file)
    file.seek(0)
    with av.open(file, "r") as container:
        for frame in container.decode(video=0):
            yield resized(frame.to_ndarray(format="rgb24"), size)


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """`picture` at `size` x `size` px, as open_clip's own preprocessing resizes it."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def captions(stills: Sequence[Still], rng: np.random.Generator) -> list[str]:
    """One caption for each still."""
    return [still.caption(rng) for still in stills]


def phrases(
    stills: Sequence[Still], rng: np.random.Generator
) -> tuple[list[str], list[Description]]:
    """For each still with something in view a sentence about an object of it, and what it names.

    The sentence is of the kind the demo asks, with an action at random: a still does not show it.
    """
    sentences, named = [], []
    for still in (still for still in stills if still.seen):
        thing = still.seen[int(rng.integers(len(still.seen)))]
        actions = [action for action in ACTIONS if not unseen(thing.look, action)]
        named.append(name(thing, rng))
        sentences.append(query(named[-1], str(rng.choice(actions)), rng))
    return sentences, named
