"""Optimiser over one flat parameter vector: Muon for matrices inside blocks, Adam for everything else.

All state is flat, so several processes can share it, each updating its own share of the tensors.
"""
from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn


def orthogonalise(g: Tensor) -> Tensor:
    """Newton-Schulz iteration (5 steps, bf16): [n, a, b] with a <= b -> matrices with singular values near 1."""
    x = g.bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        s = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
    return x.float()


class FlatOptimiser:
    """`params`, `first`, `second` are flat [N] tensors; `modules` are views into `params`."""

    def __init__(self, named: list[tuple[str, nn.Parameter]], flat: Tensor, first: Tensor, second: Tensor) -> None:
        self.flat, self.first, self.second = flat, first, second
        self.spans: list[tuple[str, int, torch.Size]] = []
        at = 0
        for name, p in named:
            n = p.numel()
            flat[at:at + n] = p.data.flatten()
            p.data = flat[at:at + n].view_as(p)
            self.spans.append((name, at, p.shape))
            at += n

    @staticmethod
    def is_matrix(name: str, shape: torch.Size) -> bool:
        return len(shape) == 2 and name.startswith("dit.blocks.") and min(shape) > 1

    def step(self, grad: Tensor, step: int, adam_lr: float, muon_lr: float, rank: int = 0, ranks: int = 1) -> None:
        """grad [N]; `step` counts from 1. Updates every ranks-th tensor."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        m, a = 0, 0
        for name, at, shape in self.spans:
            if self.is_matrix(name, shape):
                if m % ranks == rank:
                    groups[tuple(shape)].append(at)
                m += 1
                continue
            a += 1
            if a % ranks != rank:
                continue
            part = slice(at, at + shape.numel())
            g, b1, b2 = grad[part], self.first[part], self.second[part]
            b1.mul_(0.9).add_(g, alpha=0.1)
            b2.mul_(0.99).addcmul_(g, g, value=0.01)
            denominator = (b2 / (1 - 0.99 ** step)).sqrt_().add_(1e-8)
            self.flat[part].addcdiv_(b1, denominator, value=-adam_lr / (1 - 0.9 ** step))
        for (rows, cols), places in groups.items():
            n = rows * cols
            updates = []
            for at in places:
                b = self.first[at:at + n].mul_(0.95).add_(grad[at:at + n], alpha=0.05)
                updates.append(torch.lerp(grad[at:at + n], b, 0.95).view(rows, cols))
            u = torch.stack(updates)
            u = orthogonalise(u.transpose(1, 2)).transpose(1, 2) if rows > cols else orthogonalise(u)
            u = u * (muon_lr * max(1.0, rows / cols) ** 0.5)
            for i, at in enumerate(places):
                self.flat[at:at + n].mul_(1 - 0.1 * muon_lr).sub_(u[i].flatten())
