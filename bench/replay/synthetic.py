"""Attention layers made up to have what the bundled model lacks: a few tokens that most queries look at.

    python3 bench/replay/synthetic.py --json bench/results/synthetic.json

Where the paper's orderings do not hold on the bundled model, either the model is too small and flat or something here is
wrong. This script builds random attention layers (q, k, v, o over F x P tokens) with two properties to turn:

  tail      keys carry a component that every query likes, exponentially distributed over the tokens: the attention that tokens
            receive follows a power law with this index, the smaller the heavier (0: no such component)
  locality  head 0 prefers the query's own frame, head 1 its own place, so that the masks keep most of the attention
            (0: they keep no more than their density)

On them it measures

  shift         mean squared difference of the attention maps, over the mean square of the plain one, after quantisation
                alone, masking alone and both: does the joint shift exceed the sum?
  distillation  the learned quantiser (channel scales, clipping; W4A8, AdamW, straight-through rounding) with the output's
                error alone and with the terms of the paper beside it, each weighed to the output's error at the start:
                pooled map, rows of the most looked-at tokens, rows of random tokens, pooled map and salient rows. Each seed is
                a layer; errors are on tokens that were not learned from, relative to the unquantised dense output.

Needs PyTorch (Debian: python3-torch).
"""
from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masks import make_masks

FRAMES, PLACES = 8, 32
TOKENS = FRAMES * PLACES
WIDTH, HEADS = 128, 2
COMMON = WIDTH // 4                 # channels that hold what a frame has in common, then as many for a place
DIM = WIDTH // HEADS
STRIDE, SALIENT = 16, 24            # of the pooled map; rows of the local term
TERMS = ("none", "global", "local, salient", "local, random", "both")
ITERATIONS = 80


@dataclass
class Layer:
    weights: dict[str, Tensor]      # q k v o: [out, in]
    direction: Tensor               # of the input: how much a token is looked at
    channels: Tensor                # scale of each input channel
    tail: float
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def tokens(self) -> Tensor:
        """[L, WIDTH]: what a frame has in common, what a place has, what is the token's own; frame by frame."""
        x = self.normal(FRAMES, PLACES, WIDTH)
        x[..., : 2 * COMMON] *= 0.3
        x[..., :COMMON] += self.normal(FRAMES, 1, COMMON)
        x[..., COMMON : 2 * COMMON] += self.normal(1, PLACES, COMMON)
        x = x.reshape(TOKENS, WIDTH) * self.channels
        unit = self.direction / self.direction.norm()
        x = x - (x @ unit)[:, None] * unit
        if self.tail > 0:
            uniform = torch.rand(TOKENS, 1, generator=self.generator).clamp_min(1e-6)
            x = x + (-uniform.log() / self.tail) * self.direction
        return x


def make_layer(tail: float, locality: float, seed: int) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    channels = (0.6 * normal(WIDTH)).exp()  # some channels are several times larger, as in real blocks
    direction = normal(WIDTH)
    direction /= direction.norm()
    weights = {n: normal(WIDTH, WIDTH) / (math.sqrt(WIDTH) * channels) for n in "qkv"}
    weights["o"] = normal(WIDTH, WIDTH) / math.sqrt(WIDTH)
    layer = Layer(weights, 4 * direction, channels, tail, generator)
    for h in range(HEADS):
        rows = slice(h * DIM, (h + 1) * DIM)
        # q and k share a projection of the frame's (place's) channels: 4 `locality` more for a pair that has them in common.
        columns = slice(h * COMMON, (h + 1) * COMMON)
        shared = torch.linalg.qr(normal(DIM, COMMON)).Q / channels[columns]
        for n in "qk":
            weights[n][rows, columns] += math.sqrt(locality) * shared
    for n in "qkv":  # nothing but what follows answers to the direction
        weights[n] -= (weights[n] @ direction)[:, None] * direction
    for h in range(HEADS):  # a token with 4 s along the direction has s added to its score with every query of the head
        liked = normal(DIM)
        liked /= liked.norm()
        weights["k"][h * DIM : (h + 1) * DIM] += math.sqrt(DIM) / 16 * liked[:, None] * direction
        weights[f"bias{h}"] = 4 * liked
    return layer


def heads_of(layer: Layer, x: Tensor, linear) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (linear(n, x).reshape(TOKENS, HEADS, DIM).transpose(0, 1) for n in "qkv")
    bias = torch.stack([layer.weights[f"bias{h}"] for h in range(HEADS)])
    return q + bias[:, None], k, v


