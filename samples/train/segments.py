"""Stages trajectories and rollouts: what the few-step student learns from.

The noise levels of the few steps cut the way from noise to clip into segments. A sample is a state at the start of a
segment and the velocity that leads in a straight line to where the guided teacher takes it by the segment's end. The
teacher solves the ordinary differential equation without fresh noise, so a state always ends in the same place.
Trajectories go on from where the teacher got to, rollouts from where the student got to.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bundle import Bundle
from captions import caption
from config import FEW_STEPS, DistillStage, Geometry
from nets.dit import Dit
from sample import few_step_sigmas, shifted
from store import load, save
from train_dit import tokens
from world import random_scene

KINDS = ("trajectories", "rollouts")


def velocity(dit: Dit, x: Tensor, sigma: float, states: Tensor) -> Tensor:
    """x [B, 16, f, h, w], states [B, T, D] -> velocity in float32, like x."""
    t = torch.full((len(x),), sigma * 1000.0, device=x.device)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return dit(x, t, states).float()


def guided_end(dit: Dit, x: Tensor, segment: int, yes: Tensor, no: Tensor, stage: DistillStage) -> Tensor:
    """Where the teacher takes x [B, 16, f, h, w] over one segment: Adams-Bashforth steps of second order."""
    steps = [*FEW_STEPS, 0]
    levels = shifted(np.linspace(steps[segment], steps[segment + 1], stage.substeps + 1) / 1000)
    last, width = None, 0.0
    for a, b in zip(levels[:-1], levels[1:]):
        v, u = velocity(dit, torch.cat([x, x]), a, torch.cat([yes, no])).chunk(2)
        v = u + stage.guidance * (v - u)
        slope = v if last is None else v + (b - a) / width / 2 * (v - last)
        x, last, width = x + (b - a) * slope, v, b - a
    return x


@torch.no_grad()
def segments(teacher: Dit, student: Dit | None, noise: Tensor, yes: Tensor, no: Tensor,
             stage: DistillStage) -> tuple[Tensor, Tensor]:
    """States x and velocities v [B, segments, 16, f, h, w] (fp16) on the way from the noise to the clip."""
    sigmas = few_step_sigmas()
    x, xs, vs = noise, [], []
    for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        end = guided_end(teacher, x, i, yes, no, stage)
        xs.append(x.half())
        vs.append(((end - x) / (b - a)).half())
        x = end if student is None else x + float(b - a) * velocity(student, x, a, yes)
    return torch.stack(xs, dim=1).cpu(), torch.stack(vs, dim=1).cpu()


def make_shard(base: Bundle, student: Dit | None, g: Geometry, level: str, index: int, stage: DistillStage,
               device: str) -> dict:
    """x and v [n, segments, 16, f, h, w] (fp16) and the captions of n scenes, none of them held out."""
    kind = KINDS.index("trajectories" if student is None else "rollouts")
    texts, parts = [], []
    for first in range(0, g.shard, g.batch):
        seeds = [(g.frames, kind, index, i) for i in range(first, min(first + g.batch, g.shard))]
        generators = [np.random.default_rng((91, *s)) for s in seeds]
        part = [caption(random_scene(r, level), r) for r in generators]
        noise = torch.from_numpy(np.stack([r.standard_normal((16, *g.grid), np.float32) for r in generators]))
        ids, lengths = tokens(base.tok, [*part, None])
        states = base.text(ids.to(device), lengths.to(device))
        yes, no = states[:-1], states[-1:].expand(len(part), -1, -1)
        parts.append(segments(base.dit, student, noise.to(device), yes, no, stage))
        texts += part
    return {"x": torch.cat([x for x, _ in parts]), "v": torch.cat([v for _, v in parts]), "captions": texts}


def make_shards(workdir: Path, base: Bundle, student: Dit | None, geometries: list[Geometry], level: str,
                stage: DistillStage, device: str, worker: int = 0, workers: int = 1) -> None:
    """Makes the missing shards, those of the clip sizes in turn; several workers share them by index."""
    kind = "trajectories" if student is None else "rollouts"
    todo = [(index * g.shard / g.clips, g, index) for g in geometries for index in range(-(-g.clips // g.shard))]
    for n, (_, g, index) in enumerate(sorted(todo, key=lambda x: x[0])):
        path = workdir / kind / f"{level}-{g.name}" / f"{index:04d}.pt"
        if n % workers == worker and not path.exists():
            save(make_shard(base, student, g, level, index, stage, device), path)


class Segments:
    """The samples of one kind and clip size in memory; `refresh` picks up shards written meanwhile."""

    def __init__(self, workdir: Path, kind: str, level: str, name: str) -> None:
        self.folder = workdir / kind / f"{level}-{name}"
        self.seen: set[str] = set()
        self.x: list[Tensor] = []
        self.v: list[Tensor] = []
        self.captions: list[str] = []
        self.refresh()

    def refresh(self) -> None:
        for f in sorted(self.folder.glob("*.pt")):
            if f.name not in self.seen:
                self.seen.add(f.name)
                d = load(f)
                self.x += list(d["x"])
                self.v += list(d["v"])
                self.captions += d["captions"]

    def batch(self, rng: np.random.Generator, at: list[int]) -> tuple[Tensor, Tensor, list[str]]:
        """Random clips, one at each segment of `at`: x and v [n, 16, f, h, w] float32, captions."""
        if not self.x:
            raise FileNotFoundError(f"no shards in '{self.folder}'; run stage {self.folder.parent.name} first")
        pick = rng.integers(len(self.x), size=len(at))
        return (torch.stack([self.x[p][i] for p, i in zip(pick, at)]).float(),
                torch.stack([self.v[p][i] for p, i in zip(pick, at)]).float(), [self.captions[p] for p in pick])
