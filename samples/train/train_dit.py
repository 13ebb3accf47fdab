"""Stage 3: text encoder and diffusion transformer together, on latents, in phases of growing clip sizes.

The network predicts the velocity noise - code. On CPUs several single-threaded processes work on their own part of
each batch and share parameters, gradients and optimiser state through memory.
"""
from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch import multiprocessing as mp

from captions import caption
from config import EOS, PAD, SHIFT, TEXT_LEN, DitConfig, DitStage, Phase, TextConfig
from latents import Shards
from muon import FlatOptimiser
from nets.dit import Dit
from nets.text import TextEncoder
from store import CsvLog, load, save
from vocab import Tokenizer


class Model(nn.Module):
    """Caption ids and noisy latents to velocities."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder(TextConfig())
        self.dit = Dit(DitConfig())

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """x [B, 16, f, h, w], t [B] in 0..1, ids [B, T], lengths [B]."""
        return self.dit(x, t * 1000, self.text(ids, lengths))


def schedule(stage: DitStage, step: int) -> tuple[Phase | None, float, int]:
    """Phase, learning-rate factor and steps left at a step of the stage."""
    left = step
    total = sum(p.steps for p in stage.phases)
    for p in stage.phases:
        if left < p.steps:
            factor = p.lr * (1 - left / p.steps * 0.98 if p.decay else 1.0)
            return p, factor * min(1.0, (step + 1) / 40), total - step
        left -= p.steps
    return None, 0.0, 0


def loss_of(model: Model, codes: Tensor, mask: Tensor, ids: Tensor, lengths: Tensor, t: Tensor, noise: Tensor,
            shape_weight: float) -> tuple[Tensor, float, float]:
    """Weighted loss, plain error on the shape's cells, plain error elsewhere."""
    tt = t.reshape(-1, 1, 1, 1, 1)
    with torch.autocast(codes.device.type, dtype=torch.bfloat16):
        v = model(codes + tt * (noise - codes), t, ids, lengths)
    e = (v.float() - (noise - codes)).square().mean(dim=1, keepdim=True)
    w = 1 + (shape_weight - 1) * mask
    inside = (e.detach() * mask).sum() / mask.sum().clamp_min(1)
    outside = (e.detach() * (1 - mask)).sum() / (1 - mask).sum().clamp_min(1)
    return (e * w).sum() / w.sum(), inside.item(), outside.item()


def tokens(tok: Tokenizer, texts: list[str | None]) -> tuple[Tensor, Tensor]:
    """ids [B, T] and lengths [B]; None stands for no caption, the end token alone."""
    rows = [([EOS] + [PAD] * (TEXT_LEN - 1), 1) if s is None else tok(s) for s in texts]
    return torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])


