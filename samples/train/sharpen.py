"""Trains an exported model on with sharper self-attention, until its maps matter to the picture.

    python3 samples/train/sharpen.py samples/models/shapes-tiny --out out/shapes-sharp

On the bundled model a query looks at a fifth of all keys, so errors in the maps average out: perfect maps would take
0.7 dB off the error of W4A8, and no way of distilling them can be told from another. Here the logits of self-attention
are multiplied (the weight of norm_q, which stays fixed afterwards), and the transformer learns to live with it. Every
`--every` steps the ceiling is measured (ceiling.py). The run ends when it is `--ceiling` dB and the error is down to the
exported model's on the same clips, or after `--steps`. Killed at any moment, the same command goes on.
"""
from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import names
import stfile
from bundle import Bundle
from captions import caption
from ceiling import ceiling
from config import SHIFT, Geometry
from export import half
from latents import Shards, encode_shard
from store import CsvLog, load, save
from train_dit import Model, loss_of, tokens

FRAMES, SIDE = 33, 96  # 324 tokens, those of the quality tables
SHARD, BATCH = 50, 8
BATCHES = 12           # that errors are measured on
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def latents(b: Bundle, workdir: Path, level: str, clips: int) -> Shards:
    """Codes of drawn clips, made where they are missing, normalised as the model's own."""
    g = Geometry(FRAMES, SIDE, clips, min(clips, SHARD), BATCH)
    save({"mean": b.mean, "std": b.std}, workdir / "stats.pt")
    for index in range(clips // g.shard):
        path = workdir / "latents" / f"{level}-{g.name}" / f"{index:04d}.pt"
        if not path.exists():
            save(encode_shard(b.vae, g, level, index, "cpu"), path)
            print(f"clips {(index + 1) * g.shard} of {clips}", flush=True)
    return Shards(workdir, level, g.name)


def sharpen(model: Model, sharpness: float) -> None:
    """Multiplies the logits; text encoder and the norms of self-attention are not trained."""
    model.dit.requires_grad_(True)
    for block in model.dit.blocks:
        block.self_attn.norm_q.weight.data *= sharpness
        for norm in (block.self_attn.norm_q, block.self_attn.norm_k):
            norm.weight.requires_grad_(False)


def loss_at(model: Model, b: Bundle, data: Shards, step: int) -> tuple[Tensor, float]:
    """Of a batch that the step's number fixes: the loss, and the plain error of the velocity where the shape is."""
    rng = np.random.default_rng((31, step + 1000))
    codes, mask, scenes = data.batch(rng, BATCH)
    texts = [None if rng.random() < 0.1 else caption(s, rng) for s in scenes]
    u = torch.from_numpy((rng.permutation(BATCH) + rng.random(BATCH)) / BATCH).float()
    noise = torch.randn(codes.shape, generator=torch.Generator().manual_seed(step + 1000))
    level = SHIFT * u / (1 + (SHIFT - 1) * u)
    loss, inside, _ = loss_of(model, codes, mask, *tokens(b.tok, texts), level, noise, 1.5)
    return loss, inside


@torch.no_grad()
def error_of(model: Model, b: Bundle, data: Shards, batches: int) -> float:
    """The mean over batches that no step learns from."""
    return float(np.mean([loss_at(model, b, data, -1 - i)[1] for i in range(batches)]))


def learn(model: Model, b: Bundle, data: Shards, step: int, optimiser: torch.optim.Optimizer) -> None:
    loss, _ = loss_at(model, b, data, step)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimiser.step()


def export(model: Model, source: Path, out: Path) -> None:
    """The source folder with this transformer."""
    for part in ("model_index.json", "scheduler", "text_encoder", "tokenizer", "vae"):
        target = out / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source / part, target)
    (out / TRANSFORMER).parent.mkdir(exist_ok=True)
    shutil.copyfile(source / "transformer/config.json", out / "transformer/config.json")
    stfile.write(half(model.dit.state_dict(), names.dit_name), out / TRANSFORMER)


def train(a: argparse.Namespace) -> None:
    b = Bundle(a.model, "cpu")
    data = latents(b, a.workdir, "basic", a.clips)
    model = Model()
    model.text, model.dit = b.text, b.dit
    usual = error_of(model, b, data, BATCHES)
    sharpen(model, a.sharpness)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=a.rate, betas=(0.9, 0.99))
    step, seconds = 0, 0.0
    if (state := load(a.workdir / "sharpen.pt")) is not None:
        model.dit.load_state_dict(state["dit"])
        optimiser.load_state_dict(state["optimiser"])
        step, seconds = state["step"], state["seconds"]
    log = CsvLog(a.workdir / "sharpen.csv", ["step", "seconds", "error", "own", "ceiling", "spread", "keys"])
    begun = time.monotonic() - seconds
    while step < a.steps:
        learn(model, b, data, step, optimiser)
        step += 1
        if step % a.every and step != a.steps:
            continue
        state = {"dit": model.dit.state_dict(), "optimiser": optimiser.state_dict(), "step": step,
                 "seconds": time.monotonic() - begun}
        save(state, a.workdir / "sharpen.pt")
        error = error_of(model, b, data, BATCHES)
        c = ceiling(model.text, model.dit.eval(), b.tok, a.prompts)
        spread = float(c.gains.std(ddof=1)) / a.prompts ** 0.5
        log.row(step, time.monotonic() - begun, error, float(c.own.mean()), float(c.gains.mean()), spread, c.keys)
        print(f"step {step}: error {error:.4f}, of the exported model {usual:.4f}; {c.text()}", flush=True)
        export(model, a.model, a.out)
        if c.gains.mean() >= a.ceiling and error <= usual:
            break
    print(f"wrote {a.out}")


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", type=Path, help="model folder as run.py exports it")
    p.add_argument("--out", type=Path, required=True, help="the sharper model's folder")
    p.add_argument("--workdir", type=Path, help="checkpoint, latents and log (default: OUT.train)")
    p.add_argument("--sharpness", type=float, default=5.0, help="what the logits of self-attention are multiplied by")
    p.add_argument("--clips", type=int, default=600, help=f"drawn clips to learn from, a multiple of {SHARD}")
    p.add_argument("--rate", type=float, default=1e-3)
    p.add_argument("--steps", type=int, default=2000, help="at most so many")
    p.add_argument("--every", type=int, default=100, help="steps between two measurements")
    p.add_argument("--ceiling", type=float, default=2.0, help="dB that the maps must be worth")
    p.add_argument("--prompts", type=int, default=6, choices=range(2, 13), metavar="2..12")
    a = p.parse_args()
    a.workdir = a.workdir or a.out.with_name(a.out.name + ".train")
    torch.set_num_threads(1)
    try:
        train(a)
    except (OSError, RuntimeError, ValueError, KeyError) as e:
        print(f"error: {str(e).splitlines()[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
