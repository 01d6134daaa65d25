"""The annotations of a dataset by split, as far as there is something for them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from os.path import lexists
from pathlib import Path

from sdst.config import Config
from sdst.data.annotations import Annotation, read_annotations
from sdst.errors import InputError, collected, refuse_all
from sdst.files.text import read_bytes

logger = logging.getLogger(__name__)

NAMED = 10  # of what is missing; the rest is counted

Splits = dict[str, list[Annotation]]


def read_splits(config: Config, root: Path) -> Splits:
    """The annotations of every split whose file exists.

    Raises:
        InputError: the file of `train` or `val` is missing, or one of its queries is unlabelled.
    """
    data = config.data
    places = {split: located(root, name) for split, name in data.annotations.items()}
    files = {split: file for split, (file, _) in places.items()}
    splits, faults = {}, []
    for split, (file, part) in places.items():
        if lexists(file):
            with collected(faults):
                sentences = data.sentences == "own"
                found = read_annotations(file, None, data.clip_length, sentences, part or split)
                splits[split] = _of_domain(found, data.domain, file)
    refuse_all(faults, "annotation files cannot be used")
    splits = {split: annotations[: data.limit] for split, annotations in splits.items()}
    for split in ("train", "val"):
        if split not in splits:
            raise InputError(
                f"{files.get(split, root)}: no such file; data.annotations names the annotations "
                "of train, val and optionally test"
            )
        unlabelled = [a.qid for a in splits[split] if not a.has_truth]
        if unlabelled and not (split == "train" and data.pairs):
            raise InputError(
                f"{files[split]}: {len(unlabelled)} queries have no relevant_windows "
                f"(first: qid {unlabelled[0]}); only test may be unlabelled, and train under "
                "data.pairs"
            )
    return splits


def located(root: Path, name: str) -> tuple[Path, str]:
    """The file that a value of `data.annotations` names, and the split in it, FILE#SPLIT."""
    if "#" not in name or lexists(root / name):
        return root / name, ""
    file, _, split = name.rpartition("#")
    return root / file, split


def annotations_digest(config: Config, root: Path) -> str:
    """Differs where the annotations that are learned from and validated on do."""
    digest = hashlib.sha256()
    for split in ("train", "val"):
        file, _ = located(root, config.data.annotations[split])
        digest.update(read_bytes(file))
    return digest.hexdigest()[:16]


def _of_domain(annotations: list[Annotation], domain: str | None, file: Path) -> list[Annotation]:
    """Those of `domain`, all where it is None."""
    if domain is None:
        return annotations
    if kept := [a for a in annotations if a.domain == domain]:
        return kept
    found = sorted({a.domain for a in annotations if a.domain}) or ["none"]
    raise InputError(f"{file}: no video of data.domain {domain}; its domains: {', '.join(found)}")


def keep_available(
    splits: Splits,
    where: Path,
    videos: Collection[str],
    queries: Collection[int | str] | None,
    allow_missing: bool,
    advice: str = "get them",
) -> Splits:
    """Splits without the annotations whose videos or queries are missing, which are listed.

    Args:
        videos, queries: what there is in `where`; None is everything.

    Raises:
        InputError: something is missing and `allow_missing` is False, or a split has nothing left.
    """
    annotations = [a for split in splits.values() for a in split]
    lists = []
    for kind, annotated, there in (
        ("videos", {a.vid for a in annotations}, videos),
        ("queries", {a.qid for a in annotations}, queries),
    ):
        if there is not None and (missing := sorted(annotated.difference(there), key=str)):
            rest = ", ..." if len(missing) > NAMED else ""
            named = ", ".join(map(str, missing[:NAMED]))
            lists.append(f"{len(missing)} of {len(annotated)} annotated {kind} ({named}{rest})")
    if not lists:
        return splits
    if not allow_missing:
        raise InputError(
            f"{where}: not found: {' and '.join(lists)}; {advice}, or continue without them: "
            "--data.allow_missing true"
        )
    logger.warning("%s: left out, as not found: %s", where, " and ".join(lists))
    videos, queries = set(videos), None if queries is None else set(queries)
    kept = {
        split: [a for a in found if a.vid in videos and (queries is None or a.qid in queries)]
        for split, found in splits.items()
    }
    if empty := [split for split, found in kept.items() if not found]:
        raise InputError(f"{where}: nothing found for any query of {empty[0]}; check data.root")
    return kept


def sentences(splits: Splits) -> dict[int | str, str]:
    """Every query by its id.

    Raises:
        InputError: one id stands for two sentences.
    """
    queries: dict[int | str, str] = {}
    for split, found in splits.items():
        for annotation in found:
            if queries.setdefault(annotation.qid, annotation.query) != annotation.query:
                raise InputError(
                    f"{split}: qid {annotation.qid} stands for another query before it; give "
                    "every query an id of its own"
                )
    return queries
