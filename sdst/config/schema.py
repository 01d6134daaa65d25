"""The keys of a configuration, their types and defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Literal, NamedTuple

from sdst.data.planted.config import PlantedConfig
from sdst.model.config import LossConfig, ModelConfig

PRECISIONS = ("fp32", "bf16")  # of the side-tuner where it answers
# Names of backbones, for a message.
BACKBONES = (
    "MODEL:PRETRAINED of open_clip (ViT-B-32:laion2b_s34b_b79k), local-dir:FOLDER, "
    "hf-hub:ORG/REPO, internvideo2:PATH, or demo, which knows the demo's shapes alone"
)
FROM_FEATURES = 0  # model.video_width and model.text_width that are taken from the features
# What is decided in the run, where it has these values: when the data is opened, or at its end.
LEFT_OPEN = {
    "model.video_width": FROM_FEATURES,
    "model.text_width": FROM_FEATURES,
    "train.epochs": "auto",
    "train.validate_every": "auto",
    "predict.stretch": None,
    "predict.overlap": None,
    "predict.snap": "auto",
}
# Keys that change nothing of what is learned, or are checked by the features' fingerprint and the
# annotations themselves when a run is taken up again.
NOT_LEARNED = {
    "data.root",
    "data.backbone",
    "data.on_device",
    "data.pad_to",
    "train.graphs",
    "train.workers",
}


@dataclass
class DataConfig:
    """The data of a training, and how a video becomes features.

    Args:
        dataset: `demo` renders itself; `custom` reads `root`.
        root: the dataset's folder; the demo's default is `cache_dir() / "demo"`.
        annotations: file of every split in `root`; `train` and `val` must be there, `test` may.
            FILE#SPLIT names one of a file that has several.
        features: `encode` runs `backbone` over `root`/videos once; otherwise the layout of feature
            existing feature files, a name in `sdst.data.feature_files.LAYOUTS`.
        video_features: folders of such files in `root`, joined in this order.
        text_features: folder of such files of the queries.
        endpoints: append every clip's relative start and end to such features.
        every: read one of so many clips of such files; `clip_length` is between those read.
        last_layer: read the last layer of such features alone, at every step. Of features with more
            layers than `model.layers`, the last ones are read.
        planted: make such features up from the annotations, as `planted` says, instead of reading
            files; a recipe then runs without any video.
        backbone: `demo` (packaged), an open_clip model as `NAME:PRETRAINED`, or
            `local-dir:FOLDER`.
        clip_length: seconds of video that one clip stands for.
        frames_per_clip: frames encoded per clip; their features are averaged.
        reader: of video files: PyAV, or `decord` where it is installed.
        store_dtype: of the store of encoded features; int8 takes half the disk and memory.
        domain: keep only the videos of this topic, where annotations name one: TVSum and YouTube
            Highlights train a model for each.
        protocol: how predictions are scored, a name in `sdst.evaluation.protocols.PROTOCOLS`.
        also: other datasets to learn from, whose features are of the same backbone: configs by name
            or file, each with how often its queries are drawn in an epoch, 1 being every one once.
        sentences: `none` learns highlights from the video alone, whatever the queries say; they may
            be missing, and losses that tell sentences apart weigh nothing.
        pairs: learn from queries of train that have no moments, too: they are of their whole video,
            and only the contrastive losses read them.
        limit: keep only the first so many queries of every split (for short trials).
        allow_missing: continue without queries whose features are missing; else they are an error.
        on_device: keep all features in the memory of the GPU where they fit; `auto` does for a
            training run that reads a store without `train.workers`.
        pad_to: pad clips, words and moments of a training batch to a multiple of this; what is
            padded changes nothing. `auto` pads to 16, 16 and 8 where each shape takes a graph
            (`train.graphs`), else not at all.
    """

    dataset: Literal["demo", "custom"] = "demo"
    root: str | None = None
    annotations: dict[str, str] = field(
        default_factory=lambda: {split: f"{split}.jsonl" for split in ("train", "val", "test")}
    )
    features: Literal[
        "encode", "sdst", "moment_detr", "univtg", "r2_tuning", "snag", "universalvtg"
    ] = "encode"
    video_features: list[str] = field(default_factory=list)
    text_features: str = ""
    endpoints: bool = False
    every: int = 1
    last_layer: bool = False
    planted: bool = False
    backbone: str = "demo"
    clip_length: float = 2.0
    frames_per_clip: int = 1
    reader: Literal["pyav", "decord"] = "pyav"
    store_dtype: Literal["float16", "int8"] = "float16"
    domain: str | None = None
    protocol: str = "custom"
    also: dict[str, float] = field(default_factory=dict)
    sentences: Literal["own", "none"] = "own"
    pairs: bool = False
    limit: int | None = None
    allow_missing: bool = False
    on_device: bool | Literal["auto"] = "auto"
    pad_to: int | Literal["auto"] = "auto"

    def reservations(self) -> list[str]:
        """Why figures of such data are no benchmark results; empty where they are."""
        found = []
        if self.planted:
            found.append("planted features")
        if self.limit is not None:
            found.append(f"the first {self.limit:,} queries of each split")
        return found

    def titled(self, title: str, queries: int) -> str:
        """A heading for figures on so many queries, with every reservation."""
        return "; ".join([f"{title}, {queries:,} queries", *self.reservations()])


class Length(NamedTuple):
    """The epochs of a run, and those from a validation to the next."""

    epochs: int
    validate_every: int


@dataclass
class TrainConfig:
    """How it is optimised; the defaults are R2-Tuning's recipe for QVHighlights [D].

    Args:
        epochs: passes over the training queries; `auto` is 30, or as many more as make 300 steps.
        init: another model, by its folder or name as `sdst ground` takes it; its weights are the
            first ones here where name and shape fit.
        batch_size: queries per optimiser step, over all processes and accumulation steps.
        accumulation: forward/backward passes that one optimiser step is split into.
        lr: peak learning rate of AdamW.
        offsets_lr: learning rate of RDSA's offsets, as a share of `lr`: at full rate they run out
            of the video, where samples are 0 and have no gradient (Deformable-DETR, DINO and TadTR
            have 0.1) [D].
        weight_decay: of AdamW, on matrices only.
        warmup_steps: optimiser steps of linear warm-up.
        lr_schedule: after the warm-up, `step` multiplies lr by 0.1 at `decay_at` of the run,
            `cosine` falls to zero.
        decay_at: share of the run after which `step` decays.
        clip_norm: largest norm of the gradient.
        validate_every: epochs between validations; `auto` validates 30 times at most.
        select_by: figure of the validation report that decides which checkpoint is best.
        precision: `auto` is bf16 where the GPU computes it natively, fp16 with a scaled loss on
            older ones, fp32 on a CPU.
        graphs: `auto` replays training steps as CUDA graphs, one for every shape of batches, in a
            run of one process on a GPU; `no` launches every kernel of every step.
        compile: `default` compiles the two blocks by `torch.compile`, which takes a minute or more.
        tracker: what losses and validations are logged to: `tensorboard` writes files into the
            run's folder, `wandb` and `mlflow` are installed and set up on their own.
        workers: processes that load batches; 0 loads in the training process.
        seed: the run is a function of it, bit for bit on a CPU.
    """

    epochs: int | Literal["auto"] = 30
    init: str | None = None
    batch_size: int = 128
    accumulation: int = 1
    lr: float = 5e-4
    offsets_lr: float = 1.0
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    lr_schedule: Literal["step", "cosine"] = "step"
    decay_at: float = 2 / 3
    clip_norm: float = 35.0
    validate_every: int | Literal["auto"] = 1
    select_by: str = "MR-full-mAP"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    graphs: Literal["auto", "no"] = "auto"
    compile: Literal["no", "default"] = "no"
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
    workers: int = 0
    seed: int = 0

    @property
    def length(self) -> Length:
        """How long it is. Of a config whose data was opened, as every run's was."""
        assert self.epochs != "auto" and self.validate_every != "auto"
        return Length(self.epochs, self.validate_every)


