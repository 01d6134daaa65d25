"""Asking about one video or many: what a grounder with a model and one without have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from sdst.backbones import TextFeatures
from sdst.data.store.reader import VideoFeatures
from sdst.errors import InputError
from sdst.grounding.answers import Grounding, moments_to_show
from sdst.grounding.corpus import Corpus, PartOfStore
from sdst.grounding.decode import Prediction
from sdst.grounding.encoder import VideoEncoder
from sdst.grounding.queries import as_queries
from sdst.indexing.clip_index import ClipIndex


class Answers(Protocol):
    """Answers sentences about one video, of which at least the `top` best moments are needed."""

    def __call__(
        self, video: VideoFeatures, texts: list[TextFeatures], top: int
    ) -> list[Prediction]: ...


def ask(
    encoder: VideoEncoder,
    encode_text: Callable[[list[str]], list[TextFeatures]],
    answers: Answers,
    video: str | Path,
    queries: str | Sequence[str],
    top: int,
    progress: bool,
    floor: float = 0.0,
) -> list[Grounding]:
    """The answers to `queries` about one video.

    Args:
        floor: score below which a window behind the first is not shown.
    """
    queries = as_queries(queries)
    check_top(top)
    features = encoder.encode(video, progress)
    found = answers(features, encode_text(queries), top)
    return [
        Grounding(
            query=query,
            windows=answer.windows[:top].tolist(),
            saliency=answer.saliency,
            clip_length=encoder.clip_length,
            duration=features.duration,
            unread=unread,
            video=str(video),
            presence=answer.presence,
            moments=moments_to_show(answer.windows.tolist(), floor, top),
        )
        for query, answer, unread in zip(
            queries, found, encoder.backbone.unread(queries), strict=True
        )
    ]


def parts_to_search(
    corpus: Corpus | ClipIndex, texts: list[TextFeatures]
) -> Iterator[tuple[Corpus, list[TextFeatures]]]:
    """The videos to search for each sentence: all for all, or an index's candidates for each."""
    if not isinstance(corpus, ClipIndex):
        yield corpus, texts
        return
    for text in texts:
        vids = corpus.candidates(text.embedding.cpu().numpy())
        yield PartOfStore(corpus.store, vids), [text]


def check_top(top: int) -> None:
    """Refuse to be asked for no window."""
    if top < 1:
        raise InputError(f"top is {top}; expected at least 1 window per query")
