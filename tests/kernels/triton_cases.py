"""The Triton kernels against the references: in Triton's interpreter, or on a GPU.

`test_triton_interpreter.py` runs this file in processes of its own, as the interpreter must be
asked for (TRITON_INTERPRET=1) before Triton is imported. There the ops' CPU kernels are replaced by
the Triton ones, so that a call goes the whole way: public function, dispatch, autograd, launch.
"""

from __future__ import annotations

import os
from importlib import import_module

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from sdst.kernels import dequantize, pool_tokens, quantize, registry, select_tokens, triton_support
from tests.kernels import test_deformable_attention as deformable
from tests.kernels import test_gathered_attention as gathered
from tests.kernels import test_mark_saliency as marking
from tests.kernels import test_pool_tokens as pooling
from tests.kernels import test_residual_norm as residuals
from tests.kernels import test_select_tokens as selection

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
OPS = tuple(name for name, op in registry.OPS.items() if "triton" in op.implementations)

if INTERPRETED:
    # A fresh tensor is full of NaN, so that what a kernel forgets to write is seen.
    torch.use_deterministic_algorithms(True)
    kernels = torch.library.Library("sdst", "IMPL")
    for op in OPS:
        module = import_module(f"sdst.kernels.{op}.triton")
        for direction in ("forward", "backward"):
            function = getattr(module, direction)
            kernels.impl(f"{op}_{direction}", function, "CPU", allow_override=True)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton serve CPU tensors, and fail at any access outside of the kernel's arguments."""
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    monkeypatch.setattr(triton_support, "unsupported_reasons", lambda **tensors: [])
    spans: list[tuple[int, int]] = []
    start = interpreter.GridExecutor._init_args_hst

    def remember(executor, args, options):
        arguments = start(executor, args, options)
        spans[:] = [span(x) for x in arguments[0] if isinstance(x, Tensor)]
        return arguments

    def checked(access):
        def call(builder, pointers, *rest):
            mask = rest[0] if access.__name__ == "create_masked_load" else rest[1]
            first = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)].astype(np.int64)
            last = first + pointers.get_element_ty().primitive_bitwidth // 8
            inside = [(begin <= first) & (last <= end) for begin, end in spans]
            if not np.logical_or.reduce(inside).all():
                raise IndexError(f"{access.__name__} outside of the kernel's arguments")
            return access(builder, pointers, *rest)

        return call

    def no_atomics(*args):
        raise RuntimeError("an atomic: the order of its sums is left to chance")

    def convert(data, source, target, mode):
        if (source, target) != (tl.float32, tl.bfloat16):
            return truncate(data, source, target, mode)
        # The interpreter truncates to bf16, where a GPU rounds to nearest.
        rounded = torch.from_numpy(np.ascontiguousarray(data)).bfloat16()
        return rounded.view(torch.int16).numpy().view(np.uint16)

    truncate = interpreter._convert_float
    builder = interpreter.InterpreterBuilder
    monkeypatch.setattr(interpreter, "_convert_float", convert)
    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", remember)
    monkeypatch.setattr(builder, "create_masked_load", checked(builder.create_masked_load))
    monkeypatch.setattr(builder, "create_masked_store", checked(builder.create_masked_store))
    monkeypatch.setattr(builder, "create_atomic_rmw", no_atomics)


def span(x: Tensor) -> tuple[int, int]:
    """First address of a tensor's elements and the one behind its last."""
    if x.numel() == 0:
        return 0, 0
    reach = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + reach * x.element_size()


def on_device(*tensors: Tensor) -> list[Tensor]:
    return [x.to(DEVICE) for x in tensors]


@triton.jit
def doubling_kernel(
    p_x, p_out, n, BLOCK: tl.constexpr, MASK_LOAD: tl.constexpr, MASK: tl.constexpr
):
    offset = tl.arange(0, BLOCK)
    x = tl.load(p_x + offset, mask=(offset < n) | (not MASK_LOAD))
    tl.store(p_out + offset, 2 * x, mask=(offset < n) | (not MASK))


