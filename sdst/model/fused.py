"""The blocks as row programs: how they answer on a CPU.

A query's blocks are a hundred small matrix multiplies with a thousand small operations between
them, which take longer. `sdst.kernels.row_program` runs row-wise layers as a whole; a program ends
only where rows read each other. The modules are the reference: this file repeats them as programs,
and is tested against them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sdst.kernels import dispatch
from sdst.kernels.row_program import (
    OP,
    RowProgram,
    Rows,
    around,
    attend,
    code,
    ends,
    linear,
    norm,
    read,
    sample,
)
from sdst.model.context import SelectedTokens
from sdst.model.dense import DenseBlock
from sdst.model.heads import MomentHeads, actionness
from sdst.model.layers import (
    CrossAttention,
    KeysValues,
    NeighbourConv,
    Projection,
    Residual,
    SelfAttention,
    by_step,
    sine_frequencies,
    split_keys_values,
)
from sdst.model.rdsa import RDSA
from sdst.model.shared import SharedLinear
from sdst.model.sparse import REFERENCE_RESOLUTION, SparseBlock

if TYPE_CHECKING:
    from sdst.model.tuner import SDST


class OtherLayerError(TypeError):
    """A layer is not of the type that a program can be made of."""


class Blocks:
    """A model's blocks as programs of the weights it has now, called as the modules are.

    Copies and pickles of a model have none: a program's code points into its own memory.
    """

    def __init__(self, model: SDST) -> None:
        self.dense_block = FusedDenseBlock(model.dense_block)
        self.sparse_block = FusedSparseBlock(model.sparse_block)
        self.heads = FusedHeads(model.heads)
        self.read_text = FusedText(model)
        self.project_clips = FusedVideo(model.visual_projection)

    def __reduce__(self) -> tuple:
        return type(None), ()


def fuse(model: SDST) -> Blocks | None:
    """Programs of the weights that `model` has now; None where the modules must serve.

    They must for weights other than fp32 on a CPU, without the native library, for readers other
    than RDSA and for layers put in the place of the model's own, as adapters are.
    """
    with torch.autocast("cpu", enabled=False):  # some weights are products of others
        if not dispatch.would_take(OP, "native", *model.parameters()):
            return None
        try:
            return Blocks(model)
        except OtherLayerError:
            return None


def can_serve(like: Tensor) -> bool:
    """Whether programs can serve now, where `like` is: not where a gradient is needed or the
    compiler looks, and not under autocast to what they do not offer."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return dispatch.would_take(OP, "native", like)


class FusedText:
    """`SDST.read_text`: the projected words, and their keys and values in both streams."""

    def __init__(self, model: SDST) -> None:
        text = _project(model.text_projection)
        attentions = {"dense": model.dense_block, "sparse": model.sparse_block}
        keys_values = {
            name: _linear(text, block.text_attention.key_value)
            for name, block in attentions.items()
        }
        self.heads = model.config.heads
        self.program = RowProgram(text=text, **keys_values)

    def __call__(self, text: Tensor, lengths: Tensor) -> tuple[Tensor, KeysValues, KeysValues]:
        """As `SDST.read_text`; 0 beyond the lengths."""
        batch, layers, words, _ = text.shape
        read = self.program.run(
            batch * layers, words, lengths.repeat_interleave(layers), x=text.flatten(0, 1)
        )
        text, *both = (x.unflatten(0, (batch, layers)) for x in read)
        dense, sparse = (by_step(*split_keys_values(x, self.heads)) for x in both)
        return text, dense, sparse


class FusedVideo:
    """`SDST.project_clips`."""

    def __init__(self, projection: Projection) -> None:
        self.program = RowProgram(visual=_project(projection))

    def __call__(self, clips: Tensor, lengths: Tensor) -> Tensor:
        """As `SDST.project_clips`; 0 beyond the lengths."""
        steps, videos, size, _ = clips.shape
        rows = clips.flatten(0, 1).float()
        [visual] = self.program.run(steps * videos, size, lengths.repeat(steps), x=rows)
        return visual.unflatten(0, (steps, videos))