def probabilities(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = q @ k.transpose(1, 2) / math.sqrt(DIM)
    return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -math.inf), dim=-1)


def rounded(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


class Quantiser:
    """W`bits`A8 with a learned scale for each input channel (q, k, v share one) and clipping for each row of weights."""

    def __init__(self, layer: Layer, bits: int, learn: bool) -> None:
        self.layer, self.qmax = layer, 2 ** (bits - 1) - 1
        self.scale = {n: torch.zeros(WIDTH, requires_grad=learn) for n in "qo"}
        # sigmoid(theta): unlearned, absmax; learned from near it
        self.clip = {n: torch.full((WIDTH, 1), 3.0 if learn else 30.0, requires_grad=learn) for n in "qkvo"}

    def linear(self, n: str, x: Tensor) -> Tensor:
        scale = self.scale["o" if n == "o" else "q"].clamp(-3, 3).exp()
        w = self.layer.weights[n] * scale
        step = torch.sigmoid(self.clip[n]) * w.abs().amax(1, keepdim=True) / self.qmax
        w = step * rounded((w / step).clamp(-self.qmax - 1, self.qmax))
        x = x / scale
        s = x.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
        return (s * rounded(x / s)) @ w.t()

    def groups(self) -> list[dict]:
        return [{"params": list(self.scale.values()), "lr": 5e-3}, {"params": list(self.clip.values()), "lr": 5e-2}]


def output(layer: Layer, maps: Tensor, v: Tensor, linear) -> Tensor:
    return linear("o", (maps @ v).transpose(0, 1).reshape(TOKENS, WIDTH))


def pooled(x: Tensor) -> Tensor:
    return x.reshape(HEADS, TOKENS // STRIDE, STRIDE, DIM).mean(2)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean() / b.square().mean())


def learn(layer: Layer, term: str, bits: int, samples: list[Tensor], seed: int) -> Quantiser:
    quantiser = Quantiser(layer, bits, learn=True)
    plain = lambda n, x: x @ layer.weights[n].t()
    targets = []
    chooser = torch.Generator().manual_seed(seed)
    for x in samples:
        q, k, v = heads_of(layer, x, plain)
        maps = probabilities(q, k)
        rows = maps.sum((0, 1)).topk(SALIENT).indices if term != "local, random" \
            else torch.randperm(TOKENS, generator=chooser)[:SALIENT]
        targets.append((output(layer, maps, v, plain), probabilities(pooled(q), pooled(k)), maps[:, rows], rows))
    optimiser = torch.optim.AdamW(quantiser.groups(), weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, ITERATIONS, 5e-6)
    weight: dict[str, float] = {}
    for i in range(ITERATIONS):
        x, (wanted, wanted_pool, wanted_rows, rows) = samples[i % len(samples)], targets[i % len(samples)]
        q, k, v = heads_of(layer, x, quantiser.linear)
        maps = probabilities(q, k)
        losses = {"output": (output(layer, maps, v, quantiser.linear) - wanted).square().mean()}
        if term in ("global", "both"):
            losses["global"] = (probabilities(pooled(q), pooled(k)) - wanted_pool).square().sum(-1).mean()
        if term.startswith("local") or term == "both":
            losses["local"] = (maps[:, rows] - wanted_rows).square().sum(-1).mean()
        if not weight:
            weight = {n: float(losses["output"] / l) for n, l in losses.items()}
        loss = sum(weight[n] * l for n, l in losses.items())
        optimiser.zero_grad()
        (loss / loss.detach()).backward()
        optimiser.step()
        schedule.step()
    return quantiser


@torch.no_grad()
def errors(layer: Layer, quantiser: Quantiser, samples: list[Tensor], mask: Tensor) -> dict[str, float]:
    """On tokens that were not learned from: relative squared errors of outputs (all, and of the most looked-at tokens) and
    of maps, densely; of outputs under the mask; and with the residual of a step whose tokens differ by a tenth."""
    plain = lambda n, x: x @ layer.weights[n].t()
    rows: list[dict[str, float]] = []
    for x in samples:
        q, k, v = heads_of(layer, x, plain)
        maps = probabilities(q, k)
        wanted = output(layer, maps, v, plain)
        salient = maps.sum((0, 1)).topk(SALIENT).indices
        qq, kq, vq = heads_of(layer, x, quantiser.linear)
        dense = probabilities(qq, kq)
        got = output(layer, dense, vq, quantiser.linear)
        sparse = probabilities(qq, kq, mask) @ vq
        qb, kb, vb = heads_of(layer, x + 0.1 * x.std(0) * layer.normal(*x.shape), quantiser.linear)
        residual = (probabilities(qb, kb) - probabilities(qb, kb, mask)) @ vb
        joined = lambda a: quantiser.linear("o", a.transpose(0, 1).reshape(TOKENS, WIDTH))
        rows.append({"output": relative(got, wanted), "salient rows' output": relative(got[salient], wanted[salient]),
                     "map": relative(dense, maps), "masked output": relative(joined(sparse), wanted),
                     "masked output + residual": relative(joined(sparse + residual), wanted)})
    return {n: float(np.mean([r[n] for r in rows])) for n in rows[0]}


@torch.no_grad()
def shift(layer: Layer, bits: int, mask: Tensor) -> dict[str, float]:
    plain = lambda n, x: x @ layer.weights[n].t()
    quantiser = Quantiser(layer, bits, learn=False)
    x = layer.tokens()
    q, k, _ = heads_of(layer, x, plain)
    qq, kq, _ = heads_of(layer, x, quantiser.linear)
    maps = probabilities(q, k)
    kept = (maps * mask).sum(-1).mean()
    top = maps.mean((0, 1)).sort(descending=True).values[: TOKENS // 10].sum()
    return {"quantisation": relative(probabilities(qq, kq), maps), "sparsity": relative(probabilities(q, k, mask), maps),
            "both": relative(probabilities(qq, kq, mask), maps), "mass kept by the mask": float(kept),
            "attention received by the top 10 %": float(top)}


def summary(values: list[float]) -> dict[str, float]:
    return {"mean": round(float(np.mean(values)), 6), "error": round(float(np.std(values, ddof=1) / math.sqrt(len(values))), 6)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--tails", type=float, nargs="+", default=(0, 2, 1), help="power-law indices; 0: flat")
    p.add_argument("--localities", type=float, nargs="+", default=(0, 1, 1.5), help="for the shift; distillation takes 1")
    p.add_argument("--bits", type=int, nargs="+", default=(2, 3, 4, 6), help="of weights, for the shift")
    p.add_argument("--seeds", type=int, default=16)
    p.add_argument("--density", type=float, default=0.25)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--json", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    masks = make_masks(FRAMES, PLACES, a.density)
    mask = torch.stack([masks.spatial, masks.temporal])
    start = time.monotonic()

    shifts = []
    for tail, locality, bits in itertools.product(a.tails, a.localities, a.bits):
        rows = [shift(make_layer(tail, locality, seed), bits, mask) for seed in range(a.seeds)]
        row = {"tail": tail, "locality": locality, "weight_bits": bits,
               **{n: round(float(np.mean([r[n] for r in rows])), 5) for n in rows[0]}}
        row["both over the sum"] = round(row["both"] / (row["quantisation"] + row["sparsity"]), 4)
        shifts.append(row)
        print(", ".join(f"{n} {v}" for n, v in row.items()), flush=True)

    distillation = []
    for tail in a.tails:
        found: dict[str, list[dict[str, float]]] = {t: [] for t in TERMS}
        for seed in range(a.seeds):
            for term in TERMS:
                layer = make_layer(tail, 1.0, 1000 + seed)
                samples = [layer.tokens() for _ in range(6)]
                quantiser = learn(layer, term, 4, samples[:4], seed)
                found[term].append(errors(layer, quantiser, samples[4:], mask))
            print(f"tail {tail}, layer {seed + 1} of {a.seeds}, {time.monotonic() - start:.0f} s", flush=True)
        for term in TERMS:
            row = {"tail": tail, "distilled": term}
            for n in found[term][0]:
                row[n] = summary([r[n] for r in found[term]])
                # Paired by layer, in percent of the error without distillation.
                row[n]["change"] = summary([100 * (r[n] / base[n] - 1) for r, base in zip(found[term], found["none"])])
            distillation.append(row)
            print(f"tail {tail:3} {term:15}" + "".join(
                f"  {n} {v['change']['mean']:+.1f} +- {v['change']['error']:.1f} %" for n, v in row.items() if isinstance(v, dict)),
                flush=True)
    result = {"command": "python3 bench/replay/synthetic.py", "tokens": TOKENS, "heads": HEADS, "head_dim": DIM, "seeds": a.seeds,
              "iterations": ITERATIONS, "mask_density": round(masks.density, 4), "shift": shifts, "distillation": distillation}
    a.json.parent.mkdir(parents=True, exist_ok=True)
    a.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {a.json} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
