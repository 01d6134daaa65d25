"""Encoding videos and sentences into a feature store: decoded, encoded and written at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from sdst.backbones import Backbone
from sdst.data.store.origins import lacking, query_origins, video_origins
from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter
from sdst.data.video import ClipReader
from sdst.errors import InputError
from sdst.extraction.ahead import Ahead, encoder_threads, map_ahead
from sdst.extraction.budget import BudgetError, MemoryBudget
from sdst.extraction.settings import Settings
from sdst.terminal.verbosity import progress_bar

DECODERS = 2  # videos decoded at the same time, in the background
# On a CPU every core encodes a batch of its own: small enough to keep all busy on a short video,
# and of enough tokens for a tower's products to be at their best.
CPU_BATCH, CPU_BATCH_TOKENS = 16, 400
QUERIES_AT_ONCE = 256
# A film of hours is one video, so parts of it count.
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} videos [{elapsed}<{remaining}{postfix}]"

Progress = Callable[[float], None]  # is given the share that is done


class Frames(NamedTuple):
    """Frames of some clips of a video, and what reads them."""

    vid: str
    reader: ClipReader
    frames: np.ndarray


class Read(Protocol):
    """A `ClipReader`'s report on a video: clips it should have; seconds and faults at the end."""

    expected: int
    faults: list[str]

    @property
    def duration(self) -> float: ...


class Features(NamedTuple):
    """Features of some clips of a video: tokens `[K, L, P, Dv]`, unit embedding `[L, E]`, fp16."""

    vid: str
    reader: Read
    tokens: np.ndarray
    embedding: np.ndarray


class Unreadable(NamedTuple):
    """A video that cannot be read, from here on, and why."""

    vid: str
    error: InputError


class Engine(Protocol):
    """Encodes videos elsewhere: `sdst.extraction.ray_data`."""

    def origins(self, videos: Mapping[str, Any]) -> dict[str, int | None]:
        """The origins of videos (`sdst.data.store.origins`)."""
        ...

    def pieces(self, videos: Mapping[str, Any]) -> Iterator[Features | Unreadable]:
        """Their features, in order."""
        ...


