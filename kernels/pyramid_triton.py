"""Reading the temporal pyramid (pyramid.py) inside of Triton kernels: averaged on the fly."""

# Triton compiles these functions itself: to a type checker neither its blocks nor its constants
# (`tl.constexpr`, `tl.static_range`) are what the kernels use them as.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_IN_FLIGHT = tl.constexpr(4)  # raw tokens of an entry that are loaded at once


@triton.jit
def valid_length(p_lengths, batch, L):
    """Valid clips of one sample, int32."""
    length = tl.zeros_like(batch).to(tl.int32) + L
    if p_lengths is not None:
        # Clamped before it is narrowed: 2^32 + 1 is no length of 1.
        stated = tl.load(p_lengths + batch).to(tl.int64)
        length = tl.minimum(tl.maximum(stated, 0), length.to(tl.int64)).to(tl.int32)
    return length


@triton.jit
def locate(index, length, L, P, STRIDES: tl.constexpr):
    """First raw token, a row of [L * P], and number of clips behind flat pyramid indices, and
    whether there is such an entry at all."""
    row = tl.zeros_like(index)
    clips = row + 1
    found = row != 0
    offset = 0
    for level in tl.static_range(len(STRIDES)):
        steps = tl.cdiv(L, STRIDES[level])
        local = index - offset
        here = (local >= 0) & (local < steps * P)
        start = local // P * STRIDES[level]
        row = tl.where(here, start * P + local % P, row)
        clips = tl.where(here, tl.minimum(length - start, STRIDES[level]), clips)
        found |= here
        offset += steps * P
    return row, tl.maximum(clips, 1), found


@triton.jit
def load_entries(p_tokens, row, clips, mask, o_d, P, D, p_scales=None):
    """[entries, channels] in fp32, each the mean of its `clips` raw tokens; 0 where masked.

    A stored token counts times its scale where there are scales.
    """
    b_sum = tl.zeros([row.shape[0], o_d.shape[0]], tl.float32)
    for first in range(0, tl.max(clips), _IN_FLIGHT):
        for w in tl.static_range(_IN_FLIGHT):
            m_w = mask & (first + w < clips)
            o_row = row + (first + w) * P
            p_rows = p_tokens + o_row[:, None] * D + o_d[None, :]
            m_rows = m_w[:, None] & (o_d < D)[None, :]
            b_tokens = tl.load(p_rows, mask=m_rows, other=0).to(tl.float32)
            if p_scales is not None:
                b_tokens *= tl.load(p_scales + o_row, mask=m_w, other=0)[:, None]
            b_sum += b_tokens
    return b_sum / clips[:, None].to(tl.float32)


def readable(tokens: Tensor) -> Tensor:
    """tokens [B, L, P, D] with each sample contiguous: a layer of a stored stack is not copied."""
    return tokens if tokens[:1].is_contiguous() else tokens.contiguous()
