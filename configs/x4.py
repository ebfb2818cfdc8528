"""TAD-SR at x4: a ResShift teacher of 15 steps distilled into one step by time-aware distillation.

    python -m tadsr_jax.main --config=configs/x4.py:small --workdir=runs/small

trains a small teacher on the photographs that come with the package, distils it, and writes pictures and figures to
runs/small: some ten minutes on 2 CPU cores. Without a variant this is the paper's run (118.6 M parameters,
30,000 steps of batch 64) and needs pictures and two public files:

    python -m tadsr_jax.main --config=configs/x4.py --workdir=runs/x4 --config.data.path=IMAGENET/train \
        --config.init.teacher=resshift_realsrx4_s15_v1.pth --config.init.autoencoder=autoencoder_vq_f4.pth
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from tadsr_jax.config import override, variant

# The teacher's config is the model's: networks, diffusion, data. By path, so that it is found from any folder.
teacher_x4 = runpy.run_path(str(Path(__file__).with_name("teacher_x4.py")))


def full() -> ConfigDict:
    """arXiv 2408.07476, real-world x4; numbers of TAD-SR.yaml."""
    c = teacher_x4["full"]()
    c.recipe = "tadsr"
    c.teacher = None  # trained first in the small variants; here it is a public file
    c.losses = dict(
        variant="paper",  # or "released": as the public code does it, against its own paper
        regression=1.0,
        score=1.0,
        adversarial=0.02,
        score_kind="hsd",  # or "sds"
        score_target="teacher",  # or "gt"
        score_times=3,  # t of the score term is drawn from the 3 least noisy steps; 0: from all, -1: all but the last
        score_input_scaling=placeholder(str),  # "once" or "twice"; None here and below: as the variant says
        score_noise=placeholder(str),  # "normal" or "uniform"
        discriminator_times=placeholder(int),  # as score_times
        discriminator_noise=placeholder(str),
        teacher_sampling="deterministic",  # or "stochastic"
        student_times=placeholder(tuple),  # indices that the student starts at, one drawn a batch; None: the last
        start_noise=placeholder(str),  # with student_times: the noise level of the "own" index, or of the "last"
        discriminator=dict(c_dim=64, embed_dim=160, dtype="bfloat16"),
    )
    c.optimizer.discriminator = dict(
        lr=5e-5,
        warmup_steps=0,
        schedule="constant",
        lr_min=0.0,
        milestones=(),
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        clip=placeholder(float),
    )
    c.optimizer.first_step_full_rate = placeholder(bool)  # None: as the variant says
    c.train.update(steps=30_000, evaluate_every=2000, save_every=2000)
    c.init = dict(
        teacher=placeholder(str),  # resshift_realsrx4_s15_v1.pth, or a bundle
        autoencoder=placeholder(str),  # autoencoder_vq_f4.pth; not needed where the teacher is a bundle
    )
    return c


def _with_teacher(c: ConfigDict, teacher: ConfigDict) -> ConfigDict:
    """`teacher` is a whole config, trained first in WORKDIR/teacher unless one is given (config.init.teacher).

    Model and data are the very same objects in both: one override serves both.
    """
    c.networks, c.diffusion, c.data, c.validation = (
        teacher.networks,
        teacher.diffusion,
        teacher.data,
        teacher.validation,
    )
    c.teacher = teacher
    return c


def small() -> ConfigDict:
    """The embedded default."""
    c = _with_teacher(full(), teacher_x4["small"]())
    # The teacher's noise is large in units of these latents: the paper's weights would drown the regression.
    c.losses.update(score=0.05, adversarial=1e-4)
    c.losses.discriminator = dict(c_dim=4, embed_dim=64, dtype="float32")
    c.optimizer.student.update(lr=5e-4, warmup_steps=30, schedule="cosine", lr_min=2.5e-5, betas=(0.9, 0.99), clip=1.0)
    c.optimizer.discriminator.update(lr=2e-4, betas=(0.5, 0.99))
    c.train.update(steps=500, ema_decay=0.99, log_every=20, evaluate_every=250, save_every=250)
    return c


def tiny() -> ConfigDict:
    """Everything of `small` in seconds, for tests."""
    c = _with_teacher(small(), teacher_x4["tiny"]())
    c.losses.discriminator.embed_dim = 32
    c.optimizer.student.warmup_steps = 2
    c.train.update(steps=10, log_every=2, evaluate_every=5, save_every=4)
    return c


def get_config(arg: str = "") -> ConfigDict:
    name, pairs = variant(arg, teacher_x4["VARIANTS"])
    return override({"": full, "small": small, "tiny": tiny}[name](), pairs)
