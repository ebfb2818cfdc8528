"""Files on disk as the sources see them: names listed without opening, contents read when their turn comes.

list_names     names below a folder, by suffix        picture_names   those of pictures, or why there are none
by_stem        the same by their names without suffix, which is how partners in two folders find each other
read_picture, read_text                               ValueError says what is wrong with the file
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tadsr_jax import images


class Files:
    """Picture files by their paths below `root`."""

    def __init__(self, root: Path, names: list[str]):
        self.root, self.names, self.place = root, names, str(root)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int) -> dict[str, np.ndarray]:
        return {"gt": read_picture(self.root / self.names[i])}


def read_picture(path: Path) -> np.ndarray:
    """RGB levels of a picture file."""
    return _read(path, "picture", images.read)


def read_text(path: Path) -> str:
    """The words of a text file, without space around them."""
    try:
        return _read(path, "text", lambda path: path.read_text(encoding="utf-8")).strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: no text (not in UTF-8).") from None


def _read(path: Path, kind: str, reader: Callable):
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path}: no {kind} (no ordinary file).")  # opening a named pipe would wait for ever
        return reader(path)
    except OSError as error:  # gone since it was listed, or unreadable
        raise ValueError(f"{path}: cannot be read ({error.strerror or type(error).__name__}).") from None


def list_names(root: Path, suffixes: tuple[str, ...]) -> tuple[list[str], int]:
    """Names below `root` with one of the suffixes in any letter case, in order of their paths; the number of others.

    Folders behind symbolic links are searched too, each real folder once, so that links in a circle end.
    """
    names, others, seen = [], 0, set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        below = os.path.relpath(folder, root)
        listed = [name for name in files if name.lower().endswith(suffixes) and not name.startswith(".")]
        names += listed if below == "." else [os.path.join(below, name) for name in listed]
        others += len(files) - len(listed)
    return sorted(names), others


def picture_names(root: Path, key: str) -> list[str]:
    """Names of the pictures below the folder that `config.data.KEY` names; at least one."""
    names, others = list_names(root, images.SUFFIXES)
    if not names:
        raise ValueError(
            f"config.data.{key} is {str(root)!r}, but no file in or below it has the suffix of a picture "
            f"({', '.join(images.SUFFIXES)}; {others} other files)."
        )
    return names


def by_stem(names: list[str]) -> dict[str, str]:
    """{"sub/a": "sub/a.png"}"""
    return {os.path.splitext(name)[0]: name for name in names}
