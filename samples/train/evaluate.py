"""Figures of an exported model: python3 samples/train/evaluate.py FOLDER

Writes a Markdown table: autoencoder PSNR on held-out clips, and how often the checker finds the asked colour,
background, shape and motion in clips made from prompts whose combination was never trained on.
"""
from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch

import lora
from bundle import Bundle
from captions import plain_caption
from checker import check
from pictures import film_strip, sheet, write_png
from sample import decode, sample
from scores import Scores, sentence
from world import Scene, random_scene, render


def test_scenes(count: int, level: str, frames: int) -> list[Scene]:
    """Held-out scenes; colours, shapes, motions and backgrounds come up about equally often."""
    return [random_scene(np.random.default_rng((555, i)), level, held_out=True) for i in range(count)]


def psnr(b: Bundle, level: str, frames: int, size: int, count: int, device: str) -> list[float]:
    """dB of whole held-out clips through the autoencoder's means, in float32."""
    out = []
    for i in range(count):
        clip, _ = render(random_scene(np.random.default_rng((777, i)), level, held_out=True), frames, size)
        x = torch.from_numpy(clip * 2 - 1).permute(3, 0, 1, 2)[None].to(device)
        with torch.no_grad():
            y = b.vae.decode(b.vae.encode(x)[0]).clamp(-1, 1)
        out.append(-10 * math.log10((y - x).square().mean().item() / 4 + 1e-12))
    return out


def make_clips(b: Bundle, scenes: list[Scene], a: argparse.Namespace, device: str) -> Iterator[np.ndarray]:
    """A clip [F, H, W, 3] uint8 for each scene, in order; those that lie in a.save are taken from there."""
    grid = (1 + (a.frames - 1) // 4, a.size // 8, a.size // 8)
    group = max(1, 12 * 108 // (grid[0] * grid[1] * grid[2] // 4))
    for i in range(0, len(scenes), group):
        part = scenes[i:i + group]
        files = [a.save / f"{i + j:03d}.npy" for j in range(len(part))] if a.save else []
        if files and all(f.exists() for f in files):
            yield from map(np.load, files)
            continue
        z = sample(b.text, b.dit, b.tok, [plain_caption(s) for s in part], a.negative, grid, a.steps, a.guidance,
                   a.seed + i, device)
        clips = (decode(b.vae, z, b.mean, b.std) * 255 + 0.5).astype(np.uint8)
        for file, clip in zip(files, clips):
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file.with_suffix(".tmp"), "wb") as f:
                np.save(f, clip)
            os.replace(f.name, file)
        yield from clips


def decibels(clip: np.ndarray, other: np.ndarray) -> float:
    """PSNR of two clips in uint8."""
    error = np.square(clip.astype(np.float32) - other).mean()
    return float(10 * np.log10(255 ** 2 / max(error, 1e-6)))


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", type=Path)
    p.add_argument("--prompts", type=int, default=24)
    p.add_argument("--frames", type=int, default=33)
    p.add_argument("--size", type=int, default=192)
    p.add_argument("--steps", type=int, help="default: 20, with --lora 4")
    p.add_argument("--guidance", type=float, help="default: 4, with --lora 1 (none)")
    p.add_argument("--lora", type=Path, metavar="FILE", help="the few-step LoRA, merged at strength 1")
    p.add_argument("--negative", default="")
    p.add_argument("--level", default="basic")
    p.add_argument("--seed", type=int, default=1000)
    p.add_argument("--vae-clips", type=int, default=8)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--save", type=Path, metavar="FOLDER",
                   help="one for each setting: clips as .npy, uint8 [F, H, W, 3]; a stopped run goes on")
    p.add_argument("--against", type=Path, metavar="FOLDER", help="PSNR to the clips saved there, too")
    p.add_argument("--sheet", type=Path, metavar="FILE", help="film strips as .png; with --against those clips above")
    p.add_argument("--show", type=int, nargs="+", metavar="N", help="only these prompts on the sheet, counted from 0")
    a = p.parse_args()
    if a.frames % 4 != 1 or a.size % 16:
        p.error("frames must be 1 + 4 n, size a multiple of 16")
    if a.against and not (a.against / f"{a.prompts - 1:03d}.npy").exists():
        p.error(f"'{a.against}' does not hold {a.prompts} clips: make them with --save first")
    a.steps = a.steps or (4 if a.lora else 20)
    a.guidance = (1.0 if a.lora else 4.0) if a.guidance is None else a.guidance
    return a


def main() -> int:
    a = arguments()
    torch.set_num_threads(a.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    b = Bundle(a.folder, device)
    if a.lora:
        try:
            lora.merge(b.dit, lora.read(a.lora, b.dit))
        except (OSError, ValueError) as e:
            print(f"error: {e}", file=sys.stderr)
            return 1
    if a.vae_clips:
        db = psnr(b, a.level, a.frames, a.size, a.vae_clips, device)
        print(f"autoencoder, {a.vae_clips} held-out clips of {a.frames}x{a.size}x{a.size}: "
              f"{np.mean(db):.1f} dB mean, {min(db):.1f} dB least", flush=True)
    scenes = test_scenes(a.prompts, a.level, a.frames)
    scores = Scores()
    start = time.monotonic()
    lines, distances, strips = [], [], []
    for i, (s, clip) in enumerate(zip(scenes, make_clips(b, scenes, a, device))):
        v = check(clip.astype(np.float32) / 255)
        scores.add(s, v)
        lines.append(f"{plain_caption(s)} -> {sentence(v)}")
        pair = [np.load(a.against / f"{i:03d}.npy"), clip] if a.against else [clip]
        if a.against:
            distances.append(decibels(*pair))
        if a.sheet and (not a.show or i in a.show):
            strips.append(sheet([film_strip(c) for c in pair], columns=1, gap=0))
    print(f"{scores.clips} held-out prompts, {a.frames}x{a.size}x{a.size}, {a.steps} Euler steps, guidance "
          f"{a.guidance:g}, seed {a.seed}{', ' + a.lora.name if a.lora else ''}: {scores.line()} "
          f"({time.monotonic() - start:.0f} s)")
    if distances:
        print(f"to the clips in {a.against.name}: {np.mean(distances):.1f} dB mean, {min(distances):.1f} dB least")
    if strips:
        write_png(a.sheet, sheet(strips))
    print(scores.tables())
    print()
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