class Stretches(NamedTuple):
    """How a long video is cut into windows: clips of each, and those that neighbours share."""

    clips: int
    overlap: int


@dataclass
class PredictConfig:
    """How a model's moments become an answer.

    Args:
        round_to: seconds that starts and ends are rounded to, as the annotators' tool did; those at
            the video's end stay.
        snap: how far the ends of a moment may move to where the saliency inside stands out most
            from that outside, in widths of the moment (see `sdst.grounding.snapping`); None: not
            at all; `auto`: training decides on the validation split and leaves one of the two.
        smooth: average the saliency of a clip with that of its neighbours, weighted 1 2 1.
        nms: what becomes of moments that overlap a better one: `hard` drops them, `linear` and
            `gaussian` lower their score (soft-NMS).
        nms_threshold: IoU above which `hard` and `linear` take two moments for one.
        nms_sigma: width of `gaussian`.
        stretch: clips above which `sdst.ground` cuts a video into windows of so many (see
            `sdst.grounding.long_videos`); None: as most of the training videos have.
        overlap: clips that neighbouring windows share; None: as most moments of the training
            have, at most half a window.
        select_from: under `model.context: sparse`, where the moments of a window read tokens
            from: those selected in the window (`stretch`), or also as many of the whole `video`,
            which takes another pass over its tokens.
    """

    round_to: float | None = None
    snap: float | Literal["auto"] | None = None
    smooth: bool = False
    nms: Literal["none", "hard", "linear", "gaussian"] = "none"
    nms_threshold: float = 0.7
    nms_sigma: float = 0.5
    stretch: int | None = None
    overlap: int | None = None
    select_from: Literal["stretch", "video"] = "stretch"

    @property
    def stretches(self) -> Stretches:
        """How long videos are cut. Of a config whose data was opened, as every checkpoint's was."""
        assert self.stretch is not None and self.overlap is not None
        return Stretches(self.stretch, self.overlap)


@dataclass
class Config:
    """An experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    planted: PlantedConfig = field(default_factory=PlantedConfig)


def as_dict(config: Config) -> dict:
    """Plain nested dictionaries and lists of `config`, ready for YAML and JSON."""
    return {section: _plain(values) for section, values in asdict(config).items()}


SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "train": TrainConfig,
    "predict": PredictConfig,
    "planted": PlantedConfig,
}
KEYS = {section: [key.name for key in fields(kind)] for section, kind in SECTIONS.items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
