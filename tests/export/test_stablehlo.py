"""A model as StableHLO computes what the model computes, at any batch and size, for whoever has jax alone."""

import json
import os
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from jax import export as jax_export
from safetensors.numpy import load_file

from tadsr_jax import bundles, export
from tadsr_jax.export import stablehlo
from tadsr_jax.families import resshift, seesr_build
from tadsr_jax.types import Bundle
from tests import tiny_seesr
from tests.runs import trained
from tests.toys import randomised, tiny_family

pytestmark = pytest.mark.xdist_group("trained")  # one worker makes the run

# One level of the full-size networks; as wide as convolutions have to be for the forms that a CPU prefers.
SWIN = {"kind": "swin", "image_size": 32, "model_channels": 32, "attention_resolutions": (32,), "channel_mult": (1,),
        "num_res_blocks": 1, "num_head_channels": 16, "swin_embed_dim": 32, "window_size": 16}  # fmt: skip
VQ = {"kind": "vq", "n_embed": 64, "ch": 64, "ch_mult": (1, 1), "num_res_blocks": 1, "resolution": 64}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory)


def model_of(family, **info) -> Bundle:
    params = randomised(bundles.expected_shapes(family), 0.1)
    return Bundle(family=family, params=params, info={"scale": family.scale} | info)


def small(**info) -> Bundle:
    return model_of(tiny_family(), **info)


def inpainting(**info) -> Bundle:
    denoiser = SWIN | {"lq_size": 64, "cond_mask": True}
    diffusion = {"num_steps": 4, "kappa": 2.0}
    return model_of(resshift.build(scale=1, denoiser=denoiser, autoencoder=VQ, diffusion=diffusion), **info)


def second_family(**info) -> Bundle:
    family = seesr_build.build(**tiny_seesr.SETTINGS)
    return Bundle(family=family, params=tiny_seesr.random_params(family), info={"scale": family.scale} | info)


def written(folder, model: Bundle):
    """What a stranger has: (program, weights, manifest)."""
    folder.mkdir()
    stablehlo.write(folder, model)
    manifest = json.loads((folder / "manifest.json").read_text())
    program = jax_export.deserialize(bytearray((folder / manifest["program"]["file"]).read_bytes()))
    return program, load_file(folder / manifest["weights"]["file"]), manifest


def inputs_of(manifest: dict, *, b: int, h: int, w: int) -> list[np.ndarray]:
    """Random arguments of a call, made from what the manifest says alone."""
    rng, sizes, made = np.random.default_rng(b), {"b": b, "h": h, "w": w}, []
    for entry in manifest["inputs"]:
        shape = [size if isinstance(size, int) else size[0] * sizes[size[1]] for size in entry["shape"]]
        drawn = {"lq": rng.uniform(-1, 1, shape), "noise": rng.normal(size=shape), "mask": rng.choice([-1, 1], shape)}
        made.append(np.float32(drawn[entry["name"]]))
    return made


@pytest.mark.parametrize(
    ("make", "steps", "sampler", "calls"),
    [
        (small, 1, "deterministic", ({"b": 1, "h": 4, "w": 6}, {"b": 2, "h": 6, "w": 2})),
        (small, 2, "stochastic", ({"b": 1, "h": 4, "w": 6}, {"b": 2, "h": 6, "w": 2})),
        (inpainting, 1, "deterministic", ({"b": 2, "h": 2, "w": 1},)),  # takes long to compile
        (second_family, 2, "stochastic", ({"b": 2, "h": 4, "w": 6},)),
    ],
)
def test_the_program_equals_the_model_at_every_batch_and_size(tmp_path, make, steps, sampler, calls):
    model = make(steps=steps, sampler=sampler)
    family = model.family
    program, weights, manifest = written(tmp_path / "out", model)
    assert program.platforms == ("cpu", "cuda", "tpu")
    sample = jax.jit(partial(family.sample, steps=steps, stochastic=sampler == "stochastic"))
    for sizes in calls:
        lq, noise, *extras = inputs_of(manifest, **sizes)
        assert lq.shape[1] == family.multiple * sizes["h"]
        wanted = sample(model.params, lq, noise, extra=dict(zip(family.extras, extras, strict=True)))
        found = program.call(weights, lq, noise, *extras)
        assert found.shape == wanted.shape == (lq.shape[0], *(family.scale * side for side in lq.shape[1:3]), 3)
        assert np.std(wanted) > 0.1
        # Pictures in [-1, 1]; sums of some hundred float32 products in another order, through some ten layers.
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_what_the_model_could_be_told_and_the_colour_fix_are_said_to_be_left_out(tmp_path):
    model = second_family(steps=1, sampler="stochastic", color_fix="adain")
    _, _, manifest = written(tmp_path / "out", model)
    told, fixed = manifest["left_out"]
    assert "tags, words, guidance" in told and "adain" in fixed
    assert f"not in the program: {told}" in (tmp_path / "out" / "README.md").read_text()
    assert written(tmp_path / "small", small())[2]["left_out"] == []


