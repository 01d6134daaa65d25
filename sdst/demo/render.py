"""Pixels of a demo scene, and the H.264 file they go into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from PIL import Image, ImageDraw

from sdst.demo.scenes import Scene, Trace, trace

FRAME_SIZE = 112
FPS = 4

_RGB = {
    "red": (214, 40, 40),
    "yellow": (250, 214, 38),
    "green": (46, 168, 74),
    "blue": (44, 98, 226),
    "white": (246, 246, 246),
}
_MASTER = 96  # px of the picture that an object is scaled down from; the object fills half of it
_MARGIN = 24  # px that a backdrop is larger than the frame, for its drift


def write_video(scene: Scene, target: Path | BinaryIO) -> None:
    """Render `scene` into an mp4 file."""
    encode(frames(scene), target)


def encode(pictures: Iterable[np.ndarray], target: Path | BinaryIO) -> None:
    """Encode uint8 frames [FRAME_SIZE, FRAME_SIZE, 3] as H.264 in an mp4 container.

    One thread, so that the same frames give the same bytes.
    """
    options = {"preset": "ultrafast", "crf": "24", "threads": "1", "g": str(2 * FPS)}
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = FRAME_SIZE
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def frames(scene: Scene, times: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Frames uint8 [FRAME_SIZE, FRAME_SIZE, 3] at `times` (seconds; default: all, in order)."""
    if times is None:
        times = np.arange(scene.duration * FPS) / FPS
    traces = [trace(stay, times, scene.duration) for stay in scene.stays]
    backdrop = Backdrop(scene.seed)
    for i, time in enumerate(times):
        frame = backdrop.at(float(time))
        for stay, seen in zip(scene.stays, traces, strict=True):
            if seen.opacity[i] > 0:
                _draw(frame, stay.look.shape, stay.look.colour, seen, i)
        yield frame


