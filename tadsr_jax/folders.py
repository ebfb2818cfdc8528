"""Folders that appear whole, by rename, or not at all: bundles and exports.

whole      a folder to fill, which takes its place at the end      former   what stands for it meanwhile
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `folder` at the end; where the filling fails, nothing has changed.

    Two renames replace a folder that exists: whoever is killed between them leaves the former one where `former` finds
    it, and the next `whole` puts it back first.
    """
    folder = Path(os.path.abspath(folder))
    fresh, old = _beside(folder, "writing"), _beside(folder, "replaced")
    _recover(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
    except BaseException:
        _recover(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Put the former folder back where a replacement ended between its two renames."""
    if former(folder) != folder:
        os.replace(former(folder), folder)


def former(folder: Path) -> Path:
    """`folder`, or what it held before `whole` began to replace it, between the two renames and after a kill there."""
    folder = Path(folder)
    return folder if folder.exists() or not _beside(folder, "replaced").exists() else _beside(folder, "replaced")