@triton.jit
def atomic_kernel(p_x):
    tl.atomic_add(p_x, 1.0)


@pytest.mark.skipif(not INTERPRETED, reason="a GPU does not report it")
@pytest.mark.parametrize(("load", "store"), [(True, True), (False, True), (True, False)])
def test_an_access_without_its_mask_is_caught(load: bool, store: bool) -> None:
    x, out = torch.ones(5), torch.zeros(5)
    if load and store:
        doubling_kernel[(1,)](x, out, 5, 8, load, store)
        assert out.tolist() == [2] * 5
        return
    with pytest.raises(interpreter_error(), match="outside of the kernel's arguments"):
        doubling_kernel[(1,)](x, out, 5, 8, load, store)


@pytest.mark.skipif(not INTERPRETED, reason="a GPU does not report it")
def test_an_atomic_is_caught() -> None:
    with pytest.raises(interpreter_error(), match="an atomic"):
        atomic_kernel[(1,)](torch.zeros(1))


def interpreter_error() -> type[Exception]:
    from triton.runtime.errors import InterpreterError

    return InterpreterError


class TestDeformableAttention:
    """Shapes are B, L, M, H, C, S."""

    @pytest.mark.parametrize(
        "shape",
        [(2, 9, 5, 2, 8, 4), (1, 1, 1, 1, 1, 1), (1, 70, 18, 3, 5, 3), (1, 7, 3, 1, 130, 1)],
    )
    def test_forward_and_backward(self, shape: tuple[int, ...]) -> None:
        inputs = on_device(*deformable.make_inputs(shape))
        deformable.assert_as_exact_as_the_reference(inputs, deformable.run("triton", inputs))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        inputs = on_device(*(x.to(dtype) for x in deformable.make_inputs((2, 9, 5, 2, 8, 4))))
        deformable.assert_as_exact_as_the_reference(inputs, deformable.run("triton", inputs))

    def test_lengths_end_with_the_values(self) -> None:
        inputs = on_device(*deformable.make_inputs((4, 9, 3, 2, 8, 4)))
        (lengths,) = on_device(torch.tensor([12, 4, 1, 0]))
        found = deformable.run("triton", inputs, lengths)
        deformable.assert_as_exact_as_the_reference(inputs, found, lengths)

    def test_nan_in_the_padding(self) -> None:
        inputs = on_device(*deformable.make_inputs((2, 9, 3, 2, 8, 4)))
        (lengths,) = on_device(torch.tensor([5, 9]))
        clean = deformable.run("triton", inputs, lengths)
        inputs[0][0, 5:] = torch.nan
        for before, after in zip(clean, deformable.run("triton", inputs, lengths), strict=True):
            assert torch.equal(before, after)

    def test_points_far_outside_and_not_a_number(self) -> None:
        value, references, offsets, logits = on_device(*deformable.make_inputs((1, 9, 4, 1, 8, 1)))
        offsets[0, :, 0, 0] = torch.tensor([torch.inf, -torch.inf, 1e30, torch.nan])
        inputs = [value, references, offsets, logits]
        out, _, _, *gradients = deformable.run("triton", inputs)
        assert (out[0, :3] == 0).all()
        assert out[0, 3].isnan().all()
        assert all((x[0, :3] == 0).all() for x in gradients)

    @pytest.mark.parametrize("shape", [(0, 9, 5, 2, 8, 4), (2, 9, 0, 2, 8, 4)])
    def test_empty_batches(self, shape: tuple[int, ...]) -> None:
        inputs = on_device(*deformable.make_inputs(shape))
        found, expected = deformable.run("triton", inputs), deformable.run("reference", inputs)
        for mine, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, reference)

    def test_the_registered_op_is_sound(self) -> None:
        leaves = [
            x.requires_grad_() for x in on_device(*deformable.make_inputs((2, 9, 3, 2, 8, 4)))
        ]
        op = torch.ops.sdst.deformable_attention_forward.default
        torch.library.opcheck(op, (*leaves, *on_device(torch.tensor([9, 4]))))

    def test_views_and_expanded_inputs(self) -> None:
        value, references, offsets, logits = on_device(*deformable.make_inputs((2, 9, 3, 2, 8, 4)))
        strided = torch.stack((value, value), dim=-1)[..., 0]
        expanded = logits[:, :, :, :1].expand_as(logits)
        found = deformable.run("triton", [strided, references, offsets, expanded])
        inputs = [value, references, offsets, expanded.contiguous()]
        deformable.assert_as_exact_as_the_reference(inputs, found)


