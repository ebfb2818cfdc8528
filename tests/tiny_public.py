"""Tiny public folders of the SeeSR family, as SeeSR and Stable Diffusion 2 are published, with synthesised weights."""

import functools
import json
from pathlib import Path

import numpy as np

from tadsr_jax.convert import names, sd_folder, torch_save
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.ram import RAM
from tests import tiny_tokenizer
from tests.parity import synth

LEVELS = {
    "attention_head_dim": [2, 4],
    "block_out_channels": [16, 32],
    "cross_attention_dim": 16,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "use_image_cross_attention": True,
    "use_linear_projection": True,
}
CONFIGS = {  # config.json as the public libraries write it
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.21.0",
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        **LEVELS,
    },
    "controlnet": {
        "_class_name": "ControlNetModel",
        "conditioning_embedding_out_channels": [8, 8, 8, 16],
        "controlnet_conditioning_channel_order": "rgb",
        **LEVELS,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [8, 8, 16, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 768,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "hidden_act": "gelu",
        "hidden_size": 16,
        "intermediate_size": 32,
        "max_position_embeddings": tiny_tokenizer.LENGTH,
        "model_type": "clip_text_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 32,
    },
    "scheduler": {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
}
TAGGER = RAM(
    image_size=32,
    window_size=4,
    embed_dim=8,
    depths=(1, 1),
    num_heads=(2, 2),
    num_class=3,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
)
TAGS, THRESHOLDS = ("cat", "sofa", "a cat"), (0.65, 0.8, 0.5)


@functools.cache
def weights_of(part: str) -> dict:
    """{public name: array}."""
    module = TAGGER if part == "tagger" else sd_folder.KINDS[part].build(**CONFIGS[part])
    return synth.weights(names.public_shapes(abstract_variables(module)))


def write_part(folder: Path, part: str, weights=None, *, config=None, file: str | None = None) -> Path:
    """A part as the public libraries write it."""
    place = folder / part
    place.mkdir(parents=True, exist_ok=True)
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    (place / name).write_text(json.dumps(CONFIGS[part] if config is None else config))
    if part != "scheduler":
        usual = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
        torch_save.write(place / (file or usual), weights_of(part) if weights is None else weights)
    return place


def write(folder: Path, *, model: str = "AddSR") -> dict:
    """All the files of a model below `folder`; the arguments of `convert.seesr.seesr`."""
    for part in ("unet", "controlnet"):
        write_part(folder / model, part)
    sd = folder / "sd2-base"
    for part in ("vae", "text_encoder", "scheduler"):
        write_part(sd, part)
    write_part(sd, "unet", {}, config={})  # the plain one, which nobody wants
    tiny_tokenizer.write(sd)
    torch_save.write(folder / "ram.pth", weights_of("tagger"))
    torch_save.write(folder / "DAPE.pth", updates())
    (folder / "tags.txt").write_text("\n".join(TAGS))
    (folder / "thresholds.txt").write_text("\n".join(map(str, THRESHOLDS)) + "\n")
    files = {"ram": "ram.pth", "dape": "DAPE.pth", "tags": "tags.txt", "thresholds": "thresholds.txt"}
    paths = {key: folder / file for key, file in files.items()}
    return {"model": folder / model, "sd": sd, "tagger": TAGGER, **paths}


def updates() -> dict:
    """A file like DAPE.pth: updates of rank 2 of one matrix of queries, keys and values, for queries and values."""
    name, rng = "visual_encoder.layers.0.blocks.0.attn.qkv", np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return {f"{name}.lora_A": draw(4, 8), f"{name}.lora_B": draw(16, 2)}
