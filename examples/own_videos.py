"""From a folder of videos and a table of moments to a model that answers: every step, in one go.

    python examples/own_videos.py FOLDER

The videos here are rendered, so that nothing is downloaded, and few, so that it takes a minute or
two; the model will be poor. With your own, begin at "import", and name a pretrained backbone, such
as ViT-B-32:laion2b_s34b_b79k.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from sdst import Grounder
from sdst.__main__ import main as sdst
from sdst.data.annotations import read_annotations
from sdst.demo import DemoSize, prepare_demo


def main(folder: Path) -> None:
    films = prepare_demo(folder / "films", DemoSize(train=24, val=6, test=6))

    # A table as people keep them: a row for every moment.
    table = folder / "moments.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "start", "end", "sentence"])
        for split in ("train", "val", "test"):
            for annotation in read_annotations(films / f"{split}.jsonl"):
                for start, end in annotation.windows:
                    rows.writerow([f"{annotation.vid}.mp4", start, end, annotation.query])

    dataset, run = folder / "dataset", folder / "run"
    sdst(["import", str(table), "--videos", str(films / "videos"), "--output", str(dataset)])
    options = ["--data.root", str(dataset), "--data.backbone", "demo", "--data.clip_length", "1"]
    options += ["--model.width", "64", "--train.epochs", "4", "--train.batch_size", "16"]
    sdst(["train", "--config", "custom", *options, "--output", str(run)])

    grounder = Grounder(run)
    [answer] = grounder.ground(films / "videos" / "test_0000.mp4", ["the yellow block moves left"])
    for start, end, score in answer.windows[:3]:
        print(f"{start:6.1f} s to {end:6.1f} s  score {score:.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/own_videos.py FOLDER")
    main(Path(sys.argv[1]))