class TestGatheredAttention:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("lengths", [None, [4, 7], [9, 0]])
    def test_forward_and_backward(self, dtype: torch.dtype, lengths: list[int] | None) -> None:
        self.check(gathered.make_inputs(dtype), lengths)

    def test_more_rows_keys_and_channels_than_one_block(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = {
            "query": torch.randn(1, 5, 4, 130, generator=generator),
            "tokens": torch.randn(1, 7, 2, 130, generator=generator),
            "indices": torch.randint(26, (1, 40), generator=generator),
            "bias": torch.randn(1, 40, generator=generator),
            "valid": torch.rand(1, 40, generator=generator) < 0.8,
        }
        self.check(x)

    def test_a_store_of_another_dtype_than_the_query(self) -> None:
        x = gathered.make_inputs(torch.float32)
        self.check({**x, "tokens": x["tokens"].bfloat16()})

    def test_a_layer_of_a_stack_is_read_in_place(self) -> None:
        x = gathered.make_inputs(torch.float32)
        stack = torch.full((2, 3, *x["tokens"].shape[1:]), torch.nan)
        stack[:, 1] = x["tokens"]
        self.check({**x, "tokens": stack[:, 1]})

    def test_a_sample_with_nothing_valid_gives_zero(self) -> None:
        x = gathered.make_inputs(torch.float32)
        x["valid"][1] = False
        out, grad_query, grad_bias = run_gathered(x)
        assert all((result[1] == 0).all() for result in (out, grad_query, grad_bias))
        assert all((result[0] != 0).any() for result in (out, grad_query, grad_bias))

    def test_nan_in_the_padding_and_at_what_is_not_valid(self) -> None:
        x = gathered.make_inputs(torch.float32)
        x["indices"][0] = torch.tensor([0, 3, 7, 14, 17, 22])
        clean = run_gathered(x, [4, 7])
        x["tokens"][0, 4:] = torch.nan
        x["bias"][~x["valid"]] = torch.nan
        for before, after in zip(clean, run_gathered(x, [4, 7]), strict=True):
            assert torch.equal(before, after)

    def test_an_empty_batch(self) -> None:
        x = {name: tensor[:0] for name, tensor in gathered.make_inputs(torch.float32).items()}
        found, expected = run_gathered(x), gathered.run("reference", x)
        assert [mine.shape for mine in found] == [reference.shape for reference in expected]

    @pytest.mark.parametrize("index", [-1, 10**6, 2**62, -(2**63)])
    def test_an_index_outside_of_the_pyramid_is_not_valid(self, index: int) -> None:
        x = gathered.make_inputs(torch.float32)
        x["valid"][0, 3] = False
        expected = run_gathered(x)
        x["valid"][0, 3], x["indices"][0, 3] = True, index
        for mine, without in zip(run_gathered(x), expected, strict=True):
            assert torch.equal(mine, without)

    @pytest.mark.parametrize("low", [-1, -(2**62), -(2**63)])
    def test_a_length_below_zero_is_zero(self, low: int) -> None:
        x = gathered.make_inputs(torch.float32)
        for mine, zero in zip(run_gathered(x, [low, 3]), run_gathered(x, [0, 3]), strict=True):
            assert torch.equal(mine, zero)

    def test_nothing_kept(self) -> None:
        x = gathered.make_inputs(torch.float32)
        x |= {name: x[name][:, :0] for name in ("indices", "bias", "valid")}
        assert all((result == 0).all() for result in run_gathered(x))

    def test_the_registered_op_is_sound(self) -> None:
        x = {k: v.to(DEVICE) for k, v in gathered.make_inputs(torch.float32).items()}
        x["query"].requires_grad_()
        x["bias"].requires_grad_()
        op = torch.ops.sdst.gathered_attention_forward.default
        torch.library.opcheck(op, (*x.values(), None, gathered.STRIDES, 0.4, None))

    @pytest.mark.parametrize("lengths", [None, [4, 7]])
    def test_an_int8_store(self, lengths: list[int] | None) -> None:
        self.check(gathered.in_int8(gathered.make_inputs(torch.float32)), lengths)

    def check(self, x: dict[str, Tensor], lengths: list[int] | None = None) -> None:
        x = {name: tensor.to(DEVICE) for name, tensor in x.items()}
        gathered.assert_as_exact_as_the_reference(x, run_gathered(x, lengths), lengths)


def run_gathered(x: dict[str, Tensor], lengths: list[int] | None = None) -> list[Tensor]:
    return gathered.run("triton", {k: v.to(DEVICE) for k, v in x.items()}, lengths)


class TestSelectTokens:
    @pytest.mark.parametrize("k", [1, 12, 60])
    @pytest.mark.parametrize("lengths", [None, [11, 6, 1], [14, 0, 3]])
    def test_it_keeps_what_the_reference_keeps(self, k: int, lengths: list[int] | None) -> None:
        self.check(*selection.make_inputs(), k, lengths)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_half_precision_store_is_accumulated_in_fp32(self, dtype: torch.dtype) -> None:
        tokens, u = (x.to(dtype) for x in selection.make_inputs())
        found = self.run("triton", tokens, u, 12)
        expected = self.run("triton", tokens.float(), u.float(), 12)
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])
        torch.testing.assert_close(found[3].float(), expected[3], rtol=1e-2, atol=1e-2)

    def test_a_length_that_32_bits_do_not_hold_is_clamped(self) -> None:
        tokens, u = selection.make_inputs()
        found = self.run("triton", tokens, u, 12, [2**32 + 1, -(2**62), 2**62])
        whole = self.run("triton", tokens, u, 12, [tokens.shape[1], 0, tokens.shape[1]])
        assert all(map(torch.equal, found, whole))

    def test_more_channels_than_one_block(self) -> None:
        self.check(*selection.make_inputs(clips=5, per_clip=2, width=150), 12)

    def test_a_layer_of_a_stack_is_read_in_place(self) -> None:
        tokens, u = selection.make_inputs()
        stack = torch.full((3, 2, *tokens.shape[1:]), torch.nan)
        stack[:, 1] = tokens
        self.check(stack[:, 1], u, 12)

    def test_nan_in_the_padding(self) -> None:
        tokens, u = selection.make_inputs()
        clean = self.run("triton", tokens, u, 12, [11, 6, 1])
        tokens[1, 6:], tokens[2, 1:] = torch.nan, torch.nan
        for before, after in zip(clean, self.run("triton", tokens, u, 12, [11, 6, 1]), strict=True):
            assert torch.equal(before, after)

    def test_the_registered_op_is_sound(self) -> None:
        tokens, u = on_device(*selection.make_inputs())
        op = torch.ops.sdst.select_tokens_forward.default
        torch.library.opcheck(op, (tokens, u.requires_grad_(), 12, None, (1, 2), 2, None))

    def test_an_int8_store(self) -> None:
        tokens, u = selection.make_inputs()
        values, scales = quantize(tokens)
        found = self.run("triton", values, u, 12, [11, 6, 1], scales)
        expected = self.run("reference", dequantize(values, scales), u, 12, [11, 6, 1])
        for mine, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, reference)

    def check(self, tokens: Tensor, u: Tensor, k: int, lengths: list[int] | None = None) -> None:
        found = self.run("triton", tokens, u, k, lengths)
        expected = self.run("reference", tokens.contiguous(), u, k, lengths)
        for mine, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, reference)

    def run(
        self,
        implementation: str,
        tokens: Tensor,
        u: Tensor,
        k: int,
        lengths: list[int] | None = None,
        scales: Tensor | None = None,
    ) -> list[Tensor]:
        """indices, scores, valid, and the gradient of u under a fixed upstream gradient."""
        tokens, u = tokens.to(DEVICE), u.to(DEVICE).detach().requires_grad_()
        lengths = None if lengths is None else torch.tensor(lengths, device=DEVICE)
        indices, scores, valid = select_tokens(
            *(tokens, u, k, lengths),
            strides=(1, 2, 4),
            segments=2,
            scales=None if scales is None else scales.to(DEVICE),
            implementation=implementation,
        )
        upstream = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
        (grad,) = torch.autograd.grad(scores, u, upstream.to(DEVICE))
        return [indices, scores.detach(), valid, grad]


