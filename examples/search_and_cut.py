"""From a folder of videos and a sentence to clips: search all of them, cut the moments found.

    python examples/search_and_cut.py FOLDER

The videos are rendered, so that nothing is downloaded, and the packaged model answers, which knows
coloured shapes and their motions. With your own videos, begin at "search", and name a run of yours:
`Grounder("runs/films")`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sdst import Grounder
from sdst.demo.render import write_video
from sdst.demo.scenes import plan_scene
from sdst.grounding.export import export
from sdst.grounding.export.clips import cut_all
from sdst.grounding.export.moment import moments_found

SENTENCE = "the white block blinks"


def main(folder: Path) -> None:
    videos = folder / "videos"
    videos.mkdir(parents=True)
    for number in range(3):
        write_video(plan_scene("test", number, 0), videos / f"film{number}.mp4")

    # Search: only videos that have the moment rather than lack it, and only likely moments.
    files = {file.name: file for file in sorted(videos.iterdir())}
    [found] = Grounder().search(files, SENTENCE, top=3, min_presence=0.5)
    found = [moment for moment in found if moment.score >= 0.1]

    moments = moments_found(SENTENCE, found, files)
    export(moments, folder / "moments.csv")
    for moment, clip in zip(found, cut_all(moments, folder / "clips"), strict=True):
        print(f"{moment.vid} {moment.start:.0f} s to {moment.end:.0f} s: {clip.name}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/search_and_cut.py FOLDER")
    main(Path(sys.argv[1]))
