"""One-step diffusion super-resolution in JAX: TAD-SR, SinSR and ResShift, from training to pictures.

Upscaler      pictures through a bundle        load_bundle   the model in a bundle's folder        __version__
Names are loaded when they are used, so that importing the package costs nothing.
"""

from importlib import metadata

__version__ = metadata.version("tadsr_jax")
__all__ = ["Upscaler", "__version__", "load_bundle"]


def __getattr__(name: str):
    if name == "Upscaler":
        from tadsr_jax.upscale.upscaler import Upscaler

        return Upscaler
    if name == "load_bundle":
        from tadsr_jax.bundles import load

        return load
    raise AttributeError(f"module 'tadsr_jax' has no attribute {name!r}; it has {', '.join(__all__)}.")
