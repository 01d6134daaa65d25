"""Row programs: the reference against PyTorch's own layers, native against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sdst.kernels import ImplementationError, library
from sdst.kernels.row_program import (
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
from tests.kernels.threads import assert_same_bits_in_threads
from tests.processor import needs_bf16

needs_native = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)
BATCH, ROWS, KEYS, HEADS = 3, 9, 7, 4
WIDTHS = [8, 32, 20, 40, 52]  # whole panels of 16, and what is left of them


def weights(out: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.randn(out, width) / width**0.5, torch.randn(out)


def gain(width: int) -> tuple[Tensor, Tensor]:
    return torch.randn(width), torch.randn(width)


def transformer_layer(width: int) -> tuple[RowProgram, dict[str, Tensor]]:
    """Attention to a text, a feed-forward of two layers, and what neighbours hold."""
    x, time = read("x", width), read("time", width)
    read_text = attend(linear(x + time, *weights(width, width)), "k", "v", "words", HEADS)
    x = norm(x + linear(read_text, *weights(width, width)), *gain(width))
    inside = linear(x, *weights(4 * width + 3, width), relu=True)
    x = norm(x + linear(inside, *weights(width, 4 * width + 3)), *gain(width))
    beside = linear(around("x", width), *weights(5, 3 * width))
    text = torch.randn(BATCH, KEYS, 2, width)
    tensors = {
        "x": torch.randn(BATCH, ROWS, width),
        "time": torch.randn(ROWS, width).expand(BATCH, -1, -1),
        "k": text[:, :, 0],
        "v": text[:, :, 1],
        "words": torch.tensor([7, 0, 3]),
    }
    return RowProgram(x=x, beside=beside), tensors


def reader(width: int) -> tuple[RowProgram, dict[str, Tensor]]:
    """RDSA: sampled ends say where to look."""
    seen = ends("references", "source", "clips", width)
    offsets, logits = (linear(seen, *weights(HEADS * 3, 3 * width)) for _ in range(2))
    looked = sample(offsets, logits, "references", "source", "clips", HEADS, width)
    where = code("references", 2, torch.rand(6))
    tensors = {
        "references": torch.rand(BATCH, ROWS, 2) * 1.5,
        "source": torch.randn(BATCH, KEYS, width),
        "clips": torch.tensor([7, 0, 3]),
    }
    return RowProgram(seen=seen, looked=looked, where=where), tensors


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_the_reference_is_a_transformer_layer() -> None:
    width = 24
    layer = nn.TransformerEncoderLayer(width, HEADS, 50, dropout=0.0, batch_first=True).eval()
    with torch.no_grad():
        layer.self_attn.in_proj_bias.normal_()
    attention, x = layer.self_attn, torch.randn(BATCH, ROWS, width)
    (q, k, v), (q_bias, k_bias, v_bias) = (
        y.chunk(3) for y in (attention.in_proj_weight, attention.in_proj_bias)
    )
    row = read("x", width)
    projected = RowProgram(
        q=linear(row, q, q_bias), k=linear(row, k, k_bias), v=linear(row, v, v_bias)
    )
    query, key, value = projected.run(BATCH, ROWS, x=x, implementation="reference")
    branch = attend(read("query", width), "key", "value", "lengths", HEADS)
    branch = linear(branch, attention.out_proj.weight, attention.out_proj.bias)
    y = norm(row + branch, layer.norm1.weight, layer.norm1.bias)
    inside = linear(y, layer.linear1.weight, layer.linear1.bias, relu=True)
    branch = linear(inside, layer.linear2.weight, layer.linear2.bias)
    program = RowProgram(y=norm(y + branch, layer.norm2.weight, layer.norm2.bias))

    lengths = torch.tensor([9, 4, 1])
    padding = torch.arange(ROWS) >= lengths[:, None]
    tensors = {"x": x, "query": query, "key": key, "value": value, "lengths": lengths}
    [found] = program.run(BATCH, ROWS, lengths, implementation="reference", **tensors)
    expected = layer(x, src_key_padding_mask=padding).masked_fill(padding[..., None], 0.0)
    torch.testing.assert_close(found, expected)


def test_neighbours_are_a_convolution_of_three() -> None:
    conv = nn.Conv1d(8, 5, 3, padding=1)
    weight = conv.weight.transpose(1, 2).flatten(1)
    program = RowProgram(y=linear(around("x", 8), weight, conv.bias))
    x = torch.randn(BATCH, ROWS, 8)
    [found] = program.run(BATCH, ROWS, implementation="reference", x=x)
    torch.testing.assert_close(found, conv(x.mT).mT)


@needs_native
@pytest.mark.parametrize("row_lengths", [None, [9, 0, 4], [0, 0, 0], [20, -1, 9]])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("make", [transformer_layer, reader])
def test_native_is_the_reference(make, width: int, row_lengths: list[int] | None) -> None:
    program, tensors = make(width)
    lengths = None if row_lengths is None else torch.tensor(row_lengths)
    expected, found = (
        program.run(BATCH, ROWS, lengths, implementation=name, **tensors)
        for name in ("reference", "native")
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_under_autocast_the_factors_of_linear_layers_are_rounded() -> None:
    x, (weight, bias) = torch.randn(BATCH, ROWS, 24), weights(7, 24)
    row = read("x", 24)
    shift, factor = gain(24)
    program = RowProgram(y=linear(row, weight, bias), same=norm(row + row, factor, shift))
    with torch.autocast("cpu", torch.bfloat16):
        found, same = program.run(BATCH, ROWS, implementation="reference", x=x)
    rounded = (y.bfloat16().double() for y in (x, weight))
    expected = torch.einsum("brk,ok->bro", *rounded) + bias
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(same, program.run(BATCH, ROWS, implementation="reference", x=x)[1])


@needs_bf16
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 11, 12, 13, 47, 49, 150])
@pytest.mark.parametrize(("inner", "out"), [(1, 1), (15, 16), (32, 17), (33, 33), (64, 48)])
def test_a_layer_in_bf16_is_the_reference(inner: int, out: int, rows: int, relu: bool) -> None:
    program = RowProgram(y=linear(read("x", inner), *weights(out, inner), relu))
    x = torch.randn(2, rows, inner)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = (
            program.run(2, rows, torch.tensor([rows, rows // 2]), implementation=name, x=x)
            for name in ("reference", "native")
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@needs_bf16
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("make", [transformer_layer, reader])
def test_layers_in_bf16_are_the_reference(make, width: int) -> None:
    """To a rounding of what lies between two layers, which falls on either side of its middle."""
    program, tensors = make(width)

    def run(name: str) -> list[Tensor]:
        return program.run(BATCH, ROWS, implementation=name, **tensors)

    whole = run("native")
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = run("reference"), run("native")
        assert_same_bits_in_threads(lambda: run("native"))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    assert any(not torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    again = run("native")
    assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))


@needs_bf16
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_layer_in_bf16_hides_no_number_that_is_not_finite(number: float) -> None:
    x = torch.randn(1, 5, 20)
    x[0, 3, 7] = number
    program = RowProgram(y=linear(read("x", 20), *weights(3, 20), relu=True))
    with torch.autocast("cpu", torch.bfloat16):
        [found] = program.run(1, 5, implementation="native", x=x)
    assert found[0, [0, 1, 2, 4]].isfinite().all()
    assert not found[0, 3].isfinite().all()


@needs_native
def test_products_that_the_processor_lacks_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "multiplies_bf16", lambda: False)
    program, x = RowProgram(y=linear(read("x", 4), *weights(4, 4))), torch.randn(1, 1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ImplementationError, match=r"this CPU lacks \(AVX512_BF16\)"):
            program.run(1, 1, implementation="native", x=x)
        program.run(1, 1, x=x)  # by the reference
    with (
        torch.autocast("cpu", torch.float16),
        pytest.raises(ImplementationError, match="float16 under autocast, only fp32 and bf16"),
    ):
        program.run(1, 1, implementation="native", x=x)


@needs_native
@pytest.mark.parametrize(("batch", "rows"), [(0, 5), (5, 0), (1, 500), (200, 3)])
def test_batches_without_rows_and_of_many_tiles(batch: int, rows: int) -> None:
    width = 32
    x = read("x", width)
    y = norm(x + linear(x, *weights(width, width)), *gain(width))
    program = RowProgram(y=y, beside=linear(around("x", width), *weights(16, 3 * width)))
    tensor = torch.randn(batch, rows, width)
    lengths = torch.randint(0, rows + 1, (batch,))
    for valid in (None, lengths):
        expected, found = (
            program.run(batch, rows, valid, implementation=name, x=tensor)
            for name in ("reference", "native")
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@needs_native
@pytest.mark.parametrize("make", [transformer_layer, reader])
def test_nan_in_the_padding_reaches_nothing(make) -> None:
    program, tensors = make(16)
    lengths = torch.tensor([9, 5, 0])
    expected = program.run(BATCH, ROWS, lengths, implementation="native", **tensors)
    for name, valid in {"x": lengths, "k": "words", "v": "words", "source": "clips"}.items():
        if name in tensors:
            tensors[name] = tensors[name].clone()
            ends = tensors[valid] if isinstance(valid, str) else valid
            for i, end in enumerate(ends.tolist()):
                tensors[name][i, end:] = torch.nan
    found = program.run(BATCH, ROWS, lengths, implementation="native", **tensors)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@needs_native
@pytest.mark.parametrize("make", [transformer_layer, reader])
def test_the_number_of_threads_changes_nothing(make) -> None:
    program, tensors = make(40)
    assert_same_bits_in_threads(
        lambda: program.run(BATCH, ROWS, torch.tensor([9, 2, 6]), **tensors)
    )


@needs_native
def test_inputs_may_lie_anywhere() -> None:
    program, tensors = transformer_layer(32)
    expected = program.run(BATCH, ROWS, **tensors)
    scattered = {
        name: x if x.dim() == 1 else x.transpose(0, 2).contiguous().transpose(0, 2)
        for name, x in tensors.items()
    }
    found = program.run(BATCH, ROWS, **scattered)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@needs_native
def test_a_program_keeps_the_weights_that_it_was_made_of() -> None:
    weight, bias = weights(8, 8)
    program = RowProgram(y=linear(read("x", 8), weight, bias))
    x = torch.randn(1, 2, 8)
    [before] = program.run(1, 2, implementation="native", x=x)
    del weight, bias
    torch.randn(1000)  # what was freed would be written over
    [after] = program.run(1, 2, implementation="native", x=x)
    assert torch.equal(before, after)


def test_a_value_that_is_used_twice_is_made_once() -> None:
    x = read("x", 4) + read("x", 4)
    program = RowProgram(a=x, b=linear(x, torch.eye(4), torch.zeros(4)))
    assert len(program.order) == 4  # two reads, a sum, a product


def test_flops_are_those_of_the_products() -> None:
    program, _ = transformer_layer(8)
    layers = 2 * 8 * 8 + 8 * 35 + 35 * 8 + 5 * 24
    assert program.flops(BATCH, ROWS, k=KEYS) == BATCH * ROWS * (2 * layers + 4 * 8 * KEYS)


def test_weights_that_do_not_fit_are_refused() -> None:
    x = read("x", 4)
    for weight, bias in (((3, 5), (3,)), ((3, 4), (2,)), ((4,), ())):
        with pytest.raises(ValueError, match=r"weight \[.*expected \[out, 4\] and \[out\]"):
            linear(x, torch.zeros(weight), torch.zeros(bias))
    for weight, bias in ((3, 4), (4, 3)):
        with pytest.raises(ValueError, match=r"weight \[.*expected \[4\] and \[4\]"):
            norm(x, torch.zeros(weight), torch.zeros(bias))
    with pytest.raises(ValueError, match="4 and 5 numbers"):
        x + read("y", 5)
    with pytest.raises(ValueError, match=r"frequencies \[2, 3\], expected \[n\]"):
        code("x", 4, torch.zeros(2, 3))


def test_heads_that_do_not_divide_the_rows_are_refused() -> None:
    x, y = read("x", 12), read("y", 6)
    for heads in (0, 5):
        with pytest.raises(ValueError, match=f"rows of 12 numbers in {heads} heads"):
            attend(x, "k", "v", None, heads)
    with pytest.raises(ValueError, match="rows of 6 numbers in 4 heads"):
        sample(y, y, "references", "source", "clips", 4, 16)
    with pytest.raises(ValueError, match="rows of 16 numbers in 3 heads"):
        sample(y, y, "references", "source", "clips", 3, 16)
    with pytest.raises(ValueError, match="offsets of 6 and logits of 12 numbers"):
        sample(y, x, "references", "source", "clips", 3, 15)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "no tensor 'x'"),
        ({"x": torch.zeros(2, 3, 5)}, r"x is \[2, 3, 5\] of torch.float32, expected \[2, 3, 4\]"),
        ({"x": torch.zeros(2, 2, 4)}, r"x is \[2, 2, 4\] of torch.float32, expected \[2, 3, 4\]"),
        ({"x": torch.zeros(2, 3, 4, dtype=int)}, r"x is \[2, 3, 4\] of torch.int64, expected"),
        (
            {"x": torch.zeros(2, 3, 4), "row_lengths": torch.tensor([3])},
            r"row_lengths is \[1\], expected \[2\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, Tensor], message: str) -> None:
    program = RowProgram(x=read("x", 4) + read("x", 4))
    with pytest.raises(ValueError, match=message):
        program.run(2, 3, **tensors)


def test_a_tensor_must_fit_all_that_read_it() -> None:
    attended = attend(read("q", 4), "x", "x", None, 2)
    program = RowProgram(wide=read("x", 8), attended=attended)
    with pytest.raises(ValueError, match=r"x is .*, expected \[2, 3, 8\]"):
        program.run(2, 3, q=torch.zeros(2, 3, 4), x=torch.zeros(2, 3, 4))
    program = RowProgram(x=read("x", 4), attended=attended)
    with pytest.raises(ValueError, match=r"x is .*, expected \[2, 3, 4\]"):
        program.run(2, 3, q=torch.zeros(2, 3, 4), x=torch.zeros(2, 5, 4))


def test_keys_without_values_are_refused() -> None:
    program, tensors = transformer_layer(8)
    tensors["v"] = tensors["v"][:, :-1]
    with pytest.raises(ValueError, match="expected as many of both"):
        program.run(BATCH, ROWS, **tensors)


@needs_native
def test_what_native_cannot_serve_is_reported() -> None:
    program = RowProgram(x=read("x", 4))
    with pytest.raises(ImplementationError, match=r"float16 on cpu, only fp32 on cpu"):
        program.run(1, 1, implementation="native", x=torch.zeros(1, 1, 4, dtype=torch.float16))
    lengths = torch.empty(1, dtype=int, device="meta")
    with pytest.raises(ImplementationError, match="int64 on meta, only fp32 on cpu"):
        program.run(1, 1, lengths, implementation="native", x=torch.zeros(1, 1, 4))


@needs_native
def test_weights_without_numbers_are_an_error() -> None:
    weight, bias = (x.to("meta") for x in weights(4, 4))
    program = RowProgram(y=linear(read("x", 4), weight, bias))
    with pytest.raises(NotImplementedError, match="no data"):
        program.run(1, 1, implementation="native", x=torch.zeros(1, 1, 4))


def test_an_unknown_expression_is_refused() -> None:
    with pytest.raises(TypeError, match="Rows is no expression"):
        RowProgram(x=Rows(4)).run(1, 1, implementation="reference")
