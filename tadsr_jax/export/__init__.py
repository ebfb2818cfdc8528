"""Export: a trained model for others, from the workdir of a training run or from a bundle.

    source --source.read--> Bundle --FORMATS[format]--> a folder that appears whole

bundle      this package's own: what `Upscaler.load` and config.init read                   (bundles.py)
orbax       the parameters as an Orbax tree, for other JAX programs                         orbax_tree.py
stablehlo   the whole computation, for whoever has jax but neither this package nor flax    stablehlo.py, loader.py

formats.py has the functions `export` and `bundle`, source.py says what is read, outputs.py where it may go.
`python -m tadsr_jax.export` is the door. Names are loaded when they are used, so that its help comes at once.
"""

__all__ = ["FORMATS", "bundle", "export"]


def __getattr__(name: str):
    if name in __all__:
        from tadsr_jax.export import formats

        return getattr(formats, name)
    raise AttributeError(f"module 'tadsr_jax.export' has no attribute {name!r}; it has {', '.join(__all__)}.")
