"""Resizing inside compiled programs, as PyTorch's `interpolate` does it: by size, corners not aligned, no antialiasing.

resize    (n, h, w, c) -> (n, *size, c)       taps    which pixels of a line make a new one, and with what weights
`images.torch_resize` is the same on the host, for pictures on their way into training.
"""

import jax.numpy as jnp

A = -0.75  # PyTorch's and OpenCV's cubic; MATLAB and PIL have -0.5


def taps(n_in: int, n_out: int, mode: str):
    """(indices, weights) for a line x of n_in pixels: new pixel j is sum_k weights[k, j] x[indices[k, j]].

    It reads at p = (j + 0.5) n_in / n_out - 0.5. Pixels beyond an end repeat the last one; bilinear p is at least 0.
    """
    position = (2 * jnp.arange(n_out) + 1) * n_in - n_out  # 2 n_out p: whole numbers are exact for any size
    if mode == "bilinear":
        position = jnp.maximum(position, 0)
    first, rest = jnp.divmod(position, 2 * n_out)
    f = rest.astype(jnp.float32) / (2 * n_out)
    if mode == "bilinear":
        offsets, weights = (0, 1), (1 - f, f)
    elif mode == "bicubic":
        offsets, weights = (-1, 0, 1, 2), (_far(1 + f), _near(f), _near(1 - f), _far(2 - f))
    else:
        raise ValueError(f"resize mode is {mode!r}; expected bilinear or bicubic.")
    return jnp.clip(first + jnp.array(offsets)[:, None], 0, n_in - 1), jnp.stack(weights)


def resize(x, size: tuple[int, int], *, mode: str):
    """The picture (n, h, w, c) at `size` (height, width), float32; `mode` is bilinear or bicubic (which overshoots)."""
    x = x.astype(jnp.float32)
    for axis, n_out in zip((1, 2), size):
        indices, weights = taps(x.shape[axis], n_out, mode)
        along = lambda w, axis=axis: w.reshape((-1,) + (1,) * (3 - axis))  # broadcasts along the axis
        x = sum(along(w) * jnp.take(x, k, axis=axis) for k, w in zip(indices, weights))
    return x


def _near(d):
    """Keys' cubic at a distance of up to one pixel [Keys 1981]: (a + 2) d^3 - (a + 3) d^2 + 1."""
    return ((A + 2) * d - (A + 3)) * d**2 + 1


def _far(d):
    """The same between one and two pixels: a d^3 - 5a d^2 + 8a d - 4a."""
    return A * (((d - 5) * d + 8) * d - 4)
