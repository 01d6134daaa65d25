"""The dense stream's parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sdst.model import SDST, ModelConfig, dense
from sdst.model.dense import DenseBlock, blend, look_around, part_weights
from sdst.model.layers import SelfAttention, sine_encoding


@pytest.mark.parametrize(("width", "heads"), [(128, 8), (256, 8), (48, 3)])
def test_heads_start_by_looking_at_fixed_distances(width: int, heads: int) -> None:
    attention = SelfAttention(width, heads)
    look_around(attention)
    code = sine_encoding(torch.arange(40) + 0.5, width)
    query, key = attention.query_key(code).view(40, 2, heads, -1).unbind(1)
    logits = torch.einsum("thc,shc->hts", query, key)
    found = [int(logits[head, 20].argmax()) - 20 for head in range(heads)]
    assert found == [0, -1, 1, -2, 2, -4, 4, -8][:heads]


def test_parts_of_a_video_are_averaged_whatever_follows_it() -> None:
    weights = part_weights(torch.tensor([6, 4]), 2, 7)
    clips = torch.tensor([[1.0, 2, 3, 4, 5, 6, 99], [1, 3, 5, 7, 99, 99, 99]])
    assert (weights @ clips[..., None])[..., 0].tolist() == [[2, 5], [2, 6]]


def windowed_block(window: int | None, global_tokens: int) -> DenseBlock:
    torch.manual_seed(0)
    config = ModelConfig(width=32, heads=4, window=window, global_tokens=global_tokens)
    return DenseBlock(config).eval()


def by_mask(block: DenseBlock, dense: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """The windowed self-attention of one video [L, F] under the explicit mask."""
    count, clips = block.global_tokens, len(dense)
    parts = torch.arange(clips) * count // clips
    means = [[x[parts == part].mean(0) for part in range(count)] for x in (dense, time)]
    stream, position = (
        torch.cat((torch.stack(mean), x)) for mean, x in zip(means, (dense, time), strict=True)
    )
    index = torch.arange(count + clips)
    seen = (index[:, None] - index).abs() <= block.window
    seen |= (index < count) | (index < count)[:, None]
    attention = block.time_attention
    query, key = attention.query_key(stream + position).unflatten(-1, (2, 4, 8)).unbind(1)
    value = attention.value(stream).unflatten(-1, (4, 8))
    read = functional.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in (query, key, value)), attn_mask=seen
    )
    return attention.out(read.transpose(0, 1).flatten(1))[count:]


@pytest.mark.parametrize("window", [1, 7, 40])
def test_a_long_video_is_seen_through_a_window_and_global_tokens(window: int) -> None:
    block = windowed_block(window, 4)
    dense, time = torch.randn(2, 90, 32), sine_encoding(torch.arange(90) + 0.5, 32)
    found = block._look_over_time(dense, time, torch.tensor([90, 61]))
    torch.testing.assert_close(found[0], by_mask(block, dense[0], time))
    torch.testing.assert_close(found[1, :61], by_mask(block, dense[1, :61], time[:61]))


def test_a_video_that_fits_into_the_window_is_seen_as_a_whole() -> None:
    dense, time = torch.randn(2, 9, 32), sine_encoding(torch.arange(9) + 0.5, 32)
    lengths = torch.tensor([9, 4])
    found = windowed_block(8, 4)._look_over_time(dense, time, lengths)
    assert torch.equal(found, windowed_block(None, 4)._look_over_time(dense, time, lengths))


def test_a_checkpoint_takes_a_window_that_it_was_not_trained_with() -> None:
    trained = SDST(ModelConfig(width=32, layers=1))
    windowed = SDST(ModelConfig(width=32, layers=1, window=8))
    windowed.load_state_dict(trained.state_dict(), strict=True)


@pytest.mark.parametrize("mixes", [True, False])
def test_a_blend_is_in_the_dtype_of_what_it_is_between(
    mixes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "_MIXES", dense._MIXES and mixes)
    x, y = torch.randn(2, 3, 5).bfloat16().unbind()
    found = blend(x, y, torch.tensor(0.25))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, 0.75 * x + 0.25 * y, rtol=0.02, atol=0.02)
