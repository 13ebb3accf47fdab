"""What to keep between dense steps: every choice of the second-order reparameterisation, replayed offline.

    python3 bench/replay/replay.py --json out/replay.json
    python3 bench/replay/replay.py --quantized out/quickstart/shapes-tiny-w4a8.safetensors --json out/replay-w4a8.json

One clip of the bundled model is generated with dense attention while q, k, v of every layer, step and guidance branch
give the full and the sparse attention outputs. All corrections (algorithm, span, gain, rank, storage, interval) are then
computed from those: no feedback, so errors of different choices compare exactly. Figures are relative errors
||A_full - A~|| / ||A_full|| over all heads, averaged over layers, branches and the steps between refreshes.
Needs PyTorch and sentencepiece for Python (Debian: python3-torch python3-sentencepiece).
"""
from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masks import Masks, make_masks
from quantized import quantize_dit
from record import ROOT, Bundle, Recorder, attend, sigmas

FRAMES, SIDE = 9, 12  # latent frames, tokens along an edge, at native size


@dataclass
class Outputs:
    """Of one layer and branch, over all steps: token-major attention outputs [steps, L, heads * head_dim]."""
    full: list[Tensor]
    spatial: list[Tensor]
    temporal: list[Tensor]


@dataclass(frozen=True)
class Choice:
    name: str
    kind: str = "svd"          # none | first | second | third | svd | low_rank
    rank: int = 16
    span: str = "refs"         # refs | adjacent
    gain: str = "one"          # one | linear | sigma | measured: linear, times how far the last period went on as predicted
    storage: str = "float"     # float | int8 | int4
    per_head: bool = False
    interval: int = 5
    warm: int = 0              # additional dense steps at the start


