"""How well cheaper samples choose between the spatial and the temporal mask of a head.

    python3 bench/replay/head_types.py --json bench/results/head-types.json

The best type of a head is the one whose mask changes its output less over all queries. Against it, over every layer,
step and guidance branch of one clip of the bundled model: what a sample of queries says by the error of all columns of the
output, of a part of them (every n-th four, as shaders/include/profile.glsl takes them), or by the attention that the mask
leaves out. "agreement": share of heads given the best type; "regret": squared error of the types chosen over that
of the best ones, less 1. Needs PyTorch and sentencepiece for Python (Debian: python3-torch python3-sentencepiece).
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from masks import make_masks
from record import ROOT, Bundle, Recorder, probabilities

FRAMES, SIDE = 9, 12  # latent frames, tokens along an edge, at native size


def sampled(length: int, samples: int, generator: torch.Generator) -> Tensor:
    """A query of each of as many equal ranges."""
    edges = torch.arange(samples + 1) * length // samples
    width = (edges[1:] - edges[:-1]).float()
    return edges[:-1] + (torch.rand(samples, generator=generator) * width).long()


def part_of(columns: int, fours: int) -> Tensor:
    """The columns of `fours` fours, evenly spread."""
    fours = min(fours, columns // 4)
    first = torch.arange(fours) * (columns // 4) // fours * 4
    return (first[:, None] + torch.arange(4)).reshape(-1)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, default=ROOT / "samples/models/shapes-tiny")
    p.add_argument("--prompt", default="a red circle moves left on a black background")
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--guidance", type=float, default=4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--density", type=float, nargs="+", default=[0.25, 0.15])
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    bundle = Bundle(a.model, "cpu")
    generator = torch.Generator().manual_seed(a.seed)
    tokens = FRAMES * SIDE * SIDE
    results = []
    for density in a.density:
        masks = make_masks(FRAMES, SIDE * SIDE, density)
        counts: dict[str, list[float]] = {}  # agreements, squared error chosen, squared error of the best
        heads = 0

        def observe(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            nonlocal heads
            weights = probabilities(q, k)
            full = weights @ v
            error, missed = [], []
            for mask in (masks.spatial, masks.temporal):
                error.append((probabilities(q, k, mask) @ v - full).square())
                missed.append((weights * ~mask).sum(2))
            whole = torch.stack([e.sum((1, 2)) for e in error])  # [2, heads]
            best = whole.amin(0)
            columns = v.shape[2]
            rows = {n: sampled(tokens, n, generator) for n in (32, 64)}
            choices = {
                "64 queries, all columns": [e[:, rows[64]].sum((1, 2)) for e in error],
                "32 queries, all columns": [e[:, rows[32]].sum((1, 2)) for e in error],
                "64 queries, missed attention": [m[:, rows[64]].sum(1) for m in missed],
            }
            for fours in (8, 4, 2):
                if 4 * fours < columns:
                    choices[f"64 queries, {4 * fours} of {columns} columns"] = [
                        e[:, rows[64]][:, :, part_of(columns, fours)].sum((1, 2)) for e in error]
            for name, (spatial, temporal) in choices.items():
                chosen = torch.where(temporal < spatial, whole[1], whole[0])
                total = counts.setdefault(name, [0, 0, 0])
                total[0] += int((chosen == best).sum())
                total[1] += float(chosen.sum())
                total[2] += float(best.sum())
            heads += len(best)
            return full

        recorder = Recorder(bundle)
        recorder.observer = observe
        recorder.generate(a.prompt, (FRAMES, 2 * SIDE, 2 * SIDE), a.steps, a.guidance, a.seed)
        for name, (agreed, chosen, best) in counts.items():
            results.append({"density": density, "sample": name, "heads": heads,
                            "agreement": round(agreed / heads, 4), "regret": round(chosen / best - 1, 5)})
            print(f"{density:.2f}  {name:32} agreement {agreed / heads:.3f}  regret {chosen / best - 1:.4f}", flush=True)
    a.json.write_text(json.dumps({"model": a.model.name, "prompt": a.prompt, "steps": a.steps, "seed": a.seed,
                                  "tokens": tokens, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
