"""One kernel in a model of your own: find the bump in a noisy signal by looking where it may be.

    python examples/find_a_bump.py

A guess (center, width) is refined three times. Each time `deformable_attention` reads the signal at
eight points around the guess, and what it read moves the guess. No video, no side-tuner; half a
minute on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdst.kernels import deformable_attention

CLIPS, WIDTH, HEADS, POINTS, STEPS = 128, 32, 4, 8, 3


class Finder(nn.Module):
    """Signals [B, L] -> (center, width) [B, 2] after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Conv1d(1, WIDTH, 9, padding=4)
        self.state = nn.Parameter(torch.zeros(WIDTH))
        self.offsets = nn.Linear(WIDTH, HEADS * POINTS)
        self.logits = nn.Linear(WIDTH, HEADS * POINTS)
        self.update = nn.GRUCell(WIDTH, WIDTH)
        self.move = nn.Linear(WIDTH, 2)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():  # evenly over twice the guess's width
            self.offsets.bias.copy_(torch.linspace(-2, 2, POINTS).repeat(HEADS))

    def forward(self, signals: Tensor) -> list[Tensor]:
        value = self.read(signals.unsqueeze(1)).relu().transpose(1, 2).unflatten(2, (HEADS, -1))
        state = self.state.expand(len(signals), -1)
        guess = torch.tensor([0.5, 0.5]).expand(len(signals), 2)
        guesses = []
        for _ in range(STEPS):
            offsets = self.offsets(state).view(-1, 1, HEADS, POINTS)
            logits = self.logits(state).view(-1, 1, HEADS, POINTS)
            seen = deformable_attention(value, guess.detach().unsqueeze(1), offsets, logits)
            state = self.update(seen.flatten(1), state)
            shift, growth = self.move(state).unbind(1)
            center = guess[:, 0] + shift * guess[:, 1]
            guess = torch.stack([center, guess[:, 1] * growth.exp()], dim=1)
            guesses.append(guess)
        return guesses


def bumps(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy signals with one bump each, and its (center, width)."""
    width = 0.05 + 0.3 * torch.rand(count, generator=generator)
    center = width / 2 + (1 - width) * torch.rand(count, generator=generator)
    time = (torch.arange(CLIPS) + 0.5) / CLIPS
    inside = (time - center[:, None]).abs() < width[:, None] / 2
    noise = torch.randn(count, CLIPS, generator=generator)
    return inside + 0.5 * noise, torch.stack([center, width], dim=1)


def mean_iou(found: Tensor, true: Tensor) -> float:
    both = torch.stack([found, true])
    starts, ends = both[..., 0] - both[..., 1] / 2, both[..., 0] + both[..., 1] / 2
    shared = (ends.amin(0) - starts.amax(0)).clamp(min=0)
    return (shared / (ends.amax(0) - starts.amin(0))).mean().item()


def main() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    finder = Finder()
    optimizer = torch.optim.AdamW(finder.parameters(), lr=3e-3)
    test_signals, test_truth = bumps(500, generator)
    for step in range(601):
        if step % 200 == 0:
            with torch.no_grad():
                ious = [mean_iou(guess, test_truth) for guess in finder(test_signals)]
            print(f"step {step:3d}: mean IoU after each look", *(f"{iou:.2f}" for iou in ious))
        signals, truth = bumps(64, generator)
        loss = sum((guess - truth).abs().sum(1).mean() for guess in finder(signals))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
