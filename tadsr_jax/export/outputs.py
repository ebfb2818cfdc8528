"""Output folders: refused early where they cannot be."""

import contextlib
import json
import os
from pathlib import Path


def check(output: Path, source: Path, *, overwrite: bool) -> None:
    """ValueError where `output` is taken, or cannot be made. Nothing is written."""
    here, there = Path(source).absolute(), Path(output).absolute()
    if there in (here, *here.parents):
        raise ValueError(f"--output is {output}, which holds what is exported; choose another folder.")
    if os.path.lexists(there):
        if not overwrite:
            raise ValueError(f"--output is {output}, which exists; choose another, or give --overwrite.")
        if not _is_ours(there):
            raise ValueError(
                f"--output is {output}, which is no export; --overwrite replaces exports and empty folders alone."
            )
    above = next(place for place in there.parents if os.path.lexists(place))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"--output is {output}, but {above} is no folder that can be written; choose another.")


def _is_ours(folder: Path) -> bool:
    """An empty folder, a bundle, or what another format wrote."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    if not any(folder.iterdir()):
        return True
    for name, key in (("bundle.json", "networks"), ("manifest.json", "exporter")):
        with contextlib.suppress(OSError, ValueError):
            if key in json.loads((folder / name).read_text()):
                return True
    return False
