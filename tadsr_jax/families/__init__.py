"""A family is the vocabulary of a kind of model: its networks, schedule, encoding and prediction, as pure functions.

resshift.py      residual shifting in the latents of a VQ autoencoder: ResShift, SinSR, TAD-SR
seesr_build.py   Stable Diffusion, shown the picture and told what is in it: SeeSR, AddSR, TAD-SeeSR; it is made of
                 seesr.py (words), seesr_sampling.py (samplers) and seesr_input.py (what it is told)
"""

from tadsr_jax.families import resshift, seesr_build

FAMILIES = {"resshift": resshift.build, "seesr": seesr_build.build}