def extract_features(
    videos: Mapping[str, str | Path],
    queries: Mapping[int | str, str],
    backbone: Backbone,
    out: str | Path,
    settings: Settings,
    *,
    progress: bool | Progress = True,
    resume: bool = False,
    report: Report | None = None,
    may_be_empty: bool = False,
    engine: Engine | None = None,
) -> FeatureStore:
    """Encode `videos` (by vid) and `queries` (by qid) into a store at `out`.

    Decoding, encoding and writing overlap; memory holds a few batches of frames and their features,
    however long a video is. The features of a clip are the mean over its frames, or over its groups
    of frames if the backbone takes several at once.

    Args:
        progress: show a bar with videos and frames per second; or a function that is given the
            share of the videos that is done, in [0, 1], after every batch. What it raises ends the
            run.
        resume: continue a run that was stopped or killed; and add to a finished store what it
            lacks of `videos` and `queries`, changed files and sentences included.
        report: receives what is wrong with the videos, and says whether those that cannot be read
            are left out; the default is not.
        may_be_empty: make a store even where no video can be read.
        engine: encodes the videos in place of this process.

    Raises:
        InputError: a video cannot be read and must not be left out, not one can be read, `out`
            exists already or with `resume` was made with other settings, the backbone takes
            another number of frames at once, or the memory is too little; what is at `out` stays.
        NotWritable: this process may not write to `out`.
        StoreInUse: another process is writing to `out`.
    """
    if settings.frames_per_clip % backbone.frames_at_once:
        raise InputError(
            f"frames_per_clip is {settings.frames_per_clip}, but backbone {backbone.name} takes "
            f"{backbone.frames_at_once} frames at once; expected a multiple of that"
        )
    writer = FeatureWriter(out, settings.meta(backbone), settings.store_dtype, resume)
    files = video_origins(videos) if engine is None else engine.origins(videos)
    texts = query_origins(queries)
    report = report or Report(strict=True)
    if not writer.grows or writer.lacks(files, texts) or writer.is_interrupted:
        threads = torch.get_num_threads()
        ahead = threads + 1
        budget = None
        if settings.memory is not None:
            budget = MemoryBudget(
                settings.memory,
                backbone,
                text=bool(queries),
                decoders=DECODERS + 1,
                encoders=threads,
                batches=ahead + DECODERS + 2,
            )
        clips = _Clips(backbone, settings, budget)
        # Those of a run that was not killed: a sentence's features depend on its batch.
        batches = _groups(lacking(texts, writer.query_origins))
        with (
            writer,
            encoder_threads(backbone.device) as encoders,
            ThreadPoolExecutor(DECODERS) as decoders,
            _Progress(len(videos), settings.frames_per_clip, progress) as bar,
        ):
            encode = partial(map_ahead, encoders, ahead=ahead)
            new = set(lacking(texts, writer.query_origins))
            batches = [batch for batch in batches if not new.isdisjoint(batch)]
            encoded = encode(backbone.encode_text, ([queries[q] for q in b] for b in batches))
            for qid, text in zip(
                chain.from_iterable(batches), chain.from_iterable(encoded), strict=True
            ):
                if qid in new:
                    tokens, embedding = text.tokens.cpu().numpy(), text.embedding.cpu().numpy()
                    writer.add_query(qid, tokens, embedding, texts[qid])
            rest = {vid: videos[vid] for vid in lacking(files, writer.video_origins)}
            bar.begin(len(videos) - len(rest))
            if engine is None:
                pieces = encode(clips.encode, _decode_ahead(decoders, rest, clips.open))
            else:
                pieces = engine.pieces(rest)
            for vid, of_video in groupby(pieces, key=attrgetter("vid")):
                for part, written in _write_video(writer, vid, files[vid], of_video, report):
                    bar.advance(part, written)
                bar.finish_video()
            if videos and not writer.video_ids and not may_be_empty:
                raise InputError(f"none of {len(videos)} videos can be read: {report.skipped[0]}")
    store = FeatureStore(out)
    report.add_faults(store, videos)
    return store


def encoded_pieces(
    vid: str, path: Path, backbone: Backbone, settings: Settings
) -> Iterator[Features | Unreadable]:
    """The features of one video, some clips at a time, as `extract_features` makes them."""
    clips, ahead = _Clips(backbone, settings, budget=None), torch.get_num_threads() + 1
    with ThreadPoolExecutor(1) as decoder, encoder_threads(backbone.device) as encoders:
        frames = _decode_ahead(decoder, {vid: path}, clips.open)
        yield from map_ahead(encoders, clips.encode, frames, ahead)


