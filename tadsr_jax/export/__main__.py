"""python -m tadsr_jax.export --workdir=runs/small --output=exported: the same as `tadsr export`."""

from tadsr_jax.cli import main

main(room="export")
