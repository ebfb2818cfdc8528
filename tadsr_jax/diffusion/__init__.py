"""The forward and reverse processes: tables, formulas and sampling loops. Arrays in, arrays out; no networks.

shift.py   ResShift: from a sharp latent to a degraded, noisy one        sample.py   loops over the steps of either
ddpm.py    Stable Diffusion: from a sharp latent to noise alone          latent_tiles.py   large latents, in tiles
"""
