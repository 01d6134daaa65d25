"""Inputs and outputs of a program, as JSON for who feeds it."""

from __future__ import annotations

from typing import Any

from sdst import __version__
from sdst.data.feature_files import LAYOUTS
from sdst.exporting.answering import Answering
from sdst.exporting.programs import MOST, Sizes
from sdst.pretrained.description import Description

TOKENS = (
    "hidden states of the backbone's last layers, shallow to deep, each token layer-normalised "
    "without weights (mean 0, deviation 1 over the last axis)"
)
AS_PUBLISHED = "features as they are published, joined and scaled as by sdst"


def patches_of(description: Description) -> int | None:
    """Tokens of a clip, P; None where the backbone decides."""
    data = description.config.data
    return None if data.features == "encode" else LAYOUTS[data.features].tokens_per_clip


def interface(
    checkpoint: str, network: Answering, description: Description, least: Sizes
) -> dict[str, Any]:
    """All that another program must know: inputs, outputs, sizes and where features come from.

    Args:
        checkpoint: the model, as it was named.
        network: is exported.
        description: of the model.
        least: sizes that the program takes.
    """
    config, data = network.model.config, description.config.data
    free = patches_of(description) is None
    patches = "patches" if free else least.patches
    most = MOST if free else {k: v for k, v in MOST.items() if k != "patches"}
    encoded = data.features == "encode"
    content = TOKENS if encoded or data.features == "sdst" else AS_PUBLISHED
    video = ["batch", config.layers, "clips", patches, config.video_width]
    text = ["batch", config.layers, "words", config.text_width]
    presence = network.calibration.presence is not None
    return {
        "checkpoint": checkpoint,
        "sdst": __version__,
        "inputs": [
            _tensor("video", video, "float32", f"{content}; a clip's prefix token first"),
            _tensor("text", text, "float32", f"{content}; with the start and end marks"),
            _tensor("video_lengths", ["batch"], "int64", "valid clips; the rest is padding"),
            _tensor("text_lengths", ["batch"], "int64", "valid words; the rest is padding"),
            _tensor("durations", ["batch"], "float32", "of the videos, in seconds"),
        ],
        "outputs": [
            _tensor(
                "windows",
                ["batch", config.queries, 3],
                "float32",
                "start and end in seconds and score, best first",
            ),
            _tensor("kept", ["batch"], "int64", "how many of the windows are an answer"),
            _tensor("saliency", ["batch", "clips"], "float32", "how well a clip fits, -1 to 1"),
        ]
        + presence
        * [_tensor("presence", ["batch"], "float32", "that the video has what the sentence says")],
        "sizes": {
            name: {"least": getattr(least, name), "most": value} for name, value in most.items()
        },
        "clip_length": data.clip_length,
        "frames_per_clip": data.frames_per_clip,
        "clips_of_training": description.config.predict.stretches.clips,
        "features": data.features,
        "backbone": description.features.get("backbone") or (data.backbone if encoded else None),
        "fingerprint": description.features.get("fingerprint"),
        "preprocessing": description.features.get("preprocessing"),
        "license": description.license,
    }


def _tensor(name: str, shape: list[int | str], dtype: str, content: str) -> dict[str, Any]:
    return {"name": name, "shape": shape, "dtype": dtype, "content": content}
