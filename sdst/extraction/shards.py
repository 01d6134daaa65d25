"""Extraction shared out over processes, of one machine or several with a shared folder.

Every process encodes its part of the videos into a store of its own beside the output, a shard,
and resumes it after a kill. The first process waits for the others and joins all shards into the
store, byte for byte, that one process alone would have written. Where that store exists already,
what it lacks is shared out and joined.
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

from sdst.backbones import Backbone
from sdst.data.store.origins import lacking, query_origins, video_origins
from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter
from sdst.errors import InputError
from sdst.extraction.pipeline import Report, extract_features
from sdst.extraction.settings import Settings
from sdst.files.publish import replace_text
from sdst.files.text import read_json
from sdst.terminal.verbosity import progress_bar

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
        defaults = {key: str(value) for key, value in asdict(cls()).items()}
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
    settings: Settings,
    report: Report,
) -> FeatureStore | None:
    """This process's share of `extract_features`; the first process joins all shares.

    Args:
        share: which process this is; the other arguments are the same in all.
        report: receives what is wrong with the videos: with all of them in the first process.

    Returns:
        The whole store in the first process, None in the others.

    Raises:
        InputError: as `extract_features` with `resume`; also an extraction that another number of
            processes has begun, or shards that do not come from the same backbone.
    """
    writer = FeatureWriter(out, settings.meta(backbone), settings.store_dtype, resume=True)
    files, texts = video_origins(videos), query_origins(queries)
    folder = _folder(out, share.world)
    if writer.grows and not writer.lacks(files, texts):
        return _finished(out, folder, videos, report) if share.rank == 0 else None
    asked = {
        "backbone": backbone.name,
        "clip_length": settings.clip_length,
        "frames_per_clip": settings.frames_per_clip,
        "dtype": settings.store_dtype,
    }
    new = {vid: videos[vid] for vid in lacking(files, writer.video_origins)}
    tasks = [{"videos": part, "queries": [], **asked} for part in _parts(new, share.world)]
    new_queries = lacking(texts, writer.query_origins)
    tasks[0]["queries"] = [[qid, queries[qid]] for qid in new_queries]
    mine, record = tasks[share.rank], folder / f"{share.rank}.json"
    if not _is_done(record, mine):
        record.unlink(missing_ok=True)
        extract_features(
            {vid: videos[vid] for vid in mine["videos"]},
            dict(mine["queries"]),
            backbone,
            folder / str(share.rank),
            settings,
            progress=share.rank == 0,
            resume=True,
            report=report,
            may_be_empty=True,
        )
        replace_text(record, json.dumps({"task": mine, **asdict(report)}))
    if share.rank > 0:
        return None
    _wait_for_all(folder, tasks)
    _join(writer, tasks, folder, videos, report)
    return _finished(out, folder, videos, report)


def _finished(out: Path, folder: Path, videos: Mapping[str, Path], report: Report) -> FeatureStore:
    """The store, of which the shards hold no more news."""
    shutil.rmtree(folder, ignore_errors=True)
    store = FeatureStore(out)
    report.faults.clear()
    report.add_faults(store, videos)
    return store


def _folder(out: Path, world: int) -> Path:
    """Where the shards lie, beside the output."""
    folder = out.with_name(f".{out.name}.shards-of-{world}")
    for other in out.parent.glob(f".{out.name}.shards-of-*"):
        if other != folder:
            raise InputError(
                f"{other}: shards of another number of processes; continue with "
                f"{other.name.rpartition('-')[2]}, or remove the folder"
            )
    return folder


def _parts(videos: Mapping[str, Path], world: int) -> list[list[str]]:
    """The videos of every process, with about as many bytes of file each."""
    sizes = {vid: path.stat().st_size if path.is_file() else 0 for vid, path in videos.items()}
    loads, owners = [0] * world, {}
    for vid in sorted(sizes, key=lambda vid: -sizes[vid]):
        owners[vid] = loads.index(min(loads))
        loads[owners[vid]] += sizes[vid] + 1  # files of no size are shared out, too
    return [[vid for vid in sizes if owners[vid] == rank] for rank in range(world)]


def _is_done(record: Path, task: dict) -> bool:
    """Whether a process has recorded that its shard holds this task, less the unreadable videos."""
    return record.exists() and _read_record(record)["task"] == task


def _read_record(file: Path) -> dict:
    """The report of a process.

    Raises:
        InputError: it is damaged.
    """
    found = read_json(file)
    if not (isinstance(found, dict) and "task" in found and isinstance(found.get("skipped"), list)):
        raise InputError(f"{file}: damaged; remove {file.parent}, and extract again")
    return found


def _wait_for_all(folder: Path, tasks: list[dict]) -> None:
    """Wait for the reports of all processes; say so where one is silent for long."""
    with progress_bar(total=len(tasks), desc="wait for other processes", unit="shard") as bar:
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
                    "and they resume"
                )
            time.sleep(POLL_SECONDS)
        bar.update(len(tasks) - bar.n)


def _join(
    writer: FeatureWriter,
    tasks: list[dict],
    folder: Path,
    videos: Mapping[str, Path],
    report: Report,
) -> None:
    """All shards into the store, in the order that one process would have written."""
    shards = [FeatureStore(folder / str(rank)) for rank in range(len(tasks))]
    for shard in shards:
        if shard.meta != shards[0].meta:
            raise InputError(
                f"{shard.path}: its features are not those of process 0 ({shard.meta}, expected "
                f"{shards[0].meta}); backbones with random weights cannot be shared out"
            )
    records = [_read_record(folder / f"{rank}.json") for rank in range(len(tasks))]
    report.skipped[:] = [line for each in records for line in each["skipped"]]
    owners = {  # by the tasks: a shard may hold more, of a task that it had before
        vid: shard
        for shard, task in zip(shards, tasks, strict=True)
        for vid in task["videos"]
        if vid in shard
    }
    files = {vid: owners[vid].video_origins[vid] for vid in videos if vid in owners}
    texts = {qid: shards[0].query_origins[qid] for qid, _ in tasks[0]["queries"]}
    if videos and not (owners or writer.video_ids):
        raise InputError(f"none of {len(videos)} videos can be read: {report.skipped[0]}")
    with writer:
        for qid in lacking(texts, writer.query_origins):
            writer.copy_query(shards[0], qid)
        for vid in progress_bar(lacking(files, writer.video_origins), "join", unit="video"):
            writer.copy_video(owners[vid], vid)