class FusedDenseBlock:
    """`DenseBlock`, in two programs: up to the keys over time, and on from there."""

    def __init__(self, block: DenseBlock) -> None:
        to_text, over_time, feed_forward = block.residuals
        over = block.time_attention
        width = over.value.in_features
        self.module = block
        dense, time = read("dense", width), read("time", width)
        branch = _attend_text(block.text_attention, dense + time)
        dense = _norm_after(to_text, dense + branch)
        self.before = RowProgram(dense=dense, **_query_key_value(over, dense, time))

        dense = read("dense", width)
        branch = attend(read("query", width), "key", "value", "lengths", over.heads)
        dense = _norm_after(over_time, dense + _linear(branch, over.out))
        branch = _feed_forward(dense, block.feed_forward)
        self.after = RowProgram(dense=_norm_after(feed_forward, dense + branch))

    def __call__(
        self,
        dense: Tensor,
        keys_values: tuple[Tensor, Tensor],
        text_lengths: Tensor,
        time: Tensor,
        lengths: Tensor,
    ) -> Tensor:
        """As `DenseBlock.forward`, which serves through a window; 0 beyond the lengths."""
        batch, clips, _ = dense.shape
        if self.module.needs_window(clips):
            return self.module(dense, keys_values, text_lengths, time, lengths)
        keys, values = (x.flatten(2) for x in keys_values)
        dense, query, key, value = self.before.run(
            batch,
            clips,
            lengths,
            dense=dense,
            time=time.expand_as(dense),
            text_keys=keys,
            text_values=values,
            text_lengths=text_lengths,
        )
        [dense] = self.after.run(
            batch, clips, lengths, lengths=lengths, dense=dense, query=query, key=key, value=value
        )
        return dense


class FusedSparseBlock:
    """`SparseBlock`: what is read of the dense stream, and the queries up to each attention."""

    def __init__(self, block: SparseBlock) -> None:
        self.context = block.context_attention
        over, reader, residuals = block.self_attention, block.reader, block.residuals
        if type(reader) is not RDSA or type(reader.conv) is not NeighbourConv or over is None:
            raise OtherLayerError
        _weights_of(reader.query)
        width = over.value.in_features
        source = linear(around("dense", width), *reader.conv.as_linear())
        self.source = RowProgram(source=source, values=_linear(source, reader.value))

        hidden = read("hidden", width)
        place = code("references", 2, REFERENCE_RESOLUTION * sine_frequencies(width))
        first, _, second = block.position
        position = _linear(_linear(place, first, relu=True), second)
        branch = _attend_text(block.text_attention, hidden + position)
        hidden = _norm_after(residuals["text"], hidden + branch)
        self.before = RowProgram(
            hidden=hidden, position=position, **_query_key_value(over, hidden, position)
        )

        hidden = read("hidden", width)
        branch = attend(read("query", width), "key", "value", None, over.heads)
        hidden = _norm_after(residuals["self"], hidden + _linear(branch, over.out))
        if self.context is not None:
            self.until_context = RowProgram(hidden=hidden)
            hidden = read("hidden", width) + read("branch", width)
            hidden = _norm_after(residuals["context"], hidden)
        seen = ends("references", "source", "lengths", width)
        offsets, logits = (
            linear(seen, *reader.through_query(*_weights_of(x)))
            for x in (reader.offsets, reader.scores)
        )
        branch = sample(offsets, logits, "references", "values", "lengths", reader.heads, width)
        hidden = _norm_after(residuals["reader"], hidden + _linear(branch, reader.out))
        branch = _feed_forward(hidden, block.feed_forward)
        self.after = RowProgram(hidden=_norm_after(residuals["feed_forward"], hidden + branch))

    def __call__(
        self,
        hidden: Tensor,
        references: Tensor,
        dense: Tensor,
        lengths: Tensor,
        keys_values: tuple[Tensor, Tensor],
        text_lengths: Tensor,
        context: SelectedTokens | None,
    ) -> tuple[Tensor, None]:
        """As `SparseBlock.forward`, without the offsets, which stay inside a program."""
        batch, queries, _ = hidden.shape
        source, values = self.source.run(batch, dense.shape[1], lengths, dense=dense)
        text_keys, text_values = (x.flatten(2) for x in keys_values)
        hidden, position, query, key, value = self.before.run(
            batch,
            queries,
            hidden=hidden,
            references=references,
            text_keys=text_keys,
            text_values=text_values,
            text_lengths=text_lengths,
        )
        added = {"query": query, "key": key, "value": value}
        if self.context is not None:
            [hidden] = self.until_context.run(
                batch, queries, hidden=hidden, query=query, key=key, value=value
            )
            branch = self.context(hidden + position, context).float()  # a module's, of autocast
            added = {"branch": branch}
        [hidden] = self.after.run(
            batch,
            queries,
            row_lengths=None,
            implementation="auto",
            hidden=hidden,
            references=references,
            source=source,
            values=values,
            lengths=lengths,
            **added,
        )
        return hidden, None


