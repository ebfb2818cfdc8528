"""DINO's vision transformers, frozen: what AddSR's discriminator reads of a picture.

    picture (n, h, w, 3) --patches--> class token | patch tokens, + positions --blocks--> tokens --norm--> class token

VisionTransformer   DINO v1 [arXiv 2104.14294] gives the maps that are judged, DINOv2 [arXiv 2304.07193] the class token
                    of the low-quality picture, on which the judgement is conditioned
normalize           pictures for DINO v1          enlarge   pictures for DINOv2, which AddSR does not normalise
from_public         the module from the public sizes; SIZES has the two that are published

Submodules are called as in the public files. The weights are the user's.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tadsr_jax.networks.layers import Conv, Dense, Dtype
from tadsr_jax.networks.resize import resize, taps

EPSILON = 1e-6  # of every layer norm here
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
EMBEDDING = -1  # the tap before the first block
SIZES = {
    "dino_vits16": {"version": 1, "patch": 16, "image_size": 224},
    "dinov2_vits14": {"version": 2, "patch": 14, "image_size": 518},
}


def normalize(x: Array) -> Array:
    """Pictures (n, h, w, 3) in [0, 1] with ImageNet's mean and deviation taken off."""
    return (x - jnp.array(MEAN)) / jnp.array(DEVIATION)


def enlarge(x: Array, size: int = SIZES["dinov2_vits14"]["image_size"]) -> Array:
    """Bilinear, without antialiasing: (n, h, w, c) -> (n, size, size, c).

    The condition of AddSR's discriminator is the class token of this picture in [0, 1], without ImageNet's mean and
    deviation: the released code leaves them out, and there are no other weights to follow.
    """
    return resize(x, (size, size), mode="bilinear")


