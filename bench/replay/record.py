"""Runs the bundled model in PyTorch and hands every self-attention's q, k, v to an observer.

The observer may replace the attention's output, which is how sparse attention is tried without the runtime.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "samples/train"))

from evaluate import Bundle  # noqa: E402
from nets.dit import Attention, rotate  # noqa: E402
from sample import sigmas  # noqa: E402
from train_dit import tokens  # noqa: E402

Observer = Callable[[int, Tensor, Tensor, Tensor], "Tensor | None"]
"""(layer, q, k, v), each [heads, L, head_dim] after norm and rotation -> attention output [heads, L, head_dim]"""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v; `mask` [L, L] or [heads, L, L], True where attended."""
    return probabilities(q, k, mask) @ v


def probabilities(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    s = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
    return torch.softmax(s if mask is None else s.masked_fill(~mask, float("-inf")), dim=-1)


class Recorder:
    """A diffusion transformer whose self-attentions go through an observer."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.observer: Observer | None = None
        for layer, block in enumerate(bundle.dit.blocks):
            block.self_attn.forward = self._wrap(layer, block.self_attn)

    def _wrap(self, layer: int, a: Attention):
        def forward(x: Tensor, source: Tensor, rope=None) -> Tensor:
            b, n, d = x.shape
            split = lambda t: t.reshape(n, a.heads, -1)
            q = rotate(split(a.norm_q(a.q(x))), *rope).transpose(0, 1)
            k = rotate(split(a.norm_k(a.k(x))), *rope).transpose(0, 1)
            v = split(a.v(x)).transpose(0, 1)
            out = self.observer(layer, q, k, v) if self.observer else None
            if out is None:
                out = attend(q, k, v)
            return a.o(out.transpose(0, 1).reshape(b, n, d))
        return forward

    def contexts(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Text states of the prompt and of no prompt, the two branches of guidance."""
        ids, lengths = tokens(self.bundle.tok, [prompt, None])
        states = self.bundle.text(ids, lengths)
        return states[:1], states[1:]

    @torch.no_grad()
    def generate(self, prompt: str, grid: tuple[int, int, int], steps: int, guidance: float, seed: int,
                 before: Callable[[int, int, Tensor, float], None] | None = None) -> Tensor:
        """Euler steps; `before(step, branch, latent, timestep)` precedes each forward."""
        contexts = self.contexts(prompt)
        x = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 16, *grid)).astype(np.float32))
        levels = sigmas(steps)
        for step, (a, b) in enumerate(zip(levels[:-1], levels[1:])):
            velocity = []
            for branch in range(2):
                if before:
                    before(step, branch, x, float(a) * 1000)
                velocity.append(self.bundle.dit(x, torch.tensor([a * 1000.0]), contexts[branch]))
            x = x + float(b - a) * (velocity[1] + guidance * (velocity[0] - velocity[1]))
        return x
