"""Trains the sample model and exports it: python3 samples/train/run.py [--smoke] [--workdir DIR]

Stages: vocab, vae, latents, dit, export, then for the LoRA of four steps trajectories, distill, rollouts, correct. Each
goes on from what it finds in the work directory; those of the LoRA start from the exported model.
"""
from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes with one thread each beat one with several
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

from bundle import Bundle
from config import GEOMETRIES, DistillStage, DitStage, Geometry, Phase, VaeStage
from distill import distill, trained_student, write_lora
from export import export
from latents import encode, statistics
from segments import KINDS, make_shards
from store import load
from train_dit import train_dit
from train_vae import train_vae
from vocab import train_vocab
from world import LEVELS

STAGES = ("vocab", "vae", "latents", "dit", "export", "trajectories", "distill", "rollouts", "correct")
ROOT = Path(__file__).resolve().parents[2]


def _encode_worker(worker: int, workers: int, workdir: Path, geometries: list[Geometry], level: str,
                   device: str) -> None:
    torch.set_num_threads(1)
    for g in geometries:
        encode(workdir, g, level, device, worker, workers)


def _segments_worker(worker: int, workers: int, workdir: Path, model: Path, geometries: list[Geometry], level: str,
                     stage: DistillStage, kind: str, device: str) -> None:
    torch.set_num_threads(1)
    base = Bundle(model, device)
    student = trained_student(base, workdir) if kind == "rollouts" else None
    make_shards(workdir, base, student, geometries, level, stage, device, worker, workers)


def in_processes(target: Callable, count: int, *rest) -> None:
    """target(worker, count, *rest) in `count` processes."""
    ctx = get_context("spawn")
    jobs = [ctx.Process(target=target, args=(i, count, *rest)) for i in range(count)]
    for j in jobs:
        j.start()
    for j in jobs:
        j.join()
    if any(j.exitcode for j in jobs):
        raise RuntimeError("a process of the stage failed; the messages above say why")


@dataclass(frozen=True)
class Run:
    """What the stages need to know."""
    workdir: Path
    out: Path
    level: str
    device: str
    processes: int
    sizes: tuple[str, ...] = tuple(GEOMETRIES)
    vae: VaeStage = VaeStage()
    dit: DitStage = DitStage()
    distill: DistillStage = DistillStage()

    def stage(self, name: str) -> None:
        if name == "vocab":
            train_vocab(self.workdir / "spiece.model")
        elif name == "vae":
            if not (load(self.workdir / "vae.pt") or {}).get("done"):  # once finished it is never changed again
                train_vae(self.workdir, self.level, self.vae, self.device)
        elif name == "latents":
            geometries = [g for g in self.dit.geometries.values() if g.name in self.sizes]
            in_processes(_encode_worker, self.workers(), self.workdir, geometries, self.level, self.device)
            statistics(self.workdir, self.level, geometries[0].name)
        elif name == "dit":
            train_dit(self.workdir, self.level, self.dit, self.device, self.processes)
        elif name == "export":
            export(self.workdir, self.out)
            print(f"wrote {self.out}")
        elif name in KINDS:
            geometries = [g for g in getattr(self.distill, name).values() if g.name in self.sizes]
            in_processes(_segments_worker, self.workers(), self.workdir, self.out, geometries, self.level,
                         self.distill, name, self.device)
        else:
            distill(self.workdir, Bundle(self.out, self.device), self.level, self.distill, name == "correct", self.device)
            print(f"wrote {write_lora(self.workdir, self.out)}")

    def workers(self) -> int:
        return self.processes if self.device == "cpu" else 1


def smoke(run: Run) -> Run:
    """A few steps of every stage, in a folder of its own."""
    def few(geometries: dict[str, Geometry]) -> dict[str, Geometry]:
        return {k: replace(g, clips=4, shard=2, batch=min(g.batch, 4)) for k, g in geometries.items()}

    s = run.distill
    small = few({"9x96": s.trajectories["9x96"]})
    phases = tuple(Phase(2, {"9x96": 1.0}, decay=p.decay) for p in s.phases)
    return replace(
        run, workdir=run.workdir / "smoke", processes=min(run.processes, 2), vae=VaeStage(4, 4, save_every=4),
        dit=DitStage((Phase(4, {"9x96": 1.0}), Phase(2, {"9x96": 0.5, "17x128": 0.5}),
                      Phase(2, {"33x192": 1.0}, 0.5, True)), save_every=2, geometries=few(run.dit.geometries)),
        distill=replace(s, substeps=2, trajectories=small, rollouts=small, phases=phases, save_every=1))


def with_steps(phases: tuple[Phase, ...], text: str) -> tuple[Phase, ...]:
    """The phases with the numbers of `text`, such as 6000,1200,800, as their steps."""
    steps = [int(n) if n.isdecimal() else -1 for n in text.split(",")]
    if len(steps) != len(phases) or min(steps) < 0:
        raise ValueError(f"'{text}' is not {len(phases)} numbers, such as 6000,1200,800")
    return tuple(replace(p, steps=n) for p, n in zip(phases, steps))


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--workdir", type=Path, default=ROOT / "build/train", help="checkpoints, latents and logs")
    p.add_argument("--out", type=Path, help="exported model (default: WORKDIR/shapes-tiny)")
    p.add_argument("--stage", choices=STAGES, action="append", help="run only this stage (may be repeated)")
    p.add_argument("--sizes", nargs="+", choices=tuple(GEOMETRIES), default=tuple(GEOMETRIES),
                   help="stages latents, trajectories and rollouts: only these clip sizes")
    p.add_argument("--level", choices=tuple(LEVELS), default="basic", help="how much of the world is in use")
    p.add_argument("--processes", type=int, default=max(1, min(os.cpu_count() or 1, 16)), help="on CPUs")
    p.add_argument("--phases", metavar="A,B,C", help="steps of the three transformer phases")
    p.add_argument("--distill-phases", metavar="A,B,C", help="steps of the two phases of distill and that of correct")
    p.add_argument("--smoke", action="store_true", help="a few steps of every stage, in WORKDIR/smoke")
    a = p.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run(a.workdir, a.workdir, a.level, device, a.processes, tuple(a.sizes))
    run = smoke(run) if a.smoke else run
    run = replace(run, out=a.out or run.workdir / "shapes-tiny")
    try:
        if a.phases:
            run = replace(run, dit=replace(run.dit, phases=with_steps(run.dit.phases, a.phases)))
        if a.distill_phases:
            phases = with_steps(run.distill.phases, a.distill_phases)
            run = replace(run, distill=replace(run.distill, phases=phases))
        for stage in a.stage or STAGES:
            print(f"stage {stage}", flush=True)
            run.stage(stage)
    except (OSError, RuntimeError, ValueError) as e:
        print(f"error: {str(e).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
