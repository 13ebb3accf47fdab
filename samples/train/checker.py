"""Tells colour, background, shape and motion from the frames alone, by plain measurements."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, background, render

THRESHOLD = 0.18            # difference from the background, in any channel
TRAVEL = 0.09               # of the width
LOG_AREA = 0.7
TURN = 0.6                  # rad
ORDERS = {"triangle": 3, "square": 4, "star": 5}


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; '-' where nothing could be told."""
    colour: str = "-"
    background: str = "-"
    shape: str = "-"
    motion: str = "-"


def _neighbours(mask: np.ndarray) -> np.ndarray:
    """Count of set pixels in the 3 x 3 cells around each pixel of [F, H, W]."""
    p = np.pad(mask.astype(np.uint8), ((0, 0), (1, 1), (1, 1)))
    rows = p[:, :-2] + p[:, 1:-1] + p[:, 2:]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]


def _moments(mask: np.ndarray) -> tuple[float, float, float, np.ndarray, np.ndarray]:
    """Centre x and y and area as parts of the picture, shape features [5], phases [3] of one frame's mask [H, W]."""
    h, w = mask.shape
    y, x = np.nonzero(mask)
    area = len(x)
    cx, cy = x.mean(), y.mean()
    dx, dy = x - cx, y - cy
    q2 = (dx * dx + dy * dy) * (np.pi / area)
    angle = np.arctan2(dy, dx)
    weight = q2 * q2
    m = np.array([(weight * np.exp(1j * k * angle)).sum() for k in ORDERS.values()]) / weight.sum()
    features = np.array([q2.mean(), np.quantile(np.sqrt(q2), 0.98), *np.abs(m)])
    return (cx + 0.5) / w, (cy + 0.5) / h, area / (h * w), features, np.angle(m)


@lru_cache(maxsize=8)
def _centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of the four shapes at a picture size, [4, 5], and the spread [5] to divide differences by."""
    rng = np.random.default_rng(3)
    rows = []
    for shape in SHAPES:
        one = []
        for _ in range(24):
            s = Scene(shape, "red", "large", "black", "spin", float(rng.uniform(0.16, 0.24)), 0.0, 0.0,
                      float(rng.uniform(0, 6)))
            one.append(_moments(render(s, 2, size, range(1))[1][0] > 0.5)[3])
        rows.append(np.array(one))
    return np.stack([r.mean(axis=0) for r in rows]), np.std([r.mean(axis=0) for r in rows], axis=0) + 1e-6


def _slope(t: np.ndarray, v: np.ndarray) -> float:
    """Change of the fitted line over t = 0..1."""
    t = t - t.mean()
    return float((t * v).sum() / (t * t).sum())


def check(clip: np.ndarray) -> Verdict:
    """clip [F, H, W, 3] in [0, 1]."""
    frames, h, w, _ = clip.shape
    edge = max(w // 20, 1)
    sides = np.concatenate([clip[:, :, :edge], clip[:, :, -edge:]], axis=2)
    back = np.median(sides, axis=(0, 2))[None, :, None]
    mask = (np.abs(clip - back) > THRESHOLD).any(axis=3)
    count = _neighbours(mask)
    mask &= count >= 5
    core = mask & (count == 9)

    empty = ~mask
    picture = (clip * empty[..., None]).sum(axis=0) / np.maximum(empty.sum(axis=0), 1)[..., None]
    seen = empty.any(axis=0)
    errors = {b: np.abs(picture - background(b, h))[seen].mean() if seen.any() else 9.0 for b in BACKGROUNDS}
    name = min(errors, key=errors.get)
    back_name = name if errors[name] < 0.1 else "-"

    valid = [f for f in range(frames) if mask[f].mean() > 0.005]
    if len(valid) < 0.6 * frames or not core.any():
        return Verdict(background=back_name)
    colour = np.median(clip[core], axis=0)
    colour_name = min(COLOURS, key=lambda c: float(np.abs(colour - np.array(COLOURS[c])).sum()))
    parts = [_moments(mask[f]) for f in valid]
    centres, spread = _centres(h)
    features = np.median([p[3] for p in parts], axis=0)
    shape = SHAPES[int(((centres - features) / spread).__pow__(2).sum(axis=1).argmin())]

    if len(valid) < 2:
        return Verdict(colour_name, back_name, shape, "-")
    t = np.array(valid) / max(frames - 1, 1)
    vx, vy = _slope(t, np.array([p[0] for p in parts])), _slope(t, np.array([p[1] for p in parts]))
    grow = _slope(t, np.log([p[2] for p in parts]))
    scores = {"right": vx / TRAVEL, "left": -vx / TRAVEL, "down": vy / TRAVEL, "up": -vy / TRAVEL,
              "grow": grow / LOG_AREA}
    if shape in ORDERS:
        k = list(ORDERS).index(shape)
        phase = np.unwrap([p[4][k] for p in parts]) / ORDERS[shape]
        scores["spin"] = abs(_slope(t, phase)) / TURN
    motion = max(scores, key=scores.get)
    return Verdict(colour_name, back_name, shape, motion if scores[motion] >= 1 else "still")


ATTRIBUTES = {"colour": tuple(COLOURS), "background": BACKGROUNDS, "shape": SHAPES, "motion": MOTIONS}
