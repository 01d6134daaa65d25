"""`python -m sdst.ground`: find the moments of a video file that sentences describe."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sdst.backbones import Backbone, TextFeatures, load_backbone
from sdst.checkpoint import load_checkpoint, trained_on
from sdst.config import Config, cache_dir
from sdst.data.features import FeatureStore, VideoFeatures
from sdst.errors import InputError, run
from sdst.extract import extract_features
from sdst.predict import decode

VIDEOS_IN_MEMORY = 4
_VID = "video"  # the only entry of a cached store


@dataclass(frozen=True)
class Grounding:
    """The answer to one query.

    Args:
        query: the sentence.
        windows: `[[start, end, score], ...]`, seconds, best first.
        saliency: how well each of L clips fits the sentence, `[L]`, in [-1, 1].
        clip_length: seconds per clip.
        duration: seconds of the video.
    """

    query: str
    windows: list[list[float]]
    saliency: np.ndarray
    clip_length: float
    duration: float


class Grounder:
    """Answers queries on video files with a trained side-tuner.

    A video is decoded and encoded once: what the backbone says is kept in memory for the videos
    used last and on disk under `cache_dir()/grounding` for all.

        grounder = Grounder("runs/demo")
        [answer] = grounder.ground("film.mp4", ["a dog jumps into the lake"])
        start, end, score = answer.windows[0]

    Args:
        checkpoint: the `--output` folder of a training run.
        device: default: CUDA where present, else the CPU.
    """

    def __init__(self, checkpoint: str | Path, device: str | torch.device | None = None):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.config, model = load_checkpoint(Path(checkpoint))
        if self.config.data.features != "encode":
            raise InputError(
                f"checkpoint {checkpoint}: trained on feature files of others "
                f"({self.config.data.features}), which nothing here makes of a new video; train on "
                "videos (data.features encode) to ground videos"
            )
        self.model = model.to(self.device).eval()
        self.backbone = load_backbone(
            self.config.data.backbone, self.config.model.layers, self.device
        )
        _check_fit(self.backbone, self.config, trained_on(Path(checkpoint)))
        self._recent: OrderedDict[str, VideoFeatures] = OrderedDict()

    def ground(self, video: str | Path, queries: Sequence[str], top: int = 5) -> list[Grounding]:
        """The moments of `video` that each of `queries` describes.

        Args:
            video: a video file.
            queries: sentences.
            top: most windows per query.

        Raises:
            InputError: the video cannot be read, a query is empty, or `top` is below 1.
        """
        check_queries(queries)
        if top < 1:
            raise InputError(f"top is {top}; expected at least 1 window per query")
        features = self.encode_video(video)
        texts = self.backbone.encode_text(queries)
        return [
            self._answer(query, features, text, top)
            for query, text in zip(queries, texts, strict=True)
        ]

    def encode_video(self, video: str | Path) -> VideoFeatures:
        """What the backbone says of a video, from memory or disk if it was asked before."""
        path = Path(video)
        if not path.is_file():
            raise InputError(f"{video}: no such video file")
        key = self._identity(path)
        if key not in self._recent:
            self._recent[key] = self._load_or_encode(path, cache_dir() / "grounding" / key)
        self._recent.move_to_end(key)
        while len(self._recent) > VIDEOS_IN_MEMORY:
            self._recent.popitem(last=False)
        return self._recent[key]

    @torch.inference_mode()
    def _answer(
        self, query: str, features: VideoFeatures, text: TextFeatures, top: int
    ) -> Grounding:
        video = torch.from_numpy(np.array(features.tokens, np.float32))[None].to(self.device)
        sentence = text.tokens[None].to(self.device)
        lengths = torch.tensor([video.shape[2]], device=self.device)
        text_lengths = torch.tensor([sentence.shape[2]], device=self.device)
        outputs = self.model(video, sentence, lengths, text_lengths)
        clip_length = self.config.data.clip_length
        [answer] = decode(outputs, lengths, [features.duration], clip_length, self.config.predict)
        return Grounding(
            query=query,
            windows=answer.windows[:top].tolist(),
            saliency=answer.saliency,
            clip_length=clip_length,
            duration=features.duration,
        )

    def _identity(self, path: Path) -> str:
        """Names a video's features: the file, the backbone and how clips are sampled."""
        status = path.stat()
        identity = [
            str(path.resolve()),
            status.st_size,
            status.st_mtime_ns,
            self.backbone.fingerprint,
            self.config.data.clip_length,
            self.config.data.frames_per_clip,
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]

    def _load_or_encode(self, path: Path, folder: Path) -> VideoFeatures:
        if folder.exists():
            try:
                return FeatureStore(folder).video(_VID)
            except InputError:  # damaged: made anew
                shutil.rmtree(folder, ignore_errors=True)
        try:
            return self._encode(path, folder)
        except OSError:  # the cache cannot be written: the features stay in memory alone
            with tempfile.TemporaryDirectory() as scratch:
                features = self._encode(path, Path(scratch) / "store")
                return VideoFeatures(
                    np.array(features.tokens), np.array(features.embedding), features.duration
                )

    def _encode(self, path: Path, folder: Path) -> VideoFeatures:
        data = self.config.data
        store = extract_features(
            {_VID: path},
            {},
            self.backbone,
            folder,
            data.clip_length,
            data.frames_per_clip,
            progress=False,
        )
        return store.video(_VID)


