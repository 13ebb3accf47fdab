"""Gate before any longer training: python3 samples/train/memorise.py

The training loop on few clips alone must learn them by heart: colour, shape and motion right in 90 % of clips made
from their captions. A loop that fails here has a fault. The exported model lends its autoencoder and vocabulary.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

from bundle import fill
from captions import plain_caption
from checker import check
from config import GEOMETRIES, DitStage, Phase, VaeConfig
from latents import Shards, encode, statistics
import names
from nets.vae import Vae
from sample import decode, sample
from scores import THREE, Scores, sentence
import stfile
from store import load, save
from train_dit import Model, train_dit
from vocab import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
GATE = 90.0  # per cent


def prepare(model: Path, workdir: Path) -> None:
    """The exported autoencoder and vocabulary as the stages expect them."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "spiece.model").write_bytes((model / "tokenizer/spiece.model").read_bytes())
    vae = fill(Vae(VaeConfig()), stfile.read(model / "vae/diffusion_pytorch_model.safetensors"), names.vae_name)
    save({"model": vae.state_dict(), "done": True}, workdir / "vae.pt")


def main() -> int:
    cuda = torch.cuda.is_available()
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, default=ROOT / "samples/models/shapes-tiny")
    p.add_argument("--workdir", type=Path, default=ROOT / "build/memorise", help="a stopped run goes on from SIZE in here")
    p.add_argument("--clips", type=int, default=64)
    p.add_argument("--size", choices=tuple(GEOMETRIES), default="33x192" if cuda else "9x96")
    p.add_argument("--steps", type=int, default=1000, help="training steps")
    p.add_argument("--batch", type=int, default=16 if cuda else 24, help="clips a step and process")
    p.add_argument("--processes", type=int, default=max(1, min(os.cpu_count() or 1, 16)), help="on CPUs")
    p.add_argument("--json", type=Path, metavar="FILE", help="the figures for programs, too")
    a = p.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if cuda else "cpu"
    batch = max(1, a.batch // 2) if cuda else a.batch  # train_dit doubles it on a GPU
    g = replace(GEOMETRIES[a.size], clips=a.clips, shard=a.clips, batch=batch)
    stage = DitStage((Phase(a.steps * 3 // 4, {g.name: 1.0}),
                      Phase(a.steps - a.steps * 3 // 4, {g.name: 1.0}, decay=True, shape_weight=1.5)),
                     geometries={g.name: g})
    start, workdir = time.monotonic(), a.workdir / g.name
    prepare(a.model, workdir)
    encode(workdir, g, "basic", device)
    statistics(workdir, "basic", g.name)
    print(f"{a.clips} clips of {g.name}, {a.steps} steps of {a.batch} clips on {device}, prepared in "
          f"{time.monotonic() - start:.0f} s", flush=True)
    train_dit(workdir, "basic", stage, device, a.processes)
    trained = time.monotonic() - start
    model = Model().to(device).eval().requires_grad_(False)
    model.load_state_dict(load(workdir / "dit.pt")["ema"])
    vae = Vae(VaeConfig()).to(device).eval().requires_grad_(False)
    vae.load_state_dict(load(workdir / "vae.pt")["model"])
    stats = load(workdir / "stats.pt")
    scenes = Shards(workdir, "basic", g.name).scenes
    tok = Tokenizer(workdir / "spiece.model")
    grid = (1 + (g.frames - 1) // 4, g.size // 8, g.size // 8)
    scores = Scores()
    for i in range(0, len(scenes), 16):
        part = scenes[i:i + 16]
        z = sample(model.text, model.dit, tok, [plain_caption(s) for s in part], "", grid, 20, 4.0, 1000 + i, device)
        for s, clip in zip(part, decode(vae, z, stats["mean"].to(device), stats["std"].to(device))):
            v = check(clip)
            scores.add(s, v)
            print(f"{plain_caption(s)} -> {sentence(v)}", flush=True)
    passed = all(scores.shares()[k] >= GATE for k in THREE)
    print(f"{scores.clips} clips of {g.name} learned by heart in {a.steps} steps of {a.batch} "
          f"({trained:.0f} s on {device}, {time.monotonic() - start:.0f} s in all): {scores.line()}")
    print(scores.tables())
    print(f"gate of {GATE:.0f} % on colour, shape and motion: {'passed' if passed else 'FAILED'}")
    if a.json:
        a.json.parent.mkdir(parents=True, exist_ok=True)
        a.json.write_text(json.dumps({"size": g.name, "steps": a.steps, "batch": a.batch, "device": device,
                                      "seconds": round(trained), "passed": passed, **scores.json()}, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
