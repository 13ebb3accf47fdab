"""How far the checker can be trusted: python3 samples/train/check_checker.py

Drawn clips are shown to it, of which it must name everything; then clips beside captions of other scenes, which it
must reject. Needs Python and NumPy.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np

from checker import ATTRIBUTES, Verdict, check
from scores import THREE, Scores
from world import Scene, random_scene, render


def scene_of(kind: int, index: int) -> Scene:
    return random_scene(np.random.default_rng((888, kind, index)), "basic", held_out=index % 2 == 1)


def look(scene: Scene, frames: int, size: int) -> Verdict:
    return check(render(scene, frames, size)[0])


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--clips", type=int, default=300, help="drawn clips, half of them of held-out combinations")
    p.add_argument("--pairs", type=int, default=100, help="clips beside a caption of another scene")
    p.add_argument("--frames", type=int, default=33)
    p.add_argument("--size", type=int, default=192)
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--json", type=Path, metavar="FILE", help="the figures for programs, too")
    a = p.parse_args()
    real, pairs = Scores(), Counter()
    scenes = [scene_of(0, i) for i in range(a.clips)]
    shown = [scene_of(1, i) for i in range(a.pairs)]
    asked = []  # of another scene: at least one of colour, shape and motion differs
    for i, s in enumerate(shown):
        rng = np.random.default_rng((888, 2, i))
        while True:
            other = random_scene(rng, "basic", held_out=i % 2 == 0)
            if any(getattr(other, k) != getattr(s, k) for k in THREE):
                asked.append(other)
                break
    with ProcessPoolExecutor(a.jobs) as pool:
        for s, v in zip(scenes, pool.map(look, scenes, repeat(a.frames), repeat(a.size), chunksize=4)):
            real.add(s, v)
            if real.clips % 50 == 0:
                print(f"{real.clips}/{a.clips} clips", flush=True)
        for s, o, v in zip(shown, asked, pool.map(look, shown, repeat(a.frames), repeat(a.size), chunksize=4)):
            for k in ATTRIBUTES:
                differs = getattr(s, k) != getattr(o, k)
                pairs[k, differs, "rejected" if getattr(v, k) != getattr(o, k) else "accepted"] += 1
            pairs["all three", True, "accepted" if all(getattr(v, k) == getattr(o, k) for k in THREE)
                  else "rejected"] += 1
    print(f"{real.clips} drawn clips of {a.frames}x{a.size}x{a.size}: {real.line()}")
    print(real.tables())
    print(f"\n{a.pairs} clips, each beside the caption of another scene:\n")
    print("| | differ | of these rejected | the same by chance | of these accepted |\n|" + " --- |" * 5)
    counts = {}
    for k in (*ATTRIBUTES, "all three"):
        n = {(d, o): pairs[k, d, o] for d in (True, False) for o in ("rejected", "accepted")}
        differ, same = n[True, "rejected"] + n[True, "accepted"], n[False, "rejected"] + n[False, "accepted"]
        counts[k] = {"differ": differ, "rejected": n[True, "rejected"], "same": same, "accepted": n[False, "accepted"]}
        print(f"| {k} | {differ} | {n[True, 'rejected']} | {same or ''} | {n[False, 'accepted'] if same else ''} |")
    if a.json:
        a.json.parent.mkdir(parents=True, exist_ok=True)
        a.json.write_text(json.dumps({"frames": a.frames, "size": a.size, "real": real.json(),
                                      "mismatched": counts}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
