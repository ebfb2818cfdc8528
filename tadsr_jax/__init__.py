"""One-step diffusion super-resolution in JAX: TAD-SR, SinSR and ResShift, from training to pictures.

load_bundle   a trained model from its folder          __version__
Names are loaded when they are used, so that importing the package costs nothing.
"""

from importlib import metadata

__version__ = metadata.version("tadsr_jax")
__all__ = ["__version__", "load_bundle"]


def __getattr__(name: str):
    if name == "load_bundle":
        from tadsr_jax.bundles import load

        return load
    raise AttributeError(f"module 'tadsr_jax' has no attribute {name!r}; it has {', '.join(__all__)}.")
