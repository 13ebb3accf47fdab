"""Stage 1: the video autoencoder, on pictures first, then on clips cut so that most cuts show an edge of the shape."""
from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import NATIVE, VaeConfig, VaeStage
from nets.vae import Vae, init_flow_through
from store import CsvLog, load, save
from world import pose, random_scene, render


def cut(rng: np.random.Generator, level: str, frames: int, edge: int) -> np.ndarray:
    """One clip [frames, edge, edge, 3] in [-1, 1], cut out of a larger one; 80 % of the cuts hold an edge of the shape."""
    scene = random_scene(rng, level)
    total = NATIVE[0] if frames > 9 or rng.random() < 0.5 else 9
    size = int(rng.integers(max(64, edge), 193))
    first = int(rng.integers(0, total - frames + 1))
    lo = size - edge
    y0, x0 = int(rng.integers(0, lo + 1)), int(rng.integers(0, lo + 1))
    if rng.random() < 0.8:
        cx, cy, r, _ = pose(scene, total, (first + frames / 2) / total)
        a = rng.uniform(0, 2 * math.pi)
        jitter = rng.uniform(-0.3, 0.3, 2) * edge
        x0 = int(np.clip((cx + 0.7 * r * math.cos(a)) * size - edge / 2 + jitter[0], 0, lo))
        y0 = int(np.clip((cy + 0.7 * r * math.sin(a)) * size - edge / 2 + jitter[1], 0, lo))
    clip, _ = render(scene, total, size, range(first, first + frames), (y0, x0, edge))
    return clip * 2 - 1


def batch(rng: np.random.Generator, level: str, images: bool) -> Tensor:
    """[B, 3, F, H, W] in [-1, 1]."""
    u = rng.random()
    if images:
        n, frames, edge = 8, 1, 64
    elif u < 0.60:
        n, frames, edge = 4, 9, 48
    elif u < 0.85:
        n, frames, edge = 2, 5, 96
    else:
        n, frames, edge = 4, 1, 96
    clips = np.stack([cut(rng, level, frames, edge) for _ in range(n)])
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).contiguous()


def loss_of(vae: Vae, x: Tensor, kl_weight: float, device: str) -> tuple[Tensor, float, float]:
    """Loss, PSNR in dB and mean KL divergence per code element in nats."""
    with torch.autocast(device, dtype=torch.bfloat16):
        mean, logvar = vae.encode(x)
        mean, logvar = mean.float(), logvar.float().clamp(-20, 10)
        y = vae.decode(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
    y = y.float()
    e = y - x
    edges = e.diff(dim=3).abs().mean() + e.diff(dim=4).abs().mean()
    mse = e.square().mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss = e.abs().mean() + 0.5 * edges + 0.5 * mse + kl_weight * kl
    return loss, -10 * math.log10(mse.item() / 4 + 1e-9), kl.item()


def held_out(vae: Vae, level: str, frames: int, size: int, count: int, device: str, seed: int = 990_000) -> list[float]:
    """PSNR in dB of `count` whole held-out clips through the means, in float32."""
    out = []
    with torch.no_grad():
        for i in range(count):
            clip, _ = render(random_scene(np.random.default_rng(seed + i), level), frames, size)
            x = torch.from_numpy(clip * 2 - 1).permute(3, 0, 1, 2)[None].to(device)
            y = vae.decode(vae.encode(x)[0]).clamp(-1, 1)
            out.append(-10 * math.log10((y - x).square().mean().item() / 4 + 1e-12))
    return out


def train_vae(workdir: Path, level: str, stage: VaeStage, device: str) -> Path:
    """Trains to the end of the stage, going on from the last checkpoint; returns the checkpoint's path."""
    path = workdir / "vae.pt"
    vae = Vae(VaeConfig())
    init_flow_through(vae)
    vae.to(device)
    opt = torch.optim.AdamW(vae.parameters(), lr=stage.image_lr, betas=(0.9, 0.99), weight_decay=1e-3)
    step, seconds = 0, 0.0
    if (state := load(path)) is not None:
        vae.load_state_dict(state["model"])
        opt.load_state_dict(state["opt"])
        step, seconds = state["step"], state["seconds"]
    total = stage.image_steps + stage.video_steps
    log = CsvLog(workdir / "vae.csv", ["step", "seconds", "loss", "psnr", "kl", "held_out_psnr"])
    rng = np.random.default_rng(1 + step)
    torch.manual_seed(step)
    start, sums, n = time.monotonic() - seconds, np.zeros(3), 0
    while step < total:
        images = step < stage.image_steps
        s, length, lr = ((step, stage.image_steps, stage.image_lr) if images else
                         (step - stage.image_steps, stage.video_steps, stage.video_lr))
        # constant, then cosine over the second half; pictures only fall to 0.3
        fall = 0.5 + 0.5 * math.cos(math.pi * max(0.0, 2 * s / length - 1))
        lr *= min(1.0, (s + 1) / 100) * ((0.3 + 0.7 * fall) if images else (0.02 + 0.98 * fall))
        for g in opt.param_groups:
            g["lr"] = lr
        loss, psnr, kl = loss_of(vae, batch(rng, level, images).to(device), stage.kl, device)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        step += 1
        sums, n = sums + (loss.item(), psnr, kl), n + 1
        if step % stage.save_every == 0 or step == total:
            ho = float(np.mean(held_out(vae, level, 9, 96, 4, device)))
            log.row(step, time.monotonic() - start, *(float(v) for v in sums / n), ho)
            sums, n = np.zeros(3), 0
            save({"model": vae.state_dict(), "opt": opt.state_dict(), "step": step, "done": step >= total,
                  "seconds": time.monotonic() - start}, path)
    return path
