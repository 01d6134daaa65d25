"""Marking by saliency in C++ (csrc/cpu/mark_saliency.cpp), by ctypes."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library

BLOCK = 256  # clips of a partial sum of the backward pass

_forward = library.function("sdst_mark_saliency_forward", "pppppp" + "nnnn" + "ii")
_backward = library.function("sdst_mark_saliency_backward", "pppp" + "nnn" + "ii")


def unsupported_reasons(
    dense: Tensor, sentence: Tensor, direction: Tensor, lengths: Tensor | None = None
) -> list[str]:
    """Why the C++ kernels cannot serve this call; empty if they can."""
    return library.unsupported_reasons(dense=dense, sentence=sentence, direction=direction)


def forward(
    dense: Tensor, sentence: Tensor, direction: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """out [B, L, F] in the dtype of dense and z [B, L] fp32, see the op."""
    batch, length, width = dense.shape
    clips, apart = library.prepare_samples(dense)
    query, added = sentence.float().contiguous(), direction.float().contiguous()
    valid = library.prepare_lengths(lengths)
    out, z = dense.new_empty(dense.shape), query.new_empty(batch, length)
    _forward(
        *library.pointers(clips, query, added, valid, out, z),
        *(batch, apart, length, width),
        library.TYPES[clips.dtype],
        torch.get_num_threads(),
    )
    return out, z


def backward(grad: Tensor, z: Tensor) -> Tensor:
    """The gradient of the direction [F] fp32; grad [B, L, F] is that of the output."""
    width, upstream = grad.shape[-1], grad.contiguous()
    blocks = -(-z.numel() // BLOCK)
    out, partial = z.new_empty(width), z.new_empty(blocks, width)
    _backward(
        *library.pointers(upstream, z, partial, out),
        *(z.numel(), width, BLOCK),
        library.TYPES[upstream.dtype],
        torch.get_num_threads(),
    )
    return out
