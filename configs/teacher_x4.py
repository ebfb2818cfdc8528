"""ResShift at x4, the teacher: 15 steps of residual shifting, trained from scratch.

    python -m tadsr_jax.main --config=configs/teacher_x4.py --workdir=runs/teacher \
        --config.data.path=IMAGENET/train --config.init.autoencoder=autoencoder_vq_f4.pth

The paper's run (v1): 118.6 M parameters, 300,000 steps of batch 64, on pictures as those of ImageNet.
`:small` learns from the photographs that come with the package, on a CPU; `:tiny` is for tests. Any number can be
set behind the variant (`:small,steps=200`) or by its path (`--config.train.steps=200`).
"""

import dataclasses

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from tadsr_jax.config import override, variant
from tadsr_jax.degrade.settings import Settings

VARIANTS = ("small", "tiny")


def full() -> ConfigDict:
    """arXiv 2307.12348, the real-world x4 model; numbers of realsr_swinunet_realesrgan256.yaml."""
    c = ConfigDict()
    c.family, c.recipe, c.scale, c.seed = "resshift", "teacher", 4, 123456
    c.networks = dict(
        denoiser=dict(
            kind="swin",
            image_size=64,  # of the latent; fixes windows and shifts
            in_channels=3,
            model_channels=160,
            out_channels=3,
            attention_resolutions=(64, 32, 16, 8),
            channel_mult=(1, 2, 2, 4),
            num_res_blocks=2,
            num_head_channels=32,
            swin_depth=2,
            swin_embed_dim=192,
            window_size=8,
            mlp_ratio=4.0,
            lq_size=64,
            dtype="bfloat16",  # of the arithmetic; parameters, norms and softmax are float32
            remat=False,  # recompute blocks in the backward pass: less memory, more time
        ),
        autoencoder=dict(
            kind="vq",
            embed_dim=3,
            n_embed=8192,
            z_channels=3,
            ch=128,
            ch_mult=(1, 2, 4),
            num_res_blocks=2,
            resolution=256,
            dtype="bfloat16",
        ),
        condition_on_z_y=False,
    )
    c.diffusion = dict(
        num_steps=15,
        kappa=2.0,
        min_noise_level=0.04,
        etas_end=0.99,
        power=0.3,
        cap_start=True,
        predict="xstart",
        input_scaling="latent",
        sigma_data=placeholder(float),
    )
    c.losses = dict(weighting="uniform", perceptual=0.0)  # v3: perceptual=1.0; faces: 10.0
    c.data = dict(
        source="folder",  # folder, list, pairs, records, tfds, demo
        path=placeholder(str),
        lq_path=placeholder(str),  # with source="pairs"
        split="train",  # of a tfds source
        batch_size=64,  # over all devices, per update
        gt_size=256,  # pixels
        hflip=True,
        rot=False,
        rescale_gt=True,  # the largest square of a picture, reduced to gt_size; False: a square of gt_size out of it
        min_size=placeholder(int),  # smaller pictures are left out; a quarter of gt_size
        degradation=dict(
            kind="realesrgan",  # or "bicubic" (MATLAB's), "none"
            realesrgan=dataclasses.asdict(Settings()),  # its defaults are the paper's
            bicubic=dict(quantize=False),
        ),
        num_workers=8,  # processes
        prefetch=2,  # batches a worker
    )
    c.validation = dict(
        source="demo", path=placeholder(str), lq_path=placeholder(str), split="validation", count=8, gt_size=256
    )
    c.optimizer = dict(
        student=dict(
            lr=5e-5,
            warmup_steps=5000,
            schedule="constant",  # or "cosine", down to lr_min
            lr_min=0.0,
            milestones=(),  # steps at which a constant rate is halved
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            clip=placeholder(float),  # bound of the gradient's norm
        ),
        first_step_full_rate=False,  # what the public trainers do by accident
    )
    c.mesh = dict(data=-1, fsdp=1)  # -1: all devices that are left
    c.train = dict(
        steps=300_000,
        ema_decay=0.999,
        accumulate=1,
        log_every=100,
        evaluate_every=10_000,
        save_every=10_000,
        keep=2,
        max_skipped=20,
    )
    c.init = dict(
        student=placeholder(str),  # weights to start from: .pth, .ckpt, .safetensors, or a bundle
        autoencoder=placeholder(str),  # autoencoder_vq_f4.pth, or a bundle
        lpips_backbone=placeholder(str),  # with losses.perceptual: vgg16-397923af.pth of torchvision
        lpips_heads=placeholder(str),  # and vgg.pth of the lpips package
    )
    return c


def small() -> ConfigDict:
    """The embedded default: a small network in lossless latents, on the photographs that come with the package.

    Few steps of little noise, and predictions in units of what a linear guess leaves over: found by measurement, so
    that the teacher's samples have texture where there is texture and no grain elsewhere, within minutes on a CPU.
    """
    c = full()
    c.networks = dict(
        denoiser=dict(kind="small", latent_channels=48, widths=(32, 64, 96), blocks=1, embed_dim=64, dtype="float32"),
        autoencoder=dict(kind="space_to_depth", factor=4),
        condition_on_z_y=True,
    )
    c.diffusion.update(
        num_steps=6,
        kappa=0.2,
        min_noise_level=0.1,
        power=1.0,
        cap_start=False,
        predict="preconditioned",
        input_scaling="preconditioned",
        sigma_data=0.1,
    )
    c.losses.weighting = "preconditioned"
    c.data.update(source="demo", batch_size=8, gt_size=96, num_workers=0, rot=True, rescale_gt=False)
    c.data.degradation.realesrgan.update(mild())
    c.optimizer.student.update(lr=2e-3, warmup_steps=100, schedule="cosine", lr_min=4e-5, betas=(0.9, 0.99), clip=1.0)
    c.train.update(steps=5000, ema_decay=0.995, log_every=100, evaluate_every=1000, save_every=500)
    return c


def mild() -> dict:
    """A little blur, a little noise, JPEG of good quality: what a small network can learn to undo in minutes."""
    return dict(
        blur_kernel_size=13,
        kernel_prob=(0.6, 0.4, 0.0, 0.0, 0.0, 0.0),  # Gaussians, round and oval
        blur_sigma=(0.2, 1.0),
        sinc_prob=0.0,
        final_sinc_prob=0.0,
        resize_prob=(0.0, 0.0, 1.0),  # no resizing but the last one
        resize_modes=("area",),
        gaussian_noise_prob=1.0,
        noise_range=(0.0, 8.0),  # grey levels, before the reduction by 4
        jpeg_range=None,  # one JPEG, at the end
        jpeg_range2=(80.0, 95.0),
        second_order_prob=0.0,
    )


def tiny() -> ConfigDict:
    """Everything of `small` in seconds, for tests."""
    c = small()
    c.networks.denoiser.update(widths=(32, 32), embed_dim=32)
    c.diffusion.num_steps = 3
    c.data.gt_size = 32
    c.validation.update(count=2, gt_size=64)
    c.optimizer.student.warmup_steps = 2
    c.train.update(steps=20, log_every=5, evaluate_every=10, save_every=10)
    return c


def get_config(arg: str = "") -> ConfigDict:
    name, pairs = variant(arg, VARIANTS)
    return override({"": full, "small": small, "tiny": tiny}[name](), pairs)