@dataclass
class Report:
    """Faults of the videos of a run.

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


class _Progress:
    """A bar of videos, parts of one counted, and frames per second; a context manager."""

    def __init__(self, videos: int, frames_per_clip: int, progress: bool | Progress) -> None:
        shown = progress is True
        self._bar = progress_bar(total=videos, desc="encode", bar_format=BAR, disable=not shown)
        self._videos, self._report_share = videos, progress if callable(progress) else None
        self._frames_per_clip = frames_per_clip
        self._done = self._clips = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begin(self, done: int) -> None:
        """So many videos exist from an earlier run."""
        self._done = done
        self._bar.update(done)

    def advance(self, part: float, clips: int) -> None:
        """This part of a video is done; of it `clips` just now."""
        self._clips += clips
        rate = self._clips * self._frames_per_clip / max(self._bar.format_dict["elapsed"], 1e-3)
        self._bar.set_postfix_str(f"{rate:.0f} frames/s", refresh=False)
        self._bar.update(self._done + part - self._bar.n)
        if self._report_share is not None:
            self._report_share((self._done + part) / self._videos)

    def finish_video(self) -> None:
        """A video is done, or left out."""
        self._done += 1
        self._bar.update(self._done - self._bar.n)


@dataclass(frozen=True)
class _Clips:
    """How videos become clips, and clips features.

    Args:
        budget: bounds the frames that are decoded at once.
    """

    backbone: Backbone
    settings: Settings
    budget: MemoryBudget | None

    def open(self, path: str | Path) -> ClipReader:
        """The reader of a video's clips."""
        settings = self.settings
        reader = ClipReader(path, settings.clip_length, settings.frames_per_clip, settings.reader)
        if self.budget is not None:
            most = self.budget.frames(reader.info, self.settings.frames_per_clip)
            reader.most_frames = min(reader.most_frames, most)
        if self.backbone.device.type == "cpu":
            tokens = self.backbone.tokens_per_frame
            reader.batch_frames = min(CPU_BATCH, CPU_BATCH_TOKENS // tokens)
        return reader

    def encode(self, piece: Frames | Unreadable) -> Features | Unreadable:
        """The features of decoded frames; a clip's are the mean over its frames, or groups."""
        if isinstance(piece, Unreadable):
            return piece
        features = self.backbone.encode_frames(piece.frames)
        per_clip = self.settings.frames_per_clip // self.backbone.frames_at_once
        tokens = features.tokens.unflatten(1, (-1, per_clip)).mean(dim=2)
        embedding = features.embedding.unflatten(0, (-1, per_clip)).mean(dim=1)
        embedding = F.normalize(embedding, dim=-1)
        return Features(
            piece.vid, piece.reader, tokens.half().cpu().numpy(), embedding.half().cpu().numpy()
        )


def _write_video(
    writer: FeatureWriter,
    vid: str,
    origin: int | None,
    pieces: Iterable[Features | Unreadable],
    report: Report,
) -> Iterator[tuple[float, int]]:
    """Write what comes of one video; yields the part of it that is done, and clips just written."""
    video, reader, clips = None, None, 0
    for piece in pieces:
        if isinstance(piece, Unreadable):
            if report.strict:
                raise piece.error
            report.skipped.append(str(piece.error))
            if video is not None:
                video.abandon()
            return
        reader, written = piece.reader, piece.tokens.shape[1]
        if video is None:
            video = writer.begin_video(vid, reader.expected, origin)
        video.write(piece.tokens, piece.embedding)
        clips += written
        yield min(1.0, clips / reader.expected), written
    assert video is not None and reader is not None  # every video has a piece
    video.finish(reader.duration, reader.faults)


def _groups(qids: list[int | str]) -> list[list[int | str]]:
    return [qids[i : i + QUERIES_AT_ONCE] for i in range(0, len(qids), QUERIES_AT_ONCE)]


def _decode_ahead(
    pool: ThreadPoolExecutor,
    videos: Mapping[str, str | Path],
    open_video: Callable[[str | Path], ClipReader],
) -> Iterator[Frames | Unreadable]:
    """The batches of frames of all videos, or the error of one; videos are decoded ahead."""
    started: deque[Ahead[Frames | Unreadable]] = deque()
    for vid, path in videos.items():
        started.append(Ahead(pool, _read(vid, path, open_video), _room_for_more))
        if len(started) > DECODERS:
            yield from started.popleft()
    for pieces in started:
        yield from pieces


def _room_for_more(waiting: Sequence[Frames | Unreadable]) -> bool:
    """Whether memory may hold another batch of a video beside these, one at least."""
    last = waiting[-1]
    if isinstance(last, Unreadable):
        return False
    held = sum(len(piece.frames) for piece in waiting if isinstance(piece, Frames))
    return held + len(last.frames) <= last.reader.most_frames


def _read(
    vid: str, path: str | Path, open_video: Callable[[str | Path], ClipReader]
) -> Iterator[Frames | Unreadable]:
    """The pieces of one video. A generator, so that the decoding thread reads the header, too."""
    try:
        reader = open_video(path)
        for frames in reader:
            yield Frames(vid, reader, frames)
    except BudgetError:
        raise
    except InputError as error:
        yield Unreadable(vid, error)
