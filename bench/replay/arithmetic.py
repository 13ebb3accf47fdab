"""What attention in 8 bits costs on the q, k, v of a clip, and what each part of the scheme is for.

    python3 bench/replay/arithmetic.py --json bench/results/attention-arithmetic.json

The scheme of shaders/include/attention_codes.glsl in PyTorch, over every layer, step and guidance branch of one clip of
the bundled model made with attention as it is: no feedback, so errors compare exactly. Figures are relative errors
||A - A~|| / ||A|| over all heads, averaged. "offset" is the norm of k's mean over the tokens over that of k.
Needs PyTorch and sentencepiece for Python (Debian: python3-torch python3-sentencepiece).
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quantized import quantize_dit
from record import ROOT, Bundle, Recorder, attend

FRAMES, SIDE = 9, 12  # latent frames, tokens along an edge, at native size
SCALE_BLOCK = 64      # tokens that share a scale of q or k
TILE = 128            # keys that share a maximum, on GPUs


def codes(x: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    scale = x.abs().amax(dim, keepdim=True) / 127
    return torch.round(x / scale.clamp(min=1e-30)), scale


def in_codes(x: Tensor, block: int) -> Tensor:
    """x [heads, L, d] as codes say, a scale for each `block` tokens."""
    pieces = [c * s for c, s in (codes(piece, (1, 2)) for piece in x.split(block, 1))]
    return torch.cat(pieces, 1)


def attend_in_codes(q: Tensor, k: Tensor, v: Tensor, smooth: bool = True, values: bool = False,
                    block: int = SCALE_BLOCK) -> Tensor:
    if smooth:
        k = k - k.mean(1, keepdim=True)
    scores = in_codes(q, block) @ in_codes(k, block).transpose(1, 2) * q.shape[-1] ** -0.5
    if not values:
        return torch.softmax(scores, -1) @ v
    v_codes, v_scale = codes(v, 1)
    total, weight, maximum = 0, 0, torch.full(scores.shape[:2] + (1,), -1e30)
    for s, part in zip(scores.split(TILE, 2), v_codes.split(TILE, 1)):
        now = torch.maximum(maximum, s.amax(2, keepdim=True))
        p = torch.round(127 * torch.exp(s - now))
        factor = torch.exp(maximum - now)
        total, weight, maximum = total * factor + p @ part, weight * factor + p.sum(2, keepdim=True), now
    return total / weight * v_scale


CHOICES = {
    "halves": lambda q, k, v: attend(q.half().float(), k.half().float(), v.half().float()),
    "int8-qk": attend_in_codes,
    "int8-qk, a scale for each token": lambda q, k, v: attend_in_codes(q, k, v, block=1),
    "int8-qk, a scale for a head": lambda q, k, v: attend_in_codes(q, k, v, block=1 << 30),
    "int8-qk, k's mean left in": lambda q, k, v: attend_in_codes(q, k, v, smooth=False),
    "int8": lambda q, k, v: attend_in_codes(q, k, v, values=True),
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, default=ROOT / "samples/models/shapes-tiny")
    p.add_argument("--quantized", type=Path, help="a model file, whose weights are then used")
    p.add_argument("--prompt", default="a red circle moves left on a black background")
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--guidance", type=float, default=4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    bundle = Bundle(a.model, "cpu")
    if a.quantized:
        quantize_dit(bundle.dit, a.quantized)
    errors: dict[str, list[float]] = {name: [] for name in CHOICES}
    offsets: list[float] = []

    def observe(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        full = attend(q, k, v)
        for name, choice in CHOICES.items():
            errors[name].append(float((choice(q, k, v) - full).norm() / full.norm()))
        offsets.append(float(k.mean(1).norm() * k.shape[1] ** 0.5 / k.norm()))
        return full

    recorder = Recorder(bundle)
    recorder.observer = observe
    start = time.monotonic()
    recorder.generate(a.prompt, (FRAMES, 2 * SIDE, 2 * SIDE), a.steps, a.guidance, a.seed)
    rows = [{"choice": name, "relative_error": round(float(np.mean(e)), 6), "worst": round(max(e), 6)}
            for name, e in errors.items()]
    for row in rows:
        print(f"{row['choice']:40} {row['relative_error']:.5f}, at most {row['worst']:.5f}")
    print(f"offset {np.mean(offsets):.3f}, at most {max(offsets):.3f}; {time.monotonic() - start:.0f} s")
    result = {"command": "python3 bench/replay/arithmetic.py", "prompt": a.prompt, "steps": a.steps, "seed": a.seed,
              "tokens": FRAMES * SIDE * SIDE, "weights": a.quantized.name if a.quantized else "unquantised",
              "offset": round(float(np.mean(offsets)), 4), "rows": rows}
    a.json.parent.mkdir(parents=True, exist_ok=True)
    a.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
