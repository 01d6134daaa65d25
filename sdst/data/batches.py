"""Samples padded to batches, with few shapes where graphs replay them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sdst.data.samples import Sample
from sdst.graphs import buffer, fill, once


class Multiples(NamedTuple):
    """The multiples that the sizes of a batch are padded to."""

    clips: int = 1
    words: int = 1
    moments: int = 1


TIGHT = Multiples()
# Few shapes and little padding: docs/gpu.md has how many there are of real datasets.
BUCKETS = Multiples(clips=16, words=16, moments=8)


@dataclass
class Rows:
    """Padded features that are still in a resident store: where each sample's rows are.

    Attributes:
        store: [R, ...], all rows; the last one is 0.
        first: [B], a sample's first row.
        step: [B], rows from a layer to the next.
        lengths: [B], rows of a layer.
        stored: layers to be read.
        layers: K; one stored layer serves them all.
        size: L or N, padding included.
        dtype: of the gathered features.
    """

    store: Tensor
    first: Tensor
    step: Tensor
    lengths: Tensor
    stored: int
    layers: int
    size: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, K, size, ...]."""
        return len(self.first), self.layers, self.size, *self.store.shape[1:]

    def gather(self) -> Tensor:
        """[B, K, size, ...], as `collate` pads arrays; in memory layer by layer."""
        place = torch.arange(self.size, device=self.first.device)
        layer = torch.arange(self.stored, device=self.first.device)[:, None, None]
        row = self.first[:, None] + layer * self.step[:, None] + place  # [stored, B, size]
        row = row.where(place < self.lengths[:, None], len(self.store) - 1)
        taken = self.store.index_select(0, row.flatten()).to(self.dtype)
        by_layer = taken.unflatten(0, tuple(row.shape)).transpose(0, 1)
        return by_layer.expand(-1, self.layers, *by_layer.shape[2:])

    def each(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """With `change` applied to the tensors of B."""
        changed = {name: change(getattr(self, name)) for name in ("first", "step", "lengths")}
        return replace(self, **changed)


@dataclass
class Batch:
    """Padded samples; the lengths say what is real.

    Attributes:
        video: [B, K, L, P, Dv]; a layer that serves all steps is stored once, with stride 0. Of a
            resident store `Rows`, which `inputs` gathers; so are text and scales.
        text: [B, K, N, Dt], likewise.
        video_lengths, text_lengths: [B].
        spans: [B, G, 2], G at least 1.
        span_counts: [B].
        saliency: [B, L].
        positive_clip: [B].
        scales: [B, K, L, P] of videos of int8, None of others.
    """

    video: Tensor | Rows
    text: Tensor | Rows
    video_lengths: Tensor
    text_lengths: Tensor
    spans: Tensor
    span_counts: Tensor
    saliency: Tensor
    positive_clip: Tensor
    scales: Tensor | Rows | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self._each(partial(_move, device=device))

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory, which a GPU copies from; for a `DataLoader`."""
        return self._each(_pin)

    def clone(self) -> Batch:
        """A copy, of which `copy_from` makes others of the same bucket."""
        return self._each(buffer)

    def copy_from(self, other: Batch) -> None:
        """Take the values of a batch of the same bucket, from any device; nobody waits."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            fill(mine, theirs)

    @property
    def bucket(self) -> Hashable:
        """The shapes that batches share when they differ in their values alone."""
        parts = (getattr(self, f.name) for f in fields(self))
        return tuple((type(x), x.shape, x.dtype) for x in parts if x is not None)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Clips L, words N and moments G, padding included."""
        return self.saliency.shape[1], self.text.shape[2], self.spans.shape[1]

    def with_sizes(self, clips: int, moments: int) -> Batch:
        """Padded further, to so many clips and moments of a sample."""
        more_clips, more_moments = clips - self.sizes[0], moments - self.sizes[2]
        return replace(
            self,
            video=_grow(self.video, clips),
            scales=None if self.scales is None else _grow(self.scales, clips),
            saliency=functional.pad(self.saliency, (0, more_clips)),
            spans=functional.pad(self.spans, (0, 0, 0, more_moments)),
        )

    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of `SDST.forward`; scales only where there are some."""
        inputs = _gathered(self.video), _gathered(self.text), self.video_lengths, self.text_lengths
        return inputs if self.scales is None else (*inputs, _gathered(self.scales))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed = {}
        for field in fields(self):
            part = getattr(self, field.name)
            if part is not None:
                changed[field.name] = part.each(change) if isinstance(part, Rows) else change(part)
        return replace(self, **changed)

    def _tensors(self) -> list[Tensor]:
        """All that `_each` changes."""
        found: list[Tensor] = []
        for part in (getattr(self, field.name) for field in fields(self)):
            if isinstance(part, Rows):
                found += part.first, part.step, part.lengths
            elif part is not None:
                found.append(part)
        return found


def collate(samples: list[Sample], multiples: Multiples = TIGHT) -> Batch:
    """Pad samples with zeros to the longest of each kind, or the next multiple of `multiples`.

    The video keeps the store's dtype and is in memory layer by layer, as the model reads
    it; all else is fp32.
    """
    layers, (clips, words, moments) = samples[0].layers, multiples
    video = samples[0].video
    scales = None
    if of_samples := [s.scales for s in samples if s.scales is not None]:
        scales = _features(of_samples, clips, layers, torch.float32)
    return Batch(
        video=_features([s.video for s in samples], clips, layers, _number_type(video)),
        text=_features([s.text for s in samples], words, layers, torch.float32),
        video_lengths=torch.tensor([s.video.shape[1] for s in samples]),
        text_lengths=torch.tensor([s.text.shape[1] for s in samples]),
        spans=_pad([s.spans for s in samples], axis=0, multiple=moments),
        span_counts=torch.tensor([len(s.spans) for s in samples]),
        saliency=_pad([s.saliency for s in samples], axis=0, multiple=clips),
        positive_clip=torch.tensor([s.positive_clip for s in samples]),
        scales=scales,
    )


def _features(
    of_samples: Sequence[np.ndarray | Tensor], multiple: int, layers: int, dtype: torch.dtype
) -> Tensor | Rows:
    """[B, layers, L, ...] of features [K, L, ...], K being `layers` or 1."""
    resident = [x for x in of_samples if isinstance(x, Tensor)]
    if resident:
        return _rows(resident, multiple, layers, dtype)
    arrays = [x for x in of_samples if isinstance(x, np.ndarray)]
    padded = _pad(arrays, axis=1, dtype=dtype, batch_axis=1, multiple=multiple).transpose(0, 1)
    return padded.expand(-1, layers, *padded.shape[2:])


def _rows(views: Sequence[Tensor], multiple: int, layers: int, dtype: torch.dtype) -> Rows:
    """The rows of views [K, L, ...] into a resident store."""
    stored, _, *shape = views[0].shape
    width = math.prod(shape)
    count = views[0].untyped_storage().nbytes() // (views[0].itemsize * width)
    strides = views[0].stride()[1:]
    lengths = [view.shape[1] for view in views]
    return Rows(
        store=views[0].as_strided((count, *shape), strides, 0),
        first=torch.tensor([view.storage_offset() // width for view in views]),
        step=torch.tensor([view.stride(0) // width for view in views]),
        lengths=torch.tensor(lengths),
        stored=stored,
        layers=layers,
        size=_up(max(1, *lengths), multiple),
        dtype=dtype,
    )


def _pad(
    arrays: Sequence[np.ndarray],
    axis: int,
    dtype: torch.dtype = torch.float32,
    batch_axis: int = 0,
    multiple: int = 1,
) -> Tensor:
    """Stack arrays that differ in size along `axis` alone, zeros after the shorter ones."""
    shape = list(arrays[0].shape)
    shape[axis] = _up(max(1, *(a.shape[axis] for a in arrays)), multiple)
    shape.insert(batch_axis, len(arrays))
    out = torch.zeros(shape, dtype=dtype)
    for row, array in zip(out.movedim(batch_axis, 0), arrays, strict=True):
        row.numpy()[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return out


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _grow(x: Tensor | Rows, size: int) -> Tensor | Rows:
    """Features [B, K, L, ...] with zeros up to `size` clips, in memory layer by layer."""
    if isinstance(x, Rows):
        return replace(x, size=size)
    missing = size - x.shape[2]
    if not missing:
        return x
    by_layer = once(x).transpose(0, 1)
    grown = functional.pad(by_layer, (*(0, 0) * (x.ndim - 3), 0, missing)).transpose(0, 1)
    return grown.expand(-1, x.shape[1], *grown.shape[2:])


def _gathered(x: Tensor | Rows) -> Tensor:
    return x.gather() if isinstance(x, Rows) else x


def _number_type(values: np.ndarray | Tensor) -> torch.dtype:
    if isinstance(values, Tensor):
        return values.dtype
    return torch.from_numpy(np.empty(0, values.dtype)).dtype


def _move(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; what is repeated by a stride of 0 travels once."""
    return once(values).to(device, non_blocking=True).expand_as(values)


def _pin(values: Tensor) -> Tensor:
    """`values` in pinned memory, unless they are on a device already."""
    if values.device.type != "cpu":
        return values
    return once(values).pin_memory().expand_as(values)
