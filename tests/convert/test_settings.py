"""Public configurations in our words: what they mean, and that nothing unknown or contradictory passes."""

import copy
import json

import pytest

from tadsr_jax.convert import settings

pytestmark = pytest.mark.quick

SMALL = {
    "diffusion": {
        "sf": 2,
        "schedule_name": "exponential",
        "schedule_kwargs": {"power": 0.3},
        "etas_end": 0.99,
        "steps": 15,
        "min_noise_level": 0.04,
        "kappa": 2.0,
        "weighted_mse": False,
        "predict_type": "xstart",
        "timestep_respacing": None,
        "scale_factor": 1.0,
        "normalize_input": True,
        "latent_flag": True,
    },
    "eta_start_cap": False,
    "unet": {
        "image_size": 8,
        "in_channels": 3,
        "model_channels": 32,
        "out_channels": 3,
        "attention_resolutions": [8],
        "dropout": 0,
        "channel_mult": [1, 2],
        "num_res_blocks": [1, 1],
        "dims": 2,
        "use_fp16": False,
        "num_head_channels": 16,
        "swin_embed_dim": 32,
        "window_size": 4,
        "lq_size": 8,
    },
    "autoencoder": {
        "embed_dim": 3,
        "n_embed": 16,
        "ddconfig": {"double_z": False, "z_channels": 3, "resolution": 16, "ch": 32, "ch_mult": [1, 2],
                     "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0, "padding_mode": "zeros"},
    },
}  # fmt: skip


def changed(section=None, **changes):
    config = copy.deepcopy(SMALL)
    (config if section is None else config[section]).update(changes)
    return config


def refusal(config) -> str:
    with pytest.raises(ValueError) as error:
        settings.family_settings(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_configuration_becomes_plain_settings_with_every_number_spelt_out():
    made = settings.family_settings(SMALL)
    assert json.loads(json.dumps(made)) == made
    assert made["scale"] == 2
    assert made["denoiser"] | {"kind": "swin", "image_size": 8, "mlp_ratio": 4, "patch_norm": False} == made["denoiser"]
    assert made["autoencoder"] | {"kind": "vq", "ch_mult": [1, 2], "in_channels": 3} == made["autoencoder"]
    assert made["diffusion"] == {
        "num_steps": 15, "kappa": 2.0, "min_noise_level": 0.04, "etas_end": 0.99, "power": 0.3, "cap_start": False,
        "predict": "xstart", "input_scaling": "latent",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({"normalize_input": False}, {"input_scaling": "none"}),
        ({"latent_flag": False}, {"input_scaling": "pixel"}),
        ({"predict_type": "residual", "scale_factor": None}, {"predict": "residual"}),
    ],
)
def test_options_of_the_diffusion(changes, ours):
    made = settings.family_settings(changed("diffusion", **changes))["diffusion"]
    assert made | ours == made


def test_without_an_autoencoder_latents_are_pictures():
    config = {key: value for key, value in SMALL.items() if key != "autoencoder"}
    assert settings.family_settings(config)["autoencoder"] == {"kind": "space_to_depth", "factor": 1}


@pytest.mark.parametrize("sinsr", [{"in_channels": 6}, {"in_channels": 6, "lq_size": None}])
def test_sinsr_counts_the_channels_of_the_lq_among_the_inputs(sinsr):
    config = changed("unet", **sinsr)
    if sinsr.get("lq_size", 8) is None:
        del config["unet"]["lq_size"]
    assert settings.family_settings(config) == settings.family_settings(SMALL)


def test_all_that_is_unknown_or_not_supported_is_said_at_once():
    config = changed(surprise=1)
    config["diffusion"] |= {"beta": 1}
    config["unet"] |= {"depth": 3}
    config["autoencoder"]["ddconfig"] |= {"tanh_out": True}
    message = refusal(config)
    assert all(key in message for key in ("unknown keys: surprise", "beta", "depth", "tanh_out"))
    message = refusal(changed("unet", dropout=0.1) | {"diffusion": SMALL["diffusion"] | {"schedule_name": "ldm"}})
    assert "dropout must be 0" in message and "schedule_name is 'ldm'; only 'exponential' is supported" in message


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("diffusion", {"sf": 0}, "diffusion.sf is 0; expected a whole number, 1 or more"),
        ("diffusion", {"sf": 4}, "unet.lq_size is 8, but at sf 4 a latent of 8 belongs to an LQ of 4"),
        ("diffusion", {"steps": 1}, "num_steps is 1"),
        ("diffusion", {"kappa": "2"}, "kappa is '2'; expected float"),
        ("diffusion", {"scale_factor": 0.18}, "scale_factor is 0.18"),
        ("diffusion", {"schedule_kwargs": {}}, "schedule_kwargs is {}; expected {'power': number}"),
        ("diffusion", {"timestep_respacing": "ddim4"}, "timestep_respacing is 'ddim4'; expected a number of steps"),
        (None, {"eta_start_cap": "no"}, "eta_start_cap is 'no'; expected true or false"),
        (None, {"unet": [1]}, "expected an object under 'unet', not [1]"),
        (None, {"diffusion": None}, "expected an object under 'diffusion'"),
        ("unet", {"in_channels": 4}, "unet.in_channels is 4, but latents have 3 channels"),
        ("unet", {"image_size": "8"}, "denoiser: "),
        ("unet", {"dtype": "bfloat16"}, "unknown keys: dtype"),
    ],
)
def test_what_makes_no_model_is_refused_with_its_name(section, changes, words):
    assert words in refusal(changed(section, **changes))


@pytest.mark.parametrize(
    ("mode", "respacing", "wanted"),
    [
        (None, None, (15, "stochastic")),
        ("p_sample", 4, (4, "stochastic")),
        ("p_sample", "20", (15, "stochastic")),  # more than there are: all
        ("ddim", "4", (4, "deterministic")),
        ("one_step", 15, (1, "deterministic")),
    ],
)
def test_the_mode_and_the_respacing_say_how_to_sample(mode, respacing, wanted):
    config = changed("diffusion", timestep_respacing=respacing) | ({"mode": mode} if mode else {})
    assert settings.sampling(config) == wanted


def test_one_step_of_a_respaced_chain_is_not_what_a_bundle_does():
    with pytest.raises(ValueError, match="set timestep_respacing to null"):
        settings.sampling(changed("diffusion", timestep_respacing=4) | {"mode": "one_step"})
    with pytest.raises(ValueError, match="mode is 'ddim_inverse'; expected one of p_sample, ddim, one_step"):
        settings.sampling(SMALL | {"mode": "ddim_inverse"})


def test_the_cap_of_the_start_matters_where_it_is_the_smallest_of_the_three():
    assert not settings.cap_matters(SMALL)  # 0.04 / 2 < 0.0316
    assert settings.cap_matters(changed("diffusion", min_noise_level=0.2))  # 0.1 > 0.0316


def test_a_configuration_is_read_from_json_bare_or_inside_a_larger_object(tmp_path):
    path = tmp_path / "c.json"
    for content in (SMALL, {"kind": "image_to_image", "config": SMALL}):
        path.write_text(json.dumps(content))
        assert settings.read(path) == SMALL
    for text, words in (("{", "not JSON"), ("[1]", "list instead of an object"), (None, "cannot be read")):
        path.write_text(text) if text else path.unlink()
        with pytest.raises(ValueError, match=words):
            settings.read(path)