def test_the_manifest_says_in_what_order_the_weights_come_and_what_goes_in_and_out(tmp_path):
    model = small(steps=2, sampler="stochastic", recipe="teacher", sources={"pictures": "demo"})
    program, weights, manifest = written(tmp_path / "out", model)
    ordered = jax.tree.leaves(weights)
    assert len(ordered) == len(manifest["weights"]["order"]) == len(program.in_avals) - 2
    for name, leaf, argument in zip(manifest["weights"]["order"], ordered, program.in_avals):
        np.testing.assert_array_equal(weights[name], leaf)
        assert leaf.shape == argument.shape
    network, *path = manifest["weights"]["order"][0].split("/")
    found = model.params[network]
    for key in path:
        found = found[key]
    np.testing.assert_array_equal(found, ordered[0])
    lq, noise = manifest["inputs"]
    assert (lq["name"], lq["shape"]) == ("lq", [[1, "b"], [1, "h"], [1, "w"], 3])
    assert (noise["name"], noise["shape"]) == ("noise", [[1, "b"], 3, [1, "h"], [1, "w"], 12])
    assert manifest["output"]["shape"] == [[1, "b"], [2, "h"], [2, "w"], 3]
    assert (manifest["scale"], manifest["steps"], manifest["multiple"]) == (2, 2, 1)
    assert manifest["recipe"] == "teacher" and manifest["sources"] == {"pictures": "demo"}


def test_the_program_holds_no_weights_and_refuses_sizes_that_do_not_fit(run, tmp_path):
    program, weights, manifest = written(tmp_path / "out", bundles.load(run / "bundle"))
    size = (tmp_path / "out" / "model.stablehlo").stat().st_size
    assert size < 0.1 * sum(leaf.nbytes for leaf in weights.values())
    lq, noise = inputs_of(manifest, b=1, h=4, w=4)
    assert manifest["multiple"] == 2 and lq.shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="remainder"):
        program.call(weights, lq[:, :7], noise)


def test_the_loader_beside_it_needs_neither_this_package_nor_flax(run, tmp_path):
    folder = export.export(run / "bundle", tmp_path / "out", format="stablehlo")
    files = {"README.md", "loader.py", "manifest.json", "model.stablehlo", "weights.safetensors"}
    assert {path.name for path in folder.iterdir()} == files
    picture = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
    np.save(tmp_path / "picture.npy", picture)
    code = 'import runpy, sys; sys.modules["tadsr_jax"] = sys.modules["flax"] = None; sys.argv = sys.argv[1:]; '
    code += 'runpy.run_path("loader.py", run_name="__main__")'
    command = [sys.executable, "-c", code, "loader.py", str(tmp_path / "picture.npy"), str(tmp_path / "enlarged.npy")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    child = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr

    model = bundles.load(run / "bundle")
    assert model.info["steps"] == 3
    lq = np.concatenate([picture, picture[-2:-1]])[None] / np.float32(127.5) - 1  # mirrored to an even height
    noise = np.random.default_rng(0).standard_normal((1, 6, 8, 48), np.float32)
    wanted = np.asarray(jax.jit(partial(model.family.sample, steps=3))(model.params, lq, noise))
    found = np.load(tmp_path / "enlarged.npy")
    assert found.shape == (20, 32, 3) and found.dtype == np.uint8 and found.std() > 20
    np.testing.assert_allclose(found, (wanted[0, :20] + 1) * 127.5, atol=0.51)  # rounded to levels