def flat(x: Tensor) -> Tensor:
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def record(recorder: Recorder, masks: Masks, prompt: str, steps: int, seed: int) -> list[list[Outputs]]:
    layers = len(recorder.bundle.dit.blocks)
    outputs = [[Outputs([], [], []) for _ in range(2)] for _ in range(layers)]
    branch_now = [0]

    def observe(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        full = attend(q, k, v)
        kept = outputs[layer][branch_now[0]]
        kept.full.append(flat(full).half())
        kept.spatial.append(flat(attend(q, k, v, masks.spatial)).half())
        kept.temporal.append(flat(attend(q, k, v, masks.temporal)).half())
        return full

    def before(step: int, branch: int, latent: Tensor, timestep: float) -> None:
        branch_now[0] = branch

    recorder.observer = observe
    recorder.generate(prompt, (FRAMES, 2 * SIDE, 2 * SIDE), steps, 4.0, seed, before)
    return outputs


def head_slices(width: int, heads: int) -> list[slice]:
    each = width // heads
    return [slice(h * each, (h + 1) * each) for h in range(heads)]


def choose(full: Tensor, spatial: Tensor, temporal: Tensor, heads: int) -> list[bool]:
    """Per head, whether the temporal mask is the closer one."""
    return [bool((full[:, s] - temporal[:, s]).square().sum() < (full[:, s] - spatial[:, s]).square().sum())
            for s in head_slices(full.shape[1], heads)]


def mix(spatial: Tensor, temporal: Tensor, types: list[bool]) -> Tensor:
    out = spatial.clone()
    for s, is_temporal in zip(head_slices(out.shape[1], len(types)), types):
        if is_temporal:
            out[:, s] = temporal[:, s]
    return out


def stored(x: Tensor, storage: str, heads: int) -> Tensor:
    """After a round trip through storage with one scale per token and head."""
    if storage == "float":
        return x
    qmax = 127 if storage == "int8" else 7
    y = x.reshape(x.shape[0], heads, -1)
    scale = y.abs().amax(dim=2, keepdim=True).clamp_min(1e-20) / qmax
    return ((y / scale).round() * scale).reshape(x.shape)


def truncated(x: Tensor, rank: int, per_head: bool, heads: int) -> Tensor:
    parts = head_slices(x.shape[1], heads) if per_head else [slice(0, x.shape[1])]
    out = torch.empty_like(x)
    for s in parts:
        u, sigma, vt = torch.linalg.svd(x[:, s], full_matrices=False)
        out[:, s] = (u[:, :rank] * sigma[:rank]) @ vt[:rank]
    return out


def replay(o: Outputs, choice: Choice, levels: np.ndarray, heads: int) -> tuple[float, int]:
    """Sum of relative errors between dense steps and how many steps that are."""
    total, count, dense = 0.0, 0, 0
    history: list[tuple[int, Tensor]] = []  # (step, Delta), newest first
    correction = difference = None
    types: list[bool] = []
    persistence = 0.5
    for step in range(len(o.full)):
        full, spatial, temporal = (x[step].float() for x in (o.full, o.spatial, o.temporal))
        is_reference = step % choice.interval == 0 or step < choice.warm
        only_for_span = choice.span == "adjacent" and (step + 1) % choice.interval == 0 and step > 0
        if is_reference or only_for_span:
            dense += 1
            new_types = choose(full, spatial, temporal, heads) if is_reference or not types else types
            # What an earlier reference left behind belongs to the head's earlier mask.
            kept = torch.tensor([a == b for a, b in zip(types, new_types)] or [False] * heads)
            keep = kept.repeat_interleave(full.shape[1] // heads)
            types = new_types
            delta = full - mix(spatial, temporal, types)
            history = [(s, torch.where(keep, d, delta)) for s, d in history]
            history.insert(0, (step, delta))
            history = history[:3]
            if len(history) > 2:
                last, earlier = history[0][1] - history[1][1], history[1][1] - history[2][1]
                persistence = float(((last * earlier).sum() / earlier.square().sum().clamp_min(1e-20)).clamp(0, 1.5))
            difference = None
            correction = torch.zeros_like(full) if choice.kind == "none" else stored(delta, choice.storage, heads)
            if choice.kind == "low_rank":
                correction = truncated(delta, choice.rank, choice.per_head, heads)
            if len(history) > 1 and choice.kind in ("second", "third", "svd"):
                difference = history[0][1] - stored(history[1][1], choice.storage, heads)
                if choice.kind == "svd":
                    difference = truncated(difference, choice.rank, choice.per_head, heads)
                if choice.kind == "third" and len(history) > 2:
                    difference = 2 * history[0][1] - 3 * history[1][1] + history[2][1]
            continue
        approximate = mix(spatial, temporal, types) + correction
        if difference is not None:
            reference, before = history[0][0], history[1][0]
            gain = 1.0
            if choice.gain == "linear":
                gain = (step - reference) / (reference - before)
            elif choice.gain == "measured":
                gain = (step - reference) / (reference - before) * persistence
            elif choice.gain == "sigma":
                gain = float((levels[step] - levels[reference]) / (levels[reference] - levels[before]))
            approximate = approximate + gain * difference
        total += float((full - approximate).norm() / full.norm())
        count += 1
    return total / max(count, 1), dense


def choices() -> list[Choice]:
    base = Choice("svd r=16 (paper: refs, gain one, per layer)")
    out = [Choice("none", "none"), Choice("first", "first"), Choice("second", "second"), Choice("third", "third"), base]
    out += [replace(base, name=f"svd r={r}", rank=r) for r in (4, 8, 32, 64)]
    out += [replace(base, name=f"svd r={r} per head", rank=r, per_head=True) for r in (4, 16)]
    out += [replace(base, name=f"svd r={r} per head gain linear", rank=r, per_head=True, gain="linear") for r in (4, 16)]
    out += [replace(base, name=f"svd r=16 gain {g}", gain=g) for g in ("linear", "sigma", "measured")]
    out += [Choice(f"second gain {g}", "second", gain=g) for g in ("linear", "sigma", "measured")]
    out += [replace(base, name=f"svd r=16 adjacent gain {g}", span="adjacent", gain=g) for g in ("one", "linear", "sigma")]
    out += [Choice("second adjacent", "second", span="adjacent")]
    out += [Choice(f"first {s}", "first", storage=s) for s in ("int8", "int4")]
    out += [replace(base, name=f"svd r=16 {s}", storage=s) for s in ("int8", "int4")]
    out += [replace(base, name=f"svd r=16 gain linear {s}", gain="linear", storage=s) for s in ("int8", "int4")]
    out += [Choice(f"low rank only r={r}", "low_rank", rank=r) for r in (16, 32, 64)]
    for n in (3, 4, 6, 10):
        out += [Choice(f"interval {n}: {k}", k, interval=n) for k in ("none", "first", "svd")]
        out += [Choice(f"interval {n}: svd gain {g}", "svd", gain=g, interval=n) for g in ("linear", "measured")]
    out += [replace(base, name="svd r=16, second step dense too", warm=2)]
    return out


def residual_curves(outputs: list[list[Outputs]], heads: int, interval: int) -> dict[str, list[float]]:
    """Over steps, averaged over layers and branches: ||D||, ||D(t) - D(t-1)||, ||D(t) - D(t-interval)|| over ||A_full||."""
    steps = len(outputs[0][0].full)
    curves: dict[str, list[list[float]]] = {"first order": [], "second order, adjacent steps": [],
                                            f"second order, {interval} steps apart": []}
    for o in (x for layer in outputs for x in layer):
        types = choose(*(x[steps // 2].float() for x in (o.full, o.spatial, o.temporal)), heads)
        deltas = [f.float() - mix(s.float(), t.float(), types) for f, s, t in zip(o.full, o.spatial, o.temporal)]
        norms = [float(f.float().norm()) for f in o.full]
        rows = list(curves.values())
        rows[0].append([float(d.norm()) / n for d, n in zip(deltas, norms)])
        for row, span in ((rows[1], 1), (rows[2], interval)):
            row.append([float((deltas[i] - deltas[max(i - span, 0)]).norm()) / norms[i] for i in range(steps)])
    return {k: np.mean(v, axis=0).round(5).tolist() for k, v in curves.items()}


def explained_energy(outputs: list[list[Outputs]], heads: int, interval: int) -> dict[str, list[float]]:
    """Share of ||D||^2 and ||D^||^2 in the first r singular directions, r = 1, 2, 4, ... 128."""
    ranks = [1, 2, 4, 8, 16, 32, 64, 128]
    rows: dict[str, list[np.ndarray]] = {"Delta": [], "difference of two references": []}
    for o in (x for layer in outputs for x in layer):
        middle = len(o.full) // 2 // interval * interval
        types = choose(*(x[middle].float() for x in (o.full, o.spatial, o.temporal)), heads)
        d = [o.full[i].float() - mix(o.spatial[i].float(), o.temporal[i].float(), types)
             for i in (middle, middle - interval)]
        for row, x in zip(rows.values(), (d[0], d[0] - d[1])):
            energy = torch.linalg.svdvals(x).square()
            row.append((energy.cumsum(0) / energy.sum())[[r - 1 for r in ranks]].numpy())
    return {"rank": ranks, **{k: np.mean(v, axis=0).round(4).tolist() for k, v in rows.items()}}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, default=ROOT / "samples/models/shapes-tiny")
    p.add_argument("--quantized", type=Path, help="model file whose linears replace the bundled ones")
    p.add_argument("--prompt", default="a red circle moves left on a black background")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--density", type=float, default=0.25)
    p.add_argument("--mask", choices=("exact", "svg"), default="exact")
    p.add_argument("--sink", choices=("none", "frame", "frame0"), default="frame")
    p.add_argument("--only", nargs="+", help="names of choices; default: all")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    bundle = Bundle(a.model, "cpu")
    if a.quantized:
        quantize_dit(bundle.dit, a.quantized)
    heads = bundle.dit.c.num_heads
    masks = make_masks(FRAMES, SIDE * SIDE, a.density, a.mask, a.sink)
    start = time.monotonic()
    with torch.no_grad():
        outputs = record(Recorder(bundle), masks, a.prompt, a.steps, a.seed)
        print(f"recorded {a.steps} steps in {time.monotonic() - start:.0f} s, mask density {masks.density:.3f}", flush=True)
        levels = sigmas(a.steps)
        rows = []
        for choice in choices():
            if a.only and choice.name not in a.only:
                continue
            results = [replay(o, choice, levels, heads) for layer in outputs for o in layer]
            error = float(np.mean([r[0] for r in results]))
            rows.append({"choice": choice.name, "relative_error": round(error, 5), "dense_steps": results[0][1]})
            print(f"{choice.name:48} {error:.5f}   {results[0][1]} dense steps of {a.steps}", flush=True)
        result = {"command": "python3 bench/replay/replay.py", "prompt": a.prompt, "steps": a.steps, "seed": a.seed,
                  "density": a.density, "mask": a.mask, "sink": a.sink, "mask_density": round(masks.density, 4),
                  "weights": a.quantized.name if a.quantized else "unquantised", "rows": rows,
                  "residual_norms": residual_curves(outputs, heads, 5),
                  "explained_energy": explained_energy(outputs, heads, 5)}
    a.json.parent.mkdir(parents=True, exist_ok=True)
    a.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {a.json} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
