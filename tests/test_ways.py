"""The ways of two readers through the pages, command by command, in an empty folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.readme import README, ROOT, commands, moments_of, run_as_it_stands

SHORT = "--train.epochs 1"  # of hours
VIDEOS, CLIPS = 6, 15


def follow(page: Path, start: str, folder: Path, more: str = "") -> str:
    """Run the command of a page that begins so; the text it prints."""
    [command] = [line for line in commands(page.read_text()) if line.startswith(start)]
    done = run_as_it_stands(f"{command} {more}".strip(), folder)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def write_ten_films(folder: Path, dataset: Path) -> None:
    """Ten videos, and a table of some of their moments."""
    (folder / "FILMS").mkdir()
    by_video: dict[str, list[dict]] = {}
    for split in ("train", "val", "test"):
        for line in moments_of(dataset / f"{split}.jsonl"):
            by_video.setdefault(json.loads(line)["vid"], []).append(json.loads(line))
    rows = ["video,start,end,sentence"]
    for vid, queries in list(by_video.items())[:10]:
        shutil.copy(dataset / "videos" / f"{vid}.mp4", folder / "FILMS")
        for query in queries[:3]:
            start, end = query["relevant_windows"][0]
            rows.append(f'{vid},{start},{end},"{query["query"]}"')
    (folder / "moments.csv").write_text("\n".join(rows) + "\n")
    shutil.copy(dataset / "videos" / "test_0000.mp4", folder / "new.mp4")


@pytest.mark.slow
def test_an_engineer_with_ten_films_and_a_table(tiny_dataset: Path, tmp_path: Path) -> None:
    write_ten_films(tmp_path, tiny_dataset)
    imported = follow(README, "python -m sdst.import", tmp_path)
    videos = [int(count) for count in re.findall(r"(\d+) videos", imported)]
    assert len(videos) == 3 and sum(videos) == 10
    trained = follow(README, "python -m sdst.train --config custom", tmp_path, SHORT)
    assert "R1@0.5" in trained
    answer = follow(README, "python -m sdst.ground --checkpoint runs/films", tmp_path)
    assert re.search(r"^new\.mp4: 0:\d\d\.\d, \d+ clips of 2 s$", answer, re.MULTILINE)
    assert re.search(r"^ +rank +start +end +score\n +1 +0:\d\d\.\d", answer, re.MULTILINE)


def write_published_features(root: Path) -> None:
    """QVHighlights as its release and SDST's features have it, of a few videos."""
    rng = np.random.default_rng(0)
    for part in ("video", "text"):
        (root / "internvideo2" / part).mkdir(parents=True)
    for split, first in (("train", 0), ("val", VIDEOS)):
        lines = []
        for number in range(first, first + VIDEOS):
            name = f"v{number}_60.0_210.0"
            rated = list(range(2, 6))
            lines.append(
                {
                    "qid": number,
                    "query": "a dog jumps over a fence",
                    "vid": name,
                    "duration": 2 * CLIPS,
                    "relevant_windows": [[4, 12]],
                    "relevant_clip_ids": rated,
                    "saliency_scores": [[4, 3, 2] for _ in rated],
                }
            )
            video = rng.standard_normal((CLIPS, 5, 768), np.float32)
            np.savez(root / f"internvideo2/video/{name}.npz", visual_feats_interm_pooled=video)
            text = rng.standard_normal((5, 8, 1024), np.float32)
            np.savez(root / f"internvideo2/text/{number}.npz", text_feats=text)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"highlight_{split}_release.jsonl").write_text(text)


@pytest.mark.slow
def test_a_researcher_with_feature_files(tmp_path: Path) -> None:
    write_published_features(tmp_path / "DIR")
    recipe = "--config qvhighlights_internvideo2 --data.root DIR"
    follow(ROOT / "docs" / "feature-files.md", f"python -m sdst.convert {recipe}", tmp_path)
    trained = follow(README, f"python -m sdst.train {recipe}", tmp_path, SHORT)
    assert "R1@0.7" in trained and "HIT@1" in trained
    run = tmp_path / "runs" / "qvhighlights_internvideo2"
    shutil.copy(run / "predictions.jsonl", tmp_path / "P.jsonl")
    shutil.copy(tmp_path / "DIR" / "highlight_val_release.jsonl", tmp_path / "A.jsonl")
    page = ROOT / "docs" / "evaluation.md"
    follow(page, "python -m sdst.evaluate --dataset qvhighlights", tmp_path)
    scored = json.loads((tmp_path / "OUT.json").read_text())
    assert scored["brief"] == json.loads((run / "metrics.json").read_text())["report"]["brief"]