def _worker(rank: int, ranks: int, workdir: Path, level: str, stage: DitStage, device: str, shared: dict,
            barrier) -> None:
    torch.set_num_threads(1)
    model = Model()
    named = list(model.named_parameters())
    flat, grads, ema = shared["flat"], shared["grads"], shared["ema"]
    torch.nn.utils.vector_to_parameters(flat.clone(), model.parameters())
    if ranks > 1:
        barrier.wait()
    if device == "cpu":
        opt = FlatOptimiser(named, flat, shared["first"], shared["second"])
    else:
        model.to(device)
        flat, ema = flat.to(device), ema.to(device)
        opt = FlatOptimiser(named, flat, shared["first"].to(device), shared["second"].to(device))
    if ranks > 1:
        barrier.wait()
    tok = Tokenizer(workdir / "spiece.model")
    data: dict[str, Shards] = {}
    log = CsvLog(workdir / "dit.csv", ["step", "seconds", "clips", "loss", "inside", "outside", "grad", "lr", "size"])
    step, seconds, clips = shared["step"], shared["seconds"], shared["clips"]
    start = time.monotonic() - seconds
    sums: dict[str, np.ndarray] = {}  # per clip size: loss, errors, gradient norm, steps
    while True:
        phase, factor, left = schedule(stage, step)
        if phase is None:
            break
        mix = phase.mix
        common = np.random.default_rng((7, step))
        name = str(common.choice(list(mix), p=np.array(list(mix.values())) / sum(mix.values())))
        rng = np.random.default_rng((8, step, rank))
        if name not in data:
            data[name] = Shards(workdir, level, name)
        elif step % 100 == 0:
            for d in data.values():
                d.refresh()
        g = stage.geometries[name]
        batch = g.batch * (1 if device == "cpu" else 2)
        codes, mask, scenes = data[name].batch(rng, batch)
        texts = [None if rng.random() < stage.no_caption else caption(s, rng) for s in scenes]
        ids, lengths = tokens(tok, texts)
        u = (np.arange(batch) * ranks + rank + common.random()) / (batch * ranks)
        u = torch.from_numpy(rng.permutation(u)).float()
        t = SHIFT * u / (1 + (SHIFT - 1) * u)
        noise = torch.randn(codes.shape, generator=torch.Generator().manual_seed(step * ranks + rank))
        loss, inside, outside = loss_of(model, *(v.to(device) for v in (codes, mask, ids, lengths, t, noise)),
                                        phase.shape_weight)
        model.zero_grad(set_to_none=True)
        loss.backward()
        grad = torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten()
                          for _, p in named])
        if ranks > 1:
            grads[rank] = grad
            barrier.wait()
            grad = grads.mean(dim=0)
        norm = grad.norm().item()
        grad *= min(1.0, 1.0 / (norm + 1e-6))
        opt.step(grad, step + 1, stage.adam_lr * factor, stage.muon_lr * factor, rank, ranks)
        if ranks > 1:
            barrier.wait()
        step, clips = step + 1, clips + batch * ranks
        if rank == 0:
            decay = min(0.998, 1 - 20 / (step + 20))
            ema.lerp_(flat, 1 - decay)
            sums[name] = sums.get(name, np.zeros(5)) + (loss.item(), inside, outside, norm, 1)
            if step % stage.save_every == 0 or left == 1:
                for size, v in sorted(sums.items()):
                    log.row(step, time.monotonic() - start, clips, *(float(x) for x in v[:4] / v[4]), factor, size)
                sums.clear()
                holder = Model()
                torch.nn.utils.vector_to_parameters(ema.cpu().clone(), holder.parameters())
                state = {"ema": holder.state_dict(), "flat": flat.cpu(), "ema_flat": ema.cpu(),
                         "first": opt.first.cpu(), "second": opt.second.cpu(), "step": step, "clips": clips,
                         "seconds": time.monotonic() - start, "done": left == 1}
                save(state, workdir / "dit.pt")
                if left == 1 or step in np.cumsum([p.steps for p in stage.phases]):
                    save(state, workdir / f"dit-{step}.pt")  # the phase's end, kept


def train_dit(workdir: Path, level: str, stage: DitStage, device: str, processes: int = 2) -> Path:
    """Trains to the end of the last phase, going on from the last checkpoint; returns the checkpoint's path."""
    path = workdir / "dit.pt"
    state = load(path)
    if state is None:
        torch.manual_seed(0)
        flat = torch.nn.utils.parameters_to_vector(Model().parameters()).detach()
        state = {"flat": flat, "ema_flat": flat.clone(), "first": torch.zeros_like(flat),
                 "second": torch.zeros_like(flat), "step": 0, "seconds": 0.0, "clips": 0}
    ranks = processes if device == "cpu" else 1
    shared = {"flat": state["flat"], "ema": state["ema_flat"], "first": state["first"], "second": state["second"],
              "grads": torch.zeros(ranks, state["flat"].numel())}
    for v in shared.values():
        v.share_memory_()
    shared.update({k: state[k] for k in ("step", "seconds", "clips")})
    if ranks == 1:
        _worker(0, 1, workdir, level, stage, device, shared, None)
    else:
        ctx = mp.get_context("spawn")
        mp.start_processes(_worker, (ranks, workdir, level, stage, device, shared, ctx.Barrier(ranks)), ranks,
                           start_method="spawn")
    return path
