"""Files for PyTorch: what is written is read back bit by bit, here and by Python's own unpickler; all or nothing."""

import collections
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from tadsr_jax.convert import torch_file, torch_save

pytestmark = pytest.mark.quick

ARRAYS = {
    "z.weight": np.arange(60, dtype=np.float32).reshape(3, 4, 5),
    "half": np.float16([1, 2, 65504]),
    "bfloat16": np.arange(5).astype(ml_dtypes.bfloat16),
    "index": np.arange(6).reshape(2, 3) + 2**40,
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
    "größe": np.uint8([1, 255]),
}
SUFFIXES = ("pth", "ckpt", "safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_back_bit_by_bit(tmp_path, suffix):
    found = torch_file.read(torch_save.write(tmp_path / f"deep/a.{suffix}", ARRAYS))
    assert suffix == "safetensors" or list(found) == list(ARRAYS), "the order is kept"
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [f"a.{suffix}"], "nothing is left beside it"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_arrays_that_lie_askew_in_memory_are_written_right(tmp_path, suffix):
    askew = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    found = torch_file.read(torch_save.write(tmp_path / f"a.{suffix}", {"w": askew}))
    np.testing.assert_array_equal(found["w"], askew)


def test_the_pickle_is_what_torch_save_would_have_written(tmp_path):
    """Python's own unpickler sees an OrderedDict of calls of PyTorch's functions, with contiguous strides."""
    path = torch_save.write(tmp_path / "a.pth", {"w": ARRAYS["z.weight"], "b": ARRAYS["bfloat16"]})

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) == ("collections", "OrderedDict"):
                return collections.OrderedDict
            return lambda *arguments: (f"{module}.{name}", *arguments) if arguments else None

        def persistent_load(self, pid):
            return (pid[0], *pid[2:])

    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        loaded = Unpickler(archive.open("archive/data.pkl")).load()
        assert archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little"
        assert archive.read("archive/data/0") == ARRAYS["z.weight"].tobytes()
    assert type(loaded) is collections.OrderedDict
    hooks = collections.OrderedDict()
    rebuild = "torch._utils._rebuild_tensor_v2"
    assert loaded["w"] == (rebuild, ("storage", "0", "cpu", 60), 0, (3, 4, 5), (20, 5, 1), False, hooks)
    assert loaded["b"] == (rebuild, ("storage", "1", "cpu", 5), 0, (5,), (1,), False, hooks)


def test_storages_begin_at_multiples_of_64_bytes_so_that_they_can_be_mapped(tmp_path):
    path = torch_save.write(tmp_path / "a.pth", ARRAYS)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            header = whole[info.header_offset :]
            begins = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + len(info.extra)
            assert info.compress_type == zipfile.ZIP_STORED and begins % 64 == 0
            assert whole[begins : begins + info.file_size] == archive.read(info)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_weights_are_equal_files_with_ordinary_rights(tmp_path, suffix):
    first, second = (torch_save.write(tmp_path / f"{name}.{suffix}", ARRAYS) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    (tmp_path / "plain").touch()
    assert first.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_write_that_breaks_off_leaves_the_file_that_was_there(tmp_path, suffix, monkeypatch):
    path = torch_save.write(tmp_path / f"a.{suffix}", ARRAYS)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch_save, "save_file", full)
    monkeypatch.setattr(torch_save, "_add", full)
    with pytest.raises(OSError, match="No space left"):
        torch_save.write(path, {"w": np.zeros(3, np.float32)})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_other_suffixes_and_types_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"a.onnx: the suffix says which format to write; expected one of .safetensors"
    ):
        torch_save.write(tmp_path / "a.onnx", ARRAYS)
    with pytest.raises(ValueError, match="w is uint16, which files of PyTorch cannot hold"):
        torch_save.write(tmp_path / "a.pth", {"w": np.zeros(2, np.uint16)})
    assert not list(tmp_path.iterdir())


def test_pytorch_reads_it(tmp_path):
    torch = pytest.importorskip("torch")
    path = torch_save.write(tmp_path / "a.pth", ARRAYS)
    for mapped in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mapped)
        assert list(loaded) == list(ARRAYS)
        for name, array in ARRAYS.items():
            tensor = loaded[name]
            assert str(tensor.dtype) == f"torch.{array.dtype.name}" and tuple(tensor.shape) == array.shape
            np.testing.assert_array_equal(tensor.float().numpy(), array.astype(np.float32))
