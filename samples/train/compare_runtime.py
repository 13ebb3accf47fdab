"""Checks the networks here against the Vulkan runtime: python3 samples/train/compare_runtime.py --model MODEL

Both make the same clip from the same noise in float32, with Euler steps; the final latents and the pictures are
compared. Needs a built tree, PyTorch, NumPy and sentencepiece.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from bundle import Bundle
from noise import gaussian
from pictures import read_frames
from sample import sample

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, default=ROOT / "samples/models/shapes-tiny")
    p.add_argument("--video", type=Path, default=ROOT / "build/release/bin/quantsparse-video")
    p.add_argument("--prompt", default="a red circle moves left on a black background")
    p.add_argument("--frames", type=int, default=9)
    p.add_argument("--size", type=int, default=96)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--guidance", type=float, default=4.0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--limit", type=float, default=1e-3, help="relative error of the latents that fails the check")
    a = p.parse_args()
    torch.set_num_threads(1)
    grid = (1 + (a.frames - 1) // 4, a.size // 8, a.size // 8)
    b = Bundle(a.model, "cpu")
    noise = torch.from_numpy(gaussian(a.seed, (1, 16, *grid)))
    ours = sample(b.text, b.dit, b.tok, [a.prompt], "", grid, a.steps, a.guidance, 0, "cpu", noise, exact=True)
    with torch.no_grad():
        z = ours * b.std.reshape(1, -1, 1, 1, 1) + b.mean.reshape(1, -1, 1, 1, 1)
        picture = ((b.vae.decode(z)[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    with tempfile.TemporaryDirectory() as folder:
        latents, clip = Path(folder) / "latents.npy", Path(folder) / "clip"
        done = subprocess.run(
            [str(c) for c in (a.video, "-m", a.model, "-p", a.prompt, "--size", f"{a.size}x{a.size}", "--frames",
                              a.frames, "--steps", a.steps, "--guidance-scale", a.guidance, "--seed", a.seed,
                              "--sampler", "euler", "--save-latents", latents, "--quiet", "-o", f"{clip}/")],
            capture_output=True, text=True)
        if done.returncode:
            print(f"error: {done.stderr.strip()}", file=sys.stderr)
            return 1
        theirs, frames = np.load(latents), read_frames(clip).astype(np.float32)
    error = float(np.linalg.norm(theirs - ours[0].numpy()) / np.linalg.norm(theirs))
    decibels = float(10 * np.log10(255 ** 2 / np.square(np.floor(picture) - frames).mean().clip(1e-9)))
    print(f"{a.frames}x{a.size}x{a.size}, {a.steps} Euler steps, guidance {a.guidance:g}: latents differ by {error:.1e} "
          f"(relative), pictures by {decibels:.1f} dB")
    return 0 if error <= a.limit else 1


if __name__ == "__main__":
    sys.exit(main())
