"""Checks clips made by quantsparse-video: python3 samples/train/evaluate_runtime.py --model MODEL

The same held-out prompts and checker as evaluate.py, but through the Vulkan runtime. Needs a built tree and ffmpeg
(to read the png frames). Finished clips stay in --workdir, so a stopped run goes on where it was.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from captions import plain_caption
from checker import ATTRIBUTES, check
from world import random_scene

ROOT = Path(__file__).resolve().parents[2]


def read_frames(folder: Path, size: int) -> np.ndarray:
    """[F, H, W, 3] in [0, 1] from the png frames of a folder."""
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", folder / "frame_%05d.png", "-f", "rawvideo", "-pix_fmt",
                          "rgb24", "-"], check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3).astype(np.float32) / 255


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, default=ROOT / "samples/models/shapes-tiny")
    p.add_argument("--video", type=Path, default=ROOT / "build/release/bin/quantsparse-video")
    p.add_argument("--workdir", type=Path, default=ROOT / "out/evaluate")
    p.add_argument("--prompts", type=int, default=24)
    p.add_argument("--frames", type=int, default=33)
    p.add_argument("--size", type=int, default=192)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=4.0)
    p.add_argument("--seed", type=int, default=1000)
    a = p.parse_args()
    if not a.video.exists():
        print(f"error: {a.video} does not exist: build the project first", file=sys.stderr)
        return 1
    hits = {k: 0 for k in ATTRIBUTES}
    pair = everything = 0
    for i in range(a.prompts):
        scene = random_scene(np.random.default_rng((555, i)), "basic", held_out=True)
        folder = a.workdir / f"{a.frames}x{a.size}-{i:03d}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([a.video, "-m", a.model, "-p", plain_caption(scene), "--size", f"{a.size}x{a.size}",
                            "--frames", str(a.frames), "--steps", str(a.steps), "--guidance-scale", str(a.guidance),
                            "--seed", str(a.seed + i), "--progress", "none", "--quiet", "-o", f"{folder}/"],
                           check=True)
        v = check(read_frames(folder, a.size))
        right = {k: getattr(v, k) == getattr(scene, k) for k in ATTRIBUTES}
        for k in ATTRIBUTES:
            hits[k] += right[k]
        pair += right["colour"] and right["background"]
        everything += all(right.values())
        print(f"{plain_caption(scene)} -> {v.colour} {v.shape} {v.motion} on {v.background}", flush=True)
    n = a.prompts
    print(f"{n} held-out prompts, {a.frames}x{a.size}x{a.size}, {a.steps} steps, guidance {a.guidance:g}: "
          + ", ".join(f"{k} {100 * c / n:.0f} %" for k, c in hits.items())
          + f", colour on background {100 * pair / n:.0f} %, all four {100 * everything / n:.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
