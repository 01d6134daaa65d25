"""Encode videos and sentences with a frozen backbone, once for all.

python -m sdst.extract --config NAME --data.root DIR [...]     what `sdst.train` then finds
python -m sdst.extract --videos PATH ... --output STORE [...]  a store of any videos
torchrun --nproc_per_node N -m sdst.extract --videos ...       the same, shared out over processes

A run that was stopped, were it killed, goes on where it was when it is started again. Started again
on a finished store, it adds the videos and queries that are new or changed, and leaves the others
and those who read them alone; a video has changed when its file has another size, beginning or end.
Damaged videos are used as far as they can be read, others left out and tried again the next time;
both are told at the end, and with --videos the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from sdst.ahead import Ahead, encoder_threads, map_ahead
from sdst.backbones import Backbone, load_backbone
from sdst.budget import BudgetError, MemoryBudget
from sdst.config import Config, load_config
from sdst.data.annotations import read_annotations
from sdst.data.feature_writer import FeatureWriter
from sdst.data.features import INDEX, FeatureStore
from sdst.data.origins import lacking, query_origins, video_origins
from sdst.data.video import ClipReader
from sdst.errors import InputError, run
from sdst.memory import parse_bytes

VIDEO_ENDINGS = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm", ".wmv"}
DECODERS = 2  # videos decoded at the same time, in the background
# On a CPU every core encodes a batch of its own: small enough to keep all busy on a short video,
# and of enough tokens for a tower's products to be at their best.
CPU_BATCH, CPU_BATCH_TOKENS = 16, 400
QUERIES_AT_ONCE = 256
STORED = ("float16", "int8")  # number types that features are stored in
# A film of hours is one video, so parts of it count.
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} videos [{elapsed}<{remaining}{postfix}]"

if TYPE_CHECKING:
    from sdst.shards import Share

# Of a video: its id, what reads it or why nothing does, and frames of some clips or their features.
Piece = tuple[str, ClipReader | InputError, np.ndarray | tuple[np.ndarray, np.ndarray] | None]


def extract_features(
    videos: Mapping[str, Path],
    queries: Mapping[int | str, str],
    backbone: Backbone,
    out: str | Path,
    clip_length: float,
    frames_per_clip: int = 1,
    progress: bool = True,
    resume: bool = False,
    report: Report | None = None,
    memory: int | None = None,
    dtype: str = "float16",
    may_be_empty: bool = False,
) -> FeatureStore:
    """Encode `videos` (by vid) and `queries` (by qid) into a store at `out`.

    Decoding, encoding and writing overlap; memory holds a few batches of frames and their features,
    however long a video is. The features of a clip are the mean over its frames, or over its groups
    of frames if the backbone takes several at once.

    Args:
        clip_length: seconds of video per clip.
        frames_per_clip: frames encoded per clip, evenly spaced.
        progress: show a bar with videos and frames per second.
        resume: go on where a run that did not get to its end, were it killed, has left off; and
            add to a finished store what it lacks of `videos` and `queries`, changed files and
            sentences included.
        report: is told what is wrong with the videos, and says whether those that cannot be read
            are left out; the default is not.
        memory: bytes that the process may take (`sdst.memory.own_memory`); smaller batches are
            slower, and may change the last bit of a feature. The text tower is let go where no
            sentence is encoded. None sets no bound.
        dtype: of the store, one of `STORED`.
        may_be_empty: make a store even where no video can be read.

    Raises:
        InputError: a video cannot be read and must not be left out, not one can be read, `out`
            exists already or with `resume` was made with other settings, the backbone takes
            another number of frames at once, or `memory` is too little; what is at `out` stays.
        NotWritable: another process is writing to `out`, or this one may not.
    """
    if frames_per_clip % backbone.frames_at_once:
        raise InputError(
            f"frames_per_clip is {frames_per_clip}, but backbone {backbone.name} takes "
            f"{backbone.frames_at_once} frames at once; expected a multiple of that"
        )
    writer = FeatureWriter(out, store_meta(backbone, clip_length, frames_per_clip), dtype, resume)
    files, texts = video_origins(videos), query_origins(queries)
    report = report or Report(strict=True)
    if writer.grows and not writer.lacks(files, texts):
        store = FeatureStore(out)
        report.add_faults(store, videos)
        return store

    def open_video(path: Path) -> ClipReader:
        reader = ClipReader(path, clip_length, frames_per_clip)
        if budget is not None:
            reader.most_frames = min(
                reader.most_frames, budget.frames(reader.info, frames_per_clip)
            )
        if backbone.device.type == "cpu":
            reader.batch_frames = min(CPU_BATCH, CPU_BATCH_TOKENS // backbone.tokens_per_frame)
        return reader

    def encode(piece: Piece) -> Piece:
        vid, reader, frames = piece
        if frames is None:
            return piece
        return vid, reader, _clip_features(backbone, frames, frames_per_clip)

    threads = torch.get_num_threads()
    ahead = threads + 1
    budget = memory and MemoryBudget(
        memory,
        backbone,
        text=bool(queries),
        decoders=DECODERS + 1,
        encoders=threads,
        batches=ahead + DECODERS + 2,
    )
    with (
        writer,
        encoder_threads(backbone.device) as encoders,
        ThreadPoolExecutor(DECODERS) as decoders,
        tqdm(total=len(videos), desc="encode", bar_format=BAR, disable=not progress) as bar,
    ):
        missing = lacking(texts, writer.query_origins)
        groups = _groups([queries[qid] for qid in missing])
        encoded = map_ahead(encoders, backbone.encode_text, groups, ahead)
        for qid, text in zip(missing, chain.from_iterable(encoded), strict=True):
            tokens, embedding = text.tokens.cpu().numpy(), text.embedding.cpu().numpy()
            writer.add_query(qid, tokens, embedding, texts[qid])
        rest = {vid: videos[vid] for vid in lacking(files, writer.video_origins)}
        finished = len(videos) - len(rest)
        bar.update(finished)
        decoded = _decode_ahead(decoders, rest, open_video)
        encoded = map_ahead(encoders, encode, decoded, ahead)
        clips = 0
        for done, (vid, pieces) in enumerate(groupby(encoded, key=itemgetter(0)), finished):
            for part, written in _write_video(writer, vid, files[vid], pieces, report):
                clips += written
                rate = clips * frames_per_clip / max(bar.format_dict["elapsed"], 1e-3)
                bar.set_postfix_str(f"{rate:.0f} frames/s", refresh=False)
                bar.update(done + part - bar.n)
            bar.update(done + 1 - bar.n)
        if videos and not writer.video_ids and not may_be_empty:
            raise InputError(f"none of {len(videos)} videos can be read: {report.skipped[0]}")
    store = FeatureStore(out)
    report.add_faults(store, videos)
    return store


def store_meta(backbone: Backbone, clip_length: float, frames_per_clip: int) -> dict:
    """The `meta` of a store: what decides its features, besides the videos and queries."""
    return {
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "clip_length": clip_length,
        "frames_per_clip": frames_per_clip,
    }


@dataclass
class Report:
    """What was wrong with the videos of a run.

    Attributes:
        strict: a video that cannot be read is an error; else it is left out.
        skipped: a line for each video that could not be read.
        faults: a line for each fault of videos that were used as far as they could be read.
    """

    strict: bool = False
    skipped: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add_faults(self, store: FeatureStore, videos: Iterable[str]) -> None:
        """Those that `store` knows of these videos, now or earlier encoded."""
        self.faults += [line for vid in videos for line in store.faults.get(vid, [])]


def _write_video(
    writer: FeatureWriter, vid: str, origin: int | None, pieces: Iterable[Piece], report: Report
) -> Iterator[tuple[float, int]]:
    """Write what comes of one video; yields the part of it that is done, and clips just written."""
    video, clips = None, 0
    for _, reader, features in pieces:
        if isinstance(reader, InputError):
            if report.strict:
                raise reader
            report.skipped.append(str(reader))
            if video is not None:
                video.abandon()
            return
        if video is None:
            video = writer.begin_video(vid, reader.wanted, origin)
        tokens, embedding = features
        video.write(tokens, embedding)
        clips += tokens.shape[1]
        yield clips / reader.wanted, tokens.shape[1]
    video.finish(reader.duration, reader.faults)


def _groups(texts: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(texts), QUERIES_AT_ONCE):
        yield texts[first : first + QUERIES_AT_ONCE]


def _clip_features(
    backbone: Backbone, frames: np.ndarray, frames_per_clip: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a clip's frames or groups: tokens `[K, L, P, Dv]`, unit embedding `[L, E]`, fp16."""
    features = backbone.encode_frames(frames)
    per_clip = frames_per_clip // backbone.frames_at_once
    tokens = features.tokens.unflatten(1, (-1, per_clip)).mean(dim=2)
    embedding = features.embedding.unflatten(0, (-1, per_clip)).mean(dim=1)
    embedding = F.normalize(embedding, dim=-1)
    return tokens.half().cpu().numpy(), embedding.half().cpu().numpy()


