"""The runtime's starting noise: Philox-4x32-10 and Box-Muller, as in runtime/sampling/random.cpp."""
from __future__ import annotations

import numpy as np

_MASK = np.uint64(0xFFFFFFFF)


def _philox(counter: list[np.ndarray], key: list[int]) -> list[np.ndarray]:
    for _ in range(10):
        product0, product1 = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        counter = [(product1 >> np.uint64(32)) ^ counter[1] ^ np.uint64(key[0]), product1 & _MASK,
                   (product0 >> np.uint64(32)) ^ counter[3] ^ np.uint64(key[1]), product0 & _MASK]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def gaussian(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """What quantsparse-video --seed starts from, float32."""
    count = int(np.prod(shape))
    block = np.arange(-(-count // 4), dtype=np.uint64)
    zero = np.zeros_like(block)
    bits = _philox([block & _MASK, block >> np.uint64(32), zero, zero], [seed & 0xFFFFFFFF, seed >> 32])
    uniform = [(b.astype(np.float64) + 0.5) * 2.0 ** -32 for b in bits]
    out = []
    for a, b in ((uniform[0], uniform[1]), (uniform[2], uniform[3])):
        radius = np.sqrt(-2 * np.log(a))
        out += [radius * np.cos(2 * np.pi * b), radius * np.sin(2 * np.pi * b)]
    return np.stack(out, axis=1).reshape(-1)[:count].astype(np.float32).reshape(shape)
