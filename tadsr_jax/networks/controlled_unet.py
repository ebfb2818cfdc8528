"""The denoiser of SeeSR, AddSR and TAD-SeeSR: a U-Net and the ControlNet that shows it the picture, as one network.

    x, t, text, image states, picture --ControlNet--> residuals --U-Net--> eps

Parameters are {"unet": those of `SDUNet`, "controlnet": those of `ControlNet`}, each under its public names.
"""

import flax.linen as nn
import jax

from tadsr_jax.networks.controlnet import ControlNet
from tadsr_jax.networks.unet_sd import SDUNet


class ControlledUNet(nn.Module):
    """eps (n, h, w, c), float32, of the latent x (n, h, w, c) at step t (n,).

    text (n, tokens, cross_attention_dim); image_states (n, tokens, 512), or None where the networks have no image
    attentions; picture (n, f h, f w, 3) in [0, 1]; `scale` multiplies what the ControlNet adds.
    """

    unet: SDUNet
    controlnet: ControlNet

    @property
    def dtype(self):
        return self.unet.dtype

    @property
    def size_multiple(self) -> int:
        """Latents may have any size."""
        return 1

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of a smallest legal call."""
        return self.controlnet.example_inputs()

    def __call__(self, x, t, text, image_states, picture, *, scale: float = 1.0, features_only: bool = False):
        """With `features_only`, the maps of the U-Net's way down, the finest first: what a discriminator may read."""
        residuals = self.controlnet(x, t, text, image_states, picture, scale=scale)
        return self.unet(x, t, text, image_states, residuals, features_only=features_only)
