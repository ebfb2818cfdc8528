"""Bundles: a model as a folder that a person can read, and a program can load from strangers.

    BUNDLE/bundle.json           format, family, scale, steps, longest, sampler, color_fix, sources, checksums, versions
    BUNDLE/student.safetensors   one file a network; names are paths of our parameter trees
    BUNDLE/texts/vocab.json      what is no weights: a tokenizer, a list of tags

save   arrays as they are, half precision too           load           float32 parameters, ready to sample
describe, is_bundle   what a folder says that it holds  open_bundle, load_network, load_texts   parts of it
find   the bundle in a folder that may be a training run's
Nothing in it can execute. Loading checks format, checksums, names, shapes and types against the config before use.
"""

import hashlib
import json
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tadsr_jax import folders, networks
from tadsr_jax.families import FAMILIES
from tadsr_jax.types import Bundle, Family, PyTree

FORMAT = 1
DTYPES = ("float32", "bfloat16", "float16")  # of stored arrays
SAMPLERS = ("deterministic", "stochastic")
COLOR_FIXES = ("none", "wavelet", "adain")
TEXT = re.compile(r"\w[\w.-]*", re.ASCII)  # the name of a text: a plain one


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {name: metadata.version(name) for name in ("tadsr_jax", "jax", "jaxlib", "flax", "optax", "numpy")}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_sha256(tree) -> str:
    """SHA-256 over sorted names and bytes of a parameter tree: equal for equal parameters, whatever their order."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_dict(tree, sep="/").items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def expected_shapes(family: Family) -> dict:
    """{network of a bundle: tree of shapes}: "student", which is the family's denoiser, and its fixed networks."""
    shapes = jax.eval_shape(lambda: family.init(jax.random.key(0)))  # a key outside of it would start the backend
    return {"student": shapes["denoiser"]} | {name: shapes[name] for name in family.fixed}


def module_of(family: Family, name: str) -> nn.Module:
    """The module of a network of a bundle."""
    return family.networks["denoiser" if name == "student" else name]


def save(
    folder: Path, *, family: str, settings: dict, params: dict, info: dict, texts: dict[str, str] | None = None
) -> Path:
    """Write a bundle beside `folder`, then move it into its place: a half-written bundle is never seen.

    family, settings   name in `families.FAMILIES`, and the keywords of its `build`
    params             {"student": tree, "autoencoder": tree, ...}; arrays keep their types, which must be in DTYPES
    info               what else bundle.json says: recipe, steps, ...
    texts              {plain name: content} of what is no weights
    """
    folder, texts = Path(folder), dict(texts or {})
    if strange := [name for name in texts if not TEXT.fullmatch(name)]:
        raise ValueError(f"{strange[0]!r} cannot be the name of a text in a bundle; expected a plain file name.")
    for name, tree in params.items():
        if strange := {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} - {*DTYPES}:
            raise ValueError(f"{name} has {', '.join(sorted(strange))} arrays; a bundle holds {', '.join(DTYPES)}.")
    files = {}
    with folders.whole(folder) as fresh:
        for name, tree in params.items():
            # safetensors writes wrong data for arrays that are not contiguous.
            flat = {path: np.ascontiguousarray(leaf) for path, leaf in flatten_dict(tree, sep="/").items()}
            path = fresh / f"{name}.safetensors"
            try:
                save_file(flat, path)
            except SafetensorError as error:  # it wraps the errors of writing
                raise OSError(f"{fresh}: cannot be written ({error}).") from None
            path.chmod(fresh.stat().st_mode & 0o666)  # safetensors makes its files private; bundles are to be copied
            files[name] = {
                "file": path.name,
                "sha256": file_sha256(path),
                "parameters": int(sum(leaf.size for leaf in flat.values())),
                "dtype": ", ".join(sorted({leaf.dtype.name for leaf in flat.values()})),
            }
        about = {"format": FORMAT, "family": family, "settings": settings, "networks": files, "versions": versions()}
        if texts:
            about["texts"] = _write_texts(fresh / "texts", texts)
        (fresh / "bundle.json").write_text(json.dumps(about | info, indent=1) + "\n")
    return folder