class Backdrop:
    """A cluttered, muted background: two textures that drift and fade into each other slowly."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        tone = rng.uniform(45, 140) + rng.normal(0, 8, 3)
        self._first, self._second = (_texture(rng, tone) for _ in range(2))
        self._phases = rng.uniform(0, 2 * np.pi, 5)
        self._periods = rng.uniform(25, 60, 5)

    def at(self, time: float) -> np.ndarray:
        """The background at `time` (seconds), uint8 [FRAME_SIZE, FRAME_SIZE, 3]."""
        waves = np.sin(2 * np.pi * time / self._periods + self._phases)
        x, y, dx, dy = (_MARGIN / 2 * (1 + waves[:4])).round().astype(int)
        blend = int(128 + 110 * waves[4])
        first = self._first[y : y + FRAME_SIZE, x : x + FRAME_SIZE] * np.uint16(256 - blend)
        first += self._second[dy : dy + FRAME_SIZE, dx : dx + FRAME_SIZE] * np.uint16(blend)
        return (first >> 8).astype(np.uint8)


def _texture(rng: np.random.Generator, tone: np.ndarray) -> np.ndarray:
    """Smooth patches of colour under faint boxes, discs and lines; uint16."""
    side = FRAME_SIZE + _MARGIN
    grid = tone + rng.normal(0, 16, (5, 5, 1)) + rng.normal(0, 8, (5, 5, 3))
    image = Image.fromarray(np.clip(grid, 12, 190).astype(np.uint8)).resize(
        (2 * side, 2 * side), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(10, 18))):
        shade = np.clip(tone + rng.normal(0, 40) + rng.normal(0, 8, 3), 10, 200).astype(int)
        colour = (*(int(v) for v in shade), int(rng.integers(50, 120)))
        x, y = rng.uniform(-20, 2 * side, 2)
        w, h = rng.uniform(12, 90, 2)
        kind = rng.integers(3)
        if kind == 0:
            draw.rectangle((x, y, x + w, y + h), fill=colour)
        elif kind == 1:
            draw.ellipse((x, y, x + w, y + w), fill=colour)
        else:
            end = (x + 3 * w - 90, y + 3 * h - 90)
            draw.line((x, y, *end), fill=colour, width=int(rng.integers(2, 8)))
    small = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small).astype(np.uint16)


def _draw(frame: np.ndarray, shape: str, colour: str, seen: Trace, i: int) -> None:
    """Blend one object into `frame` in place."""
    height = seen.diameter[i] * FRAME_SIZE
    width = height * seen.stretch[i]
    left, top = seen.x[i] * FRAME_SIZE - width / 2, seen.y[i] * FRAME_SIZE - height / 2
    x0, y0 = max(int(left) - 1, 0), max(int(top) - 1, 0)
    x1 = min(int(left + width) + 2, FRAME_SIZE)
    y1 = min(int(top + height) + 2, FRAME_SIZE)
    # Where these pixels are in the master picture, whose object spans [quarter, 3 * quarter].
    quarter, sx, sy = _MASTER / 4, _MASTER / 2 / width, _MASTER / 2 / height
    box = (
        _inside(quarter + (x0 - left) * sx),
        _inside(quarter + (y0 - top) * sy),
        _inside(quarter + (x1 - left) * sx),
        _inside(quarter + (y1 - top) * sy),
    )
    size = (x1 - x0, y1 - y0)
    kept, pixels = _sprite(shape, colour, size, box)
    opacity = np.float32(seen.opacity[i])
    patch = frame[y0:y1, x0:x1]
    patch[:] = patch * (1 - opacity * kept) + opacity * pixels + np.float32(0.5)


def _inside(edge: float) -> float:
    """A coordinate kept within the master picture."""
    return min(max(edge, 0), _MASTER)


@lru_cache(maxsize=16)
def _sprite(
    shape: str, colour: str, size: tuple[int, int], box: tuple[float, float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The part `box` of an object's master at `size`: alpha [h, w, 1], premultiplied colour."""
    sprite = _master(shape, colour).resize(size, Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(sprite).astype(np.float32)
    return pixels[..., 3:] / 255, pixels[..., :3]


@cache
def _master(shape: str, colour: str) -> Image.Image:
    """An object at full size: coloured, lit from above, thin dark rim; alpha is premultiplied."""
    side = 4 * _MASTER
    outer = _mask(shape, side, 1.0)
    inner = np.asarray(_mask(shape, side, 0.86), dtype=np.float32)[..., None] / 255
    light = np.linspace(1.12, 0.84, side, dtype=np.float32)[:, None, None]
    rgb = np.array(_RGB[colour], dtype=np.float32)
    body = np.clip(rgb * light, 0, 255)
    pixels = inner * body + (1 - inner) * rgb * 0.38
    alpha = np.asarray(outer, dtype=np.float32)[..., None]
    premultiplied = np.concatenate([pixels * alpha / 255, alpha], axis=2)
    image = Image.fromarray(premultiplied.round().astype(np.uint8), "RGBA")
    image = Image.frombuffer("RGBa", image.size, image.tobytes(), "raw", "RGBa", 0, 1)
    return image.resize((_MASTER, _MASTER), Image.Resampling.BOX)


def _mask(shape: str, side: int, inset: float) -> Image.Image:
    """The silhouette of `shape` in the middle half of a square picture, shrunk by `inset`."""
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    centre, radius = side / 2, side / 4 * inset

    def disc(r: float, fill: int) -> None:
        draw.ellipse((centre - r, centre - r, centre + r, centre + r), fill=fill)

    match shape:
        case "ball":
            disc(radius, 255)
        case "ring":
            disc(radius, 255)
            disc(side / 4 * (0.5 + (1 - inset)), 0)
        case "square":
            s = 0.86 * radius
            draw.rectangle((centre - s, centre - s, centre + s, centre + s), fill=255)
        case "star":
            angles = np.pi * (np.arange(10) / 5 - 0.5)
            reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
            outline = np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None]
            draw.polygon([tuple(point) for point in centre + radius * outline], fill=255)
        case _:
            raise ValueError(f"no such shape: {shape}")
    return mask
