"""Weights and inputs of the recorded cases, made from their names alone.

A tensor is a pure function of (name, shape, seed): element i is SplitMix64 applied to crc32("seed:name") * 2^32 + i,
of which the top 24 bits become a float32 in [-1, 1). So a case for a network of any size stores no weights.
"""

import math
import zlib

import numpy as np

_GOLDEN, _MIX1, _MIX2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _splitmix64(counter: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, wrapping modulo 2^64."""
    z = counter * _GOLDEN
    z ^= z >> np.uint64(30)
    z *= _MIX1
    z ^= z >> np.uint64(27)
    z *= _MIX2
    z ^= z >> np.uint64(31)
    return z


def uniform(name: str, shape, seed: int = 0) -> np.ndarray:
    """float32, uniform in [-1, 1)."""
    first = np.uint64(zlib.crc32(f"{seed}:{name}".encode()) << 32)
    bits = _splitmix64(first + np.arange(math.prod(shape), dtype=np.uint64)) >> np.uint64(40)
    return (bits.astype(np.float32) / np.float32(2**23) - np.float32(1)).reshape(tuple(shape))


def normal(name: str, shape, seed: int = 0) -> np.ndarray:
    """float32 with variance 1: half the sum of twelve uniforms of variance 1/3, added in order."""
    total = np.zeros(tuple(shape), np.float32)
    for k in range(12):
        total += uniform(f"{name}#{k}", shape, seed)
    return total / np.float32(2)


def image(name: str, shape, seed: int = 0) -> np.ndarray:
    """float32 in [0, 1], (n, c, h, w): blocks of noise with sides of 16, 4 and 1 pixels."""
    n, c, h, w = shape
    total = np.zeros((n, c, h, w), np.float32)
    for side, gain in ((16, 0.5), (4, 0.3), (1, 0.2)):
        blocks = uniform(f"{name}@{side}", (n, c, math.ceil(h / side), math.ceil(w / side)), seed)
        total += np.float32(gain) * np.kron(blocks, np.ones((1, 1, side, side), np.float32))[:, :, :h, :w]
    return np.clip(total / np.float32(2) + np.float32(0.5), 0, 1)


def weights(shapes: dict, seed: int = 0, overrides: dict | None = None) -> dict:
    """{name: float32 array}. Matrices and kernels have standard deviation 1/sqrt(fan_in), fan_in being the product of
    all axes but the first; a vector is 1 + 0.1 u where its name ends in `weight`, else 0.05 u; a scalar 0.5 + 0.1 u.
    `overrides` scales what has a key of it as part of its name; the last match wins."""
    made = {}
    for name, shape in shapes.items():
        u = uniform(name, shape, seed)
        if len(shape) > 1:
            value = u * np.float32(np.sqrt(3.0 / math.prod(shape[1:])))
        elif len(shape) == 0:
            value = np.float32(0.5) + np.float32(0.1) * u
        elif name.endswith("weight"):
            value = np.float32(1) + np.float32(0.1) * u
        else:
            value = np.float32(0.05) * u
        gain = [factor for key, factor in (overrides or {}).items() if key in name][-1:] or [1.0]
        made[name] = np.asarray(value * np.float32(gain[0]), np.float32)
    return made
