"""Calls that no caller should make: refused in one line, or served like any other."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdst.kernels import (
    cross_attention,
    dense_attention,
    dequantize,
    dropout,
    gathered_attention,
    library,
    pool_tokens,
    quantize,
    row_program,
    select_tokens,
)
from sdst.kernels.examples import Make
from sdst.kernels.registry import OPS
from tests.faults import checked, kernels
from tests.kernels.calls import results

native_only = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)
TOKENS, U = torch.randn(2, 9, 3, 8), torch.randn(2, 8)


def attended(**change: object) -> Tensor:
    call = {
        "query": torch.randn(2, 3, 2, 8),
        "tokens": TOKENS,
        "indices": torch.zeros(2, 4, dtype=torch.int64),
        "bias": torch.zeros(2, 4),
        "valid": torch.ones(2, 4, dtype=torch.bool),
        "scale": 1.0,
    }
    return gathered_attention(**call | change)


@native_only
@pytest.mark.parametrize("first", range(0, 600, 100))
def test_hostile_calls_are_refused_or_served_as_by_the_reference(first: int) -> None:
    found = [kernels.try_one(seed) for seed in range(first, first + 100)]
    assert [line for line in found if line] == []


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the C++ kernels under the address sanitizer."""
    folder = tmp_path_factory.mktemp("sanitized")
    checked.build(folder)
    return folder


@pytest.mark.slow
def test_hostile_calls_touch_no_foreign_memory(sanitized: Path) -> None:
    done = checked.run(sanitized, "tests.faults.kernels", "--calls", "400", "--seed", "10000")
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


@pytest.mark.slow
def test_foreign_memory_would_be_noticed(sanitized: Path) -> None:
    done = checked.run(sanitized, "tests.faults.kernels", "--calls", "0", "--overrun")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.parametrize("index", [-1, 10**6, 2**62, -(2**63)])
def test_an_index_outside_of_the_pyramid_is_named(implementation: str, index: int) -> None:
    indices = torch.zeros(2, 4, dtype=torch.int64)
    indices[1, 2] = index
    message = rf"gathered_attention: indices\[1, 2\] is {index}, expected 0 to 56"
    with pytest.raises(ValueError, match=message):
        attended(indices=indices)


def test_an_index_that_is_not_valid_may_be_anything(implementation: str) -> None:
    indices, valid = torch.tensor([[0, 1, 2, 3]] * 2), torch.tensor([[True, True, False, True]] * 2)
    query = torch.randn(2, 3, 2, 8)
    expected = attended(query=query, indices=indices, valid=valid)
    indices[:, 2] = 2**62
    assert torch.equal(attended(query=query, indices=indices, valid=valid), expected)


def tensor_arguments(*names: str) -> list[tuple[str, str]]:
    """Every op with each of its example's tensors, or those of `names`."""
    return [
        (op.name, name)
        for op in OPS.values()
        for name, x in op.example(Make()).items()
        if isinstance(x, Tensor) and name in (names or (name,))
    ]


@pytest.mark.parametrize("low", [-1, -(2**62), -(2**63)])
@pytest.mark.parametrize(
    ("op", "name"), tensor_arguments("lengths", "sizes", "counts", "row_lengths", "words")
)
def test_a_length_below_zero_is_zero(implementation: str, op: str, name: str, low: int) -> None:
    call = OPS[op].example(Make(), batch=2)
    negative, zero = (
        results(OPS[op], call | {name: torch.tensor([x, 0])}, "auto") for x in (low, 0)
    )
    assert all(map(torch.equal, negative, zero))


@pytest.mark.parametrize(("op", "name"), tensor_arguments())
@pytest.mark.parametrize("spoil", [Tensor.tolist, lambda x: x.to(torch.complex64)])
def test_an_argument_that_no_kernel_reads_is_named(
    implementation: str, op: str, name: str, spoil: Callable[[Tensor], object]
) -> None:
    call = OPS[op].example(Make())
    with pytest.raises((TypeError, ValueError), match=f"^{op}: {name} is ") as error:
        OPS[op].call(**call | {name: spoil(call[name])}, implementation="auto")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("low", [-1, -(2**63)])
