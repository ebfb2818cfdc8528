"""Weights files for the PyTorch world, written without PyTorch: the other direction of `torch_file`.

write    .safetensors, or the zip format of torch.save since PyTorch 1.6 (.pth, .pt, .ckpt, .bin), by the suffix

A .pth is a zip archive of uncompressed parts: PREFIX/data.pkl describes an OrderedDict of tensors, PREFIX/data/KEY
holds the bytes of a tensor. The pickle's few operations are written out here; torch.load(weights_only=True) reads it.
"""

import os
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from tadsr_jax.convert.torch_file import STORAGES

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
CLASSES = {np.dtype(dtype): name for name, dtype in STORAGES.items()}  # element type -> storage class of PyTorch
ALIGNMENT = 64  # of storages in the file, as PyTorch has it: they can be mapped into memory


def check_suffix(path: str | Path) -> None:
    """ValueError unless the name of the file says which format it will have."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: the suffix says which format to write; expected one of {', '.join(SUFFIXES)}.")


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write {name: array} in that order, with the types that the arrays have; all of the file or nothing.

    Raises ValueError for an unknown suffix or a type that PyTorch lacks, OSError where the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    if strange := [name for name, array in arrays.items() if array.dtype not in CLASSES]:
        raise ValueError(f"{strange[0]} is {arrays[strange[0]].dtype}, which files of PyTorch cannot hold.")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.writing")
    try:
        fresh.touch()
        rights = fresh.stat().st_mode & 0o777
        (_write_safetensors if path.suffix.lower() == ".safetensors" else _write_zip)(fresh, arrays)
        fresh.chmod(rights)  # safetensors makes its files private
        os.replace(fresh, path)
    except SafetensorError as error:  # it wraps the errors of writing
        raise OSError(f"{path}: cannot be written ({error}).") from None
    finally:
        fresh.unlink(missing_ok=True)
    return path


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # It writes wrong data for arrays that are not contiguous. Programs of the PyTorch world look for the format.
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path, metadata={"format": "pt"})


def _write_zip(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        _add(archive, "data.pkl", _pickled(arrays))
        _add(archive, "byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            # Bytes of the array, without a copy: there is no buffer protocol for bfloat16.
            little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
            _add(archive, f"data/{key}", memoryview(little.reshape(-1).view(np.uint8)))
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, content) -> None:
    """A part of the archive, of which the content begins at a multiple of ALIGNMENT bytes."""
    part = zipfile.ZipInfo(f"archive/{name}")  # dated 1980: equal weights are equal files
    begins = archive.fp.tell() + 30 + len(part.filename) + 4  # headers of the part and of its padding
    padding = -begins % ALIGNMENT
    part.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(part, content)


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Protocol 2: OrderedDict([(name, torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, hooks))])."""
    parts = [pickle.PROTO + b"\x02", _ordered_dict(), pickle.MARK]
    for key, (name, array) in enumerate(arrays.items()):
        parts += [_text(name), *_tensor(str(key), array)]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _tensor(key: str, array: np.ndarray) -> Iterable[bytes]:
    strides = [int(np.prod(array.shape[axis + 1 :], dtype=np.int64)) for axis in range(array.ndim)]
    storage = _tuple(
        _text("storage"), _global("torch", CLASSES[array.dtype]), _text(key), _text("cpu"), _number(array.size)
    )
    shape, strides = (_tuple(*map(_number, values)) for values in (array.shape, strides))
    yield _global("torch._utils", "_rebuild_tensor_v2")
    yield _tuple(storage + pickle.BINPERSID, _number(0), shape, strides, pickle.NEWFALSE, _ordered_dict())
    yield pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _ordered_dict() -> bytes:
    return _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _number(value: int) -> bytes:
    return pickle.LONG1 + struct.pack("<Bq", 8, value)