def check_queries(queries: Sequence[str]) -> None:
    """Refuse queries that say nothing."""
    if not queries:
        raise InputError("no query given; expected at least one sentence")
    for number, query in enumerate(queries, 1):
        if not query.strip():
            raise InputError(f"query {number} is empty; expected a sentence")


def format_time(seconds: float) -> str:
    """`m:ss.s`: 83.26 -> `1:23.3`."""
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes}:{tenths / 10:04.1f}"


def format_table(answer: Grounding) -> str:
    """The query and its windows, one a line, ranked."""
    lines = [answer.query.strip(), "  rank     start       end   score"]
    for rank, (start, end, score) in enumerate(answer.windows, 1):
        lines.append(f"  {rank:>4} {format_time(start):>9} {format_time(end):>9}   {score:5.3f}")
    return "\n".join(lines)


def as_json(video: Path, answers: Sequence[Grounding]) -> str:
    """The answers under the names of the official submission."""
    first = answers[0]
    content = {
        "video": str(video),
        "duration": first.duration,
        "clip_length": first.clip_length,
        "answers": [
            {
                "query": answer.query,
                "pred_relevant_windows": np.round(answer.windows, 4).tolist(),
                "pred_saliency_scores": np.round(answer.saliency, 4).tolist(),
            }
            for answer in answers
        ],
    }
    return json.dumps(content) + "\n"


def _check_fit(backbone: Backbone, config: Config, features: dict) -> None:
    """Refuse a backbone whose features are not those of the training."""
    for name in ("video_width", "text_width"):
        width, expected = getattr(backbone, name), getattr(config.model, name)
        if width != expected:
            raise InputError(
                f"backbone {config.data.backbone}: {name} {width}, but the checkpoint was trained "
                f"on {expected}; it needs the backbone of its features"
            )
    if backbone.fingerprint != features["fingerprint"]:
        raise InputError(
            f"backbone {config.data.backbone}: its weights or preprocessing are not those the "
            f"checkpoint was trained with (fingerprint {backbone.fingerprint}, then "
            f"{features['fingerprint']}); it needs the backbone of its features"
        )


def _check_output(option: str, path: Path | None) -> None:
    if path is None:
        return
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: no such folder {path.parent}; create it first")
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; expected the name of a file")


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(prog="python -m sdst.ground", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="DIR", help="a training run's folder")
    add("--video", type=Path, required=True, metavar="FILE")
    add("--query", action="append", required=True, metavar="TEXT", help="may be given repeatedly")
    add("--top", type=int, default=5, metavar="N", help="windows per query (default: %(default)s)")
    add("--json", type=Path, metavar="OUT", help="write the answers as JSON")
    add("--plot", type=Path, metavar="OUT.png", help="draw the answers on the time line")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.ground --help`."""
    options = make_parser().parse_args(arguments)
    check_queries(options.query)
    if options.top < 1:
        raise InputError(f"--top {options.top}: expected at least 1")
    if not options.video.is_file():
        raise InputError(f"--video {options.video}: no such video file")
    _check_output("--json", options.json)
    _check_output("--plot", options.plot)
    if options.plot:
        from sdst.plots import check_picture_name, plot_groundings

        check_picture_name(options.plot)
    answers = Grounder(options.checkpoint).ground(options.video, options.query, options.top)
    first = answers[0]
    print(
        f"{options.video.name}: {format_time(first.duration)}, "
        f"{len(first.saliency)} clips of {first.clip_length:g} s"
    )
    for answer in answers:
        print(f"\n{format_table(answer)}")
    if options.json:
        temporary = options.json.with_name(f".{options.json.name}")
        temporary.write_text(as_json(options.video, answers))
        temporary.replace(options.json)
    if options.plot:
        plot_groundings(options.video, answers, options.plot)
    return 0


if __name__ == "__main__":
    run(main)