class LayerScale(nn.Module):
    """A learnt factor for each channel."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gamma = self.param("gamma", nn.initializers.ones_init(), x.shape[-1:], jnp.float32)
        return x * gamma.astype(x.dtype)


class Block(nn.Module):
    """x + s1 attention(norm1(x)), then x + s2 mlp(norm2(x)): (n, tokens, c) -> the same. s1, s2 are 1 in version 1."""

    heads: int
    version: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        norm = lambda name: nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, dtype=self.dtype, name=name)
        scaled = lambda name, y: LayerScale(name=name)(y) if self.version == 2 else y
        x = x + scaled("ls1", self.attention(norm("norm1")(x)))
        y = Dense(4 * x.shape[-1], dtype=self.dtype, name="mlp.fc1")(norm("norm2")(x))
        y = Dense(x.shape[-1], dtype=self.dtype, name="mlp.fc2")(nn.gelu(y, approximate=False))
        return x + scaled("ls2", y)

    def attention(self, x: Array) -> Array:
        """softmax(q k^T / sqrt(d)) v in several heads of width d."""
        n, tokens, c = x.shape
        qkv = Dense(3 * c, dtype=self.dtype, name="attn.qkv")(x).reshape(n, tokens, 3, self.heads, c // self.heads)
        q, k, v = jnp.moveaxis(qkv, 2, 0)  # n t (3 h d) -> three of n t h d
        q = q * (c // self.heads) ** -0.5
        logits = jnp.einsum("nqhd,nkhd->nhqk", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        x = jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(n, tokens, c)
        return Dense(c, dtype=self.dtype, name="attn.proj")(x)


class Features(NamedTuple):
    """What a vision transformer says of pictures, in the dtype of its arithmetic. What is not used costs nothing."""

    maps: list[Array]  # of its taps, (n, h / patch, w / patch, dim): every patch token plus the class token
    class_token: Array  # (n, dim), after the last norm


class VisionTransformer(nn.Module):
    """A picture (n, h, w, 3) -> `Features`. An incomplete patch at the right or at the bottom is left out.

    `taps` are the blocks after which a map is read, counted from 0, EMBEDDING before the first. Version 2 differs by
    factors on the branches of its blocks, and by how positions are resized. `remat` recomputes blocks in the backward
    pass. Parameters, norms and softmax are float32, the rest runs in `dtype`.
    """

    version: int = 1
    dim: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 16
    image_size: int = 224  # for which it holds positions
    taps: tuple[int, ...] = (2, 5, 8, 11, EMBEDDING)
    dtype: Dtype = jnp.float32
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.version not in (1, 2):
            raise ValueError(f"version is {self.version!r}; expected 1 (DINO) or 2 (DINOv2).")
        if self.dim % self.heads:
            raise ValueError(f"heads is {self.heads}; expected a divisor of dim={self.dim}.")
        if strange := [tap for tap in self.taps if not EMBEDDING <= tap < self.depth]:
            raise ValueError(f"taps has {strange[0]}; expected numbers of blocks, {EMBEDDING} to {self.depth - 1}.")

    def example_inputs(self) -> tuple:
        """Shapes of a smallest legal call."""
        return (jax.ShapeDtypeStruct((1, self.patch, self.patch, 3), jnp.float32),)

    @nn.compact
    def __call__(self, x: Array) -> Features:
        x = Conv(self.dim, self.patch, self.patch, ((0, 0), (0, 0)), dtype=self.dtype, name="patch_embed.proj")(x)
        n, h, w, c = x.shape
        init, side = nn.initializers.truncated_normal(0.02), self.image_size // self.patch
        class_token = self.param("cls_token", init, (1, 1, c), jnp.float32)
        table = self.param("pos_embed", init, (1, 1 + side**2, c), jnp.float32)
        if self.version == 2:
            self.param("mask_token", nn.initializers.zeros_init(), (1, c), jnp.float32)  # for training; files hold it

        x = jnp.concatenate([jnp.broadcast_to(class_token, (n, 1, c)), x.reshape(n, h * w, c)], axis=1)
        x = (x + resized_positions(table, h, w, version=self.version)).astype(self.dtype)
        as_map = lambda x: (x[:, 1:] + x[:, :1]).reshape(n, h, w, c)
        maps = {EMBEDDING: as_map(x)}
        block = nn.remat(Block) if self.remat else Block
        for index in range(self.depth):
            x = block(self.heads, self.version, self.dtype, name=f"blocks.{index}")(x)
            maps[index] = as_map(x)
        norm = nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, dtype=self.dtype, name="norm")
        return Features([maps[tap] for tap in self.taps], norm(x[:, 0]))


def resized_positions(table: Array, h: int, w: int, *, version: int) -> Array:
    """Positions of the class token and of a square of patches, for h x w patches: (1, 1 + s s, c) -> (1, 1 + h w, c).

    Version 1 resizes linearly. Version 2 by cubics, and reads line j at (j + 0.5) s / (n + 0.1) - 0.5: the released
    code adds a tenth of a patch, lest a division round the size down, and that moves all the places.
    """
    side, c = math.isqrt(table.shape[1] - 1), table.shape[-1]
    if (h, w) == (side, side):
        return table
    square = table[:, 1:].reshape(1, side, side, c)
    if version == 1:
        square = resize(square, (h, w), mode="bilinear")
    else:
        rows, columns = _cubic_matrix(side, h), _cubic_matrix(side, w)
        square = jnp.einsum("hi,nijc,wj->nhwc", rows, square, columns, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([table[:, :1], square.reshape(1, h * w, c)], axis=1)


def _cubic_matrix(n_in: int, n_out: int) -> Array:
    """(n_out, n_in): what each of n_in places gives to each of n_out, in the manner of DINOv2."""
    indices, weights = taps(10 * n_in, 10 * n_out + 1, "bicubic")  # the same steps; only the first places are wanted
    indices, weights = jnp.minimum(indices[:, :n_out], n_in - 1), weights[:, :n_out]
    return jnp.zeros((n_out, n_in)).at[jnp.arange(n_out), indices].add(weights)


def from_public(**config) -> VisionTransformer:
    """A transformer of other sizes than the published: img, patch, dim, depth, heads, version, hooks, hook_patch.

    hooks are the blocks that are read, hook_patch adds the embedding as the last map; `dtype` and `remat` as in the
    module. Raises ValueError for sizes that cannot be and for unknown keys.
    """
    fields = {"img": "image_size"} | {
        key: key for key in ("patch", "dim", "depth", "heads", "version", "dtype", "remat")
    }
    if unknown := sorted(set(config) - {*fields, "hooks", "hook_patch"}):
        accepted = ", ".join((*fields, "hooks", "hook_patch"))
        raise ValueError(f"Unknown arguments of the vision transformer: {', '.join(unknown)}. Accepted: {accepted}.")
    chosen = {fields[key]: value for key, value in config.items() if key in fields}
    hooks = config.get("hooks", (2, 5, 8, 11) if chosen.get("version", 1) == 1 else ())
    embedding = (EMBEDDING,) if hooks and config.get("hook_patch", True) else ()
    return VisionTransformer(taps=(*hooks, *embedding), **chosen)
