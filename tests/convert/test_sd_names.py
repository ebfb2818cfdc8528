import json
from pathlib import Path

import numpy as np
import pytest

from tadsr_jax.convert import names
from tadsr_jax.convert.sd_names import modern_vae_names
from tadsr_jax.convert.torch_file import StateDict
from tadsr_jax.networks.kl import AutoencoderKL

pytestmark = pytest.mark.quick

LISTS = Path(__file__).parent.parent / "fixtures/lists"
TODAY = {name: np.zeros(shape, np.float32) for name, shape in json.loads((LISTS / "sd2_vae.json").read_text()).items()}


def test_todays_names_stay():
    assert list(modern_vae_names(TODAY)) == list(TODAY)


def test_attention_of_the_published_files_is_renamed():
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    published = {}
    for name, array in TODAY.items():
        for today, before in old.items():
            name = name.replace(f".{today}.", f".{before}.")
        published[name] = array
    assert set(published) - set(TODAY) and list(modern_vae_names(published)) == list(TODAY)


@pytest.mark.parametrize(
    ("latent_diffusion", "today"),
    [
        ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
        ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
        ("encoder.mid.block_2.norm1.weight", "encoder.mid_block.resnets.1.norm1.weight"),
        ("encoder.norm_out.bias", "encoder.conv_norm_out.bias"),
        ("decoder.mid.attn_1.norm.weight", "decoder.mid_block.attentions.0.group_norm.weight"),
        ("decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
        ("decoder.up.3.block.2.conv1.weight", "decoder.up_blocks.0.resnets.2.conv1.weight"),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
        ("decoder.up.0.block.0.norm2.weight", "decoder.up_blocks.3.resnets.0.norm2.weight"),
        ("decoder.conv_in.weight", "decoder.conv_in.weight"),
        ("post_quant_conv.bias", "post_quant_conv.bias"),
        ("module.encoder.mid.attn_1.q.bias", "module.encoder.mid_block.attentions.0.to_q.bias"),
        ("step", "step"),
    ],
)
def test_names_of_latent_diffusion_are_those_of_diffusers(latent_diffusion, today):
    four_levels = {"decoder.up.3.block.0.norm1.weight": np.zeros(1)}
    assert today in modern_vae_names({**four_levels, latent_diffusion: np.zeros(1)})


def test_projections_that_were_convolutions_become_matrices_and_load():
    before = {}
    for name, array in TODAY.items():
        is_projection = ".to_" in name and name.endswith("weight")
        before[name.replace("to_q", "query")] = array[:, :, None, None] if is_projection else array
    q = "encoder.mid_block.attentions.0.query.weight"
    before[q] = before[q] + np.arange(512, dtype=np.float32)[:, None, None, None]  # one number a row
    modern = modern_vae_names(before)
    variables = names.to_flax(AutoencoderKL(), modern)
    kernel = variables["params"]["encoder"]["mid_block.attentions.0"]["to_q"]["kernel"]
    np.testing.assert_array_equal(kernel[3], np.arange(512))  # our layout: inputs first
    assert modern["quant_conv.weight"].shape == (8, 8, 1, 1)


def test_an_entry_under_both_names_counts_as_repeated():
    query, to_q = (f"encoder.mid_block.attentions.0.{name}.bias" for name in ("query", "to_q"))
    assert modern_vae_names({query: np.zeros(1), to_q: np.ones(1)}).repeated == (to_q,)
    assert modern_vae_names(StateDict({query: np.zeros(1)}, [query])).repeated == (to_q,)
