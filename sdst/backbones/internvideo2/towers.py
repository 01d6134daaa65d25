"""Both towers of InternVideo2 stage 2 (arXiv 2403.15377), with its checkpoints' key names.

The vision tower is a ViT over space and time; text goes through the first layers of a BERT, the
part of it that does not look at the video yet. The published model is
OpenGVLab/InternVideo, `InternVideo2/multi_modality`, marked [O] below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from sdst.kernels.dense_attention import dense_attention


@dataclass(frozen=True)
class Sizes:
    """Sizes of both towers, by default those of InternVideo2-1B stage 2 with BERT-large [O].

    Args:
        image_size, patch_size: pixels.
        frames: that the position embedding was trained for.
        width, depth, heads, mlp_width: of the vision tower.
        pool_heads, pooled_width: of the attention pool behind it.
        embed_width: E, of the space shared by video and text.
        text_width, text_depth, text_heads, text_mlp_width: of the text tower.
        vocabulary, text_positions: rows of its embeddings.
    """

    image_size: int = 224
    patch_size: int = 14
    frames: int = 4
    width: int = 1408
    depth: int = 40
    heads: int = 16
    mlp_width: int = 6144
    pool_heads: int = 16
    pooled_width: int = 768
    embed_width: int = 512
    text_width: int = 1024
    text_depth: int = 19
    text_heads: int = 16
    text_mlp_width: int = 4096
    vocabulary: int = 30522
    text_positions: int = 512

    @property
    def patches(self) -> int:
        """Of one frame."""
        return (self.image_size // self.patch_size) ** 2


class InternVideo2(nn.Module):
    """Both towers and the projections into their joint space."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.vision_encoder = VisionEncoder(sizes)
        self.text_encoder = nn.ModuleDict({"bert": _bert(sizes)})
        self.vision_proj = nn.Linear(sizes.pooled_width, sizes.embed_width)
        self.text_proj = nn.Linear(sizes.text_width, sizes.embed_width)


class VisionEncoder(nn.Module):
    """A ViT over the patches of all frames of a clip, with an attention pool behind it."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width, tube = sizes.width, (1, sizes.patch_size, sizes.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.frames * sizes.patches, width))
        self.img_pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.patches, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, tube, tube)})
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.clip_projector = AttentionPool(sizes)

    def forward(self, clips: Tensor, at_once: int) -> Iterator[Tensor]:
        """Give the residual stream after every block in turn, which the next block overwrites.

        Args:
            clips: normalised frames `[B, 3, T, H, W]`.
            at_once: most clips in one step, which bounds the memory of the activations.

        Yields:
            `[B, 1 + T * patches, width]`, the CLS token first, then patches by frame, row, column.
        """
        x = torch.cat([self._embed(part) for part in clips.split(at_once)])
        for block in self.blocks:
            yield block(x, at_once)

    def _embed(self, clips: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](clips).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(clips), -1, -1), patches), dim=1)
        return x + self._positions(clips.shape[2])

    def _positions(self, frames: int) -> Tensor:
        """Of a clip of `frames`: a picture has its own [O]; other lengths are interpolated.

        Linear along time for each patch, CLS apart, `align_corners=False`, as the published code
        turns the positions of 8 frames into those of 4 [O: pos_embed.py].
        """
        patches = self.img_pos_embed.shape[1] - 1
        if frames == 1:
            return self.img_pos_embed
        if self.pos_embed.shape[1] == 1 + frames * patches:
            return self.pos_embed
        cls, grid = self.pos_embed.split((1, self.pos_embed.shape[1] - 1), dim=1)
        by_time = grid.unflatten(1, (-1, patches)).permute(0, 2, 3, 1).flatten(0, 1)
        by_time = F.interpolate(by_time.float(), size=frames, mode="linear").to(grid.dtype)
        grid = by_time.unflatten(0, (1, patches)).permute(0, 3, 1, 2).flatten(1, 2)
        return torch.cat((cls, grid), dim=1)


class Block(nn.Module):
    """x + ls1 * attention(norm1(x)), then x + ls2 * MLP(norm2(x))."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.norm1 = nn.RMSNorm(sizes.width, eps=1e-6)
        self.attn = Attention(sizes)
        self.ls1 = LayerScale(sizes.width)
        self.norm2 = nn.RMSNorm(sizes.width, eps=1e-6)
        self.mlp = Mlp(sizes)
        self.ls2 = LayerScale(sizes.width)

    def forward(self, x: Tensor, at_once: int) -> Tensor:
        """`x` `[B, N, width]`, in place, `at_once` clips in one step."""
        for part in x.split(at_once):
            part += self.ls1(self.attn(self.norm1(part)))
            part += self.ls2(self.mlp(self.norm2(part)))
        return x


class Attention(nn.Module):
    """Self-attention; queries and keys are normalised over all heads together."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.heads = sizes.heads
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.q_norm = nn.RMSNorm(sizes.width, eps=1e-6)
        self.k_norm = nn.RMSNorm(sizes.width, eps=1e-6)
        self.proj = nn.Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)) for part in (self.q_norm(q), self.k_norm(k), v)
        )
        return self.proj(dense_attention(q, k, v).flatten(-2))


class Mlp(nn.Module):
    """Two layers with an exact GELU between."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.fc1 = nn.Linear(sizes.width, sizes.mlp_width)
        self.fc2 = nn.Linear(sizes.mlp_width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class AttentionPool(nn.Module):
    """All tokens of a clip in one: their mean asks, they answer; no residual."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(sizes.width) for _ in range(3))
        self.cross_attn = CrossAttention(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, width]` -> `[B, pooled_width]`."""
        query = self.norm1_q(x.mean(dim=1, keepdim=True))
        return self.cross_attn(query, self.norm1_k(x), self.norm1_v(x)).squeeze(1)


class CrossAttention(nn.Module):
    """Attention whose biases are beside its weights, as the checkpoint names them."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.width
        self.heads = sizes.pool_heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.proj = nn.Linear(width, sizes.pooled_width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q(q) + self.q_bias, self.k(k) + self.k_bias, self.v(v) + self.v_bias)
        )
        out = F.scaled_dot_product_attention(q, k, v)  # one query: nothing for dense_attention
        return self.proj(out.transpose(1, 2).flatten(2))


def _bert(sizes: Sizes) -> BertModel:
    config = BertConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.text_width,
        num_hidden_layers=sizes.text_depth,
        num_attention_heads=sizes.text_heads,
        intermediate_size=sizes.text_mlp_width,
        max_position_embeddings=sizes.text_positions,
    )
    return BertModel(config, add_pooling_layer=False)
