"""Token selection against a slow formulation of its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdst.kernels import dequantize, quantize, select_tokens
from tests.kernels.threads import assert_same_bits_in_threads

pytestmark = pytest.mark.usefixtures("implementation")
native_only = pytest.mark.parametrize("implementation", ["native"], indirect=True)


def by_hand(tokens: Tensor, u: Tensor, k: int, length: int, strides: tuple, segments: int) -> list:
    """Indices kept for one sample, best first, from the words of the docstring."""
    clips, per_clip, _ = tokens.shape
    groups: dict[tuple[int, int], list] = {}
    offset = 0
    for level, stride in enumerate(strides):
        for step in range(-(-clips // stride)):
            start = step * stride
            window = tokens[start : min(start + stride, length)]
            if start >= length:
                continue
            segment = start * segments // length
            for p in range(per_clip):
                score = (window[:, p].double().mean(0) @ u.double()).item()
                entry = (-score, offset + step * per_clip + p)
                groups.setdefault((level, segment), []).append(entry)
        offset += -(-clips // stride) * per_clip
    share = [k // len(strides) + (i < k % len(strides)) for i in range(len(strides))]
    kept, rest = [], []
    for (level, segment), entries in groups.items():
        quota = share[level] // segments + (segment < share[level] % segments)
        entries.sort()
        kept += entries[:quota]
        rest += entries[quota:]
    kept += sorted(rest)[: k - len(kept)]
    return [index for _, index in sorted(kept)]


def make_inputs(clips: int = 11, per_clip: int = 3, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, clips, per_clip, width, generator=generator)
    return tokens, torch.randn(3, width, generator=generator)


@pytest.mark.parametrize("k", [1, 7, 12, 40])
def test_it_keeps_what_the_definition_keeps(k: int) -> None:
    tokens, u = make_inputs()
    lengths = torch.tensor([11, 6, 1])
    indices, _, valid = select_tokens(tokens, u, k, lengths, strides=(1, 2, 4), segments=2)
    for i, length in enumerate(lengths.tolist()):
        expected = by_hand(tokens[i], u[i], k, length, (1, 2, 4), 2)
        assert indices[i][valid[i]].tolist() == expected


def test_scores_are_products_with_the_averaged_tokens() -> None:
    tokens, u = make_inputs(clips=4, per_clip=1)
    _, scores, _ = select_tokens(tokens, u, 7, strides=(1, 2, 4), segments=1)
    levels = [tokens.view(3, 4 // s, s, 6).mean(2) for s in (1, 2, 4)]
    every = torch.einsum("bnd,bd->bn", torch.cat(levels, 1), u)
    torch.testing.assert_close(scores, every.sort(descending=True).values)


def test_more_than_there_is_fills_up_with_invalid() -> None:
    tokens, u = make_inputs(clips=2, per_clip=1)
    indices, scores, valid = select_tokens(tokens, u, 9, strides=(1, 2), segments=2)
    assert valid.sum(1).tolist() == [3, 3, 3]
    assert (indices[~valid] == 0).all()
    assert (scores[~valid] == 0).all()


def test_of_equal_scores_the_lower_index_wins() -> None:
    tokens, u = torch.zeros(1, 6, 2, 4), torch.ones(1, 4)
    indices, _, _ = select_tokens(tokens, u, 4, strides=(1,), segments=1)
    assert indices.tolist() == [[0, 1, 2, 3]]


def test_the_gradient_goes_to_u_through_the_kept_scores_only() -> None:
    tokens, u = make_inputs()
    tokens.requires_grad_()
    u.requires_grad_()
    indices, scores, _ = select_tokens(tokens, u, 4, strides=(1,), segments=1)
    scores.sum().backward()
    kept = torch.stack([t.flatten(0, 1)[i].sum(0) for t, i in zip(tokens, indices, strict=True)])
    torch.testing.assert_close(u.grad, kept)
    assert tokens.grad is None


def test_nan_in_the_padding_changes_nothing() -> None:
    tokens, u = make_inputs()
    lengths = torch.tensor([11, 6, 1])
    clean = select_tokens(tokens, u, 8, lengths)
    tokens[1, 6:], tokens[2, 1:] = torch.nan, torch.nan
    for before, after in zip(clean, select_tokens(tokens, u, 8, lengths), strict=True):
        assert torch.equal(before, after)


@native_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(12))
def test_native_keeps_what_the_reference_keeps(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    clips, per_clip, k = (int(integers(1, high, 1)) for high in (20, 6, 60))
    # Small integers have exact sums and many ties: the order of equal scores is checked, too.
    tokens = integers(-3, 4, 5, clips, per_clip, 19).to(dtype)
    u = integers(-2, 3, 5, 19).float().requires_grad_()
    lengths = integers(0, clips + 1, 5)
    options = {"strides": (1, 2, 4, 8), "segments": int(integers(1, 6, 1))}
    answers = [
        select_tokens(tokens, u, k, lengths, **options, implementation=name)
        for name in ("native", "reference")
    ]
    for native, reference in zip(*answers, strict=True):
        torch.testing.assert_close(native, reference, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(5, k, generator=generator)
    gradients = [torch.autograd.grad(scores, u, upstream)[0] for _, scores, _ in answers]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-5)


def test_lengths_end_with_the_tokens() -> None:
    tokens, u = make_inputs()
    found = select_tokens(tokens, u, 20, torch.tensor([12, 15, 11]))
    assert all(map(torch.equal, found, select_tokens(tokens, u, 20)))


def test_an_int8_store_is_the_store_that_it_stands_for() -> None:
    tokens, u = make_inputs()
    u.requires_grad_()
    values, scales = quantize(tokens)
    lengths = torch.tensor([11, 6, 1])
    indices, scores, valid = select_tokens(values, u, 12, lengths, scales=scales)
    expected = select_tokens(dequantize(values, scales), u, 12, lengths)
    assert torch.equal(indices, expected[0])
    assert torch.equal(valid, expected[2])
    torch.testing.assert_close(scores, expected[1])
    gradients = [torch.autograd.grad(x.square().sum(), u)[0] for x in (scores, expected[1])]
    torch.testing.assert_close(*gradients)


def test_int8_without_scales_is_refused() -> None:
    tokens, u = make_inputs()
    with pytest.raises(ValueError, match="scales are missing"):
        select_tokens(tokens.to(torch.int8), u, 3)
    with pytest.raises(ValueError, match=r"scales is \[3\], expected \[3, 11, 3\]"):
        select_tokens(tokens.to(torch.int8), u, 3, scales=torch.ones(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(3, 11, 6)}, r"tokens is \[3, 11, 6\], expected \[B, L, P, D\]"),
        (
            {"u": torch.zeros(1, 6)},
            r"expected \[3, 6\] beside tokens \[3, 11, 3, 6\]",
        ),
        ({"u": torch.zeros(3, 5)}, r"u is \[3, 5\], expected \[3, 6\]"),
        ({"lengths": torch.tensor([11, 6])}, r"lengths is \[2\], expected \[3\]"),
        ({"k": -1}, "k is -1, expected an integer from 0 to"),
        ({"segments": 0}, "segments is 0, expected an integer from 1 to"),
        ({"strides": (1, 0)}, r"strides are \[1, 0\]"),
        ({"strides": ()}, r"strides are \[\]"),
    ],
)
def test_what_does_not_belong_together_is_named(change: dict, message: str) -> None:
    tokens, u = make_inputs()
    with pytest.raises(ValueError, match=f"^select_tokens: .*{message}"):
        select_tokens(**{"tokens": tokens, "u": u, "k": 7} | change)


@native_only
def test_samples_may_lie_anywhere_or_be_one_that_all_share() -> None:
    tokens, _ = make_inputs()
    u = torch.randn(3, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
    video = tokens[0].float()
    apart = torch.stack((video, video, video), 1).transpose(0, 1)  # clips of a sample: 3 rows apart
    behind = torch.stack((video, -video) * 3).view(3, 2, *video.shape)[:, 0]
    for viewed in (video.expand(3, -1, -1, -1), apart, behind):
        indices, scores, _ = select_tokens(viewed, u, 12)
        expected = select_tokens(viewed.contiguous(), u, 12)
        assert torch.equal(indices, expected[0])
        assert torch.equal(scores, expected[1])
        found, reference = (torch.autograd.grad(x.square().sum(), u) for x in (scores, expected[1]))
        assert torch.equal(found[0], reference[0])


@native_only
def test_threads_do_not_change_a_bit() -> None:
    tokens, u = torch.randn(40, 30, 9, 33), torch.randn(40, 33)
    assert_same_bits_in_threads(lambda: select_tokens(tokens, u, 16, implementation="native"))


@native_only
def test_the_op_is_well_registered() -> None:
    tokens, u = make_inputs()
    arguments = (tokens, u.requires_grad_(), 7, torch.tensor([11, 6, 1]), [1, 2, 4], 2, None)
    torch.library.opcheck(torch.ops.sdst.select_tokens_forward.default, arguments)
