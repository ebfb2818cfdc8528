"""Where pictures come from. A source has a length; `read(i)` decodes picture i or raises ValueError with the reason.

folder    config.data.path is a folder, searched recursively           list      a text file of paths, one a line
pairs     a folder of gt, and config.data.lq_path a folder of lq, matched by name without suffix
records   ArrayRecord files: each record is the bytes of an encoded picture (PNG, JPEG, WebP, ...) and nothing else
tfds      a prepared TensorFlow dataset: its folder, or its name       demo      the photographs of this package
prepared  a folder laid out by the public scripts of SeeSR's family: gt, sr_bicubic, tag, tch (prepared.py)
Listing reads names alone; no file is opened before its turn. A picture is a dict: "gt"; "lq" where it is paired, as
large as gt or a whole fraction of it; and of prepared folders "words" and "tch".
"""

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from tadsr_jax import images
from tadsr_jax.data import demo, prepared
from tadsr_jax.data.files import Files, by_stem, picture_names

Picture = dict[str, np.ndarray | str]


class Source(Protocol):
    place: str  # for messages: the folder or file that the user named

    def __len__(self) -> int: ...

    def name(self, i: int) -> str: ...

    def read(self, i: int) -> Picture: ...


def _folder(path: str, **_) -> Files:
    return Files(Path(path), picture_names(Path(path), "path"))


def _list(path: str, **_) -> Files:
    file = Path(path)
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise ValueError(f"config.data.path is {path!r}, a list without an entry; expected one path a line.")
    return Files(file.parent, names)  # an absolute name in the list stays absolute


class Pairs:
    """gt and lq of the same name (below their folders, without suffix)."""

    def __init__(self, gt: Files, lq: Files, scale: int):
        self.gt, self.lq, self.scale = gt, lq, scale
        self.place = f"{gt.place} and {lq.place}"

    def __len__(self) -> int:
        return len(self.gt)

    def name(self, i: int) -> str:
        return self.gt.name(i)

    def read(self, i: int) -> Picture:
        gt, lq = self.gt.read(i)["gt"], self.lq.read(i)["gt"]
        if gt.shape[:2] != (lq.shape[0] * self.scale, lq.shape[1] * self.scale):
            raise ValueError(
                f"{self.name(i)}: gt is {gt.shape[0]}x{gt.shape[1]}, lq {lq.shape[0]}x{lq.shape[1]}; "
                f"expected a ratio of {self.scale}."
            )
        return {"gt": gt, "lq": lq}


def _pairs(path: str, lq_path: str, scale: int = 1, **_) -> Pairs:
    gt, lq = by_stem(picture_names(Path(path), "path")), by_stem(picture_names(Path(lq_path), "lq_path"))
    both = sorted(gt.keys() & lq.keys())
    if not both:
        raise ValueError(
            f"config.data.path {path!r} and config.data.lq_path {lq_path!r} share no name: {len(gt)} and {len(lq)} "
            f"pictures, such as {next(iter(gt))!r} and {next(iter(lq))!r}; a pair has one name, suffix aside."
        )
    return Pairs(Files(Path(path), [gt[n] for n in both]), Files(Path(lq_path), [lq[n] for n in both]), scale)


class Records:
    """Encoded pictures in a random-access source of bytes."""

    def __init__(self, records, place: str):
        self.records, self.place = records, place

    def __len__(self) -> int:
        return len(self.records)

    def name(self, i: int) -> str:
        return f"{self.place}: record {i}"

    def read(self, i: int) -> Picture:
        return {"gt": _decode(_fetch(self.records, i, self.name(i)), self.name(i))}


def _fetch(examples, i: int, name: str):
    """Example i of a library's reader; whatever that raises for a damaged one is a ValueError here."""
    try:
        return examples[i]
    except Exception as error:
        raise ValueError(f"{name}: damaged or truncated ({type(error).__name__}).") from None


def _decode(data: bytes, name: str) -> np.ndarray:
    try:
        return images.decode(bytes(data))
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('data: ')}") from None


