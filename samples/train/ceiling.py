"""How much of a quantised model's error its self-attention maps make: the most that distilling them could gain.

    python3 samples/train/ceiling.py samples/models/shapes-tiny

The transformer's linears get W4A8 (Hadamard blocks of 64, clipping by squared error, rounded to nearest). On latents of
the unquantised model's own run, the guided velocity is compared with that model's, once with the quantised model's own
maps and once with the unquantised model's put in their place in every layer. The difference is the ceiling.
"""
from __future__ import annotations

import argparse
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bundle import Bundle
from nets.dit import Attention, Dit, rotate
from sample import sigmas
from train_dit import tokens

GRID = (9, 12, 12)  # latent cells: 33 frames of 96x96, 324 tokens
GUIDANCE = 4.0
PROMPTS = ("a red circle moves left on a black background", "a green square moves right on a navy background",
           "a blue triangle moves up on a gray background", "a yellow star moves down on a white background",
           "a purple square grows on a black background", "a cyan triangle moves left on a black background",
           "a red star moves right on a navy background", "a green circle moves up on a gray background",
           "a blue triangle moves down on a white background", "a yellow star grows on a black background",
           "a purple circle moves left on a black background", "a cyan square moves right on a navy background")


def hadamard(size: int) -> Tensor:
    """Sylvester's matrix over sqrt(size)."""
    h = torch.ones(1, 1)
    while h.shape[0] < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / size ** 0.5


def rounded(w: Tensor, bits: int) -> Tensor:
    """[N, K] on a symmetric grid, scaled per row by the clipping of least squared error."""
    top = 2 ** (bits - 1) - 1
    most = w.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    best, error = w, torch.full_like(most, float("inf"))
    for gamma in np.arange(0.5, 1.001, 0.02):
        scale = float(gamma) * most / top
        candidate = (w / scale).round().clamp(-top - 1, top) * scale
        e = (candidate - w).square().sum(dim=1, keepdim=True)
        best, error = torch.where(e < error, candidate, best), torch.minimum(e, error)
    return best


class QuantizedLinear(nn.Module):
    def __init__(self, linear: nn.Linear, weight_bits: int, activation_bits: int, block: int = 64) -> None:
        super().__init__()
        self.h, self.block, self.top = hadamard(block), block, 2 ** (activation_bits - 1) - 1
        self.weight, self.bias = rounded(self.turned(linear.weight), weight_bits), linear.bias

    def turned(self, x: Tensor) -> Tensor:
        return (x.reshape(*x.shape[:-1], -1, self.block) @ self.h).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        x = self.turned(x)
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / self.top
        return F.linear((x / scale).round() * scale, self.weight, self.bias)


def quantized(dit: Dit, weight_bits: int = 4, activation_bits: int = 8) -> Dit:
    """A copy whose blocks' linears are quantised."""
    out = deepcopy(dit)
    for block in out.blocks:
        for part in (block.self_attn, block.cross_attn):
            for name in "qkvo":
                setattr(part, name, QuantizedLinear(getattr(part, name), weight_bits, activation_bits))
        for index in (0, 2):
            block.ffn[index] = QuantizedLinear(block.ffn[index], weight_bits, activation_bits)
    return out


@dataclass
class Maps:
    """Self-attention probabilities by layer: written by one model, read by another."""
    kept: list[Tensor] = field(default_factory=list)
    concentration: list[float] = field(default_factory=list)  # exp(entropy) over the number of keys

    def watch(self, dit: Dit, inject: bool) -> None:
        for layer, block in enumerate(dit.blocks):
            block.self_attn.forward = self._forward(layer, block.self_attn, inject)

    def _forward(self, layer: int, a: Attention, inject: bool):
        def forward(x: Tensor, source: Tensor, rope=None) -> Tensor:
            b, n, d = x.shape
            split = lambda t: t.reshape(b, n, a.heads, -1)
            v = split(a.v(x)).transpose(1, 2)
            if inject:
                p = self.kept[layer]
            else:
                q = rotate(split(a.norm_q(a.q(x))), *rope).transpose(1, 2)
                k = rotate(split(a.norm_k(a.k(x))), *rope).transpose(1, 2)
                p = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3), dim=-1)
                if layer == 0:
                    self.kept.clear()
                self.kept.append(p)
                entropy = -(p * p.clamp_min(1e-30).log()).sum(dim=-1).mean()
                self.concentration.append(float(entropy.exp()) / n)
            return a.o((p @ v).transpose(1, 2).reshape(b, n, d))
        return forward


def decibels(v: Tensor, reference: Tensor) -> float:
    return float(-10 * torch.log10((v - reference).square().sum() / reference.square().sum()))


@dataclass
class Ceiling:
    """dB of each prompt, the mean over five noise levels; `keys`: how many keys a query looks at, of all."""
    own: np.ndarray
    injected: np.ndarray
    keys: float

    @property
    def gains(self) -> np.ndarray:
        return self.injected - self.own

    def text(self) -> str:
        error = lambda x: float(x.std(ddof=1)) / len(x) ** 0.5 if len(x) > 1 else 0.0
        return (f"own maps {self.own.mean():.2f} ± {error(self.own):.2f} dB, unquantised maps {self.injected.mean():.2f} dB, "
                f"ceiling {self.gains.mean():+.2f} ± {error(self.gains):.2f} dB; a query looks at {self.keys:.0%} of the keys")


@torch.no_grad()
def ceiling(text: nn.Module, dit: Dit, tok, prompts: int, weight_bits: int = 4, activation_bits: int = 8,
            steps: int = 20) -> Ceiling:
    """Euler steps with guidance; the levels are `steps` / 5 apart."""
    full, own, injected = deepcopy(dit), quantized(dit, weight_bits, activation_bits), \
        quantized(dit, weight_bits, activation_bits)
    maps = Maps()
    maps.watch(full, inject=False)
    maps.watch(injected, inject=True)
    levels, rows = sigmas(steps), []
    for index, prompt in enumerate(PROMPTS[:prompts]):
        states = text(*tokens(tok, [prompt, None]))
        x = torch.randn((1, 16, *GRID), generator=torch.Generator().manual_seed(100 + index))
        scores = []
        for step, (a, b) in enumerate(zip(levels[:-1], levels[1:])):
            t = torch.full((2,), float(a) * 1000)
            both = lambda net: net(x.expand(2, -1, -1, -1, -1), t, states)
            guided = lambda v: v[1] + GUIDANCE * (v[0] - v[1])
            reference = guided(both(full))
            if step % (steps // 5) == steps // 10:
                scores.append((decibels(guided(both(own)), reference), decibels(guided(both(injected)), reference)))
            x = x + float(b - a) * reference
        rows.append(np.mean(scores, axis=0))
    table = np.array(rows)
    return Ceiling(table[:, 0], table[:, 1], float(np.mean(maps.concentration)))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", type=Path, help="model folder as run.py exports it")
    p.add_argument("--prompts", type=int, default=6, choices=range(1, len(PROMPTS) + 1), metavar="1..12")
    p.add_argument("--weights", type=int, default=4, choices=range(2, 9), metavar="BITS")
    p.add_argument("--activations", type=int, default=8, choices=range(4, 9), metavar="BITS")
    a = p.parse_args()
    torch.set_num_threads(1)
    b = Bundle(a.model, "cpu")
    print(ceiling(b.text, b.dit, b.tok, a.prompts, a.weights, a.activations).text())


if __name__ == "__main__":
    main()
