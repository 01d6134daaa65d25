"""`python -m benchmarks.studies.every_token`: the accuracy of sparse token selection.

The demo's recipe is trained unchanged and with every frozen token projected and attended to, with
the same data, budget and seeds; the table holds mean and spread on `--videos` test videos. What
selection saves is measured by `benchmarks/bench_end_to_end.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.studies.runs import TEST_VIDEOS, head, row, trained_on_demo
from sdst.errors import run
from sdst.model import SDST, EncodedVideo, ModelConfig
from sdst.model.layers import CrossAttentionLayers
from sdst.model.video import dense_inputs


class EveryToken(SDST):
    """The same model without sparse selection: every frozen token is projected and attended to.

    A clip's feature is attention over all its projected tokens under the sentence, and the moment
    queries attend to all of them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert self.selection is not None  # of the recipe, which the study varies
        self.sparse_block.register_module(
            "context_attention", AttentionToAll(config.width, config.heads)
        )
        self.wanted = self.selection.query
        self.selection = None

    def encode_video(
        self, video: Tensor, lengths: Tensor, scales: Tensor | None = None
    ) -> EncodedVideo:
        """As `SDST.encode_video`; a clip's feature depends on the sentence."""
        return EncodedVideo(lengths, video.transpose(0, 1), scales, None, None)

    def _read_video(self, video: EncodedVideo, sentence: Tensor) -> tuple:
        assert video.tokens is not None
        per_clip = video.tokens.shape[3]
        projected = self.visual_projection(video.tokens.float())
        wanted = self.wanted(sentence.transpose(0, 1))
        scores = torch.einsum("kblpf,kbf->kblp", projected, wanted) / wanted.shape[-1] ** 0.5
        visual = torch.einsum("kblp,kblpf->kblf", scores.softmax(-1), projected)
        inputs = dense_inputs(visual, video.lengths, self.config.strides)
        contexts = [(tokens.flatten(1, 2), video.lengths * per_clip) for tokens in projected]
        return visual, inputs, contexts


class AttentionToAll(CrossAttentionLayers):
    """Cross-attention of the moment queries to all projected tokens."""

    def forward(self, hidden: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        tokens, lengths = context
        return self.attend(hidden, self.keys_values(tokens), lengths)


MODELS = {"sparse selection": SDST, "every token": EveryToken}


def main() -> None:
    """Train both models with all seeds and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.every_token", description=__doc__
    )
    parser.add_argument("--output", type=Path, default=Path("runs/every_token"))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--videos", type=int, default=TEST_VIDEOS, help="test videos of every run")
    options = parser.parse_args()
    print(head(f"demo, {options.videos} test videos", "training s"))
    for name, model in MODELS.items():
        runs = []
        for seed in range(options.seeds):
            folder = options.output / f"{name.replace(' ', '-')}-seed{seed}"
            changes = ["--train.seed", str(seed)]
            runs.append(trained_on_demo(folder, changes, options.videos, model))
        print(row(name, runs), flush=True)


if __name__ == "__main__":
    run(main)
