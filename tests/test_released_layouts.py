"""SnAG's, HieraMamba's and UniversalVTG's releases: made-up files in their layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sdst.config import load_config
from sdst.data.annotations import read_annotations
from sdst.errors import InputError
from sdst.sources.dataset import Data, open_data
from sdst.train import main as train

RNG = np.random.default_rng(0)
FPS = 30.0
SECONDS = 24.0


def release(root: Path, splits: dict[str, int], with_ids: bool = True) -> Path:
    """Annotations of some videos a split, two queries on each; all in one file."""
    content: dict = {}
    for split, videos in splits.items():
        content[split] = {}
        for number in range(videos):
            queries = [
                {"segment": [2.0 + 8 * i, 9.0 + 8 * i], "sentence": f" what happens {i}? "}
                for i in range(2)
            ]
            vid = f"{split}-{number}"
            if with_ids:
                queries = [{**x, "sentence_id": f"{vid}_s{i}"} for i, x in enumerate(queries)]
            frames = int(FPS * SECONDS)
            content[split][vid] = {"fps": FPS, "num_frames": frames, "annotations": queries}
    root.mkdir(parents=True, exist_ok=True)
    file = root / "annotations.json"
    file.write_text(json.dumps(content))
    return file


def features(root: Path, videos: str, texts: str, rate: float, widths: tuple[int, int]) -> None:
    """Features at so many a second, of all that is annotated; those of train as `.pt`."""
    content = json.loads((root / "annotations.json").read_text())
    for folder in (videos, texts):
        (root / folder).mkdir(parents=True)
    for split, of_split in content.items():
        for vid, video in of_split.items():
            clips = RNG.standard_normal((int(SECONDS * rate), widths[0])).astype(np.float16)
            if split == "train" and rate == 2:
                torch.save(torch.from_numpy(clips), root / videos / f"{vid}.pt")
            else:
                np.save(root / videos / f"{vid}.npy", clips)
            for query in video["annotations"]:
                words = RNG.standard_normal((5, widths[1])).astype(np.float16)
                np.save(root / texts / f"{query['sentence_id']}.npy", words)


def opened(recipe: str, root: Path, *more: str) -> Data:
    return open_data(load_config(recipe, ["--data.root", str(root), *more]))


def test_snags_features_are_read_as_they_are_every_second_one(tmp_path: Path) -> None:
    file = release(tmp_path, {"train": 3, "val": 2})
    folders = "egovlp_features/video", "egovlp_features/text/token_768d"
    features(tmp_path, *folders, rate=FPS / 8, widths=(256, 768))
    (tmp_path / "annotations").mkdir()
    file.rename(tmp_path / "annotations" / "ego4d_egovlp.json")
    data = opened("nlq_egovlp", tmp_path)
    assert [len(data.splits[name]) for name in ("train", "val")] == [6, 4]
    array = np.load(tmp_path / folders[0] / "val-1.npy")
    found = data.source.video("val-1").tokens
    np.testing.assert_array_equal(found[0, :, 0, :256], array[::2])
    assert found.shape == (1, 45, 1, 258)
    words = np.load(tmp_path / folders[1] / "val-1_s0.npy")
    np.testing.assert_array_equal(data.source.query("val-1_s0").tokens[0], words)
    sample = data.dataset("val")[0]
    at = np.flatnonzero(sample.saliency) * data.config.data.clip_length
    assert at[0] == pytest.approx(2, abs=0.6) and at[-1] == pytest.approx(9, abs=0.6)


def test_universal_vtgs_features_train(tmp_path: Path) -> None:
    release(tmp_path / "data", {"train": 4, "val": 2})
    features(tmp_path / "data", "pecorel14_2fps", "text", rate=2, widths=(1024, 1024))
    data = opened("nlq_pe_core", tmp_path / "data")
    clips = torch.load(tmp_path / "data" / "pecorel14_2fps" / "train-0.pt", weights_only=True)
    found = data.source.video("train-0").tokens
    np.testing.assert_array_equal(found[0, :, 0, :1024], clips.numpy())
    small = ["--model.width", "16", "--model.heads", "2", "--model.queries", "3"]
    steps = ["--train.epochs", "1", "--train.batch_size", "4", "--train.warmup_steps", "1"]
    run, given = tmp_path / "run", ["--data.root", str(tmp_path / "data"), *small, *steps]
    assert train(["--config", "nlq_pe_core", "--output", str(run), *given]) == 0
    assert json.loads((run / "metrics.json").read_text())["queries"] == 4


def test_a_file_of_several_splits_is_read_by_split(tmp_path: Path) -> None:
    file = release(tmp_path, {"train": 1, "val_2": 1}, with_ids=False)
    [first, second] = read_annotations(file, split="val_2")
    assert (first.qid, first.vid, first.query) == ("val_2-0_0000", "val_2-0", "what happens 0?")
    assert second.windows == ((10.0, 17.0),) and second.duration == SECONDS
    with pytest.raises(InputError, match=r"no split 'val' in it; name one of train, val_2 as"):
        read_annotations(file, split="val")


@pytest.mark.parametrize("found", [{"a": torch.ones(2)}, torch.ones(2).numpy])
def test_a_pt_file_of_something_else_is_refused(tmp_path: Path, found: object) -> None:
    release(tmp_path, {"train": 2, "val": 1})
    features(tmp_path, "pecorel14_2fps", "text", rate=2, widths=(1024, 1024))
    file = tmp_path / "pecorel14_2fps" / "train-0.pt"
    torch.save(found, file)
    with pytest.raises(InputError, match=r"train-0\.pt: (holds dict|no tensor can be read)"):
        opened("nlq_pe_core", tmp_path)


def test_a_file_with_a_number_sign_is_a_file(tmp_path: Path) -> None:
    release(tmp_path, {"train": 2, "val": 1})
    features(tmp_path, "pecorel14_2fps", "text", rate=2, widths=(1024, 1024))
    lines = [
        {"qid": "val-0_s0", "query": "x", "vid": "val-0", "duration": 24, "relevant_windows": [w]}
        for w in ([2, 9],)
    ]
    (tmp_path / "val#1.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    files = json.dumps({"train": "annotations.json#train", "val": "val#1.jsonl"})
    data = opened("nlq_pe_core", tmp_path, "--data.annotations", files)
    assert [a.qid for a in data.splits["val"]] == ["val-0_s0"]
