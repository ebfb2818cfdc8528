"""A family is the vocabulary of a kind of model: its networks, schedule, encoding and prediction, as pure functions.

resshift.py   residual shifting in the latents of a VQ autoencoder: ResShift, SinSR, TAD-SR
"""

from tadsr_jax.families import resshift

FAMILIES = {"resshift": resshift.build}
