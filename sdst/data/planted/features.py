"""Features made up from annotations: a recipe runs on a dataset's real timing without its videos.

Every word means a random direction, and a sentence the sum of its words, rare ones counting more.
A clip holds the meanings of what happens in it under noise, and two random linear maps, as if of
two backbones, turn meanings into tokens:

    video[k, t, p] = (signal * sum_m a_m(t) s_m(p) z_m + noise * b[k, t, p]) A_v + e
    text[k, n]     = (w_n + z) A_t / sqrt(2) + e / 2

m runs over the queries on the video and their distractors, z_m is the sentence's meaning, a_m(t)
the share of clip t inside its windows, smeared, and stronger where annotators rated it higher; only
some tokens p show it (s_m) and only the last layers k. The background b wanders over time, in every
layer on its own, and e is white. What is learned on one split about words so holds on another.

So a cosine of a clip and the sentence, both projected, is all that it takes to find a moment. Three
harder kinds, alone or together, take that away (`sdst.data.planted.maps` has their formulas):

- `order`: a moment changes from a first phase to a second in the middle; decoys elsewhere in the
  video show the second phase first. A clip, or a bag of clips, is the same in both.
- `binding`: a moment shows two objects, the sentence's and a companion, another sentence's; decoys
  show them with their properties exchanged. The sum of all attributes is the same in both.
- `nonlinear`: tokens are two-layer functions of meanings, even ones of the video, odd ones of the
  text. Whatever is linear in both changes its sign with the meaning, which the relevance does not.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from sdst.data.annotations import Annotation
from sdst.data.feature_files import Layout, endpoint_features, unit_vectors
from sdst.data.planted.config import PlantedConfig
from sdst.data.planted.maps import Binding, Phases, TokenMap, even, odd
from sdst.data.planted.timing import elsewhere, halves, relevance, runs, widened
from sdst.data.store.reader import QueryFeatures, VideoFeatures
from sdst.errors import InputError

MEANINGS = 64  # dimensions of the space of meanings
SHOWN = 0.2  # share of a clip's tokens that show a moment, where there are several
SCENE = 2.0  # clips over which the background keeps its meaning, as a Gaussian's width
TEXT_NOISE = 0.5  # of a text token, relative to what it means
SHORTEST_DECOY = 2  # clips; one clip has no order

# What is shown: its meaning [MEANINGS], its share of every clip [L] and of a clip's tokens [P].
Moment = tuple[np.ndarray, np.ndarray, np.ndarray]


class PlantedFeatures:
    """A `FeatureSource` that makes up features when they are asked for, always the same.

    Queries without windows or labels plant nothing and are read like others.

    Args:
        annotations: of all splits.
        config: how hard.
        layout: whose layers, tokens per clip and normalisation are taken over.
        layers, video_width, text_width: K, Dv, Dt of the features.
        clip_length: seconds per clip.
        endpoints: the last two of Dv are every clip's start / L and end / L.
        path: what errors name.
    """

    def __init__(
        self,
        annotations: Sequence[Annotation],
        config: PlantedConfig,
        layout: Layout,
        *,
        layers: int,
        video_width: int,
        text_width: int,
        clip_length: float,
        endpoints: bool = False,
        path: Path = Path("planted"),
    ) -> None:
        self.path = path
        self._config, self._layout = config, layout
        self._clip_length, self._endpoints = clip_length, endpoints
        self.shapes = {
            "layers": layers if layout.layered else 1,
            "tokens_per_frame": layout.tokens_per_clip,
            "video_width": video_width,
            "text_width": text_width,
            "embed_width": 0,
        }
        self._on_video: dict[str, list[Annotation]] = defaultdict(list)
        for annotation in annotations:
            self._on_video[annotation.vid].append(annotation)
        self._words = {a.qid: _words(a.query) for a in annotations}
        uses = Counter(word for words in self._words.values() for word in set(words))
        self._meanings = {w: unit_vectors(self._normal("word", w, shape=(MEANINGS,))) for w in uses}
        rare = {w: math.log(1 + len(annotations) / n) * self._meanings[w] for w, n in uses.items()}
        self._sentences = {
            qid: unit_vectors(reduce(np.add, [rare[word] for word in dict.fromkeys(words)]))
            for qid, words in self._words.items()
        }
        planted_width = video_width - 2 * endpoints
        shapes = (MEANINGS, planted_width), (MEANINGS, text_width)
        self.to_video, self._to_text = (
            TokenMap.drawn(self._normal, name, shape, hidden, config.nonlinear)
            for name, shape, hidden in zip(
                ("video map", "text map"), shapes, (even, odd), strict=True
            )
        )
        self.phases = Phases.drawn(self._normal, MEANINGS) if config.order else None
        self.binding = Binding.drawn(self._normal, MEANINGS) if config.binding else None
        self._companions = self._another_of_each() if config.binding else {}

    @property
    def identity(self) -> list:
        """The shapes; the rest is in the config."""
        return [self.shapes]

    @property
    def video_ids(self) -> list[str]:
        """All annotated videos."""
        return list(self._on_video)

    @property
    def query_ids(self) -> list[int | str]:
        """All annotated queries."""
        return list(self._words)

    def video(self, vid: str) -> VideoFeatures:
        """Made-up features of an annotated video, fp32, every number of variance about 1 or more.

        Raises:
            InputError: no query is annotated on it.
        """
        if vid not in self._on_video:
            raise InputError(f"{self.path}: video {vid} is not annotated, nothing can be planted")
        annotations = self._on_video[vid]
        duration = max(a.duration for a in annotations)
        clips = math.ceil(duration / self._clip_length)
        generator = self._generator("video", vid)
        content = self._background(clips, generator)
        content[-self._config.layers :] += self._planted(annotations, clips)
        tokens = self.to_video(content)
        tokens += generator.standard_normal(tokens.shape, np.float32)
        if self._layout.normalize:
            tokens = unit_vectors(tokens)
        if self._endpoints:
            tokens = np.concatenate((tokens, endpoint_features(tokens.shape, clips)), axis=3)
        return VideoFeatures(tokens, None, duration)

    def query(self, qid: int | str) -> QueryFeatures:
        """Made-up features of an annotated sentence, fp32: its words between two tokens that, as
        [CLS] and [SEP], mean the sentence alone.

        Raises:
            InputError: there is no such query.
        """
        if qid not in self._words:
            raise InputError(f"{self.path}: query {qid} is not annotated, nothing can be made up")
        nothing = np.zeros((1, MEANINGS), np.float32)
        words = [nothing, *(self._meanings[word][None] for word in self._words[qid]), nothing]
        meaning = np.concatenate(words) + self.sentence(qid)
        tokens = np.repeat(self._to_text(meaning / math.sqrt(2))[None], self.shapes["layers"], 0)
        noise = self._generator("query", qid).standard_normal(tokens.shape, np.float32)
        return QueryFeatures(tokens + TEXT_NOISE * noise, None)

    def sentence(self, qid: int | str) -> np.ndarray:
        """[MEANINGS], what a query means, of length 1: its words by inverse document frequency."""
        return self._sentences[qid]

    def _background(self, clips: int, generator: np.random.Generator) -> np.ndarray:
        """[K, L, P, MEANINGS], wandering over time, `noise` long on average."""
        shape = self.shapes["layers"], clips, self.shapes["tokens_per_frame"], MEANINGS
        wander = gaussian_filter1d(generator.standard_normal(shape, np.float32), SCENE, axis=1)
        length = math.sqrt(MEANINGS) * wander.std()
        return wander * np.float32(self._config.noise / length)

    def _planted(self, annotations: Sequence[Annotation], clips: int) -> np.ndarray:
        """[L, P, MEANINGS], what the moments of these queries and their distractors show."""
        moments = [m for annotation in annotations for m in self._moments(annotation, clips)]
        if not moments:
            return np.zeros((), np.float32)
        meanings, shares, shown = (np.stack(part) for part in zip(*moments, strict=True))
        if self._config.smear:
            shares = gaussian_filter1d(shares, self._config.smear, axis=1, mode="constant")
        where = shares.T[:, None] * shown.T  # [L, P, M]
        return (self._config.signal * where).astype(np.float32) @ meanings

    def _moments(self, annotation: Annotation, clips: int) -> Iterator[Moment]:
        """A query's windows as one, then its distractors and decoys."""
        shares = relevance(annotation, clips, self._clip_length)
        if not shares.any():
            return
        generator = self._generator("moments", annotation.qid)
        meaning, like = self._sentences[annotation.qid], self._config.likeness
        yield from self._in_phases(self._scene(annotation.qid, meaning), shares, generator)
        for _ in range(self._config.distractors):
            length = self._some_length(annotation, shares, generator)
            moved = elsewhere(shares, length, generator)
            other = unit_vectors(generator.standard_normal(MEANINGS, np.float32))
            mixed = unit_vectors(like * meaning + math.sqrt(1 - like**2) * other)
            yield from self._in_phases(self._scene(annotation.qid, mixed), moved, generator)
        yield from self._decoys(annotation, shares)

    def _another_of_each(self) -> dict[int | str, int | str]:
        """Another query for each one, itself where it is alone."""
        qids = list(self._words)
        companions = {}
        for index, qid in enumerate(qids):
            ahead = 1 + self._generator("companion", qid).integers(max(1, len(qids) - 1))
            companions[qid] = qids[(index + ahead) % len(qids)]
        return companions

    def _decoys(self, annotation: Annotation, shares: np.ndarray) -> Iterator[Moment]:
        """Copies of moments with wrong order and wrong binding in turns, apart from all others."""
        kinds = [name for name in ("order", "binding") if getattr(self._config, name)]
        generator = self._generator("decoys", annotation.qid)
        meaning, moments = self._sentences[annotation.qid], runs(shares)
        taken = shares.copy()
        for index in range(self._config.decoys if kinds else 0):
            backwards = kinds[index % len(kinds)] == "order"
            start, end = moments[generator.integers(len(moments))]
            length = end - start
            decoy = elsewhere(widened(taken, length), length, generator, SHORTEST_DECOY)
            own = np.flip(shares[start:end]) if backwards else shares[start:end]
            decoy[decoy > 0] = own[: np.count_nonzero(decoy)]
            taken += decoy
            scene = self._scene(annotation.qid, meaning, exchanged=not backwards)
            yield from self._in_phases(scene, decoy, generator, backwards)

    def _scene(self, qid: int | str, meaning: np.ndarray, exchanged: bool = False) -> np.ndarray:
        """[MEANINGS], what a clip shows of something that means `meaning`; with `binding` also the
        query's companion, or both with their properties exchanged."""
        if self.binding is None:
            return meaning
        companion = self._sentences[self._companions[qid]]
        properties = (companion, meaning) if exchanged else (meaning, companion)
        return self.binding(meaning, properties[0]) + self.binding(companion, properties[1])

    def _in_phases(
        self,
        scene: np.ndarray,
        shares: np.ndarray,
        generator: np.random.Generator,
        backwards: bool = False,
    ) -> Iterator[Moment]:
        """A scene in its clips; with `order` its two phases, in the halves of every moment."""
        shown = self._shown(generator)
        if self.phases is None:
            yield scene, shares, shown
            return
        phases = self.phases(scene)
        for phase, half in zip(
            reversed(phases) if backwards else phases, halves(shares), strict=True
        ):
            yield phase, half, shown

    def _some_length(
        self, annotation: Annotation, shares: np.ndarray, generator: np.random.Generator
    ) -> int:
        """Clips of one of the query's moments, or of all that is labelled well."""
        if not annotation.windows:
            return int(np.count_nonzero(shares))
        start, end = annotation.windows[generator.integers(len(annotation.windows))]
        return max(1, round((end - start) / self._clip_length))

    def _shown(self, generator: np.random.Generator) -> np.ndarray:
        """[P], 1 for the tokens of a clip that show a moment."""
        tokens = self.shapes["tokens_per_frame"]
        return generator.permutation(np.arange(tokens) < math.ceil(SHOWN * tokens)).astype(float)

    def _generator(self, *key: object) -> np.random.Generator:
        """Random numbers of one thing, whatever was asked for before it."""
        name = repr((self._config.seed, *key)).encode()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest()[:16], "big"))

    def _normal(self, *key: object, shape: tuple[int, ...]) -> np.ndarray:
        return self._generator(*key).standard_normal(shape, np.float32)


def _words(query: str) -> list[str]:
    return re.findall(r"\w+", query.lower()) or [query]
