"""Which pictures a person means, and where their enlargements go. Nothing is read or written here.

    find(["holiday", "a.jpg", "scans/**/*.tif"], "results")  ->  [Job(input, output, mask), ...]

find             files, folders and globs -> jobs; every fault of the command is a ValueError of one line
check_writable   refuses an output folder that nothing can be written to
No two jobs have one output, also where file names are compared without case, and no output is an input.
"""

import glob
import itertools
import os
import re
import tempfile
import unicodedata
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tadsr_jax.pictures import SUFFIXES

FORMATS = {
    "png": ".png",
    "jpg": ".jpg",
    "jpeg": ".jpg",
    "webp": ".webp",
    "tif": ".tif",
    "tiff": ".tif",
    "bmp": ".bmp",
}
# People type these behind -o; a folder of such a name is hardly what they mean.
UNWRITTEN = (".gif", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".psd", ".exr", ".svg", ".pdf", ".ico", ".tga", ".ppm")


class Job(NamedTuple):
    """One picture to enlarge."""

    input: Path
    output: Path
    mask: Path | None = None  # where it is expected, should a folder of masks lack it


class _Found(NamedTuple):
    """A picture, and the folder under which its place is kept in the output."""

    path: Path
    root: Path

    @property
    def place(self) -> Path:
        return self.path.relative_to(self.root)


def find(
    inputs: list[str],
    output: str | Path,
    *,
    format: str | None = None,
    mask: str | Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Job]:
    """The jobs of a command, in the order of `inputs`; folders and globs in natural order (2.png before 10.png).

    inputs   files; folders, searched with their subfolders; globs that no shell has expanded
    output   a folder, which gets the structure below each folder or glob; or, for one input file, a picture's name
    format   one of FORMATS, or "keep" for each picture's own; None: png, or what `output` says
    mask     one picture for all, or a folder with a mask of the same name for each; it may lack some, but not all
    note     gets a line on everything named that is left alone
    Left alone: hidden files and folders, files that are no pictures by their name, the output folder and the masks.
    """
    output, mask = Path(output), None if mask is None else Path(mask)
    _check_mask(mask)
    is_folder_named = any(os.path.isdir(text) for text in inputs)
    found = _collect(inputs, leave=[path for path in (output, mask) if path is not None], note=note)
    if len(found) == 1 and not is_folder_named and _is_file_name(output):
        outputs = [_single_output(output, format)]
    else:
        _check_folder(output, len(found))
        outputs = [output / name for name in _names(found, format or "png")]
    _check_overlap(found, outputs)
    return [Job(item.path, path, own) for item, path, own in zip(found, outputs, _masks(found, mask))]


# ---- inputs ---------------------------------------------------------------------------------------------------------


def _collect(inputs: list[str], *, leave: list[Path], note) -> list[_Found]:
    """Every picture of the inputs once."""
    found, absent = {}, []
    for text in inputs:
        before = len(found)
        if text and os.path.isdir(text):
            _check_not_output(text, leave[0])
            items = _in_folder(Path(text), leave, note)
            reason = f"{text}: no pictures in this folder ({', '.join(SUFFIXES)})."
        elif text and os.path.isfile(text):
            items = [_Found(Path(text), Path(text).parent)] if _is_picture(text) else []
            reason = f"{text}: no picture by its name; expected one of {', '.join(SUFFIXES)}."
        elif text and not os.path.lexists(text) and glob.has_magic(text):
            items = _in_glob(text, leave, note)
            reason = f"{text!r} matches no picture."
        else:
            kind = "a broken link, or neither file nor folder" if text and os.path.lexists(text) else "no such file"
            raise ValueError(
                f"{text!r}: {kind}; expected a picture, a folder of pictures, or a glob such as 'in/*.jpg'."
            )
        for item in items:
            found.setdefault(os.path.abspath(item.path), item)
        if len(found) == before and not items:
            absent.append(reason)
    if not found:
        raise ValueError(absent[0] if absent else "no pictures named; expected files, folders or globs.")
    for reason in absent:
        note(f"left alone: {reason}")
    return list(found.values())


def _is_picture(path: str | Path) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _in_folder(folder: Path, leave: list[Path], note) -> list[_Found]:
    """The pictures of a folder and its subfolders: real ones first, each one once, so that loops of links end."""
    seen, folders, found = {os.path.realpath(path) for path in leave}, deque([folder]), []
    while folders:
        here = folders.popleft()
        if os.path.realpath(here) in seen:
            continue
        seen.add(os.path.realpath(here))
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            note(f"left alone: {here}: {error.strerror}.")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):
                (folders.append if entry.is_symlink() else folders.appendleft)(Path(entry.path))
            elif _is_picture(entry.name) and os.path.isfile(entry.path) and os.path.realpath(entry.path) not in seen:
                found.append(_Found(Path(entry.path), folder))
    return sorted(found, key=lambda item: _natural(item.place))


def _in_glob(pattern: str, leave: list[Path], note) -> list[_Found]:
    """The pictures that a glob matches, and those in the folders that it matches."""
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)
    root, left = Path(*parts), [os.path.realpath(path) for path in leave]
    _check_not_output(root, leave[0])
    found = []
    for path in sorted(map(Path, glob.glob(pattern, recursive=True)), key=_natural):
        real = os.path.realpath(path)
        if any(real == other or real.startswith(os.path.join(other, "")) for other in left):
            continue
        if path.is_dir():
            found += [_Found(item.path, root) for item in _in_folder(path, leave, note)]
        elif _is_picture(path) and path.is_file():
            found.append(_Found(path, root))
    return found


