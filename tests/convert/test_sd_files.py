"""JSON and weights in one file or in shards; an index is believed only where its shards are what it says."""

import json

import numpy as np
import pytest

from tadsr_jax.convert import sd_files, torch_save

pytestmark = pytest.mark.quick

ARRAYS = {name: np.full(2, value, np.float32) for value, name in enumerate("abcd")}  # 8 bytes each
INDEX = "diffusion_pytorch_model.safetensors.index.json"
FIRST, SECOND = (f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2))


@pytest.fixture
def folder(tmp_path):
    """Two shards: a and b, c and d."""
    sd_files.write_weights(tmp_path, "diffusion_pytorch_model", ARRAYS, shard_bytes=16)
    return tmp_path


def change(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def refusal(folder) -> str:
    with pytest.raises(ValueError) as error:
        sd_files.read_weights(sd_files.find_weights(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("limit", "parts"),
    [(100, [["a", "b", "c"]]), (9, [["a", "b"], ["c"]]), (5, [["a"], ["b"], ["c"]]), (4, [["a"], ["b"], ["c"]])],
)
def test_names_are_cut_where_the_next_would_pass_the_limit(limit, parts):
    assert sd_files.divided({"a": 4, "b": 5, "c": 1}, limit=limit) == parts


def test_shards_are_read_as_one(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([FIRST, SECOND, INDEX])
    assert json.loads((folder / INDEX).read_text()) == {
        "metadata": {"total_size": 32},
        "weight_map": {"a": FIRST, "b": FIRST, "c": SECOND, "d": SECOND},
    }
    found = sd_files.read_weights(sd_files.find_weights(folder))
    assert set(found) == set(ARRAYS) and all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)


def test_weights_in_one_file_have_no_index(tmp_path):
    assert sd_files.write_weights(tmp_path, "model", ARRAYS, shard_bytes=32) == [tmp_path / "model.safetensors"]
    assert sd_files.find_weights(tmp_path) == tmp_path / "model.safetensors"


def test_full_precision_is_preferred_to_half_and_safetensors_to_pickles(tmp_path):
    wanted = [
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.bin",
    ]
    for name in ("diffusion_pytorch_model.non_ema.safetensors", "diffusion_flax_model.msgpack", *wanted):
        (tmp_path / name).touch()
    for name in wanted:
        assert sd_files.find_weights(tmp_path) == tmp_path / name
        (tmp_path / name).unlink()
    assert sd_files.find_weights(tmp_path) is None


@pytest.mark.parametrize(
    "file",
    ["../x.bin", "/etc/x.bin", "sub/x.bin", "..", "", ".x.bin", "x.pth", "C:x.bin", "a\\x.bin", "x.bin\n", 7, None, []],
)
def test_an_index_can_name_only_files_beside_it(folder, file):
    change(folder, {"a": FIRST, "b": file})
    assert "'b'" not in refusal(folder) and "b is said to be in" in refusal(folder)


def test_shards_that_are_missing_are_all_told(folder):
    (folder / FIRST).unlink()
    change(folder, {"a": FIRST, "c": SECOND, "x": "other.bin"})
    assert refusal(folder) == f"{folder / INDEX}: 2 of 3 shards are missing: {FIRST}, other.bin."


def test_an_index_must_say_exactly_what_its_shards_hold(folder):
    change(folder, {"a": FIRST, "b": SECOND, "c": SECOND, "e": FIRST})
    assert refusal(folder) == (
        f"{folder / INDEX} does not fit its shards: "
        "2 tensors are not in the shard that is said to hold them: b, e; "
        f"2 tensors are in a shard that is not said to hold them: b in {FIRST}, d in {SECOND}. "
        "Take all these files from one download."
    )


def test_a_tensor_in_two_shards_is_refused(folder):
    torch_save.write(folder / SECOND, {name: ARRAYS[name] for name in "acd"})
    assert "1 tensors are there more than once: a" in refusal(folder)


def test_a_truncated_shard_is_told_by_its_name(folder):
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-3])
    assert refusal(folder).startswith(f"{folder / SECOND}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON file"),
        ('{"weight_map": ', "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("\x80", "no 'weight_map'|not a JSON file"),
        ("[]", "list instead of an object"),
        ("{}", "no 'weight_map'"),
        ('{"weight_map": {}}', "no 'weight_map'"),
        ('{"weight_map": ["a"]}', "no 'weight_map'"),
        ('{"weight_map": {"a": "x.bin", "a": "y.bin"}}', "it has 'a' twice"),
    ],
)
def test_an_index_that_is_none_is_refused(folder, text, message):
    (folder / INDEX).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        sd_files.read_weights(folder / INDEX)


def test_a_json_file_that_is_far_too_long_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(sd_files.LONGEST_JSON + 1)  # takes no room on the disk
    with pytest.raises(ValueError, match="it has more than 100,000,000 bytes"):
        sd_files.read_json(path)
