import collections
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tadsr_jax.convert import torch_file

pytestmark = pytest.mark.quick

FILES = Path(__file__).parents[1] / "fixtures/torch_files"  # written by PyTorch, see make.py there
FLOAT = b"ctorch\nFloatStorage\n"


def storage(key="0", numel=4, kind=FLOAT):
    """Opcodes that push the storage `key` through its persistent id."""
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(numel) + b"tQ"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(shape=(4,), strides=(1,), offset=0, **of_storage):
    """Opcodes that push a tensor, as torch.save writes them."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n"
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        call
        + b"("
        + storage(**of_storage)
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89"
        + hooks
        + b"tR"
    )


def state_dict(**entries):
    """Opcodes of an OrderedDict."""
    items = b"".join(text(name) + value for name, value in entries.items())
    return b"ccollections\nOrderedDict\n)R(" + items + b"u"


def write(path, pickled, storages=None, *, prefix="archive", compression=zipfile.ZIP_STORED):
    """A file in the layout of torch.save: data.pkl, data/KEY, version, byteorder below one folder."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{prefix}/data.pkl", pickled)
        archive.writestr(f"{prefix}/byteorder", "little")
        for key, data in (storages or {"0": np.arange(4, dtype=np.float32).tobytes()}).items():
            archive.writestr(f"{prefix}/data/{key}", data)
        archive.writestr(f"{prefix}/version", "3\n")
    return path


def saved(path, body, **kwargs):
    return write(path, b"\x80\x02" + body + b".", **kwargs)


def doubled(depth=60):
    """Opcodes of a tuple of two tuples of two tuples ...: 2^depth things at the end, in a few bytes."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))


def refusal(path):
    """The message with which `path` is refused: one line that names the file."""
    with pytest.raises(ValueError) as error:
        torch_file.read(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


def test_a_file_with_the_documented_layout_is_read(tmp_path):
    weights = torch_file.read(saved(tmp_path / "a.pth", state_dict(w=tensor())))
    np.testing.assert_array_equal(weights["w"], np.float32([0, 1, 2, 3]))


def test_files_written_by_pytorch_keep_values_types_and_views():
    weights = torch_file.read(FILES / "views.pth")
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    wanted = {
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "expanded": np.ones(4, np.float32),
        "channels_last": base.reshape(1, 2, 3, 4),
        "half": base.astype(np.float16),
        "bfloat16": base.astype(ml_dtypes.bfloat16),
        "counter": np.int64(7),
        "flags": np.array([True, False]),
        "bytes": np.uint8([1, 255]),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.ones(2, np.float32),
    }
    assert list(weights) == list(wanted)
    for name, value in wanted.items():
        assert weights[name].dtype == value.dtype and weights[name].shape == value.shape
        assert weights[name].flags.c_contiguous
        np.testing.assert_array_equal(weights[name], value)


def test_averaged_weights_are_preferred_and_another_entry_can_be_named():
    np.testing.assert_array_equal(torch_file.read(FILES / "checkpoint.ckpt")["0.weight"], [[1, 1]])
    raw = torch_file.read(FILES / "checkpoint.ckpt", entry="state_dict")
    np.testing.assert_array_equal(raw["0.weight"], [[0.5, 0.5]])
    assert raw["1.num_batches_tracked"] == 1
    with pytest.raises(ValueError, match="no dictionary 'weights'; its entries are epoch, state_dict, params_ema"):
        torch_file.read(FILES / "checkpoint.ckpt", entry="weights")


def test_files_of_before_1_6_are_read():
    """The format of torchvision's VGG16 and of the heads of LPIPS."""
    weights = torch_file.read(FILES / "legacy.pth")
    wanted = torch_file.read(FILES / "checkpoint.ckpt", entry="state_dict")
    assert list(weights) == list(wanted)
    for name, value in wanted.items():
        assert weights[name].dtype == value.dtype
        np.testing.assert_array_equal(weights[name], value)


def test_a_name_that_is_set_twice_is_remembered(tmp_path):
    twice = saved(tmp_path / "a.pth", state_dict(w=tensor(), b=tensor()) + b"(" + text("w") + tensor() + b"u")
    assert list(torch_file.read(twice)) == ["w", "b"] and torch_file.read(twice).repeated == ("w",)
    assert torch_file.read(FILES / "views.pth").repeated == ()
    path, entry = tmp_path / "a.safetensors", '"w":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    for offsets in ((0, 4, 0, 4), (0, 4, 4, 8)):
        header = "{" + ",".join([entry, entry]) % offsets + "}"
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(offsets[-1]))
        if offsets[-1] == 4:
            assert torch_file.read(path).repeated == ("w",)
        else:
            assert "holds more than once: w" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_parts_of_one_name_is_refused(tmp_path):
    path = saved(tmp_path / "a.pth", state_dict(w=tensor()))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", bytes(16))
    assert "1 parts twice ('archive/data/0', ...)" in refusal(path)