def _natural(path: Path) -> tuple:
    """A sort key: numbers in names count as numbers, case does not; the path itself decides between equals."""
    pieces = (re.split(r"([0-9]+)", part.casefold()) for part in path.parts)
    return [[int(piece) if k % 2 else piece for k, piece in enumerate(part)] for part in pieces], str(path)


# ---- outputs --------------------------------------------------------------------------------------------------------


def _is_file_name(output: Path) -> bool:
    return output.suffix.lower() in (*SUFFIXES, *UNWRITTEN) and not output.is_dir()


def _single_output(output: Path, format: str | None) -> Path:
    suffix = output.suffix.lower()
    if suffix in UNWRITTEN:
        raise ValueError(f"{output}: {suffix} cannot be written; expected one of {', '.join(SUFFIXES)}, or a folder.")
    if format not in (None, "keep") and _family(suffix) != FORMATS[format]:
        raise ValueError(f"{output} does not end as format {format!r} does; leave out one of the two.")
    return output


def _family(suffix: str) -> str:
    """The usual one of the suffixes of a format: .jpeg -> .jpg."""
    return {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)


def _check_folder(output: Path, count: int) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; for {count} pictures or a folder of them, give a folder.")
    if _is_file_name(output):
        raise ValueError(f"{output} is a picture's name, but the input is a folder or several pictures; give a folder.")


def _names(found: list[_Found], format: str) -> list[Path]:
    """A name below the output folder for each picture; names that clash say more, until none do.

    a.jpg, a.png -> a.jpg.png, a.png.png          one/a.png, two/a.png -> one/a.png, two/a.png, not twice a.png
    Of a group that clashes, those that say least so far say as much as tells them apart: the whole file name, then
    the folder's name, then both, then their number.
    """
    levels = [0] * len(found)
    names = [[_spelled(item, number, level, format) for level in range(5)] for number, item in enumerate(found)]
    while True:
        groups = {}
        for number, level in enumerate(levels):
            groups.setdefault(_without_case(names[number][level]), []).append(number)
        clashes = [group for group in groups.values() if len(group) > 1]
        if not clashes:
            return [names[number][level] for number, level in enumerate(levels)]
        for group in clashes:
            least = min(levels[number] for number in group)
            members = [number for number in group if levels[number] == least]
            apart = (
                k for k in range(least + 1, 5) if len({_without_case(names[n][k]) for n in members}) == len(members)
            )
            for number, level in itertools.product(members, [next(apart)]):
                levels[number] = level


def _spelled(item: _Found, number: int, level: int, format: str) -> Path:
    """The name at a level: 0 a.png, 1 a.jpg.png, 2 folder/a.png, 3 folder/a.jpg.png, 4 folder/a.jpg-7.png."""
    suffix = item.path.suffix if format == "keep" else FORMATS[format]
    short, whole = item.place.with_suffix(suffix), item.place.with_name(item.place.name + suffix)
    folder = Path(os.path.basename(os.path.abspath(item.root)))
    numbered = folder / item.place.with_name(f"{item.place.name}-{number + 1}{suffix}")
    return (short, whole, folder / short, folder / whole, numbered)[level]


def _without_case(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _check_not_output(folder: str | Path, output: Path) -> None:
    if os.path.realpath(folder) == os.path.realpath(output):
        raise ValueError(f"{folder} is both input and output; give another folder with -o, such as {output}/enlarged.")


def _check_overlap(found: list[_Found], outputs: list[Path]) -> None:
    """No picture may be replaced by an enlargement, also not by way of links."""
    originals = {(status.st_dev, status.st_ino) for status in (item.path.stat() for item in found)}
    for item, path in zip(found, outputs):
        if path.exists() and (path.stat().st_dev, path.stat().st_ino) in originals:
            raise ValueError(f"{item.path} would be written to {path}, which is an input; give another folder with -o.")


def check_writable(output: str | Path) -> None:
    """Raise where nothing could be written to a folder, which need not exist yet. Leaves no trace."""
    here = Path(os.path.abspath(output))
    while not os.path.lexists(here):
        here = here.parent
    if not here.is_dir():
        raise ValueError(f"{output} cannot be made: {here} is no folder.")
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        raise ValueError(f"{output} cannot be written to: {here}: {error.strerror}.") from None


# ---- masks ----------------------------------------------------------------------------------------------------------


def _check_mask(mask: Path | None) -> None:
    if mask is not None and not mask.exists():
        raise ValueError(f"{str(mask)!r}: no such mask; expected a picture, or a folder with one for each input.")
    if mask is not None and mask.is_file() and not _is_picture(mask):
        raise ValueError(f"{mask}: no picture by its name; expected one of {', '.join(SUFFIXES)}.")


def _masks(found: list[_Found], mask: Path | None) -> list[Path | None]:
    """The mask of each picture: of the same place and name in the masks' folder, whatever its format."""
    if mask is None or mask.is_file():
        return [mask] * len(found)
    masks = [_mask_of(item, mask) for item in found]
    if not any(path.is_file() for path in masks):
        which = f"{found[0].path}{', nor for another picture' if len(found) > 1 else ''}"
        raise ValueError(f"{mask} holds no mask for {which}; expected {masks[0]}, or that name in another format.")
    return masks


def _mask_of(item: _Found, folder: Path) -> Path:
    beside = folder / item.place
    names = (beside, *(beside.with_suffix(suffix) for suffix in SUFFIXES))
    return next((path for path in names if path.is_file()), beside)
