"""Presets: every public release, against the recorded constructors and schedules of the public code."""

import json
import math
from pathlib import Path

import pytest

from tadsr_jax.convert import presets, settings
from tadsr_jax.convert.presets import PRESETS
from tadsr_jax.diffusion.shift import shift_schedule
from tadsr_jax.families import FAMILIES
from tadsr_jax.networks import unet_swin, vq
from tadsr_jax.recipes import RECIPES
from tadsr_jax.releases import RELEASES

pytestmark = pytest.mark.quick

CASES = Path(__file__).parents[1] / "fixtures"


def case(name):
    return json.loads((CASES / name / "case.json").read_text())


@pytest.mark.parametrize("arch", ["realsrx4", "faceir", "inpaint", "x2"])
def test_the_u_net_of_a_release_is_the_recorded_one(arch):
    recorded = case(f"state_dict_shapes/resshift_unet_{arch}")
    keys = [presets.by_file(file) for file in recorded["releases"]] or ["resshift-realsr-x2"]
    for key in keys:
        unet = unet_swin.from_public(**PRESETS[key].config["unet"])
        assert unet == unet_swin.from_public(**recorded["config"]), key


@pytest.mark.parametrize("kind", ["vq_f4", "vq_f8_face512"])
def test_the_autoencoder_of_a_release_is_the_recorded_one(kind):
    recorded = case(f"state_dict_shapes/{kind}")
    releases = {presets.by_file(file) for file in recorded["releases"]}
    of_kind = {key for key in PRESETS if presets.autoencoder_of(key) in releases}
    assert {presets.autoencoder_of(key) for key in of_kind} == releases
    for key in of_kind:
        assert vq.from_public(**PRESETS[key].config["autoencoder"]) == vq.from_public(**recorded["config"])


@pytest.mark.parametrize(
    ("key", "recorded"),
    [
        ("resshift-realsr-v1", "realsr_s15_v1v2_sinsr_tadsr"),
        ("sinsr-v2", "realsr_s15_v1v2_sinsr_tadsr"),
        ("tad-sr", "realsr_s15_v1v2_sinsr_tadsr"),
        ("resshift-realsr-v3", "journal_s4"),
        ("resshift-bicsr", "journal_s4"),
    ],
)
def test_the_diffusion_of_a_release_is_the_recorded_one(key, recorded):
    wanted = case(f"schedule/{recorded}")["config"]
    assert PRESETS[key].config["diffusion"] == wanted["diffusion"]
    assert PRESETS[key].config["eta_start_cap"] == wanted["eta_start_cap"]


@pytest.mark.parametrize(
    ("key", "start"),
    [
        ("resshift-realsr-v1", 0.04 / 2),
        ("resshift-faceir", 0.2 / 2),  # the journal version does not cap the start
        ("tad-faceir", math.sqrt(0.001)),  # TAD-SR distilled that model with the capped schedule
        ("resshift-bicsr-opencv", math.sqrt(0.001)),  # kappa 1: 0.04 is capped
        ("resshift-bicsr-matlab", 0.04 / 2),
    ],
)
def test_schedules_start_where_the_release_starts(key, start):
    made = settings.family_settings(PRESETS[key].config)
    assert shift_schedule(**made["diffusion"]).sqrt_eta[0] == pytest.approx(start, rel=1e-12)


@pytest.mark.parametrize("key", PRESETS)
def test_every_preset_makes_a_family_whose_lq_fits_the_public_padding(key):
    preset = PRESETS[key]
    made = settings.family_settings(preset.config)
    assert json.loads(json.dumps(made)) == made, "bundle.json must be able to hold it"
    family = FAMILIES["resshift"](**made)
    lq_size = preset.config["unet"]["lq_size"]
    assert family.multiple == lq_size, "a 64x64 latent"
    assert family.latent(lq_size, lq_size) == (64, 64, preset.config["unet"]["in_channels"])
    assert family.extras == (("mask",) if "inpaint" in key else ())
    assert preset.recipe in RECIPES and preset.sampler in ("stochastic", "deterministic")
    one_step = preset.recipe in ("sinsr", "tadsr")
    assert (preset.steps, preset.sampler) == ((1, "deterministic") if one_step else (preset.steps, "stochastic"))
    assert one_step or preset.steps == family.schedule.num_steps


def test_the_table_of_releases_and_the_presets_tell_the_same():
    u_nets = {key for key, release in RELEASES.items() if release.part == "unet"}
    assert {*PRESETS} == u_nets | {"resshift-realsr-x2"}, "of which no weights were published"
    for key in u_nets:
        release, preset = RELEASES[key], PRESETS[key]
        assert (release.scale, release.steps) == (preset.config["diffusion"]["sf"], preset.steps)
        assert presets.find(release.file) == presets.find(key) == key, "no two releases share a name"


@pytest.mark.parametrize(
    "name", ["sinsr-v2", "SinSR_v2", "SinSR_v2.pth", "sinsr_V2.safetensors", "./weights/SinSR_v2.ckpt"]
)
def test_a_preset_is_found_by_its_name_or_its_file_in_any_spelling(name):
    assert presets.find(name) == "sinsr-v2"


def test_a_file_tells_its_preset_only_if_it_is_called_as_the_release():
    assert presets.by_file("weights/resshift_realsrx4_s4_v3.pth") == "resshift-realsr-v3"
    assert presets.by_file("resshift_realsrx4_s15.pth") == "resshift-realsr-v0"
    assert presets.by_file("resshift_inpaint_face_s4.pth") == "resshift-inpaint-face"
    assert presets.find("realsr-v2") == "resshift-realsr-v2"
    assert presets.by_file("model_300000.pth") is None


def test_an_unknown_preset_is_answered_with_all_of_them():
    with pytest.raises(ValueError, match=r"preset is 'sinsr-v3'; expected one of .*tad-faceir. Did you mean sinsr-v"):
        presets.find("sinsr-v3")
