"""The commands of README.md and of docs/, run as printed, in an environment of nothing but a home.

    python -m tests.readme FOLDER      all that can run here, in an empty folder

What a command needs and does not make is put into the folder under the name that the pages have for
it: `DIR` is a dataset, `film.mp4` a video. The packaged backbone replaces a pretrained one, whose
weights would be downloaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# In the order in which a reader follows them: a page may use what one before it has made.
FOLLOWED = (
    "getting-started",
    "own-videos",
    "feature-files",
    "grounding",
    "training",
    "evaluation",
    "gpu",
)
PAGES = (README, *(ROOT / "docs" / f"{name}.md" for name in FOLLOWED))
PRETRAINED, PACKAGED = "ViT-B-32:laion2b_s34b_b79k", "demo"
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
SPAN = re.compile(r"`((?:python -m|torchrun|pip install|pytest) [^`]+)`")
DEMO = Path("~/.cache/sdst/demo").expanduser()

INSTALLS = "installs: .ci/run and tests/test_install.py do"
# By the beginning of a command, which may name others of its kind.
CANNOT_RUN = {
    "pip install": INSTALLS,
    "pytest": "is the test suite",
    "python -m sdst.ground --checkpoint runs/qvhighlights_internvideo2": "needs such a run",
    "python -m sdst.evaluate --checkpoint runs/qvhighlights_internvideo2": "needs such a run",
    "python -m sdst.train --config qvhighlights_internvideo2": "needs QVHighlights' features",
    "python -m sdst.train --config examples/joint.yaml": "needs three datasets' features",
    "python -m sdst.convert --config qvhighlights_internvideo2": "needs QVHighlights' features",
    "python -m benchmarks": "needs the checkout, and hours",
}
# What the pages themselves offer to make a command smaller, by its beginning.
SMALLER = {
    "torchrun --nproc_per_node 2 -m sdst.train": "--train.epochs 1",
    "python -m sdst.train --config custom": "--train.epochs 30",
}
# By `provide`, and by the first training of all.
PROVIDED = [
    "DIR",
    "FILMS",
    "A.jsonl",
    "P.jsonl",
    "film.mp4",
    "highlight_val_release.jsonl",
    "moments.csv",
    "new.mp4",
    "queries.txt",
    "runs/demo",
]
READS = re.compile(
    r"--(?:config|data\.root|root|videos?|annotations|predictions|queries|store|checkpoint)"
    r" ([\w/]+\.\w+|[A-Z]+|\w+/\S+)"
)
WRITES = re.compile(r"--(?:output|json|plot) (\S+)")


def all_commands() -> list[str]:
    """The commands of all pages, each once, in their order."""
    return list(dict.fromkeys(line for page in PAGES for line in commands(page.read_text())))


def commands(page: str) -> list[str]:
    """The lines of its shell blocks and the commands in its text, each once, in their order."""
    found = []
    for match in re.finditer(f"{BLOCK.pattern}|{SPAN.pattern}", page, re.DOTALL):
        lines = (match[1] or match[2]).replace("\\\n", " ").splitlines()
        for line in lines:
            parts = re.sub(r"\s#\s.*", "", line).split(" && ")
            found += [" ".join(part.split()) for part in parts if part.strip()]
    return list(dict.fromkeys(found))


def reason_not_to_run(command: str) -> str | None:
    """Why a command cannot run here; None where it can."""
    return next((why for start, why in CANNOT_RUN.items() if command.startswith(start)), None)


def read_but_not_made(found: Sequence[str]) -> list[tuple[str, str]]:
    """Commands that read a file which neither `provide` nor a command before them makes."""
    made, lacking = set(PROVIDED), []
    for command in found:
        lacking += [(command, name) for name in READS.findall(command) if name not in made]
        made.update(WRITES.findall(command))
    return lacking


def run_as_it_stands(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a shell that knows `HOME` and `PATH`, and nothing else."""
    smaller = next((less for start, less in SMALLER.items() if command.startswith(start)), None)
    command = command.replace(PRETRAINED, PACKAGED)
    return subprocess.run(
        ["bash", "-c", command if smaller is None else f"{command} {smaller}"],
        cwd=folder,
        env={name: os.environ[name] for name in ("HOME", "PATH")},
        capture_output=True,
        text=True,
        errors="replace",
    )


def provide(folder: Path, demo: Path) -> None:
    """Put what the pages' names stand for into `folder`, as far as it can be had by now."""
    for name in ("film.mp4", "new.mp4"):
        shutil.copy(demo / "videos" / "test_0001.mp4", folder / name)
    (folder / "DIR" / "videos").mkdir(parents=True, exist_ok=True)
    for split, queries in (("train", 40), ("val", 8)):  # more than a batch of the recipe
        lines = moments_of(demo / f"{split}.jsonl")[:queries]
        (folder / "DIR" / f"{split}.jsonl").write_text("\n".join(lines))
        for line in lines:
            video = f"videos/{json.loads(line)['vid']}.mp4"
            shutil.copy(demo / video, folder / "DIR" / video)
    shutil.copy(demo / "val.jsonl", folder / "highlight_val_release.jsonl")
    provide_films(folder, demo)
    (folder / "queries.txt").write_text("a dog jumps\na man waves\n")
    (folder / "A.jsonl").write_text("\n".join(moments_of(demo / "test.jsonl")))
    shutil.copy(folder / "runs" / "demo" / "predictions.jsonl", folder / "P.jsonl")


def provide_films(folder: Path, demo: Path) -> None:
    """A table of moments, and the videos that it names."""
    (folder / "FILMS").mkdir(exist_ok=True)
    rows = ["video,start,end,sentence"]
    for line in moments_of(demo / "train.jsonl")[:64]:  # more than a batch of the recipe
        moment = json.loads(line)
        shutil.copy(demo / "videos" / f"{moment['vid']}.mp4", folder / "FILMS")
        for start, end in moment["relevant_windows"]:
            rows.append(f'{moment["vid"]},{start},{end},"{moment["query"]}"')
    (folder / "moments.csv").write_text("\n".join(rows) + "\n")


def moments_of(annotations: Path) -> list[str]:
    """The demo's lines without ratings, which are of clips of another length than elsewhere."""
    records = [json.loads(line) for line in annotations.read_text().splitlines()]
    ratings = ("relevant_clip_ids", "saliency_scores")
    return [json.dumps({k: v for k, v in r.items() if k not in ratings}) for r in records]


def run_all(
    found: Sequence[str], folder: Path, demo: Path = DEMO
) -> Iterator[tuple[str, str | None, float]]:
    """Run commands in their order; yields each with what was wrong, and its seconds."""
    for command in found:
        if "demo" not in command and (folder / "runs" / "demo" / "predictions.jsonl").is_file():
            provide(folder, demo)
        shutil.rmtree(folder / "NEW", ignore_errors=True)  # the pages' lines are alternatives
        began = time.monotonic()
        done = run_as_it_stands(command, folder)
        wrong = None if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr}"
        yield command, wrong, time.monotonic() - began


def main() -> int:
    folder = Path(sys.argv[1])
    found = all_commands()
    runnable = [command for command in found if reason_not_to_run(command) is None]
    failed = 0
    for command, wrong, seconds in run_all(runnable, folder):
        print(f"{seconds:6.0f} s  {command}", flush=True)
        if wrong is not None:
            failed += 1
            print(wrong, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
