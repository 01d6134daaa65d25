"""Architecture and loss weights of a Sparse-Dense Side-Tuner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_COUNTS = (
    "layers",
    "video_width",
    "text_width",
    "width",
    "queries",
    "heads",
    "points",
    "context_tokens",
    "context_segments",
    "pooled_tokens",
)
# Keys that earlier versions saved, with the value that every model has now.
_RETIRED = {"reach": None}
_CHANCES = ("projection_dropout", "dropout", "drop_path")


@dataclass
class ModelConfig:
    """Architecture of `SDST`; the defaults are the paper's configuration.

    Marks: [P] stated by the paper, [S] asked for by the project page, [D] our default.

    Args:
        layers: K, backbone blocks read, one refinement step each [P: 5].
        video_width: Dv, width of the backbone's visual hidden states [P: 768, InternVideo2-1B];
            0 in a config file: as wide as the features are.
        text_width: Dt, width of its textual hidden states [P: 1024, BERT-large]; likewise.
        width: F, width of the side-tuner [P: 256].
        queries: M, recurrent moment queries [D: CG-DETR; the official mAP keeps 10 windows].
        heads: attention heads [D: R2-Tuning].
        query_attention: let the moment queries attend to each other [P]. Where a query has several
            moments they may then leave the answer to a few of them; see "Beyond Caption-Based
            Queries in Video Moment Retrieval", CVPR 2026, and `loss.query_dropout`.
        points: S, sampling points per head and query [D: Deformable-DETR].
        attention: how the moment queries read the dense stream: the paper's RDSA, or one of the
            two baselines of its ablation [P].
        reads: what of the dense stream D the moment queries read: `dense` is D alone, the paper's
            [P]; `saliency` is D + z c, where z is the step's saliency, standardised over the video
            and detached, and c one learned vector: no weight that does not know the sentence can
            read the match off D [D, ours].
        refinement: how a step moves a reference: by `logit`s of center and width [D: DAB-DETR], or
            `relative` to its width [D, ours].
        context: `sparse` lets the moment queries attend to selected frozen tokens [S]; `none` is
            exactly the paper's block.
        context_tokens: frozen tokens kept per step under `context: sparse` [D].
        context_strides: temporal pyramid the tokens are picked from, in clips [S].
        context_segments: equal parts of the video that share the budget [D].
        pooled_tokens: tokens of a clip that its dense input is pooled from under
            `context: sparse`, when the backbone gives several [D].
        pooling: a clip's dense input under `context: none`, when the backbone gives several
            tokens: its prefix token or the mean of all.
        schedule: temporal stride of the dense stream at every step, ending at 1; None is full
            resolution throughout, the paper's [S].
        window: neighbours that an element of the dense stream attends to on either side, in videos
            that do not fit into it; time and memory then grow linearly. None: all of them [S].
        global_tokens: averages over equal parts of such a video that everything attends to as
            well; they have no parameters, so any checkpoint takes them [S].
        projection_dropout: in the two input projections [D: R2-Tuning].
        dropout: in the attention and feed-forward residual branches [D].
        drop_path: chance of a sample to skip a residual branch [D: R2-Tuning].
    """

    layers: int = 5
    video_width: int = 768
    text_width: int = 1024
    width: int = 256
    queries: int = 10
    heads: int = 8
    query_attention: bool = True
    points: int = 4
    attention: Literal["rdsa", "deformable", "cross"] = "rdsa"
    reads: Literal["dense", "saliency"] = "dense"
    refinement: Literal["logit", "relative"] = "logit"
    context: Literal["none", "sparse"] = "none"
    context_tokens: int = 64
    context_strides: tuple[int, ...] = (1, 2, 4, 8)
    context_segments: int = 4
    pooled_tokens: int = 8
    pooling: Literal["prefix", "mean"] = "mean"
    schedule: tuple[int, ...] | None = None
    window: int | None = None
    global_tokens: int = 16
    projection_dropout: float = 0.5
    dropout: float = 0.1
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        # YAML and JSON know lists only.
        self.context_strides = tuple(self.context_strides)
        self.schedule = self.schedule and tuple(self.schedule)

    @property
    def strides(self) -> tuple[int, ...]:
        """Temporal stride of the dense stream at each of the K steps."""
        return self.schedule or (1,) * self.layers

    def problems(self) -> list[str]:
        """Every reason why no model can be built from these numbers; empty if one can."""
        found = [
            f"model.{name} is {getattr(self, name)}, expected at least 1"
            for name in _COUNTS
            if getattr(self, name) < 1
        ]
        found += [
            f"model.{name} is {getattr(self, name)}, expected at least 0 and less than 1"
            for name in _CHANCES
            if not 0 <= getattr(self, name) < 1
        ]
        if self.heads >= 1 and self.width % self.heads:
            found.append(f"model.width {self.width} is not a multiple of model.heads {self.heads}")
        if len(self.strides) != self.layers:
            found.append(
                f"model.schedule has {len(self.strides)} strides, expected one per step "
                f"(model.layers is {self.layers})"
            )
        if min(self.strides) < 1 or self.strides[-1] != 1:
            found.append(f"model.schedule {list(self.strides)} must hold strides >= 1 and end at 1")
        if (self.window is not None and self.window < 1) or self.global_tokens < 0:
            found.append(
                f"model.window is {self.window} and model.global_tokens {self.global_tokens}, "
                "expected at least 1 (or null) and 0"
            )
        if not self.context_strides or min(self.context_strides) < 1:
            found.append(f"model.context_strides {list(self.context_strides)} must be >= 1")
        return found


def without_retired(saved: dict) -> dict:
    """A saved `ModelConfig` without the keys that say nothing any more."""
    return {k: v for k, v in saved.items() if k not in _RETIRED or v != _RETIRED[k]}


@dataclass
class LossConfig:
    """Weights of the terms of `sdst.model.losses`.

    Args:
        classification: focal loss on whether a query is a moment.
        l1: distance of matched spans, (center, width) in units of the video.
        iou: 1 - IoU of matched spans.
        actionness: distance of the estimated to the actual IoU.
        saliency: InfoNCE between the clips of a video.
        contrast: InfoNCE between a relevant clip and the sentences of the batch.
        alignment: symmetric InfoNCE of sentences and clips, over the batch.
        layer_alignment: the same over the steps of one sample.
        outside: mean distance from the video of sampling points outside of it, in units of it.
            Samples there are 0 without a gradient, so nothing else leads a point back.
        query_dropout: no weight, but the chance that a moment query of a sample is left out of
            matching and of the losses of moments, so that no query can rely on another.
    """

    classification: float = 2.0
    l1: float = 5.0
    iou: float = 2.0
    actionness: float = 4.0
    saliency: float = 0.1
    contrast: float = 0.1
    alignment: float = 0.1
    layer_alignment: float = 0.1
    outside: float = 0.0
    query_dropout: float = 0.0

    @property
    def of_moments(self) -> bool:
        """Whether any loss is of moments; a recipe for highlights alone has none."""
        return any((self.classification, self.l1, self.iou, self.actionness))
