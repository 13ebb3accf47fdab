"""Text to clip: Euler steps along the velocity, with classifier-free guidance."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from config import FEW_STEPS, SHIFT
from nets.dit import Dit
from nets.text import TextEncoder
from nets.vae import Vae
from train_dit import tokens
from vocab import Tokenizer


def sigmas(steps: int, shift: float = SHIFT) -> np.ndarray:
    """Noise levels [steps + 1], from 1 to 0."""
    return shifted(np.linspace(1.0, 0.0, steps + 1), shift)


def shifted(s: np.ndarray, shift: float = SHIFT) -> np.ndarray:
    """Noise levels of evenly counted ones, both in 0..1."""
    return shift * s / (1 + (shift - 1) * s)


def few_step_sigmas() -> np.ndarray:
    """Noise levels [5] of the few-step LoRA, from 1 to 0."""
    return shifted(np.array([*FEW_STEPS, 0]) / 1000)


@torch.no_grad()
def sample(text: TextEncoder, dit: Dit, tok: Tokenizer, prompts: list[str], negative: str, grid: tuple[int, int, int],
           steps: int, guidance: float, seed: int, device: str, noise: Tensor | None = None,
           exact: bool = False) -> Tensor:
    """Latents [B, 16, f, h, w], normalised, for one latent grid (f, h, w).

    They start from `noise` where it is given; `exact` computes in float32, not bf16.
    """
    ids, lengths = tokens(tok, [*prompts, negative or None])
    states = text(ids.to(device), lengths.to(device))
    n = len(prompts)
    yes, no = states[:n], states[n:].expand(n, -1, -1)
    if noise is None:
        noise = torch.stack([torch.randn((dit.c.in_dim, *grid), generator=torch.Generator().manual_seed(seed + i))
                             for i in range(n)])
    x = noise.to(device)
    levels = sigmas(steps)
    for a, b in zip(levels[:-1], levels[1:]):
        t = torch.full((n,), a * 1000.0, device=device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=not exact):
            v = dit(x, t, yes).float()
            if guidance != 1.0:
                u = dit(x, t, no).float()
                v = u + guidance * (v - u)
        x = x + float(b - a) * v
    return x


@torch.no_grad()
def decode(vae: Vae, latents: Tensor, mean: Tensor, std: Tensor) -> np.ndarray:
    """Normalised latents [B, 16, f, h, w] -> clips [B, F, H, W, 3] in [0, 1], one at a time."""
    clips = []
    for z in latents:
        z = z[None] * std.reshape(1, -1, 1, 1, 1) + mean.reshape(1, -1, 1, 1, 1)
        with torch.autocast(z.device.type, dtype=torch.bfloat16):
            y = vae.decode(z)
        clips.append(((y[0].float().clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).cpu().numpy())
    return np.stack(clips)
