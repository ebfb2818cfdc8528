"""Backbones of perceptual distances: AlexNet and VGG16 up to their last convolution, read at five depths.

Backbone     (n, h, w, 3) -> five maps, in float32; submodules are called as in torchvision, "features.N"
lpips        perceptual distance of two pictures, from the maps of a backbone and the heads of the lpips package

The weights are the user's: `convert.lpips.load` reads them.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from tadsr_jax import losses


class Conv(NamedTuple):
    """A convolution followed by a ReLU. `tap`: its result is one of the five maps."""

    index: int  # in torchvision's `features`
    features: int
    size: int = 3
    stride: int = 1
    tap: bool = False


class MaxPool(NamedTuple):
    """A max pool of stride 2 without padding; an incomplete window at the end is dropped."""

    size: int


# [AlexNet: Krizhevsky 2014, one tower; VGG16: arXiv 1409.1556, configuration D; taps: LPIPS, arXiv 1801.03924]
LAYERS = {
    "alex": (
        Conv(0, 64, size=11, stride=4, tap=True),
        MaxPool(3),
        Conv(3, 192, size=5, tap=True),
        MaxPool(3),
        Conv(6, 384, tap=True),
        Conv(8, 256, tap=True),
        Conv(10, 256, tap=True),
    ),
    "vgg": (
        Conv(0, 64),
        Conv(2, 64, tap=True),
        MaxPool(2),
        Conv(5, 128),
        Conv(7, 128, tap=True),
        MaxPool(2),
        Conv(10, 256),
        Conv(12, 256),
        Conv(14, 256, tap=True),
        MaxPool(2),
        Conv(17, 512),
        Conv(19, 512),
        Conv(21, 512, tap=True),
        MaxPool(2),
        Conv(24, 512),
        Conv(26, 512),
        Conv(28, 512, tap=True),
    ),
}
SMALLEST = {"alex": 31, "vgg": 16}  # pixels a side: below, a pool has nothing left

# What LPIPS subtracts and divides by, for pictures in [-1, 1]: ImageNet's mean and deviation in that scale.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Backbone(nn.Module):
    """The five maps of a normalised picture: (n, h, w, 3) -> [(n, h', w', c)], finest first, after their ReLU.

    Full float32 precision everywhere: bfloat16 passes, the default of a TPU, change the third digit of a distance.
    """

    net: str = "vgg"  # or "alex"

    def example_inputs(self):
        """Shapes of a smallest legal call."""
        return (jax.ShapeDtypeStruct((1, SMALLEST[self.net], SMALLEST[self.net], 3), jnp.float32),)

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        h, w = x.shape[1:3]
        if min(h, w) < SMALLEST[self.net]:
            raise ValueError(f"{self.net} needs pictures of at least {SMALLEST[self.net]} pixels a side, got {h}x{w}.")
        taps = []
        for layer in LAYERS[self.net]:
            if isinstance(layer, MaxPool):
                x = nn.max_pool(x, (layer.size, layer.size), strides=(2, 2))
                continue
            pad = 2 if layer.stride == 4 else layer.size // 2  # AlexNet's 11x11 convolution pads by 2
            x = nn.Conv(
                layer.features,
                (layer.size, layer.size),
                strides=layer.stride,
                padding=pad,
                precision=lax.Precision.HIGHEST,
                name=f"features.{layer.index}",
            )(x)
            x = nn.relu(x)
            if layer.tap:
                taps.append(x)
        return taps


def head_shapes(net: str) -> dict:
    """Abstract variables of the five heads, 1x1 convolutions without bias, under the lpips package's names."""
    channels = [layer.features for layer in LAYERS[net] if isinstance(layer, Conv) and layer.tap]
    return {
        "params": {
            f"lin{k}.model.1": {"kernel": jax.ShapeDtypeStruct((1, 1, c, 1), jnp.float32)}
            for k, c in enumerate(channels)
        }
    }


def lpips_terms(params: dict, a: Array, b: Array, *, net: str = "vgg") -> tuple[Array, Array]:
    """LPIPS 0.1 of pictures (n, h, w, 3) in [-1, 1], and its five terms: (n,), (5, n). `params` as in `lpips`."""
    backbone = Backbone(net)
    shift, scale = jnp.array(SHIFT), jnp.array(SCALE)
    maps_a, maps_b = (backbone.apply({"params": params["backbone"]}, (x - shift) / scale) for x in (a, b))
    heads = [params["heads"][f"lin{k}.model.1"]["kernel"][0, 0, :, 0] for k in range(len(maps_a))]
    return losses.lpips_distance(maps_a, maps_b, heads)


def lpips(params: dict, a: Array, b: Array, *, net: str = "vgg") -> Array:
    """LPIPS 0.1 of pictures (n, h, w, 3) in [-1, 1]: (n,), 0 for equal ones.

    params: {"backbone": of `Backbone(net)`, "heads": of `head_shapes(net)`}, as `convert.lpips.load` returns them.
    """
    return lpips_terms(params, a, b, net=net)[0]
