"""Find the moments of a video file that sentences describe.

python -m sdst.ground --checkpoint DIR --video FILE --query TEXT [...]
python -m sdst.ground --zero-shot --backbone NAME --video FILE --query TEXT [...]
python -m sdst.ground --checkpoint DIR --videos PATH ... --query TEXT    of many videos the best
python -m sdst.ground --checkpoint DIR --store STORE --query TEXT        of those of sdst.extract
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from sdst.backbones import Backbone, TextFeatures, load_backbone
from sdst.checkpoint import load_checkpoint, trained_on
from sdst.config import Config
from sdst.data.features import FeatureStore, VideoFeatures
from sdst.data.jsonl import replace_text
from sdst.encoding import VIDEOS_IN_MEMORY, VideoEncoder
from sdst.errors import InputError, run
from sdst.extract import find_videos
from sdst.kernels import dequantize
from sdst.long import ground_long
from sdst.model import SDST, EncodedVideo
from sdst.predict import Prediction, decode
from sdst.zero_shot import zero_shot_moments

CLIPS_AT_ONCE = 64 * 75  # of all queries that are answered together


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


@dataclass(frozen=True)
class Found:
    """A moment of one of many videos.

    Args:
        vid: the video's id.
        start, end: seconds.
        score: the moment's probability, less where the video fits the query less than others.
    """

    vid: str
    start: float
    end: float
    score: float


class _Grounder:
    """Answers queries on video files; each is decoded and encoded once (`VideoEncoder`)."""

    def __init__(self, encoder: VideoEncoder) -> None:
        self.encoder = encoder
        self.backbone = encoder.backbone

    def ground(self, video: str | Path, queries: Sequence[str], top: int = 5) -> list[Grounding]:
        """The moments of `video` that each of `queries` describes.

        Args:
            video: a video file, of any length.
            queries: sentences, any number of them.
            top: most windows per query.

        Raises:
            InputError: the video cannot be read, a query is empty, or `top` is below 1.
        """
        check_queries(queries)
        if top < 1:
            raise InputError(f"top is {top}; expected at least 1 window per query")
        features = self.encoder.encode(video)
        texts = self.backbone.encode_text(queries)
        return [
            Grounding(
                query=query,
                windows=answer.windows[:top].tolist(),
                saliency=answer.saliency,
                clip_length=self.encoder.clip_length,
                duration=features.duration,
            )
            for query, answer in zip(queries, self._answers(features, texts, top), strict=True)
        ]

    def _answers(
        self, video: VideoFeatures, texts: list[TextFeatures], top: int
    ) -> list[Prediction]:
        raise NotImplementedError


class Grounder(_Grounder):
    """Answers queries on video files with a trained side-tuner.

    A video is decoded and encoded once: what the backbone says is kept in memory for the videos
    used last and on disk under `cache_dir()/grounding` for all. Queries are answered in batches,
    on projections of the video that are made once for all of them. A video longer than those of the
    training is read in stretches (`sdst.long`).

        grounder = Grounder("runs/demo")
        [answer] = grounder.ground("film.mp4", ["a dog jumps into the lake"])
        start, end, score = answer.windows[0]

    Args:
        checkpoint: the `--output` folder of a training run.
        device: default: CUDA where present, else the CPU.
        backbone: for a checkpoint trained on features published by SDST, which name no backbone:
            `internvideo2:PATH`.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | torch.device | None = None,
        backbone: str | None = None,
    ) -> None:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.config, model = load_checkpoint(Path(checkpoint))
        self.model: SDST = model.to(device).eval()
        self._scale = self.model.scale.item()
        self._encoded: OrderedDict[int, tuple[VideoFeatures, EncodedVideo]] = OrderedDict()
        super().__init__(_encoder_of(Path(checkpoint), self.config, device, backbone))

    @torch.inference_mode()
    def _answers(
        self, video: VideoFeatures, texts: list[TextFeatures], top: int
    ) -> list[Prediction]:
        tokens = [text.tokens for text in texts]
        clip_length, options = self.encoder.clip_length, self.config.predict
        if video.tokens.shape[1] > options.stretch:
            return ground_long(
                self.model, video.tokens, tokens, clip_length, video.duration, options, video.scales
            )
        encoded = self._encode(video)
        predictions: list[Prediction] = []
        for some in _batches(tokens, max(CLIPS_AT_ONCE // encoded.clips, 1)):
            outputs = self.model.answer(encoded, *self._padded(some), every_step=False)
            lengths = encoded.lengths.expand(len(some))
            durations = [video.duration] * len(some)
            predictions += decode(outputs, lengths, durations, clip_length, options)
        return predictions

    def search(
        self,
        videos: Mapping[str, str | Path] | FeatureStore,
        queries: Sequence[str],
        top: int = 10,
        skipped: list[str] | None = None,
        progress: bool = False,
    ) -> list[list[Found]]:
        """The moments of many videos that fit each of `queries` best.

        A moment's score is a probability within its video, as in training, where every video holds
        what is asked for. Which video holds it is told by saliency, which is trained against other
        videos as well, as for the stretches of a long one (`sdst.long`):

            score(m) = p(m | video) * mean_t exp(scale * S_t) / (the same of the best moment)

        over the stretch about the moment, so that a video's length does not speak for it. Short
        videos are answered together.

        Args:
            videos: files by their ids, each of which is read once; or a store of `sdst.extract`.
            queries: sentences.
            top: most moments found for each.
            skipped: is told of the videos that cannot be read, a line each; without it such a video
                is an error.
            progress: show a bar.

        Raises:
            InputError: a query is empty, a video cannot be read, or the store's features are not
                those of the training.
        """
        check_queries(queries)
        texts = self.backbone.encode_text(queries)
        candidates: list[list[tuple[str, list[float], float]]] = [[] for _ in queries]
        corpus = tqdm(videos, "search", unit="video", disable=not progress)
        if isinstance(videos, FeatureStore):
            self._check_store(videos)
            features = ((vid, videos.video(vid)) for vid in corpus)
        else:
            features = self._read(((vid, videos[vid]) for vid in corpus), skipped)
        for group in self._groups(features, len(queries)):
            answers = self._answers_of_all([video for _, video in group], texts, top)
            for (vid, _), of_video in zip(group, answers, strict=True):
                for found, answer in zip(candidates, of_video, strict=True):
                    found += [
                        (vid, window, self._evidence(window, answer.saliency))
                        for window in answer.windows[:top].tolist()
                    ]
        return [_best(found, top) for found in candidates]

    def _check_store(self, store: FeatureStore) -> None:
        """Refuse a store whose features are not those that the model was trained on."""
        expected = {
            "fingerprint": self.backbone.fingerprint,
            "clip_length": self.encoder.clip_length,
            "frames_per_clip": self.encoder.frames_per_clip,
        }
        for name, value in expected.items():
            if store.meta.get(name) != value:
                raise InputError(
                    f"{store.path}: {name} {store.meta.get(name)}, expected {value}, that of the "
                    "training; extract the videos with the same backbone and settings"
                )

    def _read(
        self, videos: Iterable[tuple[str, str | Path]], skipped: list[str] | None
    ) -> Iterator[tuple[str, VideoFeatures]]:
        for vid, path in videos:
            try:
                yield vid, self.encoder.encode(path)
            except InputError as error:
                if skipped is None:
                    raise
                skipped.append(str(error))

    def _groups(
        self, videos: Iterable[tuple[str, VideoFeatures]], queries: int
    ) -> Iterator[list[tuple[str, VideoFeatures]]]:
        """Videos that may be answered together: a few short ones, or one that is long."""
        group: list[tuple[str, VideoFeatures]] = []
        longest = 0
        for vid, video in videos:
            _, clips, per_clip, _ = video.tokens.shape
            longest = max(longest, clips)
            too_many = (len(group) + 1) * longest * per_clip * queries > CLIPS_AT_ONCE
            if group and (too_many or longest > self.config.predict.stretch):
                yield group
                group, longest = [], clips
            group.append((vid, video))
        if group:
            yield group

    @torch.inference_mode()
    def _answers_of_all(
        self, videos: list[VideoFeatures], texts: list[TextFeatures], top: int
    ) -> list[list[Prediction]]:
        """What `_answers` gives for every video, those of a group in one pass of the model."""
        if len(videos) == 1:
            return [self._answers(videos[0], texts, top)]
        device = self.backbone.device
        tokens = [_floats(video) for video in videos]
        rows = pad_sequence([video.transpose(0, 1) for video in tokens], batch_first=True)
        lengths = torch.tensor([video.shape[1] for video in tokens], device=device)
        encoded = self.model.encode_video(rows.transpose(1, 2).to(device), lengths)
        index = torch.arange(len(videos), device=device).repeat_interleave(len(texts))
        tokens, words = self._padded([text.tokens for text in texts])
        tokens, words = tokens.repeat(len(videos), 1, 1, 1), words.repeat(len(videos))
        outputs = self.model.answer(encoded, tokens, words, index, every_step=False)
        durations = [video.duration for video in videos for _ in texts]
        options = self.config.predict
        found = decode(outputs, lengths[index], durations, self.encoder.clip_length, options)
        return [found[first : first + len(texts)] for first in range(0, len(found), len(texts))]

    def _evidence(self, window: list[float], saliency: np.ndarray) -> float:
        """log mean exp(scale * S_t) over the stretch of training length about a window."""
        clips = min(self.config.predict.stretch, len(saliency))
        center = round((window[0] + window[1]) / 2 / self.encoder.clip_length)
        first = min(max(center - clips // 2, 0), len(saliency) - clips)
        logits = self._scale * saliency[first : first + clips].astype(float)
        return float(np.logaddexp.reduce(logits) - np.log(clips))

    def _encode(self, video: VideoFeatures) -> EncodedVideo:
        """What the tuner needs of a video, kept for those used last."""
        key = id(video)  # its own as long as the video is kept beside it
        if key not in self._encoded:
            self._encoded[key] = video, self._encode_anew(video)
        self._encoded.move_to_end(key)
        while len(self._encoded) > VIDEOS_IN_MEMORY:
            self._encoded.popitem(last=False)
        return self._encoded[key][1]

    def _encode_anew(self, video: VideoFeatures) -> EncodedVideo:
        tokens = _floats(video)[None].to(self.encoder.backbone.device)
        lengths = torch.tensor([tokens.shape[2]], device=tokens.device)
        return self.model.encode_video(tokens, lengths)

    def _padded(self, texts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens [K, N, Dt] of some sentences as one batch [B, K, N, Dt], and their lengths."""
        rows = pad_sequence([text.transpose(0, 1) for text in texts], batch_first=True)
        lengths = torch.tensor([text.shape[1] for text in texts], device=rows.device)
        return rows.transpose(1, 2), lengths


def _floats(video: VideoFeatures) -> Tensor:
    """A short video's tokens [K, L, P, Dv] in fp32."""
    tokens = torch.from_numpy(np.array(video.tokens, np.float32))
    if video.scales is None:
        return tokens
    return dequantize(tokens, torch.from_numpy(np.array(video.scales)))


class ZeroShotGrounder(_Grounder):
    """Answers queries with the frozen backbone alone, by similarity; nothing need be trained.

    It is the baseline of every report, and any video works with it: `sdst.zero_shot`.

    Args:
        backbone: as for `load_backbone`.
        clip_length: seconds per clip.
        frames_per_clip: frames encoded per clip.
        device: default: CUDA where present, else the CPU.
    """

    def __init__(
        self,
        backbone: str = "demo",
        clip_length: float = 2.0,
        frames_per_clip: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        loaded = load_backbone(backbone, layers=1, device=device)
        frames_per_clip = frames_per_clip or loaded.frames_at_once
        super().__init__(VideoEncoder(loaded, clip_length, frames_per_clip))

    def _answers(
        self, video: VideoFeatures, texts: list[TextFeatures], top: int
    ) -> list[Prediction]:
        answers = [
            zero_shot_moments(
                video.embedding,
                text.embedding.cpu().numpy(),
                self.encoder.clip_length,
                video.duration,
                top,
            )
            for text in texts
        ]
        return [Prediction(np.asarray(windows), saliency) for windows, saliency in answers]


def _encoder_of(
    checkpoint: Path, config: Config, device: torch.device, backbone: str | None
) -> VideoEncoder:
    """What makes of a new video the features that a checkpoint was trained on.

    Raises:
        InputError: nothing here does, or `backbone` is another one.
    """
    data, layers = config.data, config.model.layers
    if data.features == "encode":
        if backbone is not None:
            raise InputError(
                f"--backbone {backbone}: checkpoint {checkpoint} was trained on {data.backbone} "
                "and takes no other; leave the option out"
            )
        loaded = load_backbone(data.backbone, layers, device)
        _check_fit(loaded, config, trained_on(checkpoint))
        return VideoEncoder(loaded, data.clip_length, data.frames_per_clip)
    if data.features != "sdst" or data.endpoints:
        raise InputError(
            f"checkpoint {checkpoint}: trained on feature files of others ({data.features}), which "
            "nothing here makes of a new video; train on videos (data.features encode) to ground "
            "videos"
        )
    if backbone is None:
        raise InputError(
            f"checkpoint {checkpoint}: trained on SDST's published features; name the weights that "
            "made them, --backbone internvideo2:PATH"
        )
    if not backbone.startswith("internvideo2:"):
        raise InputError(
            f"--backbone {backbone}: checkpoint {checkpoint} was trained on InternVideo2's "
            "features; expected internvideo2:PATH"
        )
    loaded = load_backbone(backbone, layers, device)
    loaded.check_published()
    return VideoEncoder(loaded, data.clip_length, loaded.frames_at_once)


def _best(candidates: list[tuple[str, list[float], float]], top: int) -> list[Found]:
    """The best of (video, window with its score, evidence), best first."""
    most = max((evidence for *_, evidence in candidates), default=0.0)
    found = [
        Found(vid, start, end, score * math.exp(evidence - most))
        for vid, (start, end, score), evidence in candidates
    ]
    return sorted(found, key=lambda moment: -moment.score)[:top]


def _batches(items: list[Tensor], size: int) -> Iterator[list[Tensor]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


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
    parser = argparse.ArgumentParser(
        prog="python -m sdst.ground",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="DIR", help="a training run's folder")
    add("--zero-shot", action="store_true", help="answer with the frozen backbone alone")
    add(
        "--backbone",
        metavar="NAME",
        help="with --zero-shot (default: demo), or where a checkpoint needs one",
    )
    add("--clip-length", type=float, metavar="S", help="with --zero-shot (default: 2 seconds)")
    add("--video", type=Path, metavar="FILE")
    add("--videos", type=Path, nargs="+", metavar="PATH", help="files or folders to search in")
    add("--store", type=Path, metavar="DIR", help="a store of sdst.extract to search in")
    add("--query", action="append", default=[], metavar="TEXT", help="may be given repeatedly")
    add("--queries", type=Path, metavar="FILE", help="queries, one a line")
    add("--top", type=int, default=5, metavar="N", help="windows per query (default: %(default)s)")
    add("--json", type=Path, metavar="OUT", help="write the answers as JSON")
    add("--plot", type=Path, metavar="OUT.png", help="draw the answers on the time line")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.ground --help`."""
    options = make_parser().parse_args(arguments)
    options.query += _read_queries(options.queries) if options.queries else []
    _check_options(options)
    if options.zero_shot:
        grounder = ZeroShotGrounder(options.backbone or "demo", options.clip_length or 2.0)
    else:
        grounder = Grounder(options.checkpoint, backbone=options.backbone)
    if options.videos or options.store:
        return _search(grounder, options)
    answers = grounder.ground(options.video, options.query, options.top)
    first = answers[0]
    print(
        f"{options.video.name}: {format_time(first.duration)}, "
        f"{len(first.saliency)} clips of {first.clip_length:g} s"
    )
    for answer in answers:
        print(f"\n{format_table(answer)}")
    if options.json:
        replace_text(options.json, as_json(options.video, answers))
    if options.plot:
        from sdst.plots import plot_groundings

        plot_groundings(options.video, answers, options.plot)
    return 0


def _search(grounder: Grounder, options: argparse.Namespace) -> int:
    """Print the best moments of many videos for every query; exit code 1 if one was left out."""
    videos = find_videos(options.videos) if options.videos else FeatureStore(options.store)
    skipped: list[str] = []
    answers = grounder.search(videos, options.query, options.top, skipped, progress=True)
    records = []
    for query, found in zip(options.query, answers, strict=True):
        records.append({"query": query, "moments": [asdict(moment) for moment in found]})
        print(f"\n{query.strip()}, best of {len(videos) - len(skipped):,} videos")
        for rank, moment in enumerate(found, 1):
            start, end = format_time(moment.start), format_time(moment.end)
            print(f"  {rank:>4} {start:>9} {end:>9}   {moment.score:5.3f}  {moment.vid}")
    if options.json:
        replace_text(options.json, json.dumps(records) + "\n")
    for line in skipped:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if skipped else 0


def _read_queries(path: Path) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--queries {path}: cannot be read as text ({error})") from None
    return [line for line in lines if line.strip()]


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what does not go together before anything is loaded."""
    if options.zero_shot == (options.checkpoint is not None):
        raise InputError("give either --checkpoint DIR or --zero-shot")
    if [options.video, options.videos, options.store].count(None) != 2:
        raise InputError("give one of --video FILE, --videos PATH ... and --store DIR")
    if options.clip_length is not None and not options.zero_shot:
        raise InputError("--clip-length goes with --zero-shot; a checkpoint knows its own")
    if options.clip_length is not None and not options.clip_length > 0:
        raise InputError(f"--clip-length {options.clip_length:g}: expected seconds above 0")
    check_queries(options.query)
    if options.top < 1:
        raise InputError(f"--top {options.top}: expected at least 1")
    if options.video is None and (options.zero_shot or options.plot):
        raise InputError("--videos and --store go with --checkpoint and without --plot")
    if options.video is not None and not options.video.is_file():
        raise InputError(f"--video {options.video}: no such video file")
    _check_output("--json", options.json)
    _check_output("--plot", options.plot)
    if options.plot:
        from sdst.plots import check_picture_name

        check_picture_name(options.plot)


if __name__ == "__main__":
    run(main)
