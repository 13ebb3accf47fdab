"""Clips of one coloured shape that moves over a plain background.

A `Scene` says what is seen; `render` draws it. Positions and lengths are fractions of the picture's width, time runs
from 0 to 1 over the clip, angles are in radians, colours are RGB in [0, 1].
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.14, 0.14), "green": (0.14, 0.70, 0.22), "blue": (0.20, 0.38, 0.96),
    "yellow": (0.96, 0.84, 0.12), "purple": (0.64, 0.20, 0.78), "cyan": (0.16, 0.82, 0.88)}
BACKGROUNDS = ("black", "white", "gray", "navy", "gray gradient", "blue gradient", "stripes", "checks")
MOTIONS = ("left", "right", "up", "down", "grow", "spin")
RADII = {"small": (0.14, 0.155), "large": (0.215, 0.235)}
AREA_FACTOR = {"circle": 1.0, "square": 1.2, "triangle": 1.35, "star": 1.35}  # outer radius for like areas
UPRIGHT = {"circle": 0.0, "square": np.pi / 4, "triangle": -np.pi / 2, "star": -np.pi / 2}
STAR_INNER = 0.45
SPIN = np.deg2rad(110.0)
GROW = (0.55, 1.3)


@dataclass(frozen=True)
class Level:
    """What of the world is in use; training starts on `basic`."""
    backgrounds: tuple[str, ...]
    motions: tuple[str, ...]
    sizes: tuple[str, ...]


LEVELS = {
    "basic": Level(BACKGROUNDS[:4], MOTIONS[:5], ("large",)),
    "full": Level(BACKGROUNDS, MOTIONS, ("small", "large"))}


@dataclass(frozen=True)
class Scene:
    shape: str
    colour: str
    size: str
    background: str
    motion: str
    radius: float   # outer radius before AREA_FACTOR
    dx: float       # offset of the path's middle from the picture's middle
    dy: float
    tilt: float


def is_held_out(shape: str, colour: str, back: str, motion: str) -> bool:
    """Combinations that training never shows: one in eight."""
    return (SHAPES.index(shape) + 2 * tuple(COLOURS).index(colour) + 3 * BACKGROUNDS.index(back)
            + 5 * MOTIONS.index(motion)) % 8 == 5


def random_scene(rng: np.random.Generator, level: str = "basic", held_out: bool = False, **fixed: str) -> Scene:
    """Draws a scene, of the training combinations or of the held-out ones; attributes given by name are kept."""
    while True:
        s = _draw(rng, level, fixed)
        if is_held_out(s.shape, s.colour, s.background, s.motion) == held_out:
            return s


def _draw(rng: np.random.Generator, level: str, fixed: dict[str, str]) -> Scene:
    lv = LEVELS[level]
    pick = {"shape": SHAPES, "colour": tuple(COLOURS), "size": lv.sizes, "background": lv.backgrounds,
            "motion": lv.motions}
    a = {k: fixed.get(k) or str(rng.choice(v)) for k, v in pick.items()}
    if a["motion"] == "spin" and a["shape"] == "circle":  # a spinning circle cannot be seen
        if "shape" in fixed:
            a["motion"] = str(rng.choice(lv.motions[:5]))
        else:
            a["shape"] = str(rng.choice(SHAPES[1:]))
    lo, hi = RADII[a["size"]]
    j = 0.03 if a["size"] == "large" else 0.08
    return Scene(**a, radius=float(rng.uniform(lo, hi)), dx=float(rng.uniform(-j, j)), dy=float(rng.uniform(-j, j)),
                 tilt=float(rng.uniform(-0.1, 0.1)))


def travel(frames: int) -> float:
    """Length of a path over a clip of that many frames: longer clips go further, though slower."""
    return 0.26 + 0.10 * (frames - 9) / 24


def background(name: str, size: int, y0: int = 0, x0: int = 0, h: int | None = None,
               w: int | None = None) -> np.ndarray:
    """The background's window [h, w, 3] at (y0, x0) of a size x size picture."""
    h, w = h or size, w or size
    flat = {"black": (0.04, 0.04, 0.04), "white": (0.96, 0.96, 0.96), "gray": (0.5, 0.5, 0.5), "navy": (0.05, 0.07, 0.3)}
    if name in flat:
        return np.broadcast_to(np.float32(flat[name]), (h, w, 3)).copy()
    y = ((np.arange(y0, y0 + h) + 0.5) / size)[:, None]
    x = ((np.arange(x0, x0 + w) + 0.5) / size)[None, :]
    if name == "gray gradient":
        v = (0.3 + 0.4 * y + 0 * x)[..., None] * np.ones(3)
    elif name == "blue gradient":
        v = (0.1 + 0.0 * x + y)[..., None] * np.array([0.15, 0.2, 0.6]) + np.array([0.02, 0.03, 0.1])
    elif name == "stripes":
        v = (0.5 + 0.05 * np.sign(np.sin(2 * np.pi * 4 * x)) + 0 * y)[..., None] * np.ones(3)
    elif name == "checks":
        v = (0.5 + 0.05 * np.sign(np.sin(2 * np.pi * 3 * x) * np.sin(2 * np.pi * 3 * y)))[..., None] * np.ones(3)
    else:
        raise ValueError(f"unknown background '{name}'")
    return v.astype(np.float32)


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Signed distance (negative inside) to the edge of the shape at the origin; same unit as x, y and radius."""
    r = np.sqrt(x * x + y * y)
    if shape == "circle":
        return r - radius
    n = {"square": 4, "triangle": 3, "star": 5}[shape]
    wedge = 2 * np.pi / n
    a = np.arctan2(y, x) - angle
    a = np.abs(a - wedge * np.round(a / wedge))  # 0 at a corner, pi / n between two
    if shape == "star":
        inner = STAR_INNER * radius
        px, py = inner * np.cos(np.pi / 5), inner * np.sin(np.pi / 5)
        nx, ny = py, radius - px
        length = np.hypot(nx, ny)
        return (r * np.cos(a) * nx + r * np.sin(a) * ny - radius * nx) / length
    return r * np.cos(a - np.pi / n) - radius * np.cos(np.pi / n)


def pose(s: Scene, frames: int, t: float) -> tuple[float, float, float, float]:
    """Centre x, centre y, radius, angle at time t of a clip of that many frames."""
    d = travel(frames) * (t - 0.5)
    vx, vy = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(s.motion, (0, 0))
    r = s.radius * AREA_FACTOR[s.shape]
    if s.motion == "grow":
        r *= GROW[0] + (GROW[1] - GROW[0]) * t
    angle = UPRIGHT[s.shape] + s.tilt + (SPIN * (t - 0.5) if s.motion == "spin" else 0.0)
    return 0.5 + s.dx + vx * d, 0.5 + s.dy + vy * d, r, angle


def render(s: Scene, frames: int, size: int, indices: range | None = None,
           window: tuple[int, int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draws frames `indices` (all by default), cut to `window` = (y0, x0, edge) pixels (whole picture by default).

    Returns the clip [F, h, w, 3] in [0, 1] and the shape's coverage [F, h, w] in [0, 1], both float32.
    """
    indices = indices if indices is not None else range(frames)
    y0, x0, edge = window or (0, 0, size)
    back = background(s.background, size, y0, x0, edge, edge)
    clip = np.repeat(back[None], len(indices), axis=0)
    cover = np.zeros((len(indices), edge, edge), np.float32)
    colour = np.float32(COLOURS[s.colour])
    for f, i in enumerate(indices):
        cx, cy, r, angle = (v for v in pose(s, frames, i / max(frames - 1, 1)))
        cx, cy, r = cx * size - x0, cy * size - y0, r * size
        ya, yb = max(int(cy - r) - 1, 0), min(int(cy + r) + 3, edge)
        xa, xb = max(int(cx - r) - 1, 0), min(int(cx + r) + 3, edge)
        if ya >= yb or xa >= xb:
            continue
        y = (np.arange(ya, yb, dtype=np.float32) + np.float32(0.5 - cy))[:, None]
        x = (np.arange(xa, xb, dtype=np.float32) + np.float32(0.5 - cx))[None, :]
        alpha = np.clip(0.5 - _distance(s.shape, x, y, r, angle), 0, 1).astype(np.float32)
        cover[f, ya:yb, xa:xb] = alpha
        part = clip[f, ya:yb, xa:xb]
        part += alpha[..., None] * (colour - part)
    return clip, cover
