"""Bundles: what is saved is what is loaded; what was tampered with, cut or made by a stranger is refused by name."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from tadsr_jax import bundles

SETTINGS = {
    "scale": 2,
    "diffusion": {"num_steps": 4, "kappa": 0.2, "min_noise_level": 0.04, "etas_end": 0.99, "power": 0.3,
                  "cap_start": True, "predict": "residual", "input_scaling": "none"},
    "denoiser": {"kind": "small", "latent_channels": 12, "widths": [32], "blocks": 1, "embed_dim": 32},
    "autoencoder": {"kind": "space_to_depth", "factor": 2},
    "condition_on_z_y": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def params():
    shapes = bundles.expected_shapes(bundles.FAMILIES["resshift"](**SETTINGS))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def whole(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    return bundles.save(
        folder, family="resshift", settings=SETTINGS, params=params, info={"recipe": "tadsr", "steps": 1}
    )


@pytest.fixture
def folder(whole, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(whole, tmp_path / "bundle")


def rewrite(folder, **changes):
    info = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(info | changes))


def replace_student(folder, change):
    """Change the student's arrays, and make the checksum right again."""
    import hashlib

    path = folder / "student.safetensors"
    save_file(change(load_file(path)), path)
    networks = json.loads((folder / "bundle.json").read_text())["networks"]
    networks["student"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(folder, networks=networks)


def refusal(folder) -> str:
    with pytest.raises(ValueError) as error:
        bundles.load(folder)
    text = str(error.value)
    assert "\n" not in text and str(folder) in text
    return text


def test_what_is_saved_is_what_is_loaded(whole, params):
    bundle = bundles.load(whole)
    jax.tree.map(np.testing.assert_array_equal, bundle.params, params)
    assert bundle.info["recipe"] == "tadsr" and bundle.family.scale == 2
    assert bundles.tree_sha256(bundle.params["student"]) == bundles.tree_sha256(params["student"])


def test_arrays_that_lie_askew_in_memory_are_written_right(params, tmp_path):
    askew = jax.tree.map(lambda leaf: np.asfortranarray(leaf), params)
    bundles.save(tmp_path / "b", family="resshift", settings=SETTINGS, params=askew, info={})
    jax.tree.map(np.testing.assert_array_equal, bundles.load(tmp_path / "b").params, params)


def test_the_sha256_of_a_tree_is_over_sorted_names_and_bytes():
    import hashlib

    a, b = np.float32([1, 2]), np.float32([[3]])
    expected = hashlib.sha256(b"a" + a.tobytes() + b"b/c" + b.tobytes()).hexdigest()
    assert bundles.tree_sha256({"b": {"c": b}, "a": a}) == expected


def test_half_precision_is_kept_on_disk_and_becomes_float32_when_it_is_loaded(params, tmp_path):
    types = itertools.cycle((np.float16, ml_dtypes.bfloat16, np.float32))
    half = jax.tree.map(lambda leaf: leaf.astype(next(types)), params)
    bundles.save(tmp_path / "b", family="resshift", settings=SETTINGS, params=half, info={})
    _, stored = bundles.load_network(tmp_path / "b", "student")
    for ours, theirs in zip(jax.tree.leaves(stored), jax.tree.leaves(half["student"]), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    loaded = bundles.load(tmp_path / "b").params["student"]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)), loaded, half["student"])
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    assert bundles.describe(tmp_path / "b")["networks"]["student"]["dtype"] == "bfloat16, float16, float32"


def test_other_types_are_not_saved(params, tmp_path):
    double = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    with pytest.raises(ValueError, match="student has float64 arrays; a bundle holds float32, bfloat16, float16"):
        bundles.save(tmp_path / "b", family="resshift", settings=SETTINGS, params=double, info={})
    assert not list(tmp_path.iterdir())


def test_networks_compute_in_the_type_that_is_asked_for(whole):
    assert bundles.load(whole).family.networks["denoiser"].dtype == np.float32
    bundle = bundles.load(whole, dtype="bfloat16")
    assert bundle.family.networks["denoiser"].dtype == jax.numpy.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(bundle.params)} == {np.dtype(np.float32)}
    with pytest.raises(ValueError, match="dtype is 'float16'; expected one of float32, bfloat16"):
        bundles.load(whole, dtype="float16")


