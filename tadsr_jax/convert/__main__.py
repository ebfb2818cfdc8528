"""python -m tadsr_jax.convert: the same as `tadsr convert`."""

from tadsr_jax.cli import main

main(room="convert")