def _decode_ahead(
    pool: ThreadPoolExecutor, videos: Mapping[str, Path], open_video: Callable[[Path], ClipReader]
) -> Iterator[Piece]:
    """The batches of frames of all videos, or the error of one; videos are decoded ahead."""
    started: deque[Ahead[Piece]] = deque()
    for vid, path in videos.items():
        started.append(Ahead(pool, _read(vid, path, open_video), _room_for_more))
        if len(started) > DECODERS:
            yield from started.popleft()
    for pieces in started:
        yield from pieces


def _room_for_more(waiting: Sequence[Piece]) -> bool:
    """Whether memory may hold another batch of a video beside these, one at least."""
    _, reader, frames = waiting[-1]
    if frames is None:
        return False
    held = sum(len(frames) for _, _, frames in waiting)
    return held + len(frames) <= reader.most_frames


def _read(vid: str, path: Path, open_video: Callable[[Path], ClipReader]) -> Iterator[Piece]:
    """The pieces of one video. A generator, so that the decoding thread reads the header, too."""
    try:
        reader = open_video(path)
        for frames in reader:
            yield vid, reader, frames
    except BudgetError:
        raise
    except InputError as error:
        yield vid, error, None


def find_videos(paths: Sequence[Path]) -> dict[str, Path]:
    """Video files by their id, the file name without its ending.

    Args:
        paths: video files, folders with such anywhere in them, and lists (`.txt`) with a path on
            every line, beside the list where it is relative.
    """
    videos: dict[str, Path] = {}
    for path in paths:
        if path.suffix == ".txt" and path.is_file():
            lines = map(str.strip, path.read_text().splitlines())
            files = [path.parent / line for line in lines if line]
        elif path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in VIDEO_ENDINGS)
            if not files:
                raise InputError(f"--videos {path}: no video files in this folder")
        elif path.is_file():
            files = [path]
        else:
            raise InputError(f"--videos {path}: no such file or folder")
        for file in files:
            if file.stem in videos:
                raise InputError(
                    f"--videos: {videos[file.stem]} and {file} have the same id {file.stem}; "
                    "rename one"
                )
            videos[file.stem] = file
    return videos


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m sdst.extract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", help="packaged config or YAML file; its keys are options, as in sdst.train")
    add("--videos", type=Path, nargs="+", metavar="PATH", help="files, folders, or lists in .txt")
    add("--annotations", type=Path, nargs="*", default=[], help="JSON lines: queries to encode")
    add(
        "--backbone",
        default="demo",
        help="demo, open_clip MODEL:PRETRAINED, ...; options follow as ,dtype=bfloat16 (README)",
    )
    add("--layers", type=int, default=4, help="last blocks kept (default: %(default)s)")
    add("--clip-length", type=float, default=2.0, help="seconds (default: %(default)s)")
    add("--frames-per-clip", type=int, default=1, help="default: %(default)s")
    add("--dtype", choices=STORED, default="float16", help="of the store (default: %(default)s)")
    add("--memory-budget", metavar="SIZE", help="like 2GB: what the process may take (no bound)")
    add("--strict", action="store_true", help="stop at the first video that cannot be read")
    add("--output", type=Path, help="folder of the store; one that is there already grows")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.extract --help`."""
    from sdst.shards import Share  # it extracts by this module

    parser = make_parser()
    options, overrides = parser.parse_known_args(arguments)
    if (options.config is None) == (options.videos is None):
        raise InputError("give either --config or --videos; see python -m sdst.extract --help")
    given = [name for name, value in vars(options).items() if value != parser.get_default(name)]
    if options.config is not None and len(given) > 1:
        other = next(name for name in given if name != "config").replace("_", "-")
        raise InputError(f"--{other} goes with --videos; with --config use its --section.key")
    if options.config is not None:
        if Share.of_environment().world > 1:
            raise InputError("several processes share out --videos; with --config start one alone")
        _show(_extract_dataset(load_config(options.config, overrides)))
    elif overrides:
        raise InputError(f"unknown option {overrides[0]}; see python -m sdst.extract --help")
    elif options.output is None:
        raise InputError("--videos goes with --output, the folder of the store")
    else:
        return _extract_videos(options, Share.of_environment())
    return 0


def _show(store: FeatureStore) -> None:
    shapes = ", ".join(f"{name} {value}" for name, value in store.shapes.items())
    print(f"{store.path}: {len(store)} videos, {len(store.query_ids)} queries; {shapes}")


def _extract_dataset(config: Config) -> FeatureStore:
    from sdst.data.sources import open_data  # it extracts by this module

    if config.data.features != "encode":
        raise InputError(
            f"data.features is {config.data.features}: the features are there already; "
            "python -m sdst.convert packs them"
        )
    return open_data(config).source


def _extract_videos(options: argparse.Namespace, share: Share) -> int:
    """Exit code 1 where a video is left out or damaged, 0 where all are whole."""
    from sdst.shards import extract_share

    videos = find_videos(options.videos)
    queries = {a.qid: a.query for path in options.annotations for a in read_annotations(path)}
    if options.output.exists() and not (options.output / INDEX).is_file():
        raise InputError(
            f"--output {options.output}: exists and is no feature store; choose another folder"
        )
    memory = parse_bytes(options.memory_budget) if options.memory_budget else None
    backbone = load_backbone(options.backbone, options.layers, share.device)
    report = Report(options.strict)
    inputs = (videos, queries, backbone, options.output)
    settings = {
        "clip_length": options.clip_length,
        "frames_per_clip": options.frames_per_clip,
        "report": report,
        "memory": memory,
        "dtype": options.dtype,
    }
    if share.world == 1:
        store = extract_features(*inputs, resume=True, **settings)
    else:
        store = extract_share(share, *inputs, **settings)
    if store is None:  # the first process tells
        return 0
    _show(store)
    for line in report.faults:
        print(f"damaged: {line}", file=sys.stderr)
    for line in report.skipped:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if report.faults or report.skipped else 0


if __name__ == "__main__":
    run(main)
