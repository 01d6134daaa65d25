"""Extraction shared out over processes, of one machine or several with a shared folder.

Every process encodes its part of the videos into a store of its own beside the output, a shard,
and goes on in it after a kill. The first process waits for the others' and joins all into the very
store, byte for byte, that one process alone would have written.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from sdst.backbones import Backbone
from sdst.data.feature_writer import FeatureWriter
from sdst.data.features import FeatureStore
from sdst.data.jsonl import replace_text
from sdst.errors import InputError
from sdst.extract import Report, extract_features

CLIPS_AT_ONCE = 256  # are copied
POLL_SECONDS = 0.5
SILENCE_SECONDS = 600  # of a shard, after which the one who waits says so


@dataclass(frozen=True)
class Share:
    """Which of several processes this is, `rank` of `world`."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> Share:
        """As `torchrun` says by RANK, WORLD_SIZE and LOCAL_RANK; the only one without them."""
        names = {"rank": "RANK", "world": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
        defaults = asdict(cls())
        try:
            share = cls(**{key: int(os.environ.get(n, defaults[key])) for key, n in names.items()})
        except ValueError:
            raise InputError("RANK, WORLD_SIZE and LOCAL_RANK: expected whole numbers") from None
        if not 0 <= share.rank < share.world:
            raise InputError(f"RANK {share.rank}: expected 0 to WORLD_SIZE - 1, {share.world - 1}")
        return share

    @property
    def device(self) -> str | None:
        """The GPU of this process, where there are several processes and GPUs."""
        if self.world == 1 or not torch.cuda.is_available():
            return None
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"


def extract_share(
    share: Share,
    videos: Mapping[str, Path],
    queries: Mapping[int | str, str],
    backbone: Backbone,
    out: Path,
    clip_length: float,
    frames_per_clip: int,
    report: Report,
    memory: int | None = None,
    dtype: str = "float16",
) -> FeatureStore | None:
    """This process's share of `extract_features`; the first process joins all shares.

    Args:
        share: which process this is; the other arguments are the same in all.
        report: is told what is wrong with the videos: with all of them in the first process.

    Returns:
        The whole store in the first process, None in the others.

    Raises:
        InputError: as `extract_features`; also an extraction that another number of processes has
            begun, or shards that do not come from the same backbone.
    """
    folder = _folder(out, share.world)
    settings = {
        "backbone": backbone.name,
        "clip_length": clip_length,
        "frames_per_clip": frames_per_clip,
        "dtype": dtype,
    }
    tasks = [{"videos": part, "queries": [], **settings} for part in _parts(videos, share.world)]
    tasks[0]["queries"] = [list(query) for query in queries.items()]
    mine, told = tasks[share.rank], folder / f"{share.rank}.json"
    if not _is_done(told, mine):
        # Done, but for another task, or before it could tell: a complete store does not grow.
        told.unlink(missing_ok=True)
        shutil.rmtree(folder / str(share.rank), ignore_errors=True)
        extract_features(
            {vid: videos[vid] for vid in mine["videos"]},
            dict(mine["queries"]),
            backbone,
            folder / str(share.rank),
            clip_length,
            frames_per_clip,
            progress=share.rank == 0,
            resume=True,
            report=report,
            memory=memory,
            dtype=dtype,
            may_be_empty=True,
        )
        replace_text(told, json.dumps({"task": mine, **asdict(report)}))
    if share.rank > 0:
        return None
    _wait_for_all(folder, tasks)
    store = _join(videos, queries, folder, share.world, out, report)
    shutil.rmtree(folder)
    return store


def _folder(out: Path, world: int) -> Path:
    """Where the shards lie, beside the output."""
    folder = out.with_name(f".{out.name}.shards-of-{world}")
    for other in out.parent.glob(f".{out.name}.shards-of-*"):
        if other != folder:
            raise InputError(
                f"{other}: shards of another number of processes; go on with "
                f"{other.name.rpartition('-')[2]}, or remove the folder"
            )
    return folder


def _parts(videos: Mapping[str, Path], world: int) -> list[list[str]]:
    """The videos of every process, with about as many bytes of file each."""
    sizes = {vid: path.stat().st_size if path.is_file() else 0 for vid, path in videos.items()}
    loads, owners = [0] * world, {}
    for vid in sorted(videos, key=lambda vid: -sizes[vid]):
        owners[vid] = loads.index(min(loads))
        loads[owners[vid]] += sizes[vid] + 1  # files of no size are shared out, too
    return [[vid for vid in videos if owners[vid] == rank] for rank in range(world)]


def _is_done(told: Path, task: dict) -> bool:
    """Whether a process has told that its shard holds this task, less the unreadable videos."""
    return told.exists() and json.loads(told.read_text())["task"] == task


def _wait_for_all(folder: Path, tasks: list[dict]) -> None:
    """Until every process has told its report; says so where one is silent for long."""
    with tqdm(total=len(tasks), desc="wait for other processes", unit="shard") as bar:
        said = time.time()
        while missing := [
            rank for rank, task in enumerate(tasks) if not _is_done(folder / f"{rank}.json", task)
        ]:
            bar.update(len(tasks) - len(missing) - bar.n)
            last = max((f.stat().st_mtime for f in folder.rglob("*")), default=0.0)
            if time.time() - max(last, said) > SILENCE_SECONDS:
                said = time.time()
                bar.write(
                    f"{folder}: processes {', '.join(map(str, missing))} have written nothing for "
                    f"{SILENCE_SECONDS // 60} minutes; if one has died, start all of them again, "
                    "and they go on where they were"
                )
            time.sleep(POLL_SECONDS)
        bar.update(len(tasks) - bar.n)


def _join(
    videos: Mapping[str, Path],
    queries: Mapping[int | str, str],
    folder: Path,
    world: int,
    out: Path,
    report: Report,
) -> FeatureStore:
    """One store of all shards, in the order that one process would have written it."""
    shards = [FeatureStore(folder / str(rank)) for rank in range(world)]
    for shard in shards:
        if shard.meta != shards[0].meta:
            raise InputError(
                f"{shard.path}: its features are not those of process 0 ({shard.meta}, expected "
                f"{shards[0].meta}); backbones with random weights cannot be shared out"
            )
    told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
    report.skipped[:] = [line for each in told for line in each["skipped"]]
    report.faults[:] = [line for each in told for line in each["faults"]]
    if videos and not any(map(len, shards)):
        raise InputError(f"none of {len(videos)} videos can be read: {report.skipped[0]}")
    owner = {vid: shard for shard in shards for vid in shard.video_ids}
    whole = folder / "whole"  # what a kill leaves of it goes with the shards
    shutil.rmtree(whole, ignore_errors=True)
    with FeatureWriter(whole, shards[0].meta, shards[0].dtype) as writer:
        for qid in queries:
            query = shards[0].query(qid)
            writer.add_query(qid, query.tokens, query.embedding)
        for vid in tqdm([vid for vid in videos if vid in owner], "join", unit="video"):
            video = owner[vid].video(vid)
            clips = video.tokens.shape[1]
            entry = writer.begin_video(vid, clips)
            for first in range(0, clips, CLIPS_AT_ONCE):
                some = slice(first, first + CLIPS_AT_ONCE)
                embedding = None if video.embedding is None else video.embedding[some]
                scales = None if video.scales is None else video.scales[:, some]
                entry.write(video.tokens[:, some], embedding, scales)
            entry.finish(video.duration)
    whole.rename(out)
    return FeatureStore(out)