def test_a_network_that_a_bundle_lacks_is_named(whole):
    with pytest.raises(ValueError, match="has no network 'teacher'; it has student, autoencoder"):
        bundles.load_network(whole, "teacher")


def test_files_of_a_bundle_have_ordinary_rights(whole, tmp_path):
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in whole.iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_a_changed_byte_is_found(folder):
    data = bytearray((folder / "student.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "student.safetensors").write_bytes(data)
    assert "student.safetensors: its checksum is not the one in bundle.json" in refusal(folder)


def test_a_missing_file_is_named(folder):
    (folder / "student.safetensors").unlink()
    assert "student.safetensors is missing; copy the whole folder" in refusal(folder)
    (folder / "bundle.json").unlink()
    assert f"no bundle: neither it nor {folder / 'bundle'} holds a bundle.json" in refusal(folder)


def test_a_training_runs_folder_is_as_good_as_its_bundle(whole, params):
    bundle = bundles.load(whole.parent)
    jax.tree.map(np.testing.assert_array_equal, bundle.params, params)
    assert bundles.describe(whole.parent) == bundles.describe(whole)
    assert bundles.load_network(whole.parent, "student")[0] == bundles.load_network(whole, "student")[0]
    assert bundles.find(whole.parent) == bundles.find(whole) == whole
    assert not bundles.is_bundle(whole.parent)


def test_the_folder_one_stands_in_can_be_named_by_a_dot(whole, monkeypatch):
    monkeypatch.chdir(whole)
    assert bundles.describe(".")["recipe"] == "tadsr"
    monkeypatch.chdir(whole.parent)
    assert bundles.describe(".")["recipe"] == "tadsr"


def test_a_backend_that_does_not_start_is_no_fault_of_the_bundle(whole):
    """To read a bundle takes none; who computes with it hears of it in the backend's own words."""
    read = f"from tadsr_jax import bundles; print(bundles.load({str(whole)!r}).info['recipe'])"
    environment = {**os.environ, "JAX_PLATFORMS": "nowhere"}
    done = subprocess.run([sys.executable, "-c", read], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "tadsr", done.stderr


@pytest.mark.parametrize("path", ["../student.safetensors", "/etc/passwd", "", None, ["student.safetensors"]])
def test_a_stranger_cannot_name_a_file_elsewhere(folder, path):
    networks = json.loads((folder / "bundle.json").read_text())["networks"]
    networks["student"]["file"] = path
    rewrite(folder, networks=networks)
    assert "the file of 'student' must be student.safetensors" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2 is newer than this version reads (1); update"),
        ({"format": "1"}, "expected an object with a number under 'format'"),
        ({"family": "seesr2"}, "family 'seesr2'; this version knows resshift"),
        ({"family": ["resshift"]}, "'family' is ['resshift']; expected a str"),
        ({"settings": 3}, "'settings' is 3; expected a dict"),
        ({"settings": SETTINGS | {"surprise": 1}}, "surprise"),
        ({"settings": SETTINGS | {"scale": 3}}, "these settings make no model: config.scale is 3; these networks"),
        ({"networks": {}}, "no network 'student'"),
        ({"steps": 0}, "'steps' is 0; expected a whole number, 1 or more"),
        ({"steps": True}, "'steps' is True; expected"),
        ({"steps": 5}, "'steps' is 5; this model takes 4"),
        ({"sampler": "euler"}, "'sampler' is 'euler'; expected one of deterministic, stochastic"),
        ({"color_fix": ["adain"]}, "'color_fix' is ['adain']; expected one of none, wavelet, adain"),
    ],
)
def test_a_description_that_is_not_of_this_version_is_refused(folder, changes, words):
    rewrite(folder, **changes)
    assert words in refusal(folder)


def test_a_description_that_is_no_json_is_refused(folder):
    (folder / "bundle.json").write_text('{"format": 1, ')
    assert "not JSON" in refusal(folder)


def test_missing_surplus_and_misshapen_weights_are_all_named_at_once(folder, params):
    first, second, *_ = sorted(flatten_dict(params["student"], sep="/"))

    def change(arrays):
        arrays["surplus"] = arrays.pop(first)
        arrays[second] = np.zeros((7, 7), np.float32)
        return arrays

    replace_student(folder, change)
    text = refusal(folder)
    assert "3 weights do not fit" in text
    assert f"missing {first}" in text and "surplus surplus" in text and f"{second} has shape (7, 7), expected" in text


def test_weights_that_are_no_floats_are_refused(folder, params):
    first = min(flatten_dict(params["student"], sep="/"))
    replace_student(folder, lambda arrays: arrays | {first: arrays[first].astype(np.int32)})
    assert f"{first} is int32, expected float32" in refusal(folder)


def test_a_save_that_breaks_off_leaves_the_bundle_that_was_there(folder, params, monkeypatch):
    def full(*_):
        raise bundles.SafetensorError("I/O error: No space left on device")

    before = (folder / "bundle.json").read_bytes()
    monkeypatch.setattr(bundles, "save_file", full)
    with pytest.raises(OSError, match=r"cannot be written .*No space left"):
        bundles.save(folder, family="resshift", settings=SETTINGS, params=params, info={"steps": 2})
    assert (folder / "bundle.json").read_bytes() == before


def test_a_replacement_that_is_killed_between_its_renames_leaves_the_former_bundle(folder, params):
    folder.rename(folder.with_name(".bundle.replaced"))  # what a kill there leaves
    assert bundles.load(folder).info["steps"] == bundles.load(folder.parent).info["steps"] == 1
    assert not folder.exists(), "reading leaves everything where it is"
    bundles.save(folder, family="resshift", settings=SETTINGS, params=params, info={"steps": 2})
    assert bundles.load(folder).info["steps"] == 2
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"], "nothing is left beside it"


# --- texts: what is no weights ----------------------------------------------------------------------------------------


@pytest.fixture
def worded(params, tmp_path):
    """A bundle with a tokenizer's vocabulary and a list of tags."""
    texts = {"vocab.json": '{"cat</w>": 0}', "tags.txt": "cat\r\nca\u0301t\n"}
    return bundles.save(tmp_path / "worded", family="resshift", settings=SETTINGS, params=params, info={}, texts=texts)


def test_texts_are_kept_letter_by_letter(worded, whole):
    assert bundles.load(worded).texts == {"vocab.json": '{"cat</w>": 0}', "tags.txt": "cat\r\nca\u0301t\n"}
    assert bundles.load(whole).texts == {} and "texts" not in bundles.describe(whole)


def test_texts_that_are_missing_changed_or_elsewhere_are_refused(worded):
    (worded / "texts" / "tags.txt").write_text("dog\n")
    assert "tags.txt: its checksum is not the one" in refusal(worded)
    (worded / "texts" / "tags.txt").unlink()
    assert "tags.txt is missing" in refusal(worded)
    rewrite(worded, texts={"../bundle.json": {"sha256": bundles.file_sha256(worded / "bundle.json")}})
    assert "'../bundle.json' is no text's name" in refusal(worded)
    rewrite(worded, texts=["tags.txt"])
    assert "'texts' is ['tags.txt']; expected an object" in refusal(worded)


def test_a_text_that_is_not_one_is_refused(worded):
    (worded / "texts" / "tags.txt").write_bytes(b"\xff")
    sha256 = bundles.file_sha256(worded / "texts" / "tags.txt")
    rewrite(worded, texts={"tags.txt": {"sha256": sha256}})
    assert "tags.txt: not a text" in refusal(worded)


def test_nothing_is_written_for_a_text_with_a_path_for_a_name(params, tmp_path):
    with pytest.raises(ValueError, match=r"'a/b' cannot be the name of a text"):
        bundles.save(tmp_path / "x", family="resshift", settings=SETTINGS, params=params, info={}, texts={"a/b": ""})
    assert not list(tmp_path.iterdir())
