"""Captions of scenes: four sentence forms, several wordings for every attribute."""
from __future__ import annotations

from itertools import product

import numpy as np

from world import BACKGROUNDS, COLOURS, MOTIONS, RADII, SHAPES, Scene

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
BACKGROUND_WORDS = {
    "black": ("a black background",), "white": ("a white background",), "gray": ("a gray background",),
    "navy": ("a navy background", "a dark blue background"),
    "gray gradient": ("a gray gradient",), "blue gradient": ("a blue gradient",),
    "stripes": ("gray stripes", "a striped background"), "checks": ("gray checks", "a checked background")}
MOTION_WORDS = {  # after the subject; after "a clip of ..."
    "left": (("moves left", "moving left"), ("slides to the left", "sliding to the left")),
    "right": (("moves right", "moving right"), ("slides to the right", "sliding to the right")),
    "up": (("moves up", "moving up"), ("rises", "rising")),
    "down": (("moves down", "moving down"), ("sinks", "sinking")),
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger")),
    "spin": (("spins", "spinning"), ("turns around", "turning around"))}
FORMS = ("{a} {subject} {verb} on {back}", "on {back} {a} {subject} {verb}",
         "{a} {subject} {verbing} on {back}", "a clip of {a} {subject} {verbing} on {back}")


def caption(s: Scene, rng: np.random.Generator) -> str:
    """A random caption of the scene. The size is named every time for small shapes and half of the time for large ones."""
    words = [s.colour, s.shape]
    if s.size == "small" or rng.random() < 0.5:
        words.insert(0, str(rng.choice(SIZE_WORDS[s.size])))
    verb, verbing = MOTION_WORDS[s.motion][int(rng.integers(len(MOTION_WORDS[s.motion])))]
    back = str(rng.choice(BACKGROUND_WORDS[s.background]))
    form = str(rng.choice(FORMS))
    return form.format(a="a", subject=" ".join(words), verb=verb, verbing=verbing, back=back)


def plain_caption(s: Scene) -> str:
    """The fixed wording used to compare runs: 'a red circle moves left on a black background'."""
    return FORMS[0].format(a="a", subject=f"{s.colour} {s.shape}", verb=MOTION_WORDS[s.motion][0][0],
                           back=BACKGROUND_WORDS[s.background][0])


def corpus() -> list[str]:
    """One sentence for every combination of attributes and wordings; the vocabulary is trained on it."""
    out = []
    for n, (shape, colour, size, back, motion) in enumerate(
            product(SHAPES, COLOURS, RADII, BACKGROUNDS, MOTIONS)):
        out.append(caption(Scene(shape, colour, size, back, motion, 0.2, 0.0, 0.0, 0.0), np.random.default_rng(n)))
    return out
