"""AddSR at x4: SeeSR distilled into one to four steps by timestep-adaptive adversarial diffusion distillation.

    python -m tadsr_jax.main --config=configs/addsr_x4.py --workdir=runs/addsr --config.data.source=prepared \
        --config.data.path=PREPARED --config.data.tokenizer=SD2 --config.init.teacher=SEESR_BUNDLE \
        --config.init.dino=dino_deitsmall16_pretrain.pth --config.init.dinov2=dinov2_vits14_pretrain.pth

Without a variant this is the public run: 50,000 steps of batch 16, of SeeSR's networks (2.3 G parameters, of which the
387 M of image attentions and conditioning stem learn). `:tiny` tries the whole job on a CPU with random networks and
the photographs that come with the package: what it makes is no picture.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from tadsr_jax.config import override, variant
from tadsr_jax.networks.clip_text import SD2

teacher_x4 = runpy.run_path(str(Path(__file__).with_name("teacher_x4.py")))
VARIANTS = ("tiny",)

OPTIMIZER = dict(
    lr=2e-5,
    warmup_steps=0,
    schedule="constant",
    lr_min=0.0,
    milestones=(),
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=1e-2,
    clip=placeholder(float),
)


def full() -> ConfigDict:
    """arXiv 2404.01717; numbers of train_addsr.py and its README: 4 devices, batch 2, 2 accumulations."""
    c = teacher_x4["full"]()
    c.family, c.recipe = "seesr", "addsr"
    c.teacher = None
    c.networks = dict(
        denoiser=dict(unet=dict(), controlnet=dict(), dtype="bfloat16", remat=True),
        autoencoder=dict(dtype="bfloat16"),
        text_encoder=dict(SD2, dtype="bfloat16"),
        tagger=dict(dtype="bfloat16"),
    )
    c.diffusion = dict()
    c.losses = dict(
        variant="paper",  # or "released": as the public training code does it
        distillation=1.0,
        adversarial=0.02,
        two_step=0.5,  # how often a batch has two steps
        start="gt",  # the latent that training starts from, or "lq"
        psr_weight=placeholder(float),  # share of the prediction in the second picture; None: as the variant says
        psr_range=placeholder(str),  # "unit" or "signed"
        ta_weight="exponential",  # or "linear"
        ta_step=placeholder(str),  # "own" or "first"
        teacher_condition="gt",  # the picture that the teacher is shown, or "lq"
        teacher_passes=4,
        teacher_noise="same",  # as the student's, or "fresh"
        discriminator=dict(cmap_dim=64),
        dino=dict(dtype="bfloat16"),
        dinov2=dict(dtype="bfloat16"),
    )
    c.data.update(batch_size=16, gt_size=512, tokenizer=placeholder(str), null_text_ratio=0.5)
    c.validation.gt_size = 512
    c.optimizer = dict(student=dict(OPTIMIZER, clip=1.0), discriminator=dict(OPTIMIZER))
    c.train.update(steps=50_000, ema_decay=0.99, evaluate_every=5000, save_every=5000)
    c.init = dict(
        teacher=placeholder(str),  # SeeSR, as a bundle
        dino=placeholder(str),  # dino_deitsmall16_pretrain.pth
        dinov2=placeholder(str),  # dinov2_vits14_pretrain.pth
        synthetic=False,  # True: what nothing is named for is drawn at random, for trials
    )
    return c


def tiny_networks() -> dict:
    """Of every part the least that is one."""
    levels = dict(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    return dict(
        denoiser=dict(
            unet=dict(levels, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
            controlnet=dict(levels, conditioning_embedding_out_channels=(8, 8, 8, 16)),
        ),
        autoencoder=dict(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=8),
        text_encoder=dict(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        ),
        tagger=dict(image_size=32, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(2, 2), num_class=None),
        no_words=(1, 2, 0, 0),
        smallest=64,
    )


def tiny() -> ConfigDict:
    """The whole job in a minute or two."""
    c = full()
    c.networks = tiny_networks()
    transformer = dict(dim=32, depth=5, heads=2, image_size=32)
    c.losses.update(
        teacher_passes=2,
        discriminator=dict(cmap_dim=8),
        dino=dict(transformer, patch=16, taps=(0, 1, 2, 3)),
        dinov2=dict(transformer, patch=16),
    )
    c.data.update(source="demo", batch_size=2, gt_size=64, num_workers=0, rescale_gt=False)
    c.data.degradation.realesrgan.update(teacher_x4["mild"]())
    c.validation.update(count=2, gt_size=64)
    c.optimizer.student.lr, c.optimizer.discriminator.lr = 1e-3, 1e-3
    c.train.update(steps=10, log_every=2, evaluate_every=0, save_every=5)
    c.init.synthetic = True
    return c


def get_config(arg: str = "") -> ConfigDict:
    name, pairs = variant(arg, VARIANTS)
    return override({"": full, "tiny": tiny}[name](), pairs)
