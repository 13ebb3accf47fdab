"""Figures of what happens inside, for the report: attention shift, saliency of tokens, residuals, explained energy.

    python3 bench/replay/figures.py --quantized out/quality/paper/full-w4a8.safetensors \\
        --replay bench/results/replay-w4a8.json --json bench/results/figures.json
    quantsparse-bench quality --table bench/quality/tables/paper.json --report-only --figures bench/results/figures.json

The shift of a layer is the mean squared difference of its attention maps to those of the unquantised model with dense
attention, over the mean square of those (the paper's Tab. 8 gives no normalisation: compare ratios). Every variant sees the
latents of the unquantised run; differences add up over the layers of a forward, not over the steps.
Needs PyTorch and sentencepiece for Python (Debian: python3-torch python3-sentencepiece).
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masks import make_masks
from quantized import quantize_dit
from record import ROOT, Bundle, Recorder, probabilities

VARIANTS = ("quantisation", "sparsity", "both")


class Maps:
    """Attention maps of one forward after another: kept from the first, compared for the others."""

    def __init__(self, masks) -> None:
        self.masks = (masks.spatial, masks.temporal)
        self.reference: dict[int, Tensor] = {}
        self.types: dict[int, list[int]] = {}
        self.shift: dict[str, dict[int, list[float]]] = {v: {} for v in VARIANTS}
        self.variant = ""

    def observe(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        full = probabilities(q, k)
        if not self.variant:
            self.reference[layer] = full
            outputs = full @ v
            errors = [(probabilities(q, k, m) @ v - outputs).square().sum((1, 2)) for m in self.masks]
            self.types[layer] = [int(b < a) for a, b in zip(*errors)]
            return outputs
        if self.variant != "quantisation":
            mask = torch.stack([self.masks[t] for t in self.types[layer]])
            full = probabilities(q, k, mask)
        reference = self.reference[layer]
        self.shift[self.variant].setdefault(layer, []).append(
            float((full - reference).square().mean() / reference.square().mean()))
        return full @ v


def saliency(reference: dict[int, Tensor], points: int = 50) -> dict[str, list[float]]:
    """Share of all attention that the most looked-at share of the tokens receives, per layer."""
    curves = {}
    for layer, maps in reference.items():
        mass = maps.mean(dim=(0, 1)).sort(descending=True).values.cumsum(0)
        at = np.linspace(0, len(mass) - 1, points).round().astype(int)
        curves[f"layer {layer}"] = (mass[at] / mass[-1]).tolist()
    return curves


def chart(title: str, x_label: str, y_label: str, x, curves: dict[str, list[float]], log_x: bool = False) -> dict:
    return {"title": title, "x_label": x_label, "y_label": y_label, "log_x": log_x,
            "series": [{"name": n, "x": [float(v) for v in x], "y": [round(float(v), 6) for v in y]}
                       for n, y in curves.items()]}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, default=ROOT / "samples/models/shapes-tiny")
    p.add_argument("--quantized", type=Path, required=True)
    p.add_argument("--replay", type=Path, required=True, help="JSON of replay.py")
    p.add_argument("--prompt", default="a red circle moves left on a black background")
    p.add_argument("--grid", type=int, nargs=3, default=(9, 12, 12), help="latent frames, rows and columns of tokens")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--every", type=int, default=7, help="steps between those that are compared")
    p.add_argument("--density", type=float, default=0.25)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    frames, rows, columns = a.grid
    maps = Maps(make_masks(frames, rows * columns, a.density))
    plain, coded = Recorder(Bundle(a.model, "cpu")), Recorder(Bundle(a.model, "cpu"))
    quantize_dit(coded.bundle.dit, a.quantized)
    salient: dict[str, list[float]] = {}
    contexts = plain.contexts(a.prompt)

    def compare(step: int, branch: int, latent: Tensor, timestep: float) -> None:
        if branch or step % a.every:
            plain.observer = None
            return
        t = torch.tensor([timestep])
        coded.observer = plain.observer = maps.observe
        for maps.variant, recorder in (("", plain), ("quantisation", coded), ("sparsity", plain), ("both", coded)):
            recorder.bundle.dit(latent, t, contexts[0])
        if not salient and step >= a.steps // 2:
            salient.update(saliency(maps.reference))
        plain.observer = None
        print(f"step {step}", flush=True)

    plain.generate(a.prompt, (frames, 2 * rows, 2 * columns), a.steps, 4.0, a.seed, compare)
    per_layer = {v: [float(np.mean(s)) for s in maps.shift[v].values()] for v in VARIANTS}
    mean = {v: float(np.mean(s)) for v, s in per_layer.items()}
    per_layer["sum of the two alone"] = [x + y for x, y in zip(per_layer["quantisation"], per_layer["sparsity"])]
    replay = json.loads(a.replay.read_text())
    energy = dict(replay["explained_energy"])
    ranks = energy.pop("rank")
    layers = range(len(maps.reference))
    result = {
        "command": "python3 bench/replay/figures.py", "weights": a.quantized.name, "prompt": a.prompt, "seed": a.seed,
        "steps": a.steps, "density": a.density, "attention_shift": {v: round(m, 6) for v, m in mean.items()},
        "joint_over_sum": round(mean["both"] / (mean["quantisation"] + mean["sparsity"]), 4),
        "charts": [
            chart("Attention shift per layer", "layer", "relative map MSE", layers, per_layer),
            chart("Attention that the most looked-at tokens receive", "share of tokens, %", "share of attention",
                  np.linspace(0, 100, 50), salient),
            chart("Residual D and its differences over the steps", "step", "norm over that of A_full",
                  range(replay["steps"]), replay["residual_norms"]),
            chart("Energy in the first r directions", "r", "share", ranks, energy, log_x=True)]}
    a.json.write_text(json.dumps(result, indent=1) + "\n")
    for v in VARIANTS:
        print(f"{v:14} {mean[v]:.5f}")
    print(f"both / (quantisation + sparsity) = {result['joint_over_sum']:.3f}; wrote {a.json}")


if __name__ == "__main__":
    main()