def _write_texts(folder: Path, texts: dict[str, str]) -> dict:
    """Write the texts; what bundle.json says of them."""
    folder.mkdir()
    for name, content in texts.items():
        (folder / name).write_bytes(content.encode())
    return {name: {"sha256": file_sha256(folder / name)} for name in texts}


def is_bundle(folder: Path) -> bool:
    """Whether `folder` says that it is a bundle, sound or not."""
    return (Path(folder) / "bundle.json").is_file()


def find(folder: Path) -> Path:
    """The folder of the bundle that `folder` is, or that it holds as a training run's does; else `folder` itself.

    While `save` replaces a bundle, and after it was killed there, the former one is still found.
    """
    folder = Path(folder)
    for bundle in (folder, folder / "bundle"):
        if is_bundle(folders.former(bundle)):
            return folders.former(bundle)
    return folder


def load(folder: Path, *, dtype: str | None = None) -> Bundle:
    """Read and check a bundle, or that of a training run; every fault is a ValueError of one line that names the file.

    Parameters are float32, however they are stored. `dtype` ("float32", "bfloat16") is what the networks compute in,
    instead of what their settings say.
    """
    if dtype not in (None, *networks.DTYPES):
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(networks.DTYPES)}.")
    bundle, read = open_bundle(folder, dtype=dtype)
    for name in expected_shapes(bundle.family):
        bundle.params[name] = jax.tree.map(lambda array: np.asarray(array, np.float32), read(name))
    return bundle


def open_bundle(folder: Path, *, dtype: str | None = None) -> tuple[Bundle, Callable[[str], PyTree]]:
    """(the bundle without its parameters, what reads those of a network in the types that they are stored in).

    For models that are too large to be held twice. Names are "student", "autoencoder", ...; everything is checked.
    """
    folder = find(folder)
    info, family, shapes = _open(folder, dtype)

    def read(name: str) -> PyTree:
        if name not in shapes:
            raise ValueError(f"{folder} has no network {name!r}; it has {', '.join(shapes)}.")
        return _read_network(folder, info, name, shapes[name])

    return Bundle(family=family, params={}, info=info, texts=_read_texts(folder, info)), read


def load_network(folder: Path, name: str) -> tuple[nn.Module, PyTree]:
    """(module, parameters in the types they are stored in) of one network of a bundle."""
    bundle, read = open_bundle(folder)
    params = read(name)
    return module_of(bundle.family, name), params


def describe(folder: Path) -> dict:
    """bundle.json, checked."""
    return _read_info(find(folder))


def load_texts(folder: Path) -> dict[str, str]:
    """{name: content} of a bundle's texts, checked."""
    return _read_texts(find(folder), describe(folder))


def _open(folder: Path, dtype: str | None = None) -> tuple[dict, Family, dict]:
    """(bundle.json, family, shapes of its networks), checked."""
    info = _read_info(folder)
    try:
        family = family_of(info, dtype)
        shapes = expected_shapes(family)
    except Exception as error:  # whatever a stranger's numbers can make a constructor raise
        raise ValueError(f"{folder / 'bundle.json'}: these settings make no model: {error}") from None
    longest = min(family.longest, info.get("longest", family.longest))
    if info.get("steps", 1) > longest:
        raise ValueError(f"{folder / 'bundle.json'}: 'steps' is {info['steps']}; this model takes {longest} at most.")
    return info, family, shapes


def family_of(info: dict, dtype: str | None) -> Family:
    """The family that a bundle's description says; `dtype` replaces that of the networks that have one."""
    build, settings = FAMILIES[info["family"]], info["settings"]
    family = build(**settings)
    if dtype is None:
        return family
    computing = [name for name, module in family.networks.items() if hasattr(module, "dtype")]
    return build(**settings | {name: settings[name] | {"dtype": dtype} for name in computing})


