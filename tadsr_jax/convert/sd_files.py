"""Files as diffusers and transformers lay them out: JSON, and the weights of a network in one file or in shards.

    FOLDER/diffusion_pytorch_model.safetensors                                            one file
    FOLDER/diffusion_pytorch_model.safetensors.index.json, ...-00001-of-00002.safetensors      shards

find_weights   the file or index to read, of those in a folder     read_weights   {name: array} of it
files_of       it, and the shards of an index
write_weights  one file, or shards where that is too large         read_json, write_json   an object
An index says which shard holds which tensor; it is believed only where that is so, and can name only files beside it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tadsr_jax.convert import torch_file, torch_save
from tadsr_jax.convert.torch_file import StateDict, printable

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # of diffusers; of transformers, two
FORMATS = ("safetensors", "bin")
VARIANTS = ("", "fp16")  # full precision is preferred to half of it
SHARD = re.compile(r"\w[\w.-]*\.(safetensors|bin)", re.ASCII)  # what an index may name: no other folder
LONGEST_JSON = 100_000_000  # bytes; an index of a large network has a tenth of a million
SHARD_BYTES = 5_000_000_000  # of the largest file, as the public libraries have it


def file_names() -> Iterable[str]:
    """The names that weights may have, in order of preference."""
    for variant in VARIANTS:
        dotted = f".{variant}" if variant else ""
        for suffix in FORMATS:
            for stem in STEMS:
                yield f"{stem}{dotted}.{suffix}"
                yield f"{stem}.{suffix}.index{dotted}.json"


def find_weights(folder: Path) -> Path | None:
    """The file of weights in a folder, or the index of its shards; None where there is none."""
    return next((folder / name for name in file_names() if (folder / name).is_file()), None)


def read_weights(path: Path) -> StateDict:
    """{name: array} of a file that `find_weights` found, all its shards together.

    Raises ValueError for files that are missing, damaged or want to run something (`torch_file`), and for an index
    that names a file elsewhere, or whose shards do not hold exactly what it says.
    """
    return _read_shards(path) if path.suffix == ".json" else torch_file.read(path)


def files_of(path: Path) -> list[Path]:
    """The files that `read_weights` reads: the one, or an index and its shards."""
    if path.suffix != ".json":
        return [path]
    return [path, *(path.parent / name for name in sorted(set(_weight_map(path).values())))]


def write_weights(
    folder: Path, stem: str, arrays: Mapping[str, np.ndarray], *, shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write STEM.safetensors, or where that took more than `shard_bytes`, shards and their index; the files."""
    parts = divided({name: array.nbytes for name, array in arrays.items()}, limit=shard_bytes)
    if len(parts) == 1:
        return [torch_save.write(folder / f"{stem}.safetensors", arrays)]
    files, weight_map = [], {}
    for number, part in enumerate(parts, 1):
        name = f"{stem}-{number:05}-of-{len(parts):05}.safetensors"
        files.append(torch_save.write(folder / name, {entry: arrays[entry] for entry in part}))
        weight_map |= dict.fromkeys(part, name)
    total = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return [*files, write_json(folder / f"{stem}.safetensors.index.json", index)]


def divided(sizes: Mapping[str, int], *, limit: int) -> list[list[str]]:
    """The names in their order, cut so that the sizes of a part add up to at most `limit`, or it has one name."""
    parts, total = [[]], 0
    for name, size in sizes.items():
        if parts[-1] and total + size > limit:
            parts.append([])
            total = 0
        parts[-1].append(name)
        total += size
    return parts


def read_json(path: Path) -> dict:
    """The object in a JSON file. Raises ValueError where it is none, or has a key twice."""
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise ValueError(f"it has more than {LONGEST_JSON:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file that can be used ({error}).") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {type(found).__name__} instead of an object; is the download complete?")
    return found


def write_json(path: Path, content: Mapping) -> Path:
    """As the public libraries write it."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def _object(pairs: list[tuple]) -> dict:
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has {printable(key)!r} twice")
        found[key] = value
    return found


def _read_shards(index: Path) -> StateDict:
    weight_map = _weight_map(index)
    files = sorted(set(weight_map.values()))
    if absent := [name for name in files if not (index.parent / name).is_file()]:
        raise ValueError(f"{index}: {len(absent)} of {len(files)} shards are missing: {', '.join(absent)}.")
    arrays, repeated, listed, unlisted = {}, [], set(), []
    for file in files:
        shard = torch_file.read(index.parent / file)
        repeated += [*shard.repeated, *(name for name in shard if name in arrays)]
        listed |= {name for name in shard if weight_map.get(name) == file}
        unlisted += [f"{name} in {file}" for name in shard if weight_map.get(name) != file]
        arrays |= shard
    faults = {
        "are not in the shard that is said to hold them": [name for name in weight_map if name not in listed],
        "are in a shard that is not said to hold them": unlisted,
        "are there more than once": list(dict.fromkeys(repeated)),
    }
    if any(faults.values()):
        told = "; ".join(f"{len(names)} tensors {what}: {_first(names)}" for what, names in faults.items() if names)
        raise ValueError(f"{index} does not fit its shards: {told}. Take all these files from one download.")
    return StateDict(arrays)


def _weight_map(index: Path) -> dict[str, str]:
    """{tensor: shard} of an index, every shard a name of a file in its folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: no 'weight_map' that says which file holds which tensor.")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            raise ValueError(
                f"{index}: {printable(name)} is said to be in {printable(str(file))!r}; expected the name of a "
                ".safetensors or .bin file beside the index."
            )
    return weight_map


def _first(names: list[str], count: int = 10) -> str:
    """The first names, for a message."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(printable, names[:count])) + more