def test_attention_over_a_length_below_zero_gives_zero(low: int) -> None:
    lengths = torch.tensor([low, 3])
    assert not cross_attention(TOKENS, TOKENS, TOKENS, lengths)[0].any()
    assert not dense_attention(TOKENS, TOKENS, TOKENS, lengths)[0].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": torch.tensor([9.0, 4.0])}, "lengths is torch.float32, expected torch.int64"),
        ({"lengths": torch.tensor([True, True])}, "lengths is torch.bool, expected"),
        ({"u": U.to(torch.int64)}, "u is torch.int64, expected torch.float32"),
        ({"u": U.to("meta")}, "u is on meta and tokens on cpu, expected one device"),
        ({"tokens": TOKENS.to(torch.complex64)}, "tokens is torch.complex64, expected"),
        ({"tokens": TOKENS[:, :, :0]}, r"tokens is \[2, 9, 0, 8\] .*at least 1"),
        ({"strides": (2**62,)}, r"strides are \[4611686018427387904\], expected .* to 1048576"),
        ({"strides": (1.5,)}, r"strides are \[1.5\]"),
        ({"segments": 2**40}, "segments is 1099511627776, expected an integer from 1 to 65536"),
        ({"k": 2**62}, "k is 4611686018427387904, expected an integer from 0 to"),
        ({"k": 2.5}, "k is 2.5, expected an integer"),
    ],
)
def test_arguments_that_a_kernel_would_trust_are_named(
    implementation: str, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^select_tokens: {message}"):
        select_tokens(**{"tokens": TOKENS, "u": U, "k": 4} | change)


def test_a_pyramid_too_large_for_its_indices_is_refused() -> None:
    tokens = torch.zeros(1, 1, 1, 1).expand(1, 2**29, 2, 1)
    with pytest.raises(ValueError, match="entries, expected at most 1073741824"):
        select_tokens(tokens, torch.zeros(1, 1), 1)


@pytest.mark.parametrize("stride", [9, 10, 2**20])
def test_a_stride_beyond_the_video_is_one_step(implementation: str, stride: int) -> None:
    _, scores, _ = select_tokens(TOKENS, U, 3, strides=(stride,))
    means = torch.einsum("bpd,bd->bp", TOKENS.mean(1), U)
    torch.testing.assert_close(scores, means.sort(descending=True).values)


@pytest.mark.parametrize("spoilt", [-math.inf, math.inf, math.nan])
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_pooling_shows_a_token_that_is_not_finite(
    implementation: str, kept: int, spoilt: float
) -> None:
    tokens, u = TOKENS.clone(), U.abs()
    clean = pool_tokens(tokens, u, kept)
    tokens[1, 4, 2, 5] = spoilt
    out = pool_tokens(tokens, u, kept)
    assert out[1, 4, 5].isnan()
    out[1, 4] = clean[1, 4]
    assert torch.equal(out, clean)


@pytest.mark.parametrize("per_clip", [3, 50, 257])
def test_pooling_scores_that_have_no_order_stays_within_them(
    implementation: str, per_clip: int
) -> None:
    tokens = torch.full((2, 4, per_clip, 8), torch.nan)
    tokens[:, :, ::2] = torch.randn(2, 4, (per_clip + 1) // 2, 8)
    assert pool_tokens(tokens, U, per_clip // 2 + 1).isnan().all()


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_a_rate_of_dropout_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="dropout: rate is"):
        dropout(torch.ones(3), rate)


@pytest.mark.parametrize("tokens", [torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 0)])
def test_only_floats_are_quantized(tokens: Tensor) -> None:
    with pytest.raises(ValueError, match=r"quantize: tokens are .*, expected floats"):
        quantize(tokens)


def test_scales_of_another_shape_do_not_spread() -> None:
    values, scales = quantize(torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match=r"dequantize: scales are \[2, 1\], expected \[2, 3\]"):
        dequantize(values, scales[:, :1])


def test_a_token_that_is_not_finite_does_not_become_a_number() -> None:
    tokens = torch.ones(3, 4)
    tokens[0, 1], tokens[1, 2] = math.inf, math.nan
    back = dequantize(*quantize(tokens))
    assert back[:2].isnan().all()
    assert torch.equal(back[2], tokens[2])


def test_a_row_program_without_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="row_program: no outputs"):
        row_program.RowProgram()


@pytest.mark.parametrize("width", [0, -8, 2**40, 1.5])
def test_rows_of_no_sensible_width_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match="row_program: width is"):
        row_program.read("x", width)


def test_row_lengths_of_floats_are_refused() -> None:
    program = row_program.RowProgram(y=row_program.read("x", 4))
    with pytest.raises(ValueError, match=r"row_lengths is torch\.float32, expected torch\.int64"):
        program.run(2, 3, torch.ones(2), x=torch.zeros(2, 3, 4))


def test_attention_of_mixed_dtypes_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one dtype"):
        dense_attention(TOKENS, TOKENS.double(), TOKENS)
