from tadsr_jax.cli import main

main(room="download")