def _read_info(folder: Path) -> dict:
    path = folder / "bundle.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is no bundle: neither it nor {folder / 'bundle'} holds a bundle.json. A training run writes its "
            "bundle at its end; `tadsr export` makes one of its checkpoints."
        )
    try:
        info = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}).") from None
    if not isinstance(info, dict) or not isinstance(info.get("format"), int):
        raise ValueError(f"{path}: not a bundle's description; expected an object with a number under 'format'.")
    if info["format"] > FORMAT:
        raise ValueError(
            f"{path}: format {info['format']} is newer than this version reads ({FORMAT}); update tadsr_jax."
        )
    for key, kind in (("family", str), ("settings", dict), ("networks", dict)):
        if not isinstance(info.get(key), kind):
            raise ValueError(f"{path}: {key!r} is {info.get(key)!r}; expected a {kind.__name__}.")
    if not isinstance(info.get("texts", {}), dict):
        raise ValueError(f"{path}: 'texts' is {info['texts']!r}; expected an object.")
    for key in ("steps", "longest"):
        if type(info.get(key, 1)) is not int or info.get(key, 1) < 1:
            raise ValueError(f"{path}: {key!r} is {info[key]!r}; expected a whole number, 1 or more.")
    for key, accepted in (("sampler", SAMPLERS), ("color_fix", COLOR_FIXES)):
        if info.get(key, accepted[0]) not in accepted:
            raise ValueError(f"{path}: {key!r} is {info[key]!r}; expected one of {', '.join(accepted)}.")
    if info["family"] not in FAMILIES:
        raise ValueError(f"{path}: family {info['family']!r}; this version knows {', '.join(FAMILIES)}.")
    return info


def _read_texts(folder: Path, info: dict) -> dict[str, str]:
    """{name: content} of the texts, checked."""
    texts = {}
    for name, entry in info.get("texts", {}).items():
        if not TEXT.fullmatch(name) or not isinstance(entry, dict):
            raise ValueError(f"{folder / 'bundle.json'}: {name!r} is no text's name with its checksum.")
        path = folder / "texts" / name
        _check_file(path, entry)
        try:
            texts[name] = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a text ({error}).") from None
    return texts


def _check_file(path: Path, entry: dict) -> None:
    """ValueError unless the file is there, with the checksum of its entry in bundle.json."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the whole folder.")
    if file_sha256(path) != entry.get("sha256"):
        raise ValueError(f"{path}: its checksum is not the one in bundle.json; the file is damaged, copy it again.")


def _read_network(folder: Path, info: dict, name: str, shapes) -> dict:
    """The arrays of a network as they are stored, once they have the expected checksum, names, shapes and types."""
    if name not in info["networks"]:
        raise ValueError(f"{folder / 'bundle.json'}: no network {name!r}; it lists {', '.join(info['networks'])}.")
    entry = info["networks"][name]
    if not isinstance(entry, dict) or entry.get("file") != f"{name}.safetensors":  # no paths from strangers
        raise ValueError(f"{folder / 'bundle.json'}: the file of {name!r} must be {name}.safetensors.")
    path = folder / entry["file"]
    _check_file(path, entry)
    try:
        found = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error}).") from None
    wanted = {path_: leaf.shape for path_, leaf in flatten_dict(shapes, sep="/").items()}
    faults = [f"missing {key}" for key in sorted(wanted.keys() - found.keys())]
    faults += [f"surplus {key}" for key in sorted(found.keys() - wanted.keys())]
    for key in sorted(wanted.keys() & found.keys()):
        if found[key].shape != wanted[key]:
            faults.append(f"{key} has shape {found[key].shape}, expected {wanted[key]}")
        elif found[key].dtype.name not in DTYPES:
            faults.append(f"{key} is {found[key].dtype}, expected {', '.join(DTYPES)}")
    if faults:
        raise ValueError(
            f"{path}: {len(faults)} weights do not fit the config in bundle.json: {'; '.join(faults[:10])}."
        )
    return unflatten_dict(found, sep="/")
