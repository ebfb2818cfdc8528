"""Folders prepared by the public scripts of SeeSR, AddSR and TAD-SeeSR: pairs degraded before training, with words.

    FOLDER/gt/NAME.png            the ground truth, 512 x 512 in the public sets
    FOLDER/sr_bicubic/NAME.png    lq enlarged to the size of gt, bicubic: what the networks are shown
    FOLDER/tag/NAME.txt           what is in gt, "cat, sofa, room": a line, which may be empty
    FOLDER/tch/NAME.png           the picture that the teacher made of it; without this folder there are none
lq of a pair is the enlarged picture: the networks know no other, and the small one cannot be had back from it.
The public loaders pair two unsorted listings by position; here partners have one name, and one that lacks is an error.
"""

from pathlib import Path

import numpy as np

from tadsr_jax import images
from tadsr_jax.data import files

PICTURES, TEXTS = images.SUFFIXES, (".txt",)
FOLDERS = {"gt": PICTURES, "sr_bicubic": PICTURES, "tag": TEXTS}  # suffixes of what a folder holds
OPTIONAL = {"tch": PICTURES}
_TOLD = 3  # names told of each kind of trouble


class Prepared:
    """Pairs with words, and with the teacher's pictures where there are any.

    read(i) -> {"gt", "lq", "words"} and "tch"; all pictures have the size of gt.
    """

    def __init__(self, root: Path):
        folders = FOLDERS | {name: kind for name, kind in OPTIONAL.items() if (root / name).is_dir()}
        self.root, self.place = root, str(root)
        self._files = {name: _by_stem(root / name, suffixes) for name, suffixes in folders.items()}
        _check_partners(root, self._files)
        self._stems = sorted(self._files["gt"])

    def __len__(self) -> int:
        return len(self._stems)

    def name(self, i: int) -> str:
        return self._files["gt"][self._stems[i]]

    def read(self, i: int) -> dict[str, np.ndarray | str]:
        paths = {folder: self.root / folder / of[self._stems[i]] for folder, of in self._files.items()}
        pictures = {folder: files.read_picture(path) for folder, path in paths.items() if folder != "tag"}
        height, width = pictures["gt"].shape[:2]
        for folder, picture in pictures.items():
            if picture.shape[:2] != (height, width):
                raise ValueError(
                    f"{self.name(i)}: gt is {height}x{width}, {folder} {picture.shape[0]}x{picture.shape[1]}; "
                    "expected a ratio of 1: sr_bicubic holds lq enlarged to the size of gt."
                )
        return {"lq": pictures.pop("sr_bicubic"), **pictures, "words": files.read_text(paths["tag"])}


def check_folder(root: Path) -> None:
    """ValueError where `root` is not laid out as it should be; lists nothing."""
    missing = [name for name in FOLDERS if not (root / name).is_dir()]
    if not missing:
        return
    hint = ""
    if missing == ["tag"] and any(root.glob("tag*.txt")):  # the public script forgets a slash
        hint = " Texts called tagNAME.txt lie in it: move them to tag/NAME.txt."
    raise ValueError(
        f"config.data.path is {str(root)!r}, which has no folder {', '.join(missing)}; "
        f"source='prepared' reads {', '.join(FOLDERS)}, and {', '.join(OPTIONAL)} where it is there.{hint}"
    )


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    names, _ = files.list_names(folder, suffixes)
    found = files.by_stem(names)
    if len(found) < len(names):
        twice = sorted(set(names) - set(found.values()))
        raise ValueError(f"{folder} holds {_named(twice)} under one name with another suffix; keep one of them.")
    return found


def _check_partners(root: Path, files_of: dict[str, dict[str, str]]) -> None:
    """ValueError unless all folders hold the same names, and at least one."""
    everything = set().union(*files_of.values())
    if not everything:
        raise ValueError(f"config.data.path is {str(root)!r}, but its folders {', '.join(files_of)} hold nothing.")
    lacking = {folder: sorted(everything - found.keys()) for folder, found in files_of.items()}
    said = [f"{folder} lacks {_named(stems)}" for folder, stems in lacking.items() if stems]
    if said:
        raise ValueError(
            f"config.data.path is {str(root)!r}: of {len(everything)} names in its folders, {'; '.join(said)}. "
            "Each name has to be in all of them: add what is missing, or remove its partners."
        )


def _named(names: list[str]) -> str:
    """'12 (a, b, c, ...)'"""
    return f"{len(names)} ({', '.join(names[:_TOLD])}{', ...' if names[_TOLD:] else ''})"