def test_names_of_entries_cannot_move_the_cursor_of_a_terminal(tmp_path):
    assert r"\x1b" in refusal(saved(tmp_path / "a.pth", state_dict(**{"\x1b[2J": number(1)})))


def test_storages_of_an_optimiser_are_not_read(tmp_path):
    body = state_dict(params=state_dict(w=tensor()), optimizer=state_dict(m=tensor(key="absent")))
    assert list(torch_file.read(saved(tmp_path / "a.pth", body))) == ["w"]


def test_safetensors_are_told_by_their_content(tmp_path):
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, ml_dtypes.bfloat16)}
    save_file(arrays, tmp_path / "a.bin")
    weights = torch_file.read(tmp_path / "a.bin")
    assert weights["b"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(weights["w"], arrays["w"])


class Runs:
    """Pickles as the call `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch {}", "system"),
        (eval, "open({!r}, 'w')", "eval"),
        (getattr, "x", "getattr"),
        (open, "{}", "open"),
    ],
)
def test_no_function_of_python_is_called(tmp_path, function, argument, name, protocol):
    hostile = Runs(function, argument.format(str(tmp_path / "trace")))
    pickled = pickle.dumps({"state_dict": collections.OrderedDict(w=[(hostile,)])}, protocol)
    message = refusal(write(tmp_path / "a.pth", pickled))
    assert name in message and "Nothing was executed" in message
    assert not (tmp_path / "trace").exists()


def test_no_function_is_called_by_a_file_of_before_1_6_either(tmp_path):
    magic, version = torch_file.LEGACY
    header = [pickle.dumps(part, 2) for part in (magic, version, {"little_endian": True})]
    hostile = pickle.dumps({"w": Runs(os.system, f"touch {tmp_path / 'trace'}")}, 2)
    (tmp_path / "a.pth").write_bytes(b"".join([*header, hostile, pickle.dumps([], 2)]))
    assert "system" in refusal(tmp_path / "a.pth")
    assert not (tmp_path / "trace").exists()


def test_safetensors_are_not_mistaken_for_a_pickle(tmp_path):
    """A header of 640 bytes begins with 0x80, as a pickle does."""
    path = tmp_path / "a.safetensors"
    for extra in range(600):
        save_file({"w": np.ones(2, np.float32)}, path, metadata={"note": "x" * extra})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert list(torch_file.read(path)) == ["w"]


@pytest.mark.parametrize(
    ("body", "reason"),
    {
        "a dotted global": (
            b"\x8c\x0bcollections\x94\x8c\x16OrderedDict.fromkeys.x\x93",
            "collections.OrderedDict.from",
        ),
        "a class of ours": (b"ctadsr_jax.convert.safe_pickle\nGlobal\n", "tadsr_jax.convert.safe_pickle.Global"),
        "calling a storage class": (FLOAT + b")R", "calls something that is no function"),
        "calling a tuple": (b"))R", "calls something that is no function"),
        "an old-style instance": (b"(ios\nsystem\n", "operation INST"),
        "a new-style instance": (b"ccollections\nOrderedDict\n)\x81", "operation NEWOBJ"),
        "an extension code": (b"\x82\x01", "operation EXT1"),
        "a named persistent id": (b"Pstorage\n", "operation PERSID"),
        "a key that takes for ever to hash": (b"})" + b"2\x86" * 60 + b"K\x01s", "operation DUP"),
        "a tuple as key": (b"})K\x01s", "key that is neither"),
        "items of a list": (b"]K\x01K\x01s", "no dictionary"),
        "an underflow": (b"\x85", "damaged"),
        "an unknown memo": (b"h\x07", "damaged"),
        "a wrong call": (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "damaged"),
        "a forged storage": (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)))tR", "impossible shape"),
        "a negative stride": (tensor(strides=(-1,), offset=3), "impossible shape"),
        "a stride too many": (tensor(strides=(1, 1)), "impossible shape"),
        "a forged storage class": (b"(" + text("storage") * 2 + text("0") * 2 + number(4) + b"tQ", "unknown way"),
    }.values(),
)
def test_tricks_are_refused(tmp_path, body, reason):
    assert reason in refusal(saved(tmp_path / "a.pth", body))


ORDERED_DICT = b"ccollections\nOrderedDict\n"
MANY = 20_000
LIST = b"(" + b"K\x01" * MANY + b"lq\x00"  # remembered as 0
PAIRS = b"(" + b"".join(b"(" + number(i) + b"Nl" for i in range(MANY)) + b"lq\x00"
AGAIN = b"h\x00"


@pytest.mark.parametrize(
    ("body", "reason"),
    {
        "an ordered dictionary of one long list": (ORDERED_DICT + b"((" + LIST + AGAIN * MANY + b"ltR", "than pairs"),
        "an ordered dictionary of letters": (ORDERED_DICT + b"(" + text("ab") + b"tR", "than pairs"),
        "many from the same pairs": (PAIRS + (ORDERED_DICT + AGAIN + b"\x85R") * MANY, "more than it holds"),
        "many sizes from one list": (LIST + (b"ctorch\nSize\n" + AGAIN + b"\x85R") * MANY, "more than it holds"),
        "many arguments": (
            b"(" + b"N" * MANY + b"tq\x00" + (b"ctorch._utils\n_rebuild_parameter\n" + AGAIN + b"R") * MANY,
            "more than it holds",
        ),
        "keys of one hash": (
            b"}(" + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(MANY)) + b"u",
            "neither short text nor a moderate whole number",
        ),
        "keys that take long to compare": (b"}" + text("x" * 5000) + b"Ns", "neither short text"),
        "a storage's key that takes long to compare": (tensor(key="x" * 5000), "unknown way"),
        "a name that takes for ever to print": (doubled() + text("x") + b"\x93", "by something that is no name"),
    }.values(),
)
def test_what_would_take_more_than_linear_time_or_memory_is_refused(tmp_path, body, reason):
    assert reason in refusal(saved(tmp_path / "a.pth", body))


def test_keys_of_storages_that_take_for_ever_to_hash_are_refused(tmp_path):
    magic, version = torch_file.LEGACY
    header = [pickle.dumps(part, 2) for part in (magic, version, {"little_endian": True}, {})]
    (tmp_path / "a.pth").write_bytes(b"".join(header) + b"\x80\x02(" + doubled() + b"l.")
    assert "does not fit its tensors" in refusal(tmp_path / "a.pth")


def test_pairs_that_python_2_gave_an_ordered_dictionary_at_once_are_read(tmp_path):
    body = ORDERED_DICT + b"((" + b"(" + text("w") + tensor() + b"l" + b"(" + text("b") + tensor() + b"l" + b"ltR"
    assert list(torch_file.read(saved(tmp_path / "a.pth", body))) == ["w", "b"]


def test_numbers_of_parameters_are_keys_of_an_optimiser(tmp_path):
    body = state_dict(params=state_dict(w=tensor()), optimizer=b"}(" + number(0) + b"N" + number(-1) + b"Nu")
    assert list(torch_file.read(saved(tmp_path / "a.pth", body))) == ["w"]


def test_a_file_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(torch_file, "_view", full)
    assert "a.pth: there is not enough memory to read it." in refusal(saved(tmp_path / "a.pth", state_dict(w=tensor())))


def test_attributes_that_a_pickle_sets_are_dropped(tmp_path):
    """torch.save sets `_metadata` on a state dict; a hostile file could set anything on a function."""
    attributes = b"}" + text("__doc__") + text("changed") + b"s"
    with_metadata = state_dict(w=tensor()) + attributes + b"b"
    assert list(torch_file.read(saved(tmp_path / "a.pth", with_metadata))) == ["w"]
    on_function = b"ctorch._utils\n_rebuild_tensor_v2\nN" + attributes + b"\x86b"
    assert list(torch_file.read(saved(tmp_path / "b.pth", state_dict(f=on_function, w=tensor())))) == ["w"]
    assert torch_file.TABLE["torch._utils._rebuild_tensor_v2"].__doc__ != "changed"


def test_a_memo_index_of_four_billion_takes_no_memory(tmp_path):
    body = state_dict(w=tensor()) + b"r\xff\xff\xff\xff"
    assert list(torch_file.read(saved(tmp_path / "a.pth", body))) == ["w"]


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    assert "no tensors" in refusal(saved(tmp_path / "a.pth", b"}q\x00" + text("state_dict") + b"h\x00s"))


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        (tensor(offset=1), "reaches beyond its storage"),
        (tensor(shape=(2, 3), strides=(2, 1)), "reaches beyond its storage"),
        (tensor(shape=(2**46,), strides=(0,)), "claim"),
        (tensor(shape=(2**46,), numel=2**46), "has 16 bytes"),
        (tensor(numel=3, shape=(3,)), "has 16 bytes"),
        (tensor(key="7"), "'data/7' is missing"),
        (tensor(shape=(0, 2**60), strides=(1, 1)), "impossible shape"),
    ],
)
def test_sizes_are_believed_only_where_the_bytes_are(tmp_path, described, reason):
    assert reason in refusal(saved(tmp_path / "a.pth", state_dict(w=described)))


def test_tied_weights_are_allowed_but_not_without_end(tmp_path):
    tied = state_dict(a=tensor(), b=tensor())
    assert list(torch_file.read(saved(tmp_path / "a.pth", tied))) == ["a", "b"]
    data = np.zeros(10_000, np.float32).tobytes()
    many = state_dict(**{f"w{i}": tensor(shape=(10_000,), numel=10_000) for i in range(20)})
    assert "claim" in refusal(saved(tmp_path / "b.pth", many, storages={"0": data}))


def test_compressed_parts_are_refused(tmp_path):
    zeros = np.zeros(10**6, np.float32).tobytes()
    body = state_dict(w=tensor(shape=(10**6,), numel=10**6))
    path = saved(tmp_path / "a.pth", body, storages={"0": zeros}, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)


def test_other_files_are_refused_with_a_remedy(tmp_path):
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1]) * 5)
    assert "not one of torch.save" in refusal(tmp_path / "list.pth")
    (tmp_path / "page.pth").write_text("<html>quota exceeded</html>")
    assert "neither a PyTorch file nor safetensors" in refusal(tmp_path / "page.pth")
    (tmp_path / "empty.pth").touch()
    assert "download complete?" in refusal(tmp_path / "empty.pth")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.png", b"")
    assert "not written by torch.save" in refusal(tmp_path / "photos.zip")
    assert "No such file" in refusal(tmp_path / "absent.pth")
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint.ckpt", "legacy.pth"])
def test_every_truncation_and_every_flipped_byte_is_a_clean_error_or_harmless(tmp_path, name):
    whole = (FILES / name).read_bytes()
    path = tmp_path / name
    for length in range(0, len(whole), len(whole) // 80):
        path.write_bytes(whole[:length])
        refusal(path)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 300):
        broken = bytearray(whole)
        broken[position] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        try:
            torch_file.read(path)
        except ValueError as error:
            assert str(path) in str(error)


def test_safetensors_of_a_type_without_numbers_of_ours_say_so(tmp_path):
    path = tmp_path / "a.safetensors"
    for dtype in ("F8_E4M3", "F8_E5M2", "F4", "C64"):
        about = {"dtype": dtype, "shape": [4]}
        tensors = {name: about | {"data_offsets": [i, i + 4]} for name, i in (("w", 0), ("v", 4))}
        header = json.dumps({"__metadata__": {"dtype": "F8"}} | tensors).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        message = refusal(path)
        assert (
            f"2 of its tensors have a type that cannot be read: w is {dtype}, expected F64, F32, F16, BF16" in message
        )
        assert "take the same weights in F16, BF16 or F32" in message and "download" not in message


def test_all_types_that_are_promised_are_read(tmp_path):
    types = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.int16, np.int8, np.uint64,
             np.uint32, np.uint16, np.uint8, np.bool_)  # fmt: skip
    save_file({np.dtype(dtype).name: np.ones(2, dtype) for dtype in types}, tmp_path / "a.safetensors")
    weights = torch_file.read(tmp_path / "a.safetensors")
    assert len(weights) == len(torch_file.SAFETENSORS) == len(types)
    assert all(array.dtype.name == name and array.all() for name, array in weights.items())


def test_broken_safetensors_are_a_clean_error(tmp_path):
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for broken in (
        whole[:-1],
        whole[:20],
        b"",
        struct.pack("<Q", 2**60) + whole[8:],
        whole.replace(b"[0,12]", b"[0,99]"),
    ):
        (tmp_path / "a.safetensors").write_bytes(broken)
        assert "safetensors" in refusal(tmp_path / "a.safetensors")
