"""A training step and a forward pass of a side-tuner at QVHighlights' size, on random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, register_flop_formula

from sdst.config import Config
from sdst.kernels import quantize
from sdst.model import SDST, ModelConfig, Outputs, Targets, grounding_loss
from sdst.training.optim import make_optimizer

CLIPS, WORDS, MOMENTS = 75, 20, 3  # QVHighlights' clips, words and moments of a query


def random_inputs(config: ModelConfig, batch: int, per_clip: int = 1) -> tuple[Tensor, ...]:
    """Inputs of the model, laid out as `sdst.data.batches.collate` does.

    Returns:
        video fp16 [B, K, L, per_clip, Dv], text [B, K, N, Dt], and their lengths [B].
    """
    layers, width = config.layers, config.video_width
    video = torch.empty(layers, batch, CLIPS, per_clip, width, dtype=torch.float16)
    return (
        video.normal_().transpose(0, 1),
        torch.randn(batch, layers, WORDS, config.text_width),
        torch.full((batch,), CLIPS),
        torch.full((batch,), WORDS),
    )


def random_targets(batch: int) -> Targets:
    """Three moments for every query."""
    return Targets(
        spans=torch.stack((torch.rand(batch, MOMENTS), torch.rand(batch, MOMENTS) / 4 + 0.02), -1),
        counts=torch.full((batch,), MOMENTS),
        saliency=(torch.rand(batch, CLIPS) > 0.7).float(),
        lengths=torch.full((batch,), CLIPS),
        positive_clip=torch.randint(CLIPS, (batch,)),
    )


class TrainingStep:
    """All that `sdst.train` does for a batch: forward, losses, backward, clipping, AdamW.

    Args:
        precision: of autocast; float32 is none.
        watch: called before each phase with its name and the tensors that the one before gave.
        model: what is trained.
        int8: the videos are of int8.
        device: where all of it happens.

    Attributes:
        loss: [] of the last step.
    """

    def __init__(
        self,
        config: Config,
        batch: int,
        per_clip: int = 1,
        precision: torch.dtype = torch.float32,
        watch: Callable[[str, list[Tensor]], None] = lambda phase, given: None,
        model: type[SDST] = SDST,
        int8: bool = False,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(0)
        self.model = model(config.model).train()
        if device != "cpu":  # nor can a model be moved where shapes are only followed
            self.model.to(device)
        self.config, self.precision, self.watch = config, precision, watch
        self.optimizer = make_optimizer(self.model, config.train)
        for group in self.optimizer.param_groups:
            group["capturable"] = device == "cuda"  # in a CUDA graph
        self.inputs = random_inputs(config.model, batch, per_clip)
        if int8:
            video, scales = (x.transpose(0, 1) for x in quantize(self.inputs[0].transpose(0, 1)))
            self.inputs = (video, *self.inputs[1:], scales)
        self.inputs = tuple(x.to(device) for x in self.inputs)
        self.targets = Targets(*(x.to(device) for x in vars(random_targets(batch)).values()))
        self.device = device

    def __call__(self) -> None:
        self.watch("recurrence", [])
        with torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32):
            outputs = self.model(*self.inputs)
        self.watch("losses", [outputs.spans, outputs.saliency])
        loss, _ = grounding_loss(outputs, self.targets, self.config.loss)
        self.loss = loss.detach()
        self.watch("backward", [loss])
        loss.backward()
        self.watch("optimizer", [])
        # foreach: what PyTorch does by itself, but not where shapes are only followed.
        parameters = self.model.parameters()
        torch.nn.utils.clip_grad_norm_(parameters, self.config.train.clip_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()


def forward_pass(
    config: Config,
    batch: int,
    per_clip: int = 1,
    model: type[SDST] = SDST,
    device: str = "cpu",
) -> Callable[[], Outputs]:
    """A call that answers a batch of random queries, each on a video of its own."""
    torch.manual_seed(0)
    tuner = model(config.model).to(device).for_inference()
    inputs = [x.to(device) for x in random_inputs(config.model, batch, per_clip)]
    return torch.no_grad()(lambda: tuner(*inputs))


Shape = tuple[int, ...]


@register_flop_formula(torch.ops.sdst.dense_attention_forward)
def _attention(q: Shape, k: Shape, *_: object, **__: object) -> int:
    """Both products of q [B, M, H, C] with k and v [B, L, H, C]."""
    return 4 * math.prod(q) * k[1]


@register_flop_formula(torch.ops.sdst.dense_attention_backward)
def _attention_backward(_: Shape, q: Shape, k: Shape, *__: object, **___: object) -> int:
    return 8 * math.prod(q) * k[1]


class _Counter(TorchDispatchMode):
    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            count = flop_registry[func.overloadpacket]
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def count_flops(call: Callable[[], object]) -> int:
    """Operations of the products and attention in `call`."""
    with _Counter() as counter:
        call()
    return counter.flops
