"""The static masks of SparseVideoGen on a grid of F frames of P tokens, in floating-point-free token arithmetic.

Spatial heads see a band of neighbouring tokens in frame-major order (f * P + p), temporal heads the same band in
token-major order (p * F + f); both see a prefix of `sink` tokens of their own order ("first-frame sink"), which with
`sink` "frame0" is the first frame in temporal heads too: they hold it as it is, then the other frames place by place.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def pair_density(length: int, band: int, sink: int) -> float:
    """Kept (query, key) pairs of all pairs: |i - j| <= band or j < sink."""
    kept = 0
    for i in range(length):
        first, last = max(0, i - band), min(length - 1, i + band)
        kept += last - first + 1 + min(sink, first)
    return kept / (length * length)


def exact_band(length: int, sink: int, density: float) -> int:
    """Widest band whose density with the sink is at most `density` (at least 0: the diagonal stays)."""
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        if pair_density(length, middle, sink) <= density:
            low = middle
        else:
            high = middle
    return low


def svg_band(length: int, density: float) -> int:
    """The published width, which leaves the sink out of the count."""
    return math.ceil(length * (1 - math.sqrt(1 - density)) / 128) * 128


@dataclass(frozen=True)
class Masks:
    """Boolean [L, L] masks in frame-major order, True where attended."""
    spatial: Tensor
    temporal: Tensor
    density: float


def make_masks(frames: int, tokens_per_frame: int, density: float, mode: str = "exact",
               sink_kind: str = "frame") -> Masks:
    length = frames * tokens_per_frame
    sink = 0 if sink_kind == "none" else tokens_per_frame
    band = exact_band(length, sink, density) if mode == "exact" else svg_band(length, density)
    index = torch.arange(length)
    own = ((index[:, None] - index[None, :]).abs() <= band) | (index[None, :] < sink)
    grid = index.reshape(frames, tokens_per_frame)
    place = grid.t().reshape(-1)  # token at each token-major position
    if sink_kind == "frame0":
        place = torch.cat([grid[0], grid[1:].t().reshape(-1)])
    position = torch.empty_like(place)
    position[place] = index
    return Masks(own, own[position][:, position], pair_density(length, band, sink))
