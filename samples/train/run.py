"""Trains the sample model and exports it: python3 samples/train/run.py [--smoke] [--workdir DIR]

Stages: vocab, vae, latents, dit, export. Each goes on from what it finds in the work directory.
"""
from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes with one thread each beat one with several
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

from config import GEOMETRIES, DitStage, Geometry, Phase, VaeStage
from export import export
from latents import encode, statistics
from store import load
from train_dit import train_dit
from train_vae import train_vae
from vocab import train_vocab
from world import LEVELS

STAGES = ("vocab", "vae", "latents", "dit", "export")
ROOT = Path(__file__).resolve().parents[2]


def _encode_worker(workdir: Path, geometries: list[Geometry], level: str, device: str, worker: int,
                   workers: int) -> None:
    torch.set_num_threads(1)
    for g in geometries:
        encode(workdir, g, level, device, worker, workers)


def latents(workdir: Path, geometries: list[Geometry], level: str, device: str, processes: int) -> None:
    """Encodes all geometries in several processes, then measures the statistics on the first."""
    workers = processes if device == "cpu" else 1
    ctx = get_context("spawn")
    jobs = [ctx.Process(target=_encode_worker, args=(workdir, geometries, level, device, i, workers))
            for i in range(workers)]
    for j in jobs:
        j.start()
    for j in jobs:
        j.join()
    if any(j.exitcode for j in jobs):
        raise RuntimeError("encoding of the latents failed")
    statistics(workdir, level, geometries[0].name)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--workdir", type=Path, default=ROOT / "build/train", help="checkpoints, latents and logs")
    p.add_argument("--out", type=Path, help="exported model (default: WORKDIR/shapes-tiny)")
    p.add_argument("--stage", choices=STAGES, action="append", help="run only this stage (may be repeated)")
    p.add_argument("--sizes", nargs="+", choices=tuple(GEOMETRIES), help="stage latents: only these clip sizes")
    p.add_argument("--level", choices=tuple(LEVELS), default="basic", help="how much of the world is in use")
    p.add_argument("--processes", type=int, default=max(1, min(os.cpu_count() or 1, 16)), help="on CPUs")
    p.add_argument("--phases", metavar="A,B,C", help="steps of the three transformer phases")
    p.add_argument("--smoke", action="store_true", help="a few steps of every stage, in WORKDIR/smoke")
    a = p.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae_stage, dit_stage, workdir, processes = VaeStage(), DitStage(), a.workdir, a.processes
    if a.smoke:
        workdir, processes = a.workdir / "smoke", min(processes, 2)
        vae_stage = VaeStage(4, 4, save_every=4)
        dit_stage = DitStage(
            (Phase(4, {"9x96": 1.0}), Phase(2, {"9x96": 0.5, "17x128": 0.5}), Phase(2, {"33x192": 1.0}, 0.5, True)),
            save_every=2, geometries={k: replace(g, clips=4, shard=2, batch=min(g.batch, 4))
                                      for k, g in GEOMETRIES.items()})
    if a.phases:
        try:
            steps = [int(n) for n in a.phases.split(",")]
        except ValueError:
            steps = []
        if len(steps) != len(dit_stage.phases):
            p.error("--phases takes three numbers, such as 6000,1200,800")
        dit_stage = replace(dit_stage, phases=tuple(replace(q, steps=n) for q, n in zip(dit_stage.phases, steps)))
    sizes = [g for g in dit_stage.geometries.values() if not a.sizes or g.name in a.sizes]
    out = a.out or workdir / "shapes-tiny"
    try:
        for stage in a.stage or STAGES:
            print(f"stage {stage}", flush=True)
            if stage == "vocab":
                train_vocab(workdir / "spiece.model")
            elif stage == "vae":
                if not (load(workdir / "vae.pt") or {}).get("done"):  # once finished it is never changed again
                    train_vae(workdir, a.level, vae_stage, device)
            elif stage == "latents":
                latents(workdir, sizes, a.level, device, processes)
            elif stage == "dit":
                train_dit(workdir, a.level, dit_stage, device, processes)
            else:
                export(workdir, out)
                print(f"wrote {out}")
    except (OSError, RuntimeError, ValueError) as e:
        print(f"error: {str(e).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
