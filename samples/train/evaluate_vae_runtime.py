"""The autoencoder through the Vulkan runtime: python3 samples/train/evaluate_vae_runtime.py --model MODEL

Held-out clips are drawn, encoded and decoded by quantsparse-bench vae, and compared as 8-bit pictures. Needs a built
tree, Python and NumPy.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from pictures import write_png
from world import random_scene, render

ROOT = Path(__file__).resolve().parents[2]


def draw(folder: Path, index: int, frames: int, size: int) -> None:
    """The clip evaluate.py measures under the same index, as png pictures."""
    clip, _ = render(random_scene(np.random.default_rng((777, index)), "basic", held_out=True), frames, size)
    for f, picture in enumerate((clip * 255 + 0.5).astype(np.uint8)):
        write_png(folder / f"frame_{f:05d}.png", picture)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, default=ROOT / "samples/models/shapes-tiny")
    p.add_argument("--bench", type=Path, default=ROOT / "build/release/bin/quantsparse-bench")
    p.add_argument("--workdir", type=Path, default=ROOT / "out/evaluate-vae")
    p.add_argument("--clips", type=int, default=32)
    p.add_argument("--frames", type=int, default=33)
    p.add_argument("--size", type=int, default=192)
    p.add_argument("--json", type=Path, metavar="FILE", help="the figures for programs, too")
    a = p.parse_args()
    if not a.bench.exists():
        print(f"error: {a.bench} does not exist: build the project first", file=sys.stderr)
        return 1
    folders = [a.workdir / f"{a.frames}x{a.size}-{i:03d}" for i in range(a.clips)]
    for i, folder in enumerate(folders):
        draw(folder, i, a.frames, a.size)
    command = [a.bench, "vae", "--model", a.model, *(["--json", a.json] if a.json else []), *folders]
    return subprocess.run([str(c) for c in command]).returncode


if __name__ == "__main__":
    sys.exit(main())