class FusedHeads:
    """`MomentHeads`."""

    def __init__(self, heads: MomentHeads) -> None:
        hidden = read("hidden", heads.class_logit.in_features)

        def mlp(module: nn.Sequential) -> Rows:
            first, _, second, _, third = module
            return _linear(_linear(_linear(hidden, first, relu=True), second, relu=True), third)

        self.move = heads.move
        self.boundaries = RowProgram(moved=mlp(heads.boundaries))
        self.ratings = RowProgram(
            class_logit=_linear(hidden, heads.class_logit), actionness=mlp(heads.actionness)
        )

    def refine(self, hidden: Tensor, references: Tensor) -> Tensor:
        """As `MomentHeads.refine`."""
        [moved] = self.boundaries.run(*_rows(hidden), hidden=hidden)
        return self.move(moved, references)

    def rate(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As `MomentHeads.rate`."""
        class_logit, logits = self.ratings.run(*_rows(hidden), hidden=hidden)
        return class_logit.squeeze(-1), actionness(logits)


def _rows(x: Tensor) -> tuple[int, int]:
    """Batch and rows of [B, N, ...]."""
    return x.shape[0], x.shape[1]


def _weights_of(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that computes nothing else with them."""
    if type(module) in (nn.Linear, SharedLinear, nn.LayerNorm):
        assert isinstance(module, nn.Linear | SharedLinear | nn.LayerNorm)  # for type checkers
        return module.weight, module.bias
    raise OtherLayerError


def _linear(x: Rows, module: nn.Module, relu: bool = False) -> Rows:
    return linear(x, *_weights_of(module), relu)


def _norm(x: Rows, module: nn.Module) -> Rows:
    if not isinstance(module, nn.LayerNorm) or module.eps != 1e-5:
        raise OtherLayerError
    return norm(x, *_weights_of(module))


def _norm_after(residual: nn.Module, total: Rows) -> Rows:
    """`Residual` of a sum that is made, without dropout."""
    if type(residual) is not Residual:
        raise OtherLayerError
    return _norm(total, residual.norm)


def _project(module: Projection) -> Rows:
    first_norm, _, first, _, second_norm, _, second = module
    weight, _ = _weights_of(first)
    x = _norm(read("x", weight.shape[1]), first_norm)
    return _linear(_norm(_linear(x, first, relu=True), second_norm), second)


def _attend_text(module: CrossAttention, x: Rows) -> Rows:
    query = _linear(x, module.query)
    read = attend(query, "text_keys", "text_values", "text_lengths", module.heads)
    return _linear(read, module.out)


def _query_key_value(module: SelfAttention, x: Rows, position: Rows) -> dict[str, Rows]:
    weights, biases = (x.chunk(2) for x in _weights_of(module.query_key))
    query, key = (linear(x + position, *pair) for pair in zip(weights, biases, strict=True))
    return {"query": query, "key": key, "value": _linear(x, module.value)}


def _feed_forward(x: Rows, module: nn.Sequential) -> Rows:
    first, _, second = module
    return _linear(_linear(x, first, relu=True), second)
