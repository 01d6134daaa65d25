"""The contrastive losses and their gradients against cross entropies of cosines, recorded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdst.model.contrast import NAMES, contrastive_losses

STEPS, BATCH, WIDTH = 3, 4, 6
ANCHORED = [
    [True, True, True, True],
    [True, False, True, False],
    [False, True, False, False],
    [False] * 4,
]


def make_inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """sentence, clip, visual and scale."""
    generator = torch.Generator().manual_seed(0)
    shape = (STEPS, BATCH, WIDTH)
    vectors = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3)]
    return [x.requires_grad_() for x in (*vectors, torch.tensor(3.0, dtype=dtype))]


def plainly(
    sentence: Tensor, clip: Tensor, visual: Tensor, scale: Tensor, anchored: Tensor
) -> dict[str, Tensor]:
    """The definition, for one matrix of cosines after the other."""

    def entropy(a: Tensor, b: Tensor) -> Tensor:
        logits = scale * functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).mT
        return functional.cross_entropy(logits, torch.arange(len(a)))

    def both(a: Tensor, b: Tensor) -> Tensor:
        return (entropy(a, b) + entropy(b, a)) / 2

    steps = [[x[step, anchored] for x in (sentence, clip, visual)] for step in range(STEPS)]
    samples = [(sentence[:, i], visual[:, i]) for i in anchored.nonzero().flatten().tolist()]
    terms = (
        [entropy(s, c) for s, c, _ in steps],
        [both(s, v) for s, _, v in steps],
        [both(s, v) for s, v in samples],
    )
    return {name: torch.stack(x).mean() for name, x in zip(NAMES, terms, strict=True)}


@pytest.mark.parametrize("anchored", ANCHORED[:3])
def test_terms_and_gradients_are_those_of_cross_entropies(anchored: list[bool]) -> None:
    inputs, real = make_inputs(), torch.tensor(anchored)
    found, expected = contrastive_losses(*inputs, real), plainly(*inputs, real)
    torch.testing.assert_close(found, expected)
    for name, term in found.items():
        ours = torch.autograd.grad(term, inputs, retain_graph=True)
        theirs = torch.autograd.grad(
            expected[name], inputs, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize("anchored", ANCHORED)
def test_gradients_are_differences(anchored: list[bool]) -> None:
    real = torch.tensor(anchored)

    def terms(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(contrastive_losses(*inputs, real).values())

    assert torch.autograd.gradcheck(terms, make_inputs())


def test_without_anchored_samples_nothing_is_lost_or_learned() -> None:
    inputs = make_inputs(torch.float32)
    terms = contrastive_losses(*inputs, torch.zeros(BATCH, dtype=torch.bool))
    assert all(term == 0 for term in terms.values())
    assert not any(x.any() for x in torch.autograd.grad(sum(terms.values()), inputs))


def test_the_highest_temperature_stays_finite_in_fp32() -> None:
    *vectors, _ = make_inputs(torch.float32)
    scale = torch.tensor(100.0, requires_grad=True)
    vectors[0].data[:] = -vectors[1].data  # the worst match of all
    terms = contrastive_losses(*vectors, scale, torch.tensor([True, True, True, False]))
    grads = torch.autograd.grad(sum(terms.values()), (*vectors, scale))
    assert all(x.isfinite().all() for x in (*terms.values(), *grads))


def test_samples_without_a_clip_are_not_read() -> None:
    anchored = torch.tensor([True, False, True, True])
    inputs = make_inputs()
    changed = [x.detach().clone() for x in inputs]
    for x in changed[:3]:
        x[:, 1] = 7.0
    torch.testing.assert_close(
        contrastive_losses(*changed, anchored), contrastive_losses(*inputs, anchored)
    )


def test_autocast_changes_nothing() -> None:
    inputs, anchored = make_inputs(torch.float32), torch.tensor(ANCHORED[1])
    expected = contrastive_losses(*inputs, anchored)
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_losses(*inputs, anchored)
    for name, term in found.items():
        assert torch.equal(term, expected[name])
        ours, theirs = (
            torch.autograd.grad(x, inputs, retain_graph=True) for x in (term, expected[name])
        )
        assert all(map(torch.equal, ours, theirs))
