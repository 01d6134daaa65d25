"""The kernels of the Sparse-Dense Side-Tuner: ops on tensors, each with several implementations.

    from sdst.kernels import deformable_attention, use_implementation

One folder per op; `reference.py` in it is the truth, everything else is fast. Each op is a function
but `row_program`, a module with all that a program is written in.
"""

from sdst.kernels import row_program
from sdst.kernels.deformable_attention import deformable_attention
from sdst.kernels.dense_attention import cross_attention, dense_attention
from sdst.kernels.dispatch import ImplementationError, unsupported_reasons, use_implementation
from sdst.kernels.dropout import dropout
from sdst.kernels.gathered_attention import gathered_attention
from sdst.kernels.linear_assignment import NonFiniteCostError, linear_assignment
from sdst.kernels.mark_saliency import mark_saliency
from sdst.kernels.pool_tokens import pool_tokens
from sdst.kernels.quantization import dequantize, quantize
from sdst.kernels.residual_norm import residual_norm
from sdst.kernels.select_tokens import select_tokens
from sdst.kernels.temporal_nms import temporal_nms

__all__ = [
    "ImplementationError",
    "NonFiniteCostError",
    "cross_attention",
    "deformable_attention",
    "dense_attention",
    "dequantize",
    "dropout",
    "gathered_attention",
    "linear_assignment",
    "mark_saliency",
    "pool_tokens",
    "quantize",
    "residual_norm",
    "row_program",
    "select_tokens",
    "temporal_nms",
    "unsupported_reasons",
    "use_implementation",
]
