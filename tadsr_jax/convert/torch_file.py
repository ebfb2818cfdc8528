"""Weights files of the PyTorch world as {public name: array}, read without PyTorch and without running the file.

read    .pth, .pt, .ckpt, .bin (torch.save, both its formats) and .safetensors, told apart by their content

torch.save writes a pickle that describes tensors, and the bytes of the storages that they are strided views of. Since
PyTorch 1.6 these are entries of a zip file, PREFIX/data.pkl and PREFIX/data/KEY; before, they followed one another.
The pickle is read by `safe_pickle`; sizes are believed only where the bytes are there, so that a file can claim no more
memory than a small multiple of its own size.
"""

import io
import json
import math
import mmap
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from tadsr_jax.convert import safe_pickle

# Storage classes of PyTorch and the type of their elements.
STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
# Where trainers put the weights when the file holds more than them, in order of preference: averaged weights first.
ENTRIES = ("params_ema", "state_dict", "params", "model")
LEGACY = (0x1950A86A20F9469CFC6C, 1001)  # magic number and version of the format of before PyTorch 1.6
LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file; what its library allows
SAFETENSORS = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")  # types read
MAX_CLAIM = 8  # tensors may overlap (tied weights), but together claim at most this many times the size of the file
RESAVE = (
    "If you trust it, load it in PyTorch with torch.load(path, weights_only=True) "
    "and save the plain weights again with torch.save(model.state_dict(), new_path)"
)


class StateDict(dict):
    """{name: array} of a file; `repeated`: names that the file holds more than once, of which one is here."""

    def __init__(self, arrays, repeated=()):
        super().__init__(arrays)
        self.repeated = tuple(repeated)


class Storage(NamedTuple):
    """A typed run of bytes of the file, not read yet."""

    key: str
    dtype: np.dtype
    numel: int


class Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: str | Path, *, entry: str | None = None) -> StateDict:
    """{name: array} of a weights file; nothing in the file is executed. Arrays are contiguous and may be read-only.

    Where the weights lie inside other things (a training checkpoint), the first of ENTRIES that is present is taken,
    again and again, so "params_ema" wins over "params"; `entry` names another one. What else the file holds, such as
    the state of an optimiser, is not even read. Raises ValueError, in one line with the path, for a file that is
    missing, damaged, in an older format, or that refers to anything but tensors.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(16)
            if head.startswith(b"PK\x03\x04"):
                with zipfile.ZipFile(file) as archive:
                    return _read_container(_Zip(archive, size=file.seek(0, io.SEEK_END)), entry)
            if head.startswith(b"\x80") and head[8:9] != b"{":  # safetensors begin with a length, which may be anything
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    return _read_container(_Legacy(content), entry)
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return _read_safetensors(path)
        raise ValueError("this is neither a PyTorch file nor safetensors; is the download complete?")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise ValueError(f"{path}: there is not enough memory to read it.") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OverflowError, struct.error) as error:
        raise ValueError(f"{path}: the file is damaged ({error}); is the download complete?") from None
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).rstrip('.')}.") from None


def _read_safetensors(path: Path) -> StateDict:
    repeated = ()
    try:
        # Before the library, which drops repeated names and stumbles over types that NumPy lacks.
        header = _header(path)
        repeated = [name for name, times in Counter(name for name, _ in header).items() if times > 1]
        _check_types(header)
        with safe_open(path, framework="numpy") as file:
            return StateDict({name: file.get_tensor(name) for name in file.keys()}, repeated)  # noqa: SIM118 - no dict
    except (SafetensorError, TypeError, AttributeError) as error:
        twice = f"; it holds more than once: {', '.join(map(printable, repeated))}" if repeated else ""
        raise ValueError(f"not a valid safetensors file ({error}{twice}); is the download complete?") from None


def _header(path: Path) -> list[tuple[str, Any]]:
    """(name, type) of the tensors in the order of a safetensors file; [] where its header is not readable."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
        header = file.read(length) if length <= min(path.stat().st_size, LONGEST_HEADER) else b""
    try:
        pairs = json.loads(header, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return []
    if not isinstance(pairs, _Pairs):
        return []
    described = [(name, about) for name, about in pairs if isinstance(about, _Pairs) and name != "__metadata__"]
    return [(name, value) for name, about in described for key, value in about if key == "dtype"]


class _Pairs(list):
    """The [(key, value)] of a JSON object, where keys may be repeated."""


def _check_types(header: list[tuple[str, Any]]) -> None:
    if strange := [(name, dtype) for name, dtype in header if dtype not in SAFETENSORS]:
        name, dtype = strange[0]
        raise ValueError(
            f"{len(strange)} of its tensors have a type that cannot be read: {printable(name)} is "
            f"{printable(str(dtype), 40)}, expected {', '.join(SAFETENSORS)}; take the same weights in F16, BF16 or F32"
        )


def _read_container(container, entry: str | None) -> StateDict:
    """The weights in a PyTorch file: describe what was saved, choose, read every storage once, cut the tensors out."""
    tensors = _weights(container.describe(), entry)
    storages = {tensor.storage for tensor in tensors.values()}
    for storage in storages:
        held = container.held(storage.key)
        if storage.numel * storage.dtype.itemsize != held:
            raise ValueError(f"storage {storage.key!r} claims {storage.numel} {storage.dtype} but has {held} bytes")
    for name, tensor in tensors.items():
        _check_bounds(name, tensor)
    read = sum(storage.numel * storage.dtype.itemsize for storage in storages)
    claimed = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    if read > container.size or claimed > MAX_CLAIM * container.size:
        raise ValueError(f"its tensors claim {claimed} bytes, but the file has {container.size}")
    flat = {storage: np.frombuffer(container.data(storage.key), storage.dtype) for storage in storages}
    arrays = {name: _view(flat[tensor.storage], tensor) for name, tensor in tensors.items()}
    return StateDict(arrays, tensors.repeated)


def _described(stream, persistent_load) -> Any:
    """What is pickled in `stream`, with Tensor in place of tensors: no storage is read."""
    try:
        return safe_pickle.load(stream, table=TABLE, persistent_load=persistent_load)
    except ValueError as error:
        raise ValueError(f"{error}. Nothing was executed. {RESAVE}") from None


class _Zip:
    """A file of torch.save since PyTorch 1.6: a zip archive with entries below one folder, all stored uncompressed."""

    def __init__(self, archive: zipfile.ZipFile, *, size: int):
        self.archive, self.size = archive, size
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("this zip archive was not written by torch.save: it has no PREFIX/data.pkl")
        if twice := [name for name, times in Counter(archive.namelist()).items() if times > 1]:
            raise ValueError(f"the archive holds {len(twice)} parts twice ({twice[0][:80]!r}, ...); which is meant?")
        self.prefix = pickles[0].removesuffix("data.pkl")
        if f"{self.prefix}byteorder" in archive.namelist() and self._read("byteorder") != b"little":
            raise ValueError(f"it was written on a big-endian machine. {RESAVE}")

    def describe(self) -> Any:
        return _described(io.BytesIO(self._read("data.pkl")), _storage)

    def held(self, key: str) -> int:
        """How many bytes the storage `key` really has."""
        return self._info(f"data/{key}").file_size

    def data(self, key: str) -> bytes:
        return self._read(f"data/{key}")

    def _info(self, name: str) -> zipfile.ZipInfo:
        """The directory entry of `name`, its size verified against the file: a compressed entry could be a bomb."""
        try:
            info = self.archive.getinfo(self.prefix + name)
        except KeyError:
            raise ValueError(f"its part {name[:80]!r} is missing; is the download complete?") from None
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > self.size:
            raise ValueError(f"its part {name[:80]!r} is compressed or larger than the file. {RESAVE}")
        return info

    def _read(self, name: str) -> bytes:
        return self.archive.read(self._info(name))


class _Legacy:
    """A file of torch.save before 1.6: five pickles in a row, then length and bytes of every storage.

    The pickles: a magic number, the version, the machine, what was saved, and the keys of the storages in their order.
    torchvision's older backbones and the heads of the lpips package are still published in this form.
    """

    def __init__(self, content: mmap.mmap):
        self.content, self.size = content, len(content)
        self.storages, self.places = {}, {}

    def describe(self) -> Any:
        magic, version, machine, saved, keys = (_described(self.content, self._remember) for _ in range(5))
        if (magic, version) != LEGACY or not isinstance(machine, dict) or not machine.get("little_endian"):
            raise ValueError(f"this is a pickle, but not one of torch.save on an ordinary machine. {RESAVE}")
        start = self.content.tell()
        for key in keys if isinstance(keys, list) else ():
            if not isinstance(key, str) or key not in self.storages or start + 8 > self.size:
                raise ValueError("its list of storages does not fit its tensors; is the download complete?")
            (numel,) = struct.unpack_from("<q", self.content, start)
            length = numel * self.storages[key].dtype.itemsize
            if not 0 <= length <= self.size - start - 8:
                raise ValueError(f"storage {key[:80]!r} reaches beyond the file; is the download complete?")
            self.places[key] = slice(start + 8, start + 8 + length)
            start += 8 + length
        return saved

    def _remember(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or pid[5:] != (None,):  # else a view of a storage, of PyTorch 0.1
            raise ValueError("a storage in its pickle is described in an unknown way")
        storage = _storage(pid[:5])
        self.storages[storage.key] = storage
        return storage

    def held(self, key: str) -> int:
        """How many bytes the storage `key` really has."""
        return len(range(self.size)[self.places.get(key, slice(0))])

    def data(self, key: str) -> bytes:
        return self.content[self.places[key]]


def _check_bounds(name: str, tensor: Tensor) -> None:
    """Raise unless every element of the view lies in its storage."""
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if 0 not in tensor.shape and last >= tensor.storage.numel:
        raise ValueError(f"tensor {name[:80]!r} reaches beyond its storage of {tensor.storage.numel} elements")


def _view(flat: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The tensor as a contiguous array: a view where its storage is laid out that way, else a copy."""
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, flat.dtype)
    strides = [stride * flat.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
    return np.asarray(view, order="C")


def _weights(saved: Any, entry: str | None) -> StateDict:
    """The state dict in what was saved."""
    if entry is not None and isinstance(saved, dict):
        if not isinstance(saved.get(entry), dict):
            raise ValueError(f"it has no dictionary {entry!r}; its entries are {_names(saved)}")
        saved = saved[entry]
    seen = set()  # a hostile file may hold a dictionary that contains itself
    while isinstance(saved, dict) and id(saved) not in seen:
        seen.add(id(saved))
        saved = next((saved[key] for key in ENTRIES if isinstance(saved.get(key), dict)), saved)
    held = saved if isinstance(saved, safe_pickle.Entries) else safe_pickle.Entries()
    tensors = {name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)}
    tensors = StateDict(tensors, dict.fromkeys(name for name in held.repeated if name in tensors))
    if not tensors:
        raise ValueError(f"it holds no tensors under {', '.join(ENTRIES)}; its entries are {_names(saved)}")
    return tensors


def _names(saved: Any) -> str:
    """The entries of a dictionary, for an error message."""
    if not isinstance(saved, dict):
        return f"none: it is a {type(saved).__name__}"
    names = [printable(str(key), 40) for key in saved]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def printable(name: str, length: int = 200) -> str:
    """A name of a stranger's file, for a message on a terminal."""
    name = name if len(name) <= length else f"{name[:length]}..."
    return name if name.isprintable() else ascii(name)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _storage(pid: Any) -> Storage:
    """The persistent id ("storage", class, key, device, number of elements)."""
    match pid:
        case ("storage", safe_pickle.Global(value=np.dtype() as dtype), str(key), str(), numel) if _is_size(numel):
            if len(key) <= safe_pickle.LONGEST_KEY:
                return Storage(key, dtype, numel)
    raise ValueError("a storage in its pickle is described in an unknown way")


def _rebuild_tensor(storage, offset, shape, strides, *_) -> Tensor:
    """torch._utils._rebuild_tensor_v2. What follows (requires_grad, hooks, metadata) says nothing about the values."""
    regular = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 32
    if not isinstance(storage, Storage) or not regular or not all(map(_is_size, (offset, *shape, *strides))):
        raise ValueError("a tensor in its pickle has an impossible shape, stride or offset")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data, *_) -> Any:
    """torch._utils._rebuild_parameter: a parameter is its tensor."""
    return data


def _ordered_dict(pairs=()) -> safe_pickle.Entries:
    """collections.OrderedDict; Python 2 gave it its pairs at once."""
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("an ordered dictionary in its pickle is made of something else than pairs")
    return safe_pickle.entries([item for pair in pairs for item in pair])


def _size(shape=()) -> tuple:
    """torch.Size."""
    return tuple(shape)


# All that a file may refer to.
TABLE = {
    **{f"torch.{name}": np.dtype(dtype) for name, dtype in STORAGES.items()},
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
}
