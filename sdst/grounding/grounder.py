"""Answers sentences about videos with a trained side-tuner.

`python -m sdst.ground` is their command.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdst.backbones import TextFeatures
from sdst.data.annotations import NO_SENTENCE
from sdst.data.store.reader import VideoFeatures
from sdst.errors import InputError
from sdst.grounding.answers import UNLIKELY, Grounding
from sdst.grounding.asking import ask, check_top, parts_to_search
from sdst.grounding.corpus import Corpus, open_corpus
from sdst.grounding.decode import Prediction, check_precision, decode, inference
from sdst.grounding.devices import pick_device
from sdst.grounding.encoder import VIDEOS_IN_MEMORY, encoder_of
from sdst.grounding.graphs import CALLS_TO_WARM, AnswerGraphs, make_capture
from sdst.grounding.long_videos import ground_long
from sdst.grounding.queries import as_queries
from sdst.grounding.recent import Recent
from sdst.grounding.search import Found, Ranking, groups, videos_of
from sdst.grounding.zero_shot import salient_windows
from sdst.hub.models import DEMO_MODEL, push
from sdst.indexing.clip_index import ClipIndex
from sdst.kernels import dequantize
from sdst.model import SDST, EncodedVideo
from sdst.model.calibration import UNCALIBRATED, Calibration
from sdst.pretrained.folder import load_checkpoint, save_model

logger = logging.getLogger(__name__)

# Of all queries that are answered together: so many that intermediate results stay in a CPU's
# caches, or that a GPU computes longer than launching takes.
CLIPS_AT_ONCE = {"cpu": 64 * 75, "cuda": 256 * 75}
# A sentence of each of the shorter lengths that share a graph.
MADE_UP = ("a dog jumps", "a dog jumps into the lake and swims to the other side")


class Grounder:
    """Answers queries on video files with a trained side-tuner.

    A video is decoded and encoded once: its features are kept in memory for the videos used
    last and on disk under `cache_dir()/grounding` for all. Queries are answered in batches,
    on projections of the video that are made once for all of them. A video longer than those of the
    training is processed in windows (`sdst.grounding.long_videos`). Threads may share a grounder.

        grounder = Grounder("runs/demo")
        [answer] = grounder.ground("film.mp4", "a dog jumps into the lake")
        start, end, score = answer.windows[0]

    Args:
        checkpoint: the `--output` folder of a training run, its `model/`, `ORG/REPO` of a hub, or
            the name of a packaged model. By default that of the demo.
        device: default: CUDA where present, else the CPU.
        backbone: for a checkpoint trained on features published by SDST, which name no backbone:
            `internvideo2:PATH`. Otherwise the one that the checkpoint names, to have it fetched, or
            where it is on this machine: its weights must be those of the training.
        precision: of the side-tuner's matrix multiplies. `bf16` is about 2x faster on a CPU
            with native bf16 (`sdst.info` reports it), 2.7x for many queries at once. `auto` is
            bf16 where it is native.
        lazy: load the backbone that the checkpoint names, and check it, only when a video or
            sentence is new, and keep sentences on disk as well: for a process that asks little.

    Raises:
        InputError: there is no such checkpoint or device, or the CPU lacks the precision.
    """

    def __init__(
        self,
        checkpoint: str | Path = DEMO_MODEL,
        device: str | torch.device | None = None,
        backbone: str | None = None,
        precision: str = "fp32",
        lazy: bool = False,
    ) -> None:
        device = pick_device(device)
        self.precision, self.checkpoint = check_precision(precision, device), checkpoint
        self.description, model = load_checkpoint(checkpoint)
        self.config = self.description.config
        self.model: SDST = model.to(device).for_inference()
        self.graphs = AnswerGraphs(self.model, make_capture(device))
        self._scale = self.model.scale.item()
        self.clips_at_once = CLIPS_AT_ONCE.get(device.type, CLIPS_AT_ONCE["cpu"])
        self._encoded: Recent[int, tuple[VideoFeatures, EncodedVideo]] = Recent(VIDEOS_IN_MEMORY)
        self.encoder = encoder_of(checkpoint, self.description, device, backbone, lazy)
        self.backbone = self.encoder.backbone
        self._warned = self.config.data.dataset != "demo"

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, **options: Any) -> Grounder:
        """`Grounder(checkpoint, **options)`, under the name that other libraries have for it."""
        return cls(checkpoint, **options)

    def save_pretrained(self, folder: str | Path, license: str | None = None) -> None:
        """Write the model folder: weights, all that answering needs, and a model card.

        Args:
            folder: receives the files; those of the same names are replaced.
            license: of the weights, as hubs know it (`mit`, `cc-by-4.0`); default: what they have.

        Raises:
            OSError: it cannot be written.
        """
        description = self.description
        described = replace(description, license=license or description.license)
        save_model(Path(folder), self.model, described)

    def push_to_hub(
        self,
        repository: str,
        private: bool = False,
        token: str | None = None,
        license: str | None = None,
    ) -> str:
        """Upload the model folder to a hub; `Grounder(repository)` then answers anywhere.

        Args:
            repository: `ORG/REPO`, created where there is none.
            private: of a new repository.
            token: default: of `hf auth login`.
            license: as for `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            InputError: the hub refuses, or cannot be reached.
        """
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            self.save_pretrained(folder, license)
            return push(folder, repository, private, token)

    def ground(
        self,
        video: str | Path,
        queries: str | Sequence[str] | None = None,
        top: int = 5,
        progress: bool = False,
        min_presence: float = 0.0,
    ) -> list[Grounding]:
        """The moments of `video` that each of `queries` describes.

        Args:
            video: a video file, of any length.
            queries: a sentence, or any number of them. None for a model that was trained without
                sentences (`data.sentences: none`), whose moments are the video's highlights.
            top: most windows per query.
            progress: show a bar while the video is encoded for the first time.
            min_presence: no windows for a query whose `Grounding.presence` is less.

        Raises:
            InputError: the video cannot be read, a query is empty, or is given to a model without
                sentences, `top` is below 1, or `min_presence` is asked of a model without presence.
        """
        queries = self.asked(queries)
        self.check_presence(min_presence)
        self._warn_of_demo(video)
        calibrated = self._calibration.windows is not None and self.config.loss.of_moments
        floor = UNLIKELY if calibrated else 0.0
        answers = ask(
            self.encoder, self._encode_text, self._answers, video, queries, top, progress, floor
        )
        return [_if_present(answer, min_presence) for answer in answers]

    def asked(self, queries: str | Sequence[str] | None) -> list[str]:
        """The sentences that are answered, `NO_SENTENCE` alone by a model without sentences.

        Raises:
            InputError: this model needs some and there are none, or the other way round.
        """
        given = [queries] if isinstance(queries, str) else list(queries or ())
        if self.config.data.sentences == "none":
            if given and given != [NO_SENTENCE]:
                raise InputError(
                    f"{self.checkpoint}: was trained without sentences and finds highlights of any "
                    "video; leave the query out"
                )
            return [NO_SENTENCE]
        return as_queries(given)

    def _encode_text(self, queries: Sequence[str]) -> list[TextFeatures]:
        if self.config.data.sentences == "own":
            return self.backbone.encode_text(queries)
        shape = self.config.model.layers, 1, self.config.model.text_width
        nothing = torch.zeros(shape, device=self.backbone.device)
        return [TextFeatures(nothing, torch.zeros(0)) for _ in queries]

    def check_presence(self, least: float) -> None:
        """Refuse a presence to ask for that is none, or of a model that does not know it.

        Raises:
            InputError: it is so.
        """
        if not 0 <= least <= 1:
            raise InputError(f"min_presence {least:g}: expected a probability, 0 to 1")
        if least > 0 and not self.knows_presence:
            raise InputError(
                f"{self.checkpoint}: min_presence {least:g}: this model does not report whether a "
                "video has what is asked for; resume its finished training, which adds that, or "
                "leave min_presence out"
            )

    @property
    def knows_presence(self) -> bool:
        """Whether the model reports if a video has what is asked for."""
        return self._calibration.presence is not None

    @property
    def _calibration(self) -> Calibration:
        return self.model.calibration or UNCALIBRATED

    def warm(self, queries: Sequence[int] = (1,), clips: int | None = None) -> None:
        """Answer made-up questions, so that the first real ones take no longer than others.

        On a GPU kernels are compiled and graphs captured; each kind of question has one.

        Args:
            queries: how many will be asked at once.
            clips: of the videos; default: as most of the training.
        """
        backbone = self.encoder.backbone
        clips = clips or self.config.predict.stretches.clips
        shape = backbone.layers, clips, backbone.tokens_per_frame, backbone.video_width
        seconds = clips * self.encoder.clip_length
        video = VideoFeatures(np.zeros(shape, np.float16), None, seconds)
        for text in self._encode_text(MADE_UP):
            for count in queries:
                for _ in range(CALLS_TO_WARM):
                    self._answers(video, [text] * count, top=1)

    def _warn_of_demo(self, video: str | Path) -> None:
        """Warn once of what a model of the demo knows: where it is the default, or is asked about
        another video."""
        if self._warned:
            return
        from sdst.demo import is_of_demo

        if self.checkpoint == DEMO_MODEL or not is_of_demo(Path(video)):
            self._warned = True
            logger.warning(
                "%s: a model of the demo, which knows coloured shapes that move; its answers about "
                "other videos mean nothing: train on your own, or answer with --zero-shot",
                self.checkpoint,
            )

    def _answers(
        self, video: VideoFeatures, texts: list[TextFeatures], top: int
    ) -> list[Prediction]:
        with inference(self.backbone.device, self.precision):
            found = self._answers_by_model(video, [text.tokens for text in texts])
        return [self._with_moments(answer, video.duration, top) for answer in found]

    def _with_moments(self, answer: Prediction, duration: float, top: int) -> Prediction:
        """`answer`, with the most salient windows where the model learned highlights alone."""
        if self.config.loss.of_moments:
            return answer
        windows = salient_windows(answer.saliency, self.encoder.clip_length, duration, top)
        return replace(answer, windows=np.asarray(windows))

    def _answers_by_model(self, video: VideoFeatures, tokens: list[Tensor]) -> list[Prediction]:
        clip_length, options = self.encoder.clip_length, self.config.predict
        if video.tokens.shape[1] > options.stretches.clips:
            return ground_long(
                self.model,
                video.tokens,
                tokens,
                clip_length,
                video.duration,
                options,
                video.scales,
                self.graphs.answer,
            )
        encoded = self._encode(video)
        predictions: list[Prediction] = []
        for some in _batches(tokens, max(self.clips_at_once // encoded.clips, 1)):
            outputs = self.graphs.answer(encoded, *self._padded(some))
            lengths = encoded.lengths.expand(len(some))
            durations = [video.duration] * len(some)
            predictions += decode(
                outputs, lengths, durations, clip_length, options, self._calibration
            )
        return predictions

    def search(
        self,
        videos: Corpus | ClipIndex | str | Path | Sequence[str | Path],
        queries: str | Sequence[str] | None = None,
        top: int = 10,
        skipped: list[str] | None = None,
        progress: bool = False,
        min_presence: float = 0.0,
    ) -> list[list[Found]]:
        """The best moments across many videos for each of `queries`.

        `sdst.grounding.search` says how. Short videos are answered together.

        Args:
            videos: files by their ids; a folder, or a list of files and folders, whose videos go by
                their relative paths; a store of `sdst.extract`, open or by its path; or an index,
                whose candidates for each sentence are looked into.
            queries: a sentence, or any number of them.
            top: most moments found for each.
            skipped: receives a line for each video that cannot be read; without it such a video
                is an error.
            progress: show a bar; an index has none.
            min_presence: leave out videos in which a query's presence is less.

        Raises:
            InputError: a query is empty, `top` is below 1, a video cannot be read, the store's
                features are not those of the training, or `min_presence` is asked of a model
                without presence.
        """
        self.check_presence(min_presence)
        queries = self.asked(queries)
        check_top(top)
        corpus = videos if isinstance(videos, ClipIndex) else open_corpus(videos)
        if isinstance(corpus, ClipIndex) and self.config.data.sentences == "none":
            raise InputError(
                f"{self.checkpoint}: was trained without sentences, by which an index names its "
                "candidates; search files or a store"
            )
        if isinstance(corpus, Mapping):
            for video in corpus.values():
                self._warn_of_demo(video)
        progress &= not isinstance(corpus, ClipIndex)
        return [
            found
            for part, texts in parts_to_search(corpus, self._encode_text(queries))
            for found in self._search(part, texts, top, skipped, progress, min_presence)
        ]

    def _search(
        self,
        corpus: Corpus,
        texts: list[TextFeatures],
        top: int,
        skipped: list[str] | None,
        progress: bool,
        min_presence: float,
    ) -> list[list[Found]]:
        stretch = self.config.predict.stretches.clips
        clip_length = self.encoder.clip_length
        ranking = Ranking(len(texts), top, self._scale, clip_length, stretch, min_presence)
        encoded = videos_of(corpus, self.encoder, skipped, progress)
        for group in groups(encoded, len(texts), self.clips_at_once, stretch):
            answers = self._answers_of_all([video for _, video in group], texts, top)
            for (vid, _), of_video in zip(group, answers, strict=True):
                ranking.add(vid, of_video)
        return ranking.best()

    def _answers_of_all(
        self, videos: list[VideoFeatures], texts: list[TextFeatures], top: int
    ) -> list[list[Prediction]]:
        """`_answers` for every video, those of a group in one pass of the model."""
        if len(videos) == 1:
            return [self._answers(videos[0], texts, top)]
        device = self.backbone.device
        lengths = torch.tensor([video.tokens.shape[1] for video in videos], device=device)
        video = _stacked([np.asarray(video.tokens) for video in videos]).to(device)
        scales = None
        if of_videos := [np.asarray(x.scales) for x in videos if x.scales is not None]:
            scales = _stacked(of_videos).to(device)
        index = torch.arange(len(videos), device=device).repeat_interleave(len(texts))
        tokens, words = self._padded([text.tokens for text in texts])
        tokens, words = tokens.repeat(len(videos), 1, 1, 1), words.repeat(len(videos))
        with inference(device, self.precision):
            encoded = self.model.encode_video(video, lengths, scales)
            outputs = self.model.answer(encoded, tokens, words, index, every_step=False)
        durations = [video.duration for video in videos for _ in texts]
        options = self.config.predict
        clip_length, lengths = self.encoder.clip_length, lengths[index]
        found = decode(outputs, lengths, durations, clip_length, options, self._calibration)
        found = [
            self._with_moments(answer, seconds, top)
            for answer, seconds in zip(found, durations, strict=True)
        ]
        return [found[first : first + len(texts)] for first in range(0, len(found), len(texts))]

    def _encode(self, video: VideoFeatures) -> EncodedVideo:
        """A video as the tuner reads it, kept for those used last."""
        # The id is the video's own as long as the video is kept beside it.
        _, encoded = self._encoded.get(id(video), partial(self._encode_anew, video))
        return encoded

    def _encode_anew(self, video: VideoFeatures) -> tuple[VideoFeatures, EncodedVideo]:
        tokens = _floats(video)[None].to(self.encoder.backbone.device)
        lengths = torch.tensor([tokens.shape[2]], device=tokens.device)
        return video, self.model.encode_video(tokens, lengths)

    def _padded(self, texts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens [K, N, Dt] of some sentences as one batch [B, K, N, Dt], and their lengths."""
        rows = pad_sequence([text.transpose(0, 1) for text in texts], batch_first=True)
        lengths = torch.tensor([text.shape[1] for text in texts], device=rows.device)
        return rows.transpose(1, 2), lengths


def _if_present(answer: Grounding, least: float) -> Grounding:
    """`answer`, without windows where its presence is less."""
    if answer.presence is None or answer.presence >= least:
        return answer
    return replace(answer, windows=[], moments=[])


def _floats(video: VideoFeatures) -> Tensor:
    """A short video's tokens [K, L, P, Dv] in fp32."""
    if video.scales is None:
        return torch.from_numpy(np.array(video.tokens, np.float32))
    return dequantize(*(torch.from_numpy(np.array(x)) for x in (video.tokens, video.scales)))


def _stacked(videos: Sequence[np.ndarray]) -> Tensor:
    """[V, K, L, ...] of videos [K, L, ...] as they are stored, zeros after the shorter ones.

    Its memory is layer by layer, as the model reads it.
    """
    layers, _, *rest = videos[0].shape
    longest = max(video.shape[1] for video in videos)
    stack = np.zeros((layers, len(videos), longest, *rest), videos[0].dtype)
    for i, video in enumerate(videos):
        stack[:, i, : video.shape[1]] = video
    return torch.from_numpy(stack).transpose(0, 1)


def _batches(items: list[Tensor], size: int) -> Iterator[list[Tensor]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
