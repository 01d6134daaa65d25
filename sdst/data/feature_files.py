"""Features as the field publishes them: a file per video and per query, read as they are.

`LAYOUTS` says how each project names its files and orders their axes. K layers, L clips, P tokens
per clip, N text tokens; features of a last layer alone have K = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from einops import EinopsError, rearrange

from sdst.data.arrays import fault_of, read_array
from sdst.data.store.reader import QueryFeatures, VideoFeatures
from sdst.errors import InputError, refuse_all

# Lengths that should agree may differ by a few clips, or by a share: QVHighlights annotates videos
# of 120 s and more as 150 s. Beyond both, the clip length must be another one.
SLACK_CLIPS = 3
SLACK_SHARE = 0.25
READERS = 8  # files at once: on a shared disk every file is waited for

Id = TypeVar("Id", str, int | str)


@dataclass(frozen=True)
class Layout:
    """How a project names its files and orders their axes.

    Args:
        video_files: names of a video's files in each folder, `{}` is the vid; several alternatives,
            several parts of one. All parts in all folders are concatenated.
        video_axes: of an array to [K, L, P, Dv], as `einops.rearrange` reads it.
        text_files: alternative names of a query's file, `{}` is the qid.
        text_axes: of an array to [K, N, Dt].
        video_keys, text_keys: the array's name in an `.npz`, the first that exists.
        sizes: what `rearrange` cannot know.
        flat: the axes behind the first may be one, as after padding, whose +inf rows are dropped.
        normalize: divide every vector by its length, source by source.
    """

    video_files: tuple[tuple[str, ...], ...]
    video_axes: str
    text_files: tuple[str, ...]
    text_axes: str
    video_keys: tuple[str, ...] = ()
    text_keys: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    flat: bool = False
    normalize: bool = False

    @property
    def layered(self) -> bool:
        """Whether the files hold K layers, not the last one alone."""
        return "k" in self.video_axes

    @property
    def tokens_per_clip(self) -> int:
        """P."""
        return self.sizes.get("p", 1)


# TVSum's text files call their array `token`.
_MOMENT_DETR_TEXT = {
    "text_files": ("qid{}.npz", "{}.npz"),
    "text_axes": "n d -> 1 n d",
    "text_keys": ("last_hidden_state", "token"),
}
LAYOUTS = {
    # This paper's release: InternVideo2-1B, five layers of both towers.
    "sdst": Layout(
        video_files=(("{}.npz",),),
        video_keys=("visual_feats_interm_pooled",),
        video_axes="l k d -> k l 1 d",
        text_files=("{}.npz",),
        text_keys=("text_feats",),
        text_axes="k n d -> k n d",
    ),
    # Moment-DETR and those after it; Lighthouse.
    "moment_detr": Layout(
        video_files=(("{}.npz",),),
        video_keys=("features",),
        video_axes="l d -> 1 l 1 d",
        normalize=True,
        **_MOMENT_DETR_TEXT,
    ),
    # UniVTG; VSGN has pictures and flow apart.
    "univtg": Layout(
        video_files=(("{}.npy",), ("{}_rgb.npy", "{}_opt.npy")),
        video_axes="l d -> 1 l 1 d",
        normalize=True,
        **_MOMENT_DETR_TEXT,
    ),
    # SnAG (libs/data/dataset.py:152-187, 241-257) and HieraMamba, which reads SnAG's files.
    "snag": Layout(
        video_files=(("{}.npy",),),
        video_axes="l d -> 1 l 1 d",
        text_files=("{}.npy",),
        text_axes="n d -> 1 n d",
    ),
    # UniversalVTG's loader takes either file of a video (libs/data/dataset.py), its extraction
    # writes .pt; the first vector of a text is the pooled one.
    "universalvtg": Layout(
        video_files=(("{}.npy",), ("{}.pt",)),
        video_axes="l d -> 1 l 1 d",
        text_files=("{}.npy",),
        text_axes="n d -> 1 n d",
    ),
    # R2-Tuning: CLIP ViT-B/32, CLS and 49 patches; its TACoS videos are named after their camera.
    "r2_tuning": Layout(
        video_files=(("{}.npy",), ("{}-cam-002.npy",)),
        video_axes="l (k p d) -> k l p d",
        text_files=("{}.npy",),
        text_axes="n (k e) -> k n e",
        sizes={"p": 50, "d": 768, "e": 512},
        flat=True,
    ),
}


class FeatureFiles:
    """A `FeatureSource` over folders of small files.

    Every access opens, unpacks and joins files; `python -m sdst.convert` does that once for all.

    Args:
        layout: a name in `LAYOUTS`.
        root: where the folders are.
        video_folders: one per kind of feature, joined in this order and cut to the shortest.
        text_folder: of the queries; None: no sentence is read.
        durations: seconds of every annotated video, by vid.
        qids: the annotated queries.
        clip_length: seconds per clip.
        endpoints: append every clip's start / L and end / L to its tokens, as Moment-DETR does
            ("temporal endpoint features").
        every: read the first of so many clips of a file, `clip_length` apart, alone.

    Raises:
        InputError: a folder is missing or holds none of the videos or queries. Accesses raise it
            for a file that is corrupt, holds something else, or fits neither the other folders nor
            the annotated duration; it names the file.
    """

    def __init__(
        self,
        layout: str,
        root: Path,
        video_folders: Sequence[str],
        text_folder: str | None,
        durations: Mapping[str, float],
        qids: Iterable[int | str],
        clip_length: float,
        endpoints: bool = False,
        every: int = 1,
    ) -> None:
        self.path = root
        self._layout = LAYOUTS[layout]
        self._durations, self._clip_length, self._endpoints = durations, clip_length, endpoints
        self._every = every
        folders = [root / folder for folder in video_folders]
        self._videos = _find(folders, self._layout.video_files, durations)
        self._queries: dict[int | str, Path] = {}
        if text_folder is not None:
            names = [(name,) for name in self._layout.text_files]
            queries = _find([root / text_folder], names, qids)
            self._queries = {qid: file for qid, (file,) in queries.items()}
        self.shapes: dict[str, int] = {}
        try:
            video = self.video(next(iter(self._videos))).tokens
            text = self.query(next(iter(self._queries))).tokens if self._queries else None
        except InputError:
            self.check()
            raise
        self.shapes = {
            "layers": video.shape[0],
            "tokens_per_frame": video.shape[2],
            "video_width": video.shape[3],
            "text_width": 0 if text is None else text.shape[2],
            "embed_width": 0,
        }
        if text is not None and len(text) != len(video):
            raise InputError(
                f"{root}: {len(video)} layers of videos in {', '.join(video_folders)}, {len(text)} "
                f"of queries in {text_folder}; expected as many"
            )

    def check(self) -> None:
        """Refuse files that are not what their names say, all at once, without reading them up.

        Raises:
            InputError: there are some.
        """
        files = self._files()
        with ThreadPoolExecutor(READERS) as pool:
            faults = [fault for fault in pool.map(fault_of, files) if fault]
        refuse_all(faults, f"of {len(files):,} feature files cannot be used")

    @property
    def video_ids(self) -> list[str]:
        """The annotated videos whose files are all there."""
        return list(self._videos)

    @property
    def query_ids(self) -> list[int | str]:
        """The annotated queries whose file exists."""
        return list(self._queries)

    @property
    def identity(self) -> list:
        """The shapes; names and sizes of all files."""
        sizes = sorted((path.name, path.stat().st_size) for path in self._files())
        return [self.shapes, sizes]

    def _files(self) -> list[Path]:
        return [*self._queries.values(), *chain.from_iterable(self._videos.values())]

    def video(self, vid: str) -> VideoFeatures:
        """A video's features, fp16 or fp32 as in the files."""
        layout = self._layout
        parts = [
            _read(file, layout.video_keys, layout.video_axes, layout)[:, :: self._every]
            for file in self._videos[vid]
        ]
        named = ", ".join(map(str, self._videos[vid]))
        lengths = [part.shape[1] for part in parts]
        clips = min(lengths)
        if not close_lengths(clips, max(lengths)):
            raise InputError(
                f"{named}: {' and '.join(map(str, lengths))} clips; expected the same clip length"
            )
        duration = self._durations[vid]
        if not close_lengths(clips, duration / self._clip_length):
            raise InputError(
                f"{named}: {clips} clips of {self._clip_length:g} s, but the video is annotated as "
                f"{duration:g} s; check data.clip_length"
            )
        if self._endpoints:
            parts.append(endpoint_features(parts[0].shape, clips))
        tokens = np.concatenate([part[:, :clips] for part in parts], axis=3)
        self._check(
            named,
            layers=tokens.shape[0],
            tokens_per_frame=tokens.shape[2],
            video_width=tokens.shape[3],
        )
        return VideoFeatures(tokens, None, duration)

    def query(self, qid: int | str) -> QueryFeatures:
        """A sentence's features, fp16 or fp32 as in the file."""
        layout, file = self._layout, self._queries[qid]
        tokens = _read(file, layout.text_keys, layout.text_axes, layout)
        self._check(str(file), text_width=tokens.shape[2])
        return QueryFeatures(tokens, None)

    def _check(self, named: str, **shapes: int) -> None:
        for name, value in shapes.items():
            if value != self.shapes.get(name, value):
                raise InputError(
                    f"{named}: {name} {value}, the first file has {self.shapes[name]}; "
                    "all must come from one backbone"
                )