def _records(path: str, **_) -> Records:
    place = Path(path)
    files = sorted(map(str, place.iterdir())) if place.is_dir() else [path]
    files = [file for file in files if os.path.isfile(file)]
    if not files:
        raise ValueError(
            f"config.data.path is {path!r}, which holds no file; name an ArrayRecord file or their folder."
        )
    from array_record.python import array_record_data_source

    try:
        return Records(array_record_data_source.ArrayRecordDataSource(files), path)
    except Exception as error:  # the C++ reader's own words are about chunks and headers
        raise ValueError(f"config.data.path is {path!r}: no ArrayRecord file ({type(error).__name__}).") from None


class Tfds:
    """The picture of each example of a TensorFlow dataset, decoded here, so that damage is skipped and not fatal."""

    def __init__(self, examples, key: str, place: str):
        self.examples, self.key, self.place = examples, key, place

    def __len__(self) -> int:
        return len(self.examples)

    def name(self, i: int) -> str:
        return f"{self.place}: example {i}"

    def read(self, i: int) -> Picture:
        data = _fetch(self.examples, i, self.name(i))[self.key]
        if isinstance(data, np.ndarray):  # decoded there: (h, w, 1) or (h, w, 3)
            return {"gt": np.broadcast_to(data[..., :3], (*data.shape[:2], 3))}
        return {"gt": _decode(data, self.name(i))}


def _tfds(path: str, split: str = "train", **_) -> Tfds:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ValueError(
            "config.data.source is 'tfds', but tensorflow_datasets is not installed; install tadsr_jax[tfds]."
        ) from None
    try:
        builder = tfds.builder_from_directory(path) if os.path.isdir(path) else tfds.builder(path)
        features = [key for key, f in builder.info.features.items() if isinstance(f, tfds.features.Image)]
        key = next(key for key in ("hr", "image", *features) if key in features)
        examples = builder.as_data_source(split, decoders={key: tfds.decode.SkipDecoding()})
    except StopIteration:
        raise ValueError(
            f"config.data.path is {path!r}, a dataset without pictures; its features: none is an Image."
        ) from None
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"config.data.path is {path!r} (split {split!r}): {reason} Name a dataset that tfds has prepared with "
            "file_format='array_record', or its folder."
        ) from None
    return Tfds(examples, key, f"{path} ({split})")


class Demo(Files):
    """The packaged photographs, decoded once for each process."""

    def __init__(self, *, is_training: bool = True):
        paths = demo.paths(is_training=is_training)
        super().__init__(paths[0].parent, [path.name for path in paths])

    def read(self, i: int) -> Picture:
        return {"gt": demo.read(self.root / self.names[i])}


def _demo(is_training: bool = True, **_) -> Demo:
    return Demo(is_training=is_training)


def _prepared(path: str, **_) -> prepared.Prepared:
    return prepared.Prepared(Path(path))


SOURCES = {
    "folder": _folder,
    "list": _list,
    "pairs": _pairs,
    "records": _records,
    "tfds": _tfds,
    "demo": _demo,
    "prepared": _prepared,
}
PAIRED = ("pairs", "prepared")  # lq comes with gt, and is not degraded


def check_place(source: str, path: str | None, lq_path: str | None = None) -> None:
    """ValueError where a source is unknown, or the place that it needs is missing; lists and opens nothing."""
    if source not in SOURCES:
        raise ValueError(f"config.data.source is {source!r}; expected one of {', '.join(SOURCES)}.")
    if source == "demo":
        return
    for key, place in {"path": path, "lq_path": lq_path}.items():
        if key == "lq_path" and source != "pairs":
            continue
        if not place:
            raise ValueError(f"config.data.{key} is {place!r}; source={source!r} needs the place of your pictures.")
        if source == "tfds":  # a name may stand for the place
            continue
        if not os.path.exists(place):
            raise ValueError(f"config.data.{key} is {str(place)!r}, which does not exist; source={source!r} reads it.")
        if source in ("folder", *PAIRED) and not os.path.isdir(place):
            raise ValueError(f"config.data.{key} is {str(place)!r}, which is no folder; source={source!r} needs one.")
        if source == "list" and not os.path.isfile(place):
            raise ValueError(f"config.data.path is {str(place)!r}, which is no text file; source='list' reads one.")
        if source == "prepared":
            prepared.check_folder(Path(place))


def open_source(source: str, path: str | None, *, lq_path: str | None = None, **options) -> Source:
    """The source that `config.data.source` and `config.data.path` name. ValueError says which key is wrong, and why."""
    check_place(source, path, lq_path)
    return SOURCES[source](path=path, lq_path=lq_path, **options)
