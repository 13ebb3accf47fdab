"""Checks clips made by quantsparse-video: python3 samples/train/evaluate_runtime.py --model MODEL

The same held-out prompts and checker as evaluate.py, but through the Vulkan runtime. Needs a built tree, Python and
NumPy. Finished clips stay in --workdir, so a stopped run goes on where it was.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from captions import plain_caption
from checker import Verdict, check
from pictures import film_strip, read_frames, read_png, sheet, write_png
from scores import Scores, sentence
from world import Scene, random_scene

ROOT = Path(__file__).resolve().parents[2]


def make_clip(a: argparse.Namespace, scene: Scene, seed: int, folder: Path) -> Verdict:
    """Makes the clip unless it is there, and looks at it."""
    if not folder.exists():
        command = [a.video, "-m", a.model, "-p", plain_caption(scene), "--size", f"{a.size}x{a.size}", "--frames",
                   a.frames, "--steps", a.steps, "--guidance-scale", a.guidance, "--seed", seed, "--progress", "none",
                   "--quiet", "-o", f"{folder}/", *a.more]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"{a.video} ended with {done.returncode}")
    frames = read_frames(folder)
    if a.strips:
        write_png(a.strips / f"{seed - a.seed:02d}.png", film_strip(frames))
    return check(frames.astype(np.float32) / 255)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                epilog="Arguments after -- go to quantsparse-video, such as: -- --attention sparse")
    p.add_argument("--model", type=Path, default=ROOT / "samples/models/shapes-tiny")
    p.add_argument("--video", type=Path, default=ROOT / "build/release/bin/quantsparse-video")
    p.add_argument("--workdir", type=Path, default=ROOT / "out/evaluate", help="one for each model and setting")
    p.add_argument("--prompts", type=int, default=24)
    p.add_argument("--frames", type=int, default=33)
    p.add_argument("--size", type=int, default=192)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=4.0)
    p.add_argument("--seed", type=int, default=1000, help="of the first prompt; each has one more")
    p.add_argument("--jobs", type=int, default=1, help="clips at a time")
    p.add_argument("--json", type=Path, metavar="FILE", help="the figures for programs, too")
    p.add_argument("--strips", type=Path, metavar="FOLDER", help="a picture of every clip, six frames side by side")
    p.add_argument("--sheet", type=Path, metavar="FILE", help="all of them on one page, with --strips")
    p.add_argument("more", nargs="*", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.sheet and not a.strips:
        p.error("--sheet needs --strips")
    if not a.video.exists():
        print(f"error: {a.video} does not exist: build the project first", file=sys.stderr)
        return 1
    scenes = [random_scene(np.random.default_rng((555, i)), "basic", held_out=True) for i in range(a.prompts)]
    a.workdir.mkdir(parents=True, exist_ok=True)
    clips: list[tuple[Scene, Verdict] | None] = [None] * len(scenes)
    start = time.monotonic()
    try:
        with ProcessPoolExecutor(a.jobs) as pool:
            jobs = {pool.submit(make_clip, a, s, a.seed + i,
                                a.workdir / f"{a.frames}x{a.size}-{a.steps}-{i:03d}"): i for i, s in enumerate(scenes)}
            for done, job in enumerate(as_completed(jobs), 1):
                try:
                    i, verdict = jobs[job], job.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
                clips[i] = (scenes[i], verdict)
                seconds = time.monotonic() - start
                print(f"{done}/{len(scenes)} {plain_caption(scenes[i])} -> {sentence(verdict)} "
                      f"({seconds:.0f} s, {seconds / done * (len(scenes) - done):.0f} s left)", flush=True)
    except (OSError, RuntimeError, ValueError) as e:
        print(f"error: {str(e).splitlines()[0]}", file=sys.stderr)
        return 1
    scores = Scores()
    for scene, verdict in clips:
        scores.add(scene, verdict)
    print(f"{scores.clips} held-out prompts, {a.frames}x{a.size}x{a.size}, {a.steps} steps, guidance {a.guidance:g}, "
          f"seed {a.seed}: {scores.line()}")
    print(scores.tables())
    if a.sheet:
        write_png(a.sheet, sheet([read_png(a.strips / f"{i:02d}.png") for i in range(len(scenes))]))
    if a.json:
        settings = {k: getattr(a, k) for k in ("frames", "size", "steps", "guidance", "seed", "more")}
        seen = [{"prompt": plain_caption(s), "seen": sentence(v)} for s, v in clips]
        a.json.parent.mkdir(parents=True, exist_ok=True)
        a.json.write_text(json.dumps({**settings, **scores.json(), "prompts": seen}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