def _find(
    folders: Sequence[Path], alternatives: Iterable[tuple[str, ...]], ids: Iterable[Id]
) -> dict[Id, list[Path]]:
    """The files of every id that has some in each folder: the first alternative that exists."""
    names = {folder: _names(folder) for folder in folders}
    alternatives = list(alternatives)
    found = {}
    for key in ids:
        files = []
        for folder in folders:
            for parts in alternatives:
                needed = [part.format(key) for part in parts]
                if names[folder].issuperset(needed):
                    files += [folder / name for name in needed]
                    break
            else:
                break
        else:
            found[key] = files
    if not found:
        patterns = " or ".join(" + ".join(parts).format("ID") for parts in alternatives)
        raise InputError(
            f"{', '.join(map(str, folders))}: no features of anything annotated; expected files "
            f"called {patterns} (data.features says which layout)"
        )
    return found


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; data.root, data.video_features and data.text_features say "
            "where the features are"
        )
    return {path.name for path in folder.iterdir()}


def _read(file: Path, keys: tuple[str, ...], axes: str, layout: Layout) -> np.ndarray:
    """The array of a file with its axes in our order; finite, at least one clip or token long."""
    values = read_array(file, keys)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{file}: holds {values.dtype}, expected floating point numbers")
    if layout.flat and values.ndim > 1:
        values = values.reshape(len(values), -1)
        values = values[~np.isposinf(values).all(axis=1)]
    try:
        values = rearrange(values, axes, **{k: n for k, n in layout.sizes.items() if k in axes})
    except EinopsError:
        raise InputError(
            f"{file}: shape {tuple(values.shape)}, expected ({axes.split(' -> ')[0]}) with "
            f"l clips, n tokens, k layers{''.join(f', {k} = {n}' for k, n in layout.sizes.items())}"
        ) from None
    if not values.size:
        raise InputError(f"{file}: is empty, shape {tuple(values.shape)}; make it again")
    if not np.isfinite(values).all():
        raise InputError(f"{file}: has NaN or infinite values; make it again")
    if values.dtype != np.float16:
        values = values.astype(np.float32, copy=False)
    return unit_vectors(values) if layout.normalize else values


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """x / (|x| + 1e-5), as Moment-DETR does it."""
    vectors = vectors.astype(np.float32, copy=False)
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-5)


def endpoint_features(shape: tuple[int, ...], clips: int) -> np.ndarray:
    """[K, clips, P, 2]: where each clip starts and ends, as shares of the video."""
    ends = np.arange(clips + 1, dtype=np.float32) / clips
    pairs = np.stack((ends[:-1], ends[1:]), axis=1)
    return np.broadcast_to(pairs[:, None], (shape[0], clips, shape[2], 2))


def close_lengths(a: float, b: float) -> bool:
    """Whether two lengths of one video, in clips, can be of the same clip length."""
    return abs(a - b) <= max(SLACK_CLIPS, SLACK_SHARE * max(a, b))


def fewest_clips(expected: float) -> int:
    """The least number of clips that is `close_lengths` to the expected one, and at least 1."""
    return max(1, math.ceil(min(expected - SLACK_CLIPS, (1 - SLACK_SHARE) * expected)))
