"""The folder that `sdst train` reads: annotations by split, and the videos."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdst.data.annotations import Annotation, write_annotations
from sdst.data.video_files import composed, is_picture_folder, video_id
from sdst.errors import InputError
from sdst.files.publish import publish, scratch_folder
from sdst.importing.splits import SPLITS

VIDEOS = "videos"


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse to write where something is already.

    Raises:
        InputError: `output` is no folder, or has annotations and `overwrite` is not set.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is a file; expected a folder")
    there = [f"{split}.jsonl" for split in SPLITS if os.path.lexists(output / f"{split}.jsonl")]
    if there and not overwrite:
        raise InputError(
            f"--output {output}: has {', '.join(there)} already; choose another folder, or replace "
            "them with --overwrite"
        )


def write_dataset(
    output: Path, splits: Mapping[str, Sequence[Annotation]], videos: Mapping[str, Path]
) -> None:
    """Write `<split>.jsonl` and links to the videos, by their ids; nothing where something fails.

    Videos that are in `output/videos` already stay as they are. Earlier annotations are replaced,
    those of other splits removed.

    Raises:
        InputError: `output/videos` holds something else than links.
    """
    in_place = _are_in(output / VIDEOS, videos)
    with scratch_folder(output) as made:
        for split, annotations in splits.items():
            write_annotations(made / f"{split}.jsonl", annotations)
        if not in_place:
            _refuse_files(output / VIDEOS)
            (made / VIDEOS).mkdir()
            for vid, path in videos.items():
                ending = "" if is_picture_folder(path) or vid.endswith(path.suffix) else path.suffix
                (made / VIDEOS / f"{vid}{ending}").symlink_to(path.resolve())
        if not output.exists() or not any(output.iterdir()):
            publish(made, output)
            return
        _replace(output, made)


def _replace(output: Path, made: Path) -> None:
    """Move what was made into a folder that has other things."""
    with scratch_folder(output / VIDEOS) as old:
        for name in (VIDEOS, *(f"{split}.jsonl" for split in SPLITS)):
            new, place = made / name, output / name
            if os.path.lexists(place) and (new.exists() or name != VIDEOS):
                place.rename(old / name)
            if new.exists():
                publish(new, place)


def _are_in(folder: Path, videos: Mapping[str, Path]) -> bool:
    """Whether all videos are files in a folder and can be found there by their ids."""
    return folder.is_dir() and all(
        folder.resolve() in path.resolve().parents and vid in (video_id(path), composed(path.name))
        for vid, path in videos.items()
    )


def _refuse_files(folder: Path) -> None:
    if folder.is_dir() and not all(entry.is_symlink() for entry in folder.iterdir()):
        raise InputError(
            f"{folder}: holds other files than the videos of --videos; choose another --output"
        )
