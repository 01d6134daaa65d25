"""Token selection in plain PyTorch: the truth that every other implementation is held to.

Averaging is linear, so the tokens are read once: the score of an averaged token is the average of
the scores. Scores become integer keys whose order is "higher score, then lower index" and has no
ties, so the answer is the same wherever it is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import pyramid
from sdst.kernels.exporting import is_exporting
from sdst.kernels.quantization import dequantize

INDEX_BITS = 30
BY_QUOTA = 1 << 62  # lifts a key above all keys that no quota kept
NOTHING = -1  # below all keys


def select_tokens(
    tokens: Tensor,
    u: Tensor,
    k: int,
    lengths: Tensor | None,
    strides: Sequence[int],
    segments: int,
    scales: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `sdst.kernels.select_tokens`."""
    lengths = pyramid.valid_lengths(tokens, lengths)
    with torch.no_grad():
        raw = token_scores(tokens, u, lengths, scales)
        indices, valid = select(raw, k, lengths, strides, segments)
    kept = pyramid.gather(tokens, indices, valid, lengths, strides, scales)
    scores = torch.einsum("bkd,bd->bk", kept, u.to(kept.dtype))
    return indices, scores, valid


def select(
    scores: Tensor, k: int, lengths: Tensor, strides: Sequence[int], segments: int
) -> tuple[Tensor, Tensor]:
    """Indices and validity [B, k] of the kept tokens, best first, from raw scores [B, L, P]."""
    means, present = zip(*(level_means(scores, lengths, x) for x in strides), strict=True)
    keys = make_keys(torch.cat(means, 1), torch.cat(present, 1))
    count = keys.shape[1]
    levels = keys.split([level.shape[1] for level in means], 1)
    chosen = torch.cat(
        [
            fill_quota(level, lengths, stride, scores.shape[2], split(quota, segments))
            for level, stride, quota in zip(levels, strides, split(k, len(strides)), strict=True)
        ],
        1,
    )
    # One more slot takes what has no place: groups that could not fill their quota.
    more = k if is_exporting() else max(0, k - count - 1)
    keys = functional.pad(keys, (0, 1 + more), value=NOTHING)
    slot = torch.where(chosen == NOTHING, count, key_index(chosen))
    keys.scatter_(1, slot, torch.where(chosen == NOTHING, NOTHING, chosen | BY_QUOTA))

    kept = keys.topk(k, dim=1, sorted=False).values
    kept = torch.where(kept == NOTHING, NOTHING, kept & (BY_QUOTA - 1)).sort(descending=True).values
    valid = kept != NOTHING
    return torch.where(valid, key_index(kept), 0), valid


def token_scores(
    tokens: Tensor, u: Tensor, lengths: Tensor, scales: Tensor | None = None
) -> Tensor:
    """<x, u> of every raw token [B, L, P], 0 in the padding; one pass over the tokens."""
    batch, length, per_clip, _ = tokens.shape
    store = tokens if scales is None else dequantize(tokens, scales)
    scores = torch.bmm(store.flatten(1, 2), u[..., None].to(store.dtype)).float()
    inside = torch.arange(length, device=tokens.device) < lengths[:, None]
    return scores.view(batch, length, per_clip).masked_fill(~inside[..., None], 0)


def split(total: int, parts: int) -> list[int]:
    """Split `total` evenly; the first parts take the remainder."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def level_means(scores: Tensor, lengths: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Scores of one pyramid level, and whether their window has a valid clip, [B, n * P] each."""
    length, per_clip = scores.shape[1:]
    if not is_exporting():  # where strides are few
        stride = min(stride, max(length, 1))
    count = -(-length // stride)
    padded = functional.pad(scores, (0, 0, 0, count * stride - length))
    sums = padded.unflatten(1, (-1, stride)).sum(2)
    start = torch.arange(count, device=scores.device) * stride
    clips = (lengths[:, None] - start).clamp(max=stride)[..., None]
    present = (clips > 0).expand(-1, -1, per_clip)
    return (sums / clips.clamp(min=1)).flatten(1), present.flatten(1)


def make_keys(scores: Tensor, present: Tensor) -> Tensor:
    """Keys [B, N] of a pyramid's scores; NOTHING where they are not present."""
    index = torch.arange(scores.shape[1], device=scores.device)
    ordered = (ranks if is_exporting() else ordered_bits)(scores)
    keys = ordered * (1 << INDEX_BITS) | (1 << INDEX_BITS) - 1 - index
    return keys.masked_fill(~present, NOTHING)


def ranks(scores: Tensor) -> Tensor:
    """As `ordered_bits` of one sample's scores [B, N] among each other, in any number format."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    return scores.shape[1] - 1 - order.sort(dim=1).indices


def ordered_bits(scores: Tensor) -> Tensor:
    """fp32 as int64 in [0, 2**32), in the same order; -0 counts as 0."""
    bits = (scores + 0.0).view(torch.int32).long()
    return torch.where(bits < 0, ~bits & 0xFFFFFFFF, bits | 1 << 31)


def key_index(keys: Tensor) -> Tensor:
    """The flat pyramid index that a key was made from."""
    mask = (1 << INDEX_BITS) - 1
    return mask - (keys & mask)


def fill_quota(
    keys: Tensor, lengths: Tensor, stride: int, per_clip: int, quotas: list[int]
) -> Tensor:
    """The best keys of one level per segment of time, at most the segment's quota of them.

    Returns:
        [B, segments * largest quota], NOTHING where a segment has no more.
    """
    segments, most = len(quotas), max(quotas)
    start = torch.arange(keys.shape[1] // per_clip, device=keys.device) * stride
    segment = start.mul(segments).div(lengths.clamp(min=1)[:, None], rounding_mode="floor")
    segment = segment[..., None].expand(-1, -1, per_clip).flatten(1)
    member = segment[:, None] == torch.arange(segments, device=keys.device)[:, None]
    members = torch.where(member, keys[:, None], NOTHING)
    if is_exporting():
        members = functional.pad(members, (0, most), value=NOTHING)
    else:
        most = min(most, keys.shape[1])
    best = members.topk(most, dim=2).values
    quota = torch.tensor(quotas, device=keys.device)
    beyond = torch.arange(most, device=keys.device) >= quota[:, None]
    return best.masked_fill(beyond, NOTHING).flatten(1)
