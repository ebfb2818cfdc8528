"""A lossless stand-in for an autoencoder: pixels of a block become channels of one latent position, and back."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class SpaceToDepth(nn.Module):
    """Blocks of `factor` x `factor` pixels as latents, with the interface of `VQModel` and no parameters.

    encode: (n, f h, f w, 3) -> (n, h, w, 3 f^2), row-major inside the block, then colour; decode is its inverse.
    Values are those of the picture, [-1, 1].
    """

    factor: int = 4

    @property
    def embed_dim(self) -> int:
        """Channels of the latent."""
        return 3 * self.factor**2

    def example_inputs(self) -> tuple:
        return (jax.ShapeDtypeStruct((1, self.factor, self.factor, 3), jnp.float32),)

    def __call__(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        """n (h f) (w g) c -> n h w (f g c)."""
        n, h, w, c = x.shape
        f = self.factor
        return x.reshape(n, h // f, f, w // f, f, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // f, w // f, f * f * c)

    def decode(self, z, quantize: bool = True):
        """n h w (f g c) -> n (h f) (w g) c. There are no codes: `quantize` changes nothing."""
        n, h, w, c = z.shape
        f = self.factor
        return z.reshape(n, h, w, f, f, c // f**2).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * f, w * f, c // f**2)
