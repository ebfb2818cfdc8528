"""python -m tadsr_jax.upscale: the same as `tadsr upscale`."""

from tadsr_jax.cli import main

main(room="upscale")