class TestPoolTokens:
    @pytest.mark.parametrize(
        ("kept", "dtype"),
        [(1, torch.float32), (3, torch.float16), (3, torch.bfloat16), (9, torch.float32)],
    )
    def test_forward_and_backward(self, kept: int, dtype: torch.dtype) -> None:
        tokens, u, lengths = pooling.make_inputs(dtype=dtype)
        self.check(tokens, u, kept, lengths)
        self.check(tokens, u, kept, lengths + tokens.shape[1])

    @pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 50, 150), (1, 21, 50, 9)])
    def test_odd_sizes_and_more_than_one_block(self, shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randn(shape, generator=generator)
        self.check(tokens, 0.3 * torch.randn(1, shape[3], generator=generator), 4)

    @pytest.mark.parametrize("spoilt", [-torch.inf, torch.inf, torch.nan])
    @pytest.mark.parametrize("kept", [1, 3])
    def test_a_token_that_is_not_finite_shows(self, kept: int, spoilt: float) -> None:
        tokens, u, _ = pooling.make_inputs()
        u = u.abs()
        clean, _ = self.run("triton", tokens, u, kept)
        tokens[1, 4, 2, 5] = spoilt
        out, grad = self.run("triton", tokens, u, kept)
        assert out[1, 4, 5].isnan()
        assert grad[1].isnan().all()
        out[1, 4] = clean[1, 4]
        assert torch.equal(out, clean)

    def test_tokens_equal_to_the_last_kept_take_part(self) -> None:
        tokens, u = torch.eye(4).view(1, 1, 4, 4), torch.tensor([[2.0, 1.0, 1.0, 0.0]])
        (out, _) = self.run("triton", tokens, u, 2)
        expected = torch.tensor([2.0, 1.0, 1.0]).softmax(0)
        torch.testing.assert_close(out.flatten().cpu()[:3], expected)
        assert out.flatten()[3] == 0

    def test_a_layer_of_a_stack_is_read_in_place(self) -> None:
        tokens, u, lengths = pooling.make_inputs()
        stack = torch.full((3, 2, *tokens.shape[1:]), torch.nan)
        stack[:, 1] = tokens
        self.check(stack[:, 1], u, 3, lengths)

    def test_nan_in_the_padding(self) -> None:
        tokens, u, lengths = pooling.make_inputs()
        clean = self.run("triton", tokens, u, 3, lengths)
        tokens[1, lengths[1] :], tokens[2] = torch.nan, torch.nan
        for before, after in zip(clean, self.run("triton", tokens, u, 3, lengths), strict=True):
            assert torch.equal(before, after)

    def test_an_empty_batch(self) -> None:
        tokens, u, _ = pooling.make_inputs()
        out, grad = self.run("triton", tokens[:0], u[:0], 3)
        assert out.shape == (0, 7, 19)
        assert grad.shape == (0, 19)

    def test_the_registered_op_is_sound(self) -> None:
        tokens, u, lengths = on_device(*pooling.make_inputs())
        op = torch.ops.sdst.pool_tokens_forward.default
        torch.library.opcheck(op, (tokens, u.requires_grad_(), 3, lengths, None))

    def test_an_int8_store(self) -> None:
        tokens, u, lengths = pooling.make_inputs()
        values, scales = quantize(tokens)
        found = self.run("triton", values, u, 3, lengths, scales)
        expected = self.run("reference", dequantize(values, scales), u, 3, lengths)
        for mine, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, reference)

    def check(self, tokens: Tensor, u: Tensor, kept: int, lengths: Tensor | None = None) -> None:
        """The rule of the reference: at most twice its own error, plus 1e-5 of the scale."""
        exact = self.run("reference", tokens.double(), u.double(), kept, lengths)
        plain = self.run("reference", tokens, u, kept, lengths)
        found = self.run("triton", tokens, u, kept, lengths)
        for truth, reference, mine in zip(exact, plain, found, strict=True):
            allowed = 2 * (reference - truth).abs().max() + 1e-5 * truth.abs().max().clamp(min=1)
            assert (mine - truth).abs().max() <= allowed

    def run(
        self,
        implementation: str,
        tokens: Tensor,
        u: Tensor,
        kept: int,
        lengths: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> list[Tensor]:
        """The output, and the gradient of u under a fixed upstream gradient."""
        tokens, u = tokens.to(DEVICE), u.to(DEVICE).detach().requires_grad_()
        lengths = None if lengths is None else lengths.to(DEVICE)
        scales = None if scales is None else scales.to(DEVICE)
        out = pool_tokens(tokens, u, kept, lengths, scales=scales, implementation=implementation)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
        return [out.detach(), *torch.autograd.grad(out, u, upstream)]


class TestMarkSaliency:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_forward_and_backward(self, dtype: torch.dtype) -> None:
        self.check(marking.make_inputs(dtype=dtype))

    @pytest.mark.parametrize("shape", [(1, 1, 1), (2, 37, 300), (2, 530, 130)])
    def test_odd_sizes_and_videos_of_more_than_one_program(self, shape: tuple[int, ...]) -> None:
        batch, clips, width = shape
        self.check(marking.make_inputs(clips, width, batch=batch))

    def test_one_program_and_several_agree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inputs = on_device(*marking.make_inputs(clips=40, width=130))
        alone = marking.run("triton", inputs)
        monkeypatch.setattr(import_module("sdst.kernels.mark_saliency.triton"), "LONG", 0)
        for mine, other in zip(marking.run("triton", inputs), alone, strict=True):
            torch.testing.assert_close(mine, other)

    @pytest.mark.parametrize("clips", [7, 520])
    def test_lengths_end_with_the_clips(self, clips: int) -> None:
        inputs = marking.make_inputs(clips, batch=3)
        self.check((*inputs[:3], torch.tensor([clips + 2, -1, 1])))
        self.check((*inputs[:3], None))

    @pytest.mark.parametrize("clips", [7, 520])
    def test_nan_in_the_padding(self, clips: int) -> None:
        inputs = on_device(*marking.make_inputs(clips))
        dense, lengths = inputs[0], inputs[3]
        valid = torch.arange(clips, device=DEVICE) < lengths[:, None]
        clean = marking.run("triton", inputs)
        dense[~valid] = torch.nan
        dirty = marking.run("triton", inputs)
        assert torch.equal(dirty[0][valid], clean[0][valid])
        assert dirty[0][~valid].isnan().all()
        assert all(torch.equal(a, b) for a, b in zip(dirty[1:], clean[1:], strict=True))

    @pytest.mark.parametrize("clips", [7, 520])
    def test_a_single_clip_stays_as_it_is(self, clips: int) -> None:
        inputs = on_device(*marking.make_inputs(clips))
        assert torch.equal(marking.run("triton", inputs)[0][2:], inputs[0][2:])

    def test_views_and_expanded_inputs(self) -> None:
        dense, sentence, direction, lengths = marking.make_inputs()
        step = torch.stack((sentence, sentence), 1)[:, 1]
        padded = torch.full((4, 9, 19), torch.nan)
        padded[:, :7] = dense
        for x in (padded[:, :7], dense[:1].expand_as(dense), dense.mT.contiguous().mT):
            self.check((x, step, direction, lengths))

    @pytest.mark.parametrize("shape", [(0, 7, 19), (4, 0, 19)])
    def test_nothing_to_mark(self, shape: tuple[int, ...]) -> None:
        dense, sentence = torch.zeros(shape), torch.zeros(shape[0], shape[2])
        inputs = on_device(dense, sentence, torch.ones(shape[2]))
        out, _, grad = marking.run("triton", (*inputs, None))
        assert out.shape == shape
        assert torch.equal(grad, torch.zeros_like(grad))

    def test_the_registered_op_is_sound(self) -> None:
        dense, sentence, direction, lengths = on_device(*marking.make_inputs())
        op = torch.ops.sdst.mark_saliency_forward.default
        leaves = dense.requires_grad_(), sentence, direction.requires_grad_()
        torch.library.opcheck(op, (*leaves, lengths))

    def check(self, inputs: marking.Inputs) -> None:
        inputs = tuple(x if x is None else x.to(DEVICE) for x in inputs)
        marking.assert_as_exact_as_the_reference(inputs, marking.run("triton", inputs))


class TestResidualNorm:
    @pytest.mark.parametrize("rates", residuals.RATES)
    def test_forward_and_backward(self, rates: residuals.Rates) -> None:
        self.check(residuals.make_inputs(), rates)

    @pytest.mark.parametrize(
        "dtypes",
        [
            (torch.float32, torch.bfloat16),
            (torch.bfloat16, torch.bfloat16),
            (torch.float16, torch.float32),
        ],
    )
    def test_dtypes_of_autocast(self, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
        self.check(residuals.make_inputs(dtypes=dtypes), (0.3, 0.4))

    def test_a_model_in_half_precision(self) -> None:
        inputs = tuple(x.bfloat16() for x in residuals.make_inputs())
        self.check(inputs, residuals.NONE)

    @pytest.mark.parametrize("shape", [(1, 1, 1), (70, 16, 2), (3, 300, 1)])
    def test_odd_sizes_and_more_than_one_program(self, shape: tuple[int, int, int]) -> None:
        self.check(residuals.make_inputs(*shape), (0.3, 0.4))

    def test_views_and_expanded_inputs(self) -> None:
        x, *others = residuals.make_inputs()
        padded = torch.full((4, 9, 19), torch.nan)
        padded[:, :7] = x
        for stream in (padded[:, :7], x[:1].expand_as(x), x.mT.contiguous().mT):
            self.check((stream, *others), (0.3, 0.4))

    def test_what_is_dropped_does_not_show(self) -> None:
        x, branch, *affine = residuals.make_inputs()
        clean = self.run((x, branch, *affine), (0.5, 0.5))
        dropped = (clean[2] == 0).cpu()
        garbage = branch.masked_fill(dropped, torch.nan)
        assert dropped.any()
        found = self.run((x, garbage, *affine), (0.5, 0.5))
        assert all(map(torch.equal, found, clean))

    @pytest.mark.parametrize("shape", [(0, 19, 4), (7, 19, 0)])
    def test_no_rows(self, shape: tuple[int, int, int]) -> None:
        out, *_, weight, bias = self.run(residuals.make_inputs(*shape), (0.3, 0.4))
        assert out.numel() == 0
        assert not weight.any()
        assert not bias.any()

    def test_the_registered_op_is_sound(self) -> None:
        leaves = [x.requires_grad_() for x in on_device(*residuals.make_inputs())]
        op = torch.ops.sdst.residual_norm_forward.default
        torch.library.opcheck(op, (*leaves, *on_device(torch.tensor(7)), 0.3, 0.4))

    def check(self, inputs: residuals.Inputs, rates: residuals.Rates) -> None:
        inputs = tuple(on_device(*inputs))
        found = residuals.run("triton", inputs, rates)
        residuals.assert_as_exact_as_the_reference(inputs, found, rates)

    def run(self, inputs: residuals.Inputs, rates: residuals.Rates) -> list[Tensor]:
        return residuals.run("triton", tuple(on_device(*inputs)), rates)
