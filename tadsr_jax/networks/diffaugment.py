"""What AddSR's discriminator sees of a picture: moved, with a hole, then cut or shrunk to the size of its backbone.

translate, cutout   DiffAugment [arXiv 2006.10738], each picture by its own draw      augment   one after the other
crop, area_resize   two ways to the backbone's size                                   view      one of them, for a batch
draw                every random number of one call

    view(augment(x, draws), draws, size=224)      x (n, h, w, 3) in [-1, 1], draws of draw(key, x.shape, size=224)

Pure functions of explicit draws, with gradients with respect to the pictures.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def _reach(sides: np.ndarray) -> np.ndarray:
    """How far a picture moves at most, along sides of these lengths: an eighth of them, rounded."""
    return (0.125 * sides + 0.5).astype(int)


def _hole(sides: np.ndarray) -> np.ndarray:
    """Sides of the hole: a fifth of the picture's, rounded."""
    return (0.2 * sides + 0.5).astype(int)


def draw(key: Array, shape: tuple[int, ...], *, size: int = 224) -> dict[str, Array]:
    """The random numbers of one call, for pictures of `shape` (n, h, w, c) and a backbone of `size`.

    translation, centre   (n, 2) int32: by how many rows and columns a picture moves, and where its hole is
    cropped, corner       () bool and (2,) int32, one draw for the whole batch: whether it is cut, and where
    """
    keys = jax.random.split(key, 4)
    n, sides = shape[0], np.array(shape[1:3])
    reach, hole = _reach(sides), _hole(sides)
    return {
        "translation": jax.random.randint(keys[0], (n, 2), -reach, reach + 1),
        # The public code draws from one place more where the hole is even.
        "centre": jax.random.randint(keys[1], (n, 2), 0, sides + (1 - hole % 2)),
        "cropped": jax.random.bernoulli(keys[2]),
        "corner": jax.random.randint(keys[3], (2,), 0, np.maximum(sides - size, 0) + 1),
    }


def augment(x: Array, draws: dict[str, Array]) -> Array:
    """Translation, then cutout: (n, h, w, c) -> the same."""
    return cutout(translate(x, draws["translation"]), draws["centre"])


def translate(x: Array, shift: Array) -> Array:
    """out[n, i, j] = x[n, i + shift[n, 0], j + shift[n, 1]], 0 outside: a positive shift moves up and to the left.

    x (n, h, w, c); shift (n, 2) int, at most an eighth of the sides.
    """
    h, w, c = x.shape[1:]
    rows, columns = _reach(np.array([h, w])).tolist()
    padded = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    start = shift + np.array([rows, columns])
    return jax.vmap(lambda one, at: lax.dynamic_slice(one, (*at, 0), (h, w, c)))(padded, start)


def cutout(x: Array, centre: Array) -> Array:
    """x with a hole of zeros, a fifth of its sides wide, around `centre` (n, 2); mid-grey where x is in [-1, 1]."""
    h, w = x.shape[1:3]

    def within(side: int, centre: Array) -> Array:
        """(n, side): whether a row or column is among those of the hole."""
        hole = int(_hole(np.array(side)))
        distance = jnp.arange(side) - (centre[:, None] - hole // 2)
        return (distance >= 0) & (distance < hole)

    hole = within(h, centre[:, 0])[:, :, None] & within(w, centre[:, 1])[:, None, :]
    return jnp.where(hole[..., None], 0, x)


def view(x: Array, draws: dict[str, Array], *, size: int = 224) -> Array:
    """The backbone's picture: (n, h, w, c) -> (n, size, size, c), cut out of x or shrunk, as was drawn for the batch.

    Where no square of `size` fits in, always resized. The public code looks at the width alone, and fails where the
    height is smaller.
    """
    resized = area_resize(x, size)
    if min(x.shape[1:3]) < size or x.shape[2] == size:
        return resized
    return jnp.where(draws["cropped"], crop(x, draws["corner"], size), resized)


def crop(x: Array, corner: Array, size: int) -> Array:
    """The square of `size` whose upper left pixel is at `corner` (2,): (n, h, w, c) -> (n, size, size, c)."""
    n, _, _, c = x.shape
    return lax.dynamic_slice(x, (0, corner[0], corner[1], 0), (n, size, size, c))


def area_resize(x: Array, size: int) -> Array:
    """Adaptive average pooling: (n, h, w, c) -> (n, size, size, c), also to larger sizes.

    Output j is the mean of inputs floor(j n / size) .. ceil((j + 1) n / size) - 1 along each axis.
    """
    rows, columns = (_pooling(side, size) for side in x.shape[1:3])
    pooled = jnp.einsum("hi,nijc->nhjc", rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("wj,nhjc->nhwc", columns, pooled, precision=lax.Precision.HIGHEST)


def _pooling(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in) float32: row j has the mean's weights in the window of output j, 0 elsewhere."""
    i, j = np.arange(n_in), np.arange(n_out)[:, None]
    inside = (j * n_in // n_out <= i) & (i < -(-(j + 1) * n_in // n_out))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
