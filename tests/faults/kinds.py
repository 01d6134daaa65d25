"""Kinds of hostile files, and the commands that read them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.hostile import BINARY, TEXT, Change, put_value


@dataclass(frozen=True)
class Kind:
    """Files that are made hostile, and the commands that read them, `{}` the file.

    Args:
        share: of all inputs.
        file: below the folder of good files; a pattern is any of the files that match.
        command: words; a `{root}` is that folder, a `{text}` the text in the file.
        changes: what may happen to the file.
        written: what the command changes, besides.
    """

    share: int
    file: str
    command: str
    changes: tuple[Change, ...] = TEXT
    written: str = "submitted"


CUSTOM = "--config {root}/features.yaml --data.root {root}/features"
KINDS = {
    "annotations, inspected": Kind(160, "train.jsonl", "inspect --annotations {}"),
    "annotations, scored": Kind(
        80, "val.jsonl", "evaluate --predictions {root}/predictions.jsonl --annotations {}"
    ),
    "labels": Kind(64, "labels.jsonl", "inspect --annotations {} --clip-length 2"),
    "Ego4D's document": Kind(64, "ego4d.json", "inspect --annotations {}"),
    "predictions": Kind(
        160, "predictions.jsonl", "evaluate --predictions {} --annotations {root}/val.jsonl"
    ),
    "predictions, submitted": Kind(
        64,
        "predictions.jsonl",
        "evaluate --predictions {} --annotations {root}/val.jsonl --submit {root}/submitted "
        "--dataset qvhighlights",
    ),
    "store's index": Kind(64, "store/index.json", "convert --store {root}/store --verify"),
    "store's numbers": Kind(
        12, "store/video_tokens.bin", "convert --store {root}/store --verify", BINARY
    ),
    "interrupted store's journal": Kind(
        8, "growing/journal.jsonl", "convert --store {root}/store --output {root}/growing"
    ),
    "feature files, npz": Kind(4, "features/clip/v0.npz", f"convert {CUSTOM}", BINARY),
    "feature files, text": Kind(2, "features/text/qid0.npz", f"convert {CUSTOM}", BINARY),
    "configs": Kind(3, "config.yaml", "info --config {}"),
    "a checkpoint's config": Kind(1, "run/config.yaml", "{ground} --video {root}/film.mp4"),
    "a checkpoint's features.json": Kind(
        1, "run/features.json", "{ground} --video {root}/film.mp4"
    ),
    "a checkpoint's model config": Kind(
        1, "run/model/config.json", "{ground} --video {root}/film.mp4"
    ),
    "a checkpoint's weights": Kind(
        1, "run/model/model.safetensors", "{ground} --video {root}/film.mp4", BINARY
    ),
    "queries": Kind(
        1, "queries.txt", "ground --checkpoint {root}/run --video {root}/film.mp4 --queries {}"
    ),
    "videos": Kind(2, "film.mp4", "{ground} --video {}", BINARY),
}
IMPORT = "import {} {root}/more.csv --videos {root}/films --output {root}/imported --overwrite"
IMPORTED = {
    "table": Kind(20, "moments.csv", IMPORT, written="imported"),
    "JSON": Kind(20, "moments.json", IMPORT, written="imported"),
    "ELAN": Kind(20, "moments.eaf", IMPORT, (*TEXT, put_value), written="imported"),
    "Label Studio": Kind(20, "tasks.json", IMPORT, written="imported"),
    "VIA": Kind(20, "via.json", IMPORT, written="imported"),
    "VIA's table": Kind(20, "via.csv", IMPORT, written="imported"),
    "subtitles": Kind(10, "park.srt", IMPORT, written="imported"),
}
SHOW = "index --output {root}/"
UPDATE = "index --store {root}/encoded --output {root}/"
SEARCH = "ground --store {root}/encoded --zero-shot --backbone demo --query x --index {root}/"
FIELDS = f"{UPDATE}index --metadata {{}}"
INDEXED = {
    "index, shown": Kind(10, "index/clips.lance/**/*", f"{SHOW}index", BINARY),
    "index, updated": Kind(15, "index/clips.lance/**/*", f"{UPDATE}index", BINARY),
    "index, searched": Kind(15, "index/clips.lance/**/*", f"{SEARCH}index", BINARY),
    "index's checksums": Kind(10, "index/checksums.json", f"{UPDATE}index"),
    # As earlier versions left it, without checksums.
    "earlier index, shown": Kind(20, "earlier/clips.lance/**/*", f"{SHOW}earlier", BINARY),
    "earlier index, updated": Kind(30, "earlier/clips.lance/**/*", f"{UPDATE}earlier", BINARY),
    "earlier index, searched": Kind(30, "earlier/clips.lance/**/*", f"{SEARCH}earlier", BINARY),
    "store to index, its index": Kind(10, "encoded/index.json", f"{UPDATE}new", written="new"),
    "store to index, its numbers": Kind(
        10, "encoded/video_embeddings.bin", f"{UPDATE}new", BINARY, written="new"
    ),
    "fields, table": Kind(20, "fields.csv", FIELDS, written="index"),
    "fields, JSON": Kind(20, "fields.json", FIELDS, written="index"),
    "fields, lines": Kind(10, "fields.jsonl", FIELDS, written="index"),
    "conditions": Kind(30, "where.sql", f"{SEARCH}index --where {{text}}", (*TEXT, put_value)),
    "ids": Kind(10, "id.txt", f"{SHOW}index --remove {{text}}", written="index"),
}
