"""TAD-SeeSR at x4: SeeSR distilled into one step by regression, score distillation and a feature discriminator.

    python -m tadsr_jax.main --config=configs/tad_seesr_x4.py --workdir=runs/tad_seesr --config.data.source=prepared \
        --config.data.path=PREPARED --config.data.tokenizer=SD2 --config.init.teacher=SEESR_BUNDLE

Without a variant this is the public run: 30,000 steps of one picture on each of 8 devices, towards the teacher's own
pictures (PREPARED/tch). `:tiny` tries the whole job on a CPU with random networks and the photographs that come with
the package, towards the ground truth: what it makes is no picture.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from tadsr_jax.config import override, variant

addsr_x4 = runpy.run_path(str(Path(__file__).with_name("addsr_x4.py")))


def _of(c: ConfigDict) -> ConfigDict:
    """The same model, data and optimisers with the losses of TAD-SeeSR."""
    c.recipe = "tad_seesr"
    c.losses = ConfigDict(
        dict(
            regression=0.2,
            score=1.0,
            adversarial=0.2,
            target="tch",  # the teacher's pictures, or "gt"
            times=tuple(range(20, 881, 20)),  # steps that discriminator and score term draw from
            teacher_condition="gt",  # the picture that the teacher is shown, or "lq"
            discriminator=dict(c_dim=320, embed_dim=320),
        )
    )
    del c.init.dino, c.init.dinov2
    return c


def full() -> ConfigDict:
    """arXiv 2408.07476 on SeeSR; numbers of train_tadsr.py and its README."""
    c = _of(addsr_x4["full"]())
    c.data.batch_size = 8
    c.train.update(steps=30_000)
    return c


def tiny() -> ConfigDict:
    """The whole job in a minute or two."""
    c = _of(addsr_x4["tiny"]())
    c.losses.update(target="gt", discriminator=dict(c_dim=4, embed_dim=32))
    return c


def get_config(arg: str = "") -> ConfigDict:
    name, pairs = variant(arg, addsr_x4["VARIANTS"])
    return override({"": full, "tiny": tiny}[name](), pairs)
