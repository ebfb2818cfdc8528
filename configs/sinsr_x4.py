"""SinSR at x4, the baseline: one step learns the teacher's deterministic sampling and its inverse.

    python -m tadsr_jax.main --config=configs/sinsr_x4.py:small --workdir=runs/sinsr

Without a variant this is the paper's run and needs what configs/x4.py needs: pictures, a teacher, an autoencoder.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from tadsr_jax.config import override, variant

# The same model, data and teacher as TAD-SR; by path, so that it is found from any folder.
x4 = runpy.run_path(str(Path(__file__).with_name("x4.py")))


def full(c: ConfigDict) -> ConfigDict:
    """arXiv 2311.14760; numbers of SinSR.yaml."""
    c.recipe = "sinsr"
    c.losses = dict(
        inverse=1.0,
        gt=1.0,
        covariance=0.0,  # weight of the whiteness of the inverted noise
        uncertainty=0.0,  # factor of the map that trades the teacher's output for the ground truth
        uncertainty_passes=2,
        teacher_sampling="deterministic",  # or "stochastic"
    )
    del c.optimizer.discriminator
    c.optimizer.first_step_full_rate = False
    c.optimizer.student.milestones = (500_000,)  # never reached by the few thousand steps that suffice
    c.train.steps = 30_000
    return c


def small(c: ConfigDict) -> ConfigDict:
    """The inverse predicts pure noise, which the small network, made for a latent close to z_y, cannot."""
    steps = c.train.steps
    c = full(c)
    c.losses.update(inverse=0.0, gt=0.0)
    c.optimizer.student.milestones = ()
    c.train.steps = steps
    return c


def get_config(arg: str = "") -> ConfigDict:
    name, pairs = variant(arg, x4["teacher_x4"]["VARIANTS"])
    base = x4["get_config"](name)
    return override(small(base) if name else full(base), pairs)
