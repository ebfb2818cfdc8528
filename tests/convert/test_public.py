"""Whole models: files into a bundle and back, bit by bit; everything that is wrong in one line, before any write."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tadsr_jax import bundles
from tadsr_jax.convert import names, presets, public, torch_file, torch_save
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tadsr_jax.networks.space_to_depth import SpaceToDepth
from tadsr_jax.networks.unet_small import SmallUNet
from tests.parity import synth
from tests.parity.cases import Case

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASE = Case(FIXTURES / "image_to_image/one_step_chopped", FIXTURES)
CONFIG = CASE.config
PARTS = {"student": "unet", "autoencoder": "autoencoder"}


@pytest.fixture(scope="module")
def weights():
    return {part: CASE.weights(part) for part in PARTS.values()}


def write_files(folder, weights, *, suffix=".pth", **changes):
    """{unet, autoencoder: path}; `changes` map a part to a function of its arrays."""
    folder.mkdir(exist_ok=True)
    return {
        part: torch_save.write(folder / f"{part}{suffix}", changes.get(part, dict)(weights[part])) for part in weights
    }


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """(folder of the bundle, report)."""
    folder = tmp_path_factory.mktemp("public")
    files = write_files(folder / "files", weights)
    return folder / "bundle", public.resshift(**files, config=CONFIG, output=folder / "bundle")


def refusal(tmp_path, **arguments) -> str:
    with pytest.raises(ValueError) as error:
        public.resshift(**{"config": CONFIG, "output": tmp_path / "bundle"} | arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "bundle").exists()
    return str(error.value)


def assert_equal_files(path, wanted, *, buffers=()):
    """The file holds the wanted entries bit by bit, and the buffers."""
    found = torch_file.read(path)
    assert set(found) == {*wanted, *buffers}
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name
    return found


def test_a_bundle_says_what_it_was_made_of_and_how_to_sample(made, weights):
    folder, report = made
    info = bundles.describe(folder)
    assert (info["steps"], info["sampler"], info["scale"], info["color_fix"]) == (1, "deterministic", 4, "none")
    assert info["public_config"] == CONFIG and "preset" not in info
    for name, part in PARTS.items():
        network, source = report["networks"][name], folder.parent / f"files/{part}.pth"
        assert info["sources"][name] == {"file": f"{part}.pth", "sha256": bundles.file_sha256(source)}
        assert network["source_sha256"] == bundles.file_sha256(source)
        assert network["sha256"] == bundles.file_sha256(folder / f"{name}.safetensors")
        assert network["tree_sha256"] == bundles.tree_sha256(bundles.load(folder).params[name])
        assert network["tensors"] == len(weights[part]) and network["dtype"] == "float32"
        assert network["parameters"] == sum(array.size for array in weights[part].values())
    assert report["notes"] == [
        "chop_size, chop_stride, padding_offset of the configuration have no effect: `tadsr upscale` tiles differently"
    ]
    assert report["next"] == f"tadsr upscale photo.png --weights {folder}"
    assert json.loads(json.dumps(report)) == report


def test_the_bundle_holds_the_weights_under_our_names(made, weights):
    bundle = bundles.load(made[0])
    for name, part in PARTS.items():
        module = bundles.module_of(bundle.family, name)
        wanted = flatten_dict(names.to_flax(module, weights[part])["params"])
        found = flatten_dict(bundle.params[name])
        assert found.keys() == wanted.keys()
        for path in wanted:
            np.testing.assert_array_equal(found[path], wanted[path])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", PARTS)
def test_the_way_back_gives_the_public_file_bit_by_bit(made, weights, tmp_path, name, suffix):
    module, params = bundles.load_network(made[0], name)
    report = public.write(tmp_path / f"back{suffix}", {"params": params}, module=module)
    buffers = names.constant_buffers(module)
    found = assert_equal_files(tmp_path / f"back{suffix}", weights[PARTS[name]], buffers=buffers)
    assert all(np.array_equal(found[key], buffer) for key, buffer in buffers.items())
    assert report["buffers"] == len(buffers) and report["tensors"] == len(weights[PARTS[name]])
    assert report["network"] == {"student": "UNetModelSwin", "autoencoder": "VQModelTorch"}[name]
    if suffix == ".pth":
        assert list(found) == sorted(found, key=names.public_order)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_makes_the_round_trip_too(weights, tmp_path, dtype):
    """All of the U-Net, as `model.half()`, its floating-point buffers too; of the autoencoder, only kernels."""
    halve = lambda arrays: {key: a.astype(dtype) if a.dtype == np.float32 else a for key, a in arrays.items()}
    kernels = lambda arrays: {key: a.astype(dtype) if a.ndim == 4 else a for key, a in arrays.items()}
    files = write_files(tmp_path, weights, unet=halve, autoencoder=kernels)
    report = public.resshift(**files, config=CONFIG, output=tmp_path / "b")
    assert report["networks"]["student"]["dtype"] == np.dtype(dtype).name
    assert report["networks"]["autoencoder"]["dtype"] == ", ".join(sorted([np.dtype(dtype).name, "float32"]))
    for name, part in PARTS.items():
        module, params = bundles.load_network(tmp_path / "b", name)
        public.write(tmp_path / "back.pth", {"params": params}, module=module, overwrite=True)
        buffers = names.constant_buffers(module)
        found = assert_equal_files(tmp_path / "back.pth", torch_file.read(files[part]), buffers=buffers)
        masks = {found[key].dtype for key in buffers if key.endswith("attn_mask")}
        assert masks == ({np.dtype(dtype)} if part == "unet" else set())


def test_prefixes_buffers_and_leftovers_of_training_are_left_out_and_told(weights, tmp_path, made):
    module = bundles.load(made[0]).family.networks["denoiser"]
    wrapped = lambda arrays: {
        f"module._orig_mod.{key}": a for key, a in {**arrays, **names.constant_buffers(module)}.items()
    }
    losses = {"loss.discriminator.main.0.weight": np.zeros(3, np.float32), "model_ema.decay": np.float32([0.999])}
    files = write_files(tmp_path, weights, unet=wrapped, autoencoder=lambda arrays: {**arrays, **losses})
    report = public.resshift(**files, config=CONFIG, output=tmp_path / "b")
    assert "left out of autoencoder.pth: 2 entries of its training (loss.*, model_ema.*)" in report["notes"]
    assert not any("constant buffers" in note for note in report["notes"])
    for name, network in made[1]["networks"].items():
        assert report["networks"][name]["tree_sha256"] == network["tree_sha256"]


def test_buffers_of_another_configuration_are_noted(weights, tmp_path, made):
    module = bundles.load(made[0]).family.networks["denoiser"]
    masks = {key: a + 1 for key, a in names.constant_buffers(module).items() if key.endswith("attn_mask")}
    files = write_files(tmp_path, weights, unet=lambda arrays: {**arrays, **masks})
    notes = public.resshift(**files, config=CONFIG, output=tmp_path / "b")["notes"]
    assert any(f"{len(masks)} constant buffers of unet.pth are not those of this configuration" in n for n in notes)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_rounded_weights_and_such_as_are_no_numbers_are_noted(weights, tmp_path, suffix):
    first, second, *_ = weights["unet"]
    nan = lambda arrays: {**arrays, first: arrays[first] * np.float32(np.nan), second: arrays[second] / np.float32(0)}
    double = lambda arrays: {f"module.{key}": array.astype(np.float64) for key, array in arrays.items()}
    with np.errstate(all="ignore"):
        files = write_files(tmp_path, weights, unet=nan, autoencoder=double, suffix=suffix)
    notes = public.resshift(**files, config=CONFIG, output=tmp_path / "b")["notes"]
    assert f"2 tensors of unet{suffix} hold NaN or infinite numbers ({min(first, second)}, ...)" in [
        note.replace(first, min(first, second)) for note in notes
    ]
    (rounded,) = (note for note in notes if "float64" in note)
    count = len(weights["autoencoder"])
    assert rounded.startswith(
        f"{count} tensors of autoencoder{suffix} are float64 and were rounded to float32 (module."
    )
    assert bundles.describe(tmp_path / "b")["networks"]["autoencoder"]["dtype"] == "float32"


def test_all_that_is_wrong_with_both_files_is_one_error(weights, tmp_path):
    def spoil(arrays):
        broken = {f"module.{key}": array for key, array in arrays.items()}
        del broken["module.out.2.bias"]
        broken["module.out.2.weight"] = np.zeros((3, 3), np.float32)
        return broken | {"out.0.bias": arrays["out.0.bias"]} | {f"extra.{i}": np.zeros(1) for i in range(20)}

    files = write_files(tmp_path, weights, unet=spoil, autoencoder=lambda arrays: {"quant_conv.bias": np.zeros(3)})
    message = refusal(tmp_path, **files)
    assert "1 missing: out.2.bias;" in message and "1 of another shape: out.2.weight (3, 3), expected" in message
    assert "1 more than once: out.0.bias." in message
    assert all(f"extra.{i}" in message for i in range(20)), "no name is left out"
    missing = [name for name in weights["autoencoder"] if name != "quant_conv.bias"]
    assert f"{len(missing)} missing: " in message and all(name in message for name in missing)


def test_files_that_were_exchanged_are_recognised(weights, tmp_path):
    files = write_files(tmp_path, weights)
    message = refusal(tmp_path, unet=files["autoencoder"], autoencoder=files["unet"])
    assert "They seem to belong to VQModelTorch" in message and "They seem to belong to UNetModelSwin" in message


def test_a_file_that_cannot_be_read_does_not_hide_what_is_wrong_with_the_other(weights, tmp_path):
    files = write_files(tmp_path, weights, autoencoder=lambda arrays: {"a": np.zeros(1)})
    files["unet"].write_bytes(files["unet"].read_bytes()[:1000])
    message = refusal(tmp_path, **files)
    assert "unet.pth: the file is damaged" in message and "1 surplus: a." in message


def test_a_preset_or_a_configuration_is_needed_unless_the_file_has_a_public_name(weights, tmp_path):
    files = write_files(tmp_path, weights)
    assert (
        "the name of the file is not that of a public U-Net; say what it holds with --preset (resshift-realsr-v1,"
        in (refusal(tmp_path, **files, config=None))
    )
    assert "give one" in refusal(tmp_path, **files, preset="sinsr-v1")
    message = refusal(tmp_path, unet=files["unet"], preset="sinsr-v1", config=None)
    assert message == (
        "preset sinsr-v1 has an autoencoder, and no file is given for it: add --autoencoder autoencoder_vq_f4.pth "
        "(`tadsr download vq-f4` fetches it)."
    )
    named = files["unet"].rename(tmp_path / "resshift_faceir_s4.pth")
    message = refusal(tmp_path, unet=named, config=None)
    assert message.startswith("preset resshift-faceir") and "ffhq512_vq_f8_dim8_face.pth" in message


def test_weights_of_another_release_than_the_preset_are_refused(weights, tmp_path):
    message = refusal(tmp_path, **write_files(tmp_path, weights), preset="tad-sr", config=None)
    assert "unet.pth do not fit this network." in message and "autoencoder.pth do not fit this network." in message


def test_steps_and_sampler_can_be_given_for_a_model_that_has_them(weights, tmp_path):
    files = write_files(tmp_path, weights)
    about = public.resshift(**files, config=CONFIG, output=tmp_path / "b", steps=4, sampler="stochastic")
    assert (about["steps"], about["sampler"]) == (4, "stochastic")
    assert "--steps is 16; this model has 1 to 15" in refusal(tmp_path, **files, steps=16)
    assert "--sampler is 'euler'; expected one of deterministic, stochastic" in refusal(
        tmp_path, **files, sampler="euler"
    )


def test_a_schedule_that_hangs_on_a_missing_cap_is_noted(weights, tmp_path):
    config = {key: value for key, value in CONFIG.items() if key != "eta_start_cap"}
    config |= {"diffusion": CONFIG["diffusion"] | {"min_noise_level": 0.2, "steps": 4}}
    notes = public.resshift(**write_files(tmp_path, weights), config=config, output=tmp_path / "b")["notes"]
    assert any(note.startswith("eta_start_cap is not in the configuration and was taken as true") for note in notes)


def test_files_that_are_called_as_a_release_bring_its_terms(weights, tmp_path):
    files = write_files(tmp_path, weights)
    named = files["unet"].rename(tmp_path / "SinSR_v2.pth")
    public.resshift(named, files["autoencoder"], config=CONFIG, output=tmp_path / "b")
    sources = bundles.describe(tmp_path / "b")["sources"]
    assert sources["student"]["release"] == "sinsr-v2"
    assert sources["student"]["licence"].startswith("for non-commercial use")
    assert sources["autoencoder"].keys() == {"file", "sha256"}


def test_only_a_bundle_is_replaced_and_only_when_asked(weights, tmp_path, made):
    files = write_files(tmp_path / "files", weights)
    again = lambda output, **options: public.resshift(**files, config=CONFIG, output=output, **options)
    (tmp_path / "empty").mkdir()
    before = (Path(again(tmp_path / "empty")["bundle"]) / "bundle.json").read_bytes()
    with pytest.raises(ValueError, match="holds a bundle already; choose another folder, or give --overwrite"):
        again(tmp_path / "empty")
    assert (tmp_path / "empty/bundle.json").read_bytes() == before
    assert again(tmp_path / "empty", overwrite=True, steps=2)["steps"] == 2
    for precious in (tmp_path / "files", files["unet"]):
        with pytest.raises(ValueError, match="exists and is no bundle"):
            again(precious, overwrite=True)
    assert files["unet"].is_file()


def test_a_file_is_replaced_only_when_asked(made, tmp_path):
    module, params = bundles.load_network(made[0], "autoencoder")
    (tmp_path / "a.pth").write_text("precious")
    with pytest.raises(ValueError, match=r"a\.pth exists; choose another name, or give --overwrite"):
        public.write(tmp_path / "a.pth", {"params": params}, module=module)
    assert (tmp_path / "a.pth").read_text() == "precious"


def test_the_discriminator_is_written_with_its_vectors_in_the_public_order(tmp_path):
    """All entries of the released state dict, parameters and buffers, at full size in names and tiny in numbers."""
    module = TimeAwareDiscriminator(c_dim=64, embed_dim=160)
    wanted = json.loads((FIXTURES / "lists/tadsr_discriminator_full.json").read_text())
    features, t = module.example_inputs()
    variables = abstract_variables(module, features, t, update_stats=False)
    variables = {
        part: unflatten_dict(
            {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in flatten_dict(tree).items()}
        )
        for part, tree in variables.items()
    }
    arrays = public.state_dict(variables, module=module)
    assert {name: list(array.shape) for name, array in arrays.items()} == wanted
    assert list(arrays) == list(wanted)


def test_networks_of_ours_alone_keep_our_paths_as_names(tmp_path):
    module = SmallUNet(latent_channels=12, widths=(32,), blocks=1, embed_dim=8)
    shapes = flatten_dict(abstract_variables(module)["params"])
    rng = np.random.default_rng(0)
    params = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    report = public.write(tmp_path / "a.pth", {"params": unflatten_dict(params)}, module=module)
    found = torch_file.read(tmp_path / "a.pth")
    np.testing.assert_array_equal(found["stem.weight"], params["stem", "kernel"].transpose(3, 2, 0, 1))
    assert report["network"] is None and "SmallUNet has no public counterpart" in report["notes"][0]
    with pytest.raises(ValueError, match=r"nothing to write to .*: SpaceToDepth has no weights"):
        public.write(tmp_path / "b.pth", {"params": {}}, module=SpaceToDepth())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_full_size_makes_the_round_trip_bit_by_bit(tmp_path, suffix):
    lists = {"unet": "resshift_unet_realsrx4", "autoencoder": "vq_f4"}
    weights = {
        part: synth.weights(json.loads((FIXTURES / f"lists/{file}.json").read_text())) for part, file in lists.items()
    }
    files = write_files(tmp_path, weights, suffix=suffix)
    report = public.resshift(**files, preset="tad-sr", output=tmp_path / "b")
    counts = {name: network["parameters"] for name, network in report["networks"].items()}
    assert counts == {"student": 118_593_583, "autoencoder": 55_322_782}
    for name, part in PARTS.items():
        module, params = bundles.load_network(tmp_path / "b", name)
        public.write(tmp_path / f"back{suffix}", {"params": params}, module=module, overwrite=True)
        assert_equal_files(tmp_path / f"back{suffix}", weights[part], buffers=names.constant_buffers(module))
    assert presets.PRESETS["tad-sr"].config == bundles.describe(tmp_path / "b")["public_config"]
