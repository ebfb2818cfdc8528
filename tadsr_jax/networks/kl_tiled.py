"""The autoencoder of Stable Diffusion on tiles in lock step: every group norm has the statistics of all of them.

    x --cut--> tiles --the same network; norms pooled, borders of zeros, attention within a tile--> crop, paste --> y

encode, decode     as the network's own, for pictures and latents larger than a tile        needed   whether it is
encoder, decoder   the parts alone                                                           spans    where tiles lie
This is the tiled VAE of SeeSR (utils/vaehook.py), near the result of the whole, not equal to it: no tile sees beyond
its border of 11 latent positions, and the middle attention, whose work grows with the square of its pixels, sees one.
It is what SeeSR's pictures come from, not a way to save memory: common statistics mean maps of all tiles at a time, of
2048 x 2048 pixels 14 GB in float32 where the whole takes 8. Layers work on one tile after the other.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.networks.kl import Attention, AutoencoderKL
from tadsr_jax.networks.layers import Conv, GroupNorm, NormSilu

ENCODER_PAD, DECODER_PAD = 32, 11  # what tiles overlap into each other: pixels, latent positions
ENCODER_TILE, DECODER_TILE = 1024, 224  # SeeSR's defaults


@dataclasses.dataclass(frozen=True)
class Span:
    """A tile along an axis: it reads first .. last and contributes start .. stop."""

    first: int
    last: int
    start: int
    stop: int


def needed(height: int, width: int, *, tile: int, pad: int) -> bool:
    """Whether a map is cut at all."""
    return max(height, width) > 2 * pad + tile


def spans(length: int, *, tile: int, pad: int) -> list[Span]:
    """The tiles along an axis: as few as possible, of one size, which is rounded up to a multiple of 32 if it can be.

    The size counts what lies between the pads; at the ends of the axis tiles contribute their pad too.
    """
    inside = length - 2 * pad
    count = max(1, math.ceil(inside / tile))
    size = math.ceil(inside / count)
    rounded = (math.ceil(size / multiple) * multiple for multiple in (32, 16, 8, 4, 2))
    size = next((candidate for candidate in rounded if candidate <= tile), size)
    return [
        Span(
            first=i * size,
            last=min((i + 1) * size + 2 * pad, length) if i + 1 < count else length,
            start=pad + i * size if i else 0,
            stop=pad + (i + 1) * size if i + 1 < count else length,
        )
        for i in range(count)
    ]


def encode(
    module: AutoencoderKL, variables, x, *, tile: int = ENCODER_TILE, pad: int = ENCODER_PAD, groups: int | None = None
):
    """As `module.encode`: (n, f h, f w, 3) -> mean, logvar (n, h, w, z). In tiles of `tile` pixels where needed."""
    return module.apply(variables, encoder(module, variables, x, tile=tile, pad=pad, groups=groups), method="gaussian")


def decode(
    module: AutoencoderKL, variables, z, *, tile: int = DECODER_TILE, pad: int = DECODER_PAD, groups: int | None = None
):
    """As `module.decode`: (n, h, w, z) -> (n, f h, f w, 3). In tiles of `tile` latent positions where needed."""
    z = module.apply(variables, z, method=lambda module, z: module.post_quant_conv(z))
    return decoder(module, variables, z, tile=tile, pad=pad, groups=groups)


def encoder(module: AutoencoderKL, variables, x, *, tile: int, pad: int = ENCODER_PAD, groups: int | None = None):
    """The encoder alone, without quant_conv: (n, f h, f w, 3) -> (n, h, w, 2 z).

    `groups`: of every norm within tiles; None means the network's own. The public code takes 32 for any network.
    """
    if tile < 1 or tile % module.factor:
        fitting = max(tile // module.factor, 1) * module.factor
        raise ValueError(f"tile is {tile} pixels; expected a multiple of {module.factor}, such as {fitting}.")
    run = functools.partial(module.apply, variables, method=lambda module, x: module.encoder(x))
    return _apply(run, x, tile=tile, pad=pad, groups=groups, align=module.factor, scaled=lambda k: k // module.factor)


def decoder(module: AutoencoderKL, variables, z, *, tile: int, pad: int = DECODER_PAD, groups: int | None = None):
    """The decoder alone, after post_quant_conv: (n, h, w, z) -> (n, f h, f w, 3). `groups` as in `encoder`."""
    if tile < 1:
        raise ValueError(f"tile is {tile} latent positions; expected 1 or more, such as {DECODER_TILE}.")
    run = functools.partial(module.apply, variables, method=lambda module, z: module.decoder(z))
    return _apply(run, z, tile=tile, pad=pad, groups=groups, align=1, scaled=lambda k: k * module.factor)


def _apply(run: Callable, x, *, tile: int, pad: int, groups: int | None, align: int, scaled: Callable):
    """`run` of x (n, h, w, c) in tiles; `scaled` takes a coordinate of x to one of the result."""
    n, height, width, _ = x.shape
    if not needed(height, width, tile=tile, pad=pad):
        return run(x)
    rows, columns = (spans(length, tile=tile, pad=pad) for length in (height, width))
    # Every tile gets the shape of the largest one; what is beyond its own size is masked out in every layer.
    shape = tuple(max(span.last - span.first for span in axis) for axis in (rows, columns))
    shape = tuple(side + -side % align for side in shape)
    grid = [(row, column) for row in rows for column in columns]
    beyond = [axis[-1].first + side - length for axis, side, length in zip((rows, columns), shape, (height, width))]
    x = jnp.pad(x, ((0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)))
    tiles = [x[:, row.first : row.first + shape[0], column.first : column.first + shape[1]] for row, column in grid]
    sizes = np.array([(row.last - row.first, column.last - column.first) for row, column in grid])
    with nn.intercept_methods(lock_step(np.repeat(sizes, n, axis=0), shape, len(grid), groups)):
        made = run(jnp.concatenate(tiles))
    made = made.reshape(len(rows), len(columns), n, *made.shape[1:])
    crop = lambda span: slice(scaled(span.start) - scaled(span.first), scaled(span.stop) - scaled(span.first))
    return jnp.concatenate(
        [
            jnp.concatenate([made[i, j][:, crop(row), crop(column)] for j, column in enumerate(columns)], axis=2)
            for i, row in enumerate(rows)
        ],
        axis=1,
    )


def lock_step(sizes: np.ndarray, shape: tuple[int, int], count: int, groups: int | None) -> Callable:
    """What layers do otherwise on a batch of tiles (count n, h, w, c): an interceptor of their calls.

    sizes   (count n, 2): how many rows and columns of each tile are real, at the start, where all have `shape`
    Norms take the statistics of a picture's tiles together, attention does not look beyond what is real, and
    convolutions, one tile at a time, find zeros there.
    """

    def intercept(call, args, kwargs, context):
        module = context.module
        changes = isinstance(module, Conv | GroupNorm | Attention) and context.method_name == "__call__"
        if not changes or module.name is None:  # without a name: what `convolved` calls
            return call(*args, **kwargs)
        x = args[0]
        real = jnp.asarray(sizes * np.array(x.shape[1:3]) // np.array(shape))
        if isinstance(module, Conv):
            return convolved(module, x if isinstance(x, Pending) else Pending(x, lambda part, k: part), real, **kwargs)
        if isinstance(module, Attention):
            return call(x, jnp.where(real_pixels(real, *x.shape[1:3]).reshape(len(x), -1), 0.0, -jnp.inf))
        scale, bias = module.affine(x)
        mean, rstd = pooled_statistics(x, real, count=count, groups=groups or module.groups, epsilon=module.epsilon)
        norm = lambda x, k: ((x.astype(jnp.float32) - mean[k]) * (rstd[k] * scale) + bias).astype(module.dtype)
        return Pending(x, lambda x, k: nn.silu(norm(x, k))) if isinstance(module, NormSilu) else norm(x, slice(None))

    return intercept


class Pending(NamedTuple):
    """A map of tiles (b, h, w, c), and what tile k, (h, w, c), goes through before a convolution reads it."""

    x: jax.Array
    activate: Callable  # (tile, k) -> tile

    @property
    def shape(self):
        return self.x.shape


def convolved(module: Conv, pending: Pending, real, onto=None):
    """`module` of each tile's `real` (b, 2) rows and columns, zeros around them, one tile after the other.

    Only the map itself and the result are there for all tiles: (b, h, w, i) -> (b, h', w', o), or added to `onto`.
    """
    alone, variables = module.clone(parent=None, name=None), module.variables

    @jax.checkpoint  # the backward pass would keep every tile's activations otherwise
    def one(k, onto):
        part = pending.activate(pending.x[k], k)
        return alone.apply(variables, jnp.where(real_pixels(real[k], *part.shape[:2]), part, 0)[None], onto)

    like = jax.eval_shape(one, 0, None)
    # Filled with a number of this layer: of a constant XLA would make the maps of all layers early.
    empty = jnp.full((len(real), *like.shape[1:]), pending.x[0, 0, 0, 0], like.dtype)
    y = empty if onto is None else onto.astype(like.dtype)

    def put(k, y):
        tile = one(k, None if onto is None else y[k][None])
        return jax.lax.dynamic_update_slice_in_dim(y, tile, k, axis=0)  # in place

    return jax.lax.fori_loop(0, len(real), put, y)


def real_pixels(sizes, height: int, width: int) -> jax.Array:
    """(..., height, width, 1) bool: the first `sizes` (..., 2) rows and columns of a map."""
    rows, columns = sizes[..., 0, None, None], sizes[..., 1, None, None]
    return ((jnp.arange(height)[:, None] < rows) & (jnp.arange(width) < columns))[..., None]


def pooled_statistics(x, real, *, count: int, groups: int, epsilon: float):
    """Mean and 1 / sqrt(var + epsilon) by group, common to the tiles of a picture: two of (count n, 1, 1, c), float32.

        mean = sum_i p_i mean_i,   var = sum_i p_i var_i,   p_i the tile's share of the pixels, overlaps counted twice

    How far the tiles' means lie apart is left out of the variance, as in the public code. x (count n, h, w, c), of
    which the first `real` (count n, 2) rows and columns count.
    """

    def of_tile(tile):
        x, real = tile[0].astype(jnp.float32), tile[1]
        inside, pixels = real_pixels(real, *x.shape[:2]), jnp.prod(real)
        mean_of = lambda y: _group_mean(jnp.sum(jnp.where(inside, y, 0), axis=(0, 1), keepdims=True) / pixels, groups)
        mean = mean_of(x)
        return mean, mean_of(jnp.square(x - mean))

    def pooled(statistic):
        by_tile = statistic.reshape(count, -1, *statistic.shape[1:])
        share = jnp.prod(real, axis=1).reshape(count, -1, 1, 1, 1).astype(jnp.float32)
        mean = jnp.sum(by_tile * share, axis=0) / jnp.sum(share, axis=0)
        return jnp.broadcast_to(mean, by_tile.shape).reshape(statistic.shape)

    mean, var = jax.lax.map(jax.checkpoint(of_tile), (x, real))  # one at a time: a masked map is a copy
    return pooled(mean), jax.lax.rsqrt(pooled(var) + epsilon)


def _group_mean(x, groups: int):
    """(..., c) -> the same, every channel the mean of its group."""
    by_group = x.reshape(*x.shape[:-1], groups, -1)
    return jnp.broadcast_to(jnp.mean(by_group, axis=-1, keepdims=True), by_group.shape).reshape(x.shape)
