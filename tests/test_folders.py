"""Folders that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from tadsr_jax import folders

pytestmark = pytest.mark.quick


def fill(folder, text):
    with folders.whole(folder) as fresh:
        (fresh / "a.txt").write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_filled_and_replaces_what_was_there(tmp_path):
    fill(tmp_path / "deep" / "made", "one")
    fill(tmp_path / "deep" / "made", "two")
    assert (tmp_path / "deep" / "made" / "a.txt").read_text() == "two" and names(tmp_path / "deep") == ["made"]


def test_where_filling_fails_nothing_has_changed(tmp_path):
    fill(tmp_path / "made", "one")
    with pytest.raises(KeyboardInterrupt), folders.whole(tmp_path / "made") as fresh:
        (fresh / "a.txt").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "made" / "a.txt").read_text() == "one" and names(tmp_path) == ["made"]


@pytest.mark.parametrize("which", [1, 2])
def test_where_a_rename_fails_nothing_has_changed(tmp_path, monkeypatch, which):
    fill(tmp_path / "made", "one")
    real, times = os.replace, []

    def replace(source, target):
        times.append(target)
        if len(times) == which:
            raise OSError("no")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no"):
        fill(tmp_path / "made", "two")
    assert (tmp_path / "made" / "a.txt").read_text() == "one" and names(tmp_path) == ["made"]


def test_what_a_kill_between_the_renames_leaves_is_found_and_put_back(tmp_path):
    fill(tmp_path / "made", "one")
    (tmp_path / "made").rename(tmp_path / ".made.replaced")
    assert folders.former(tmp_path / "made") == tmp_path / ".made.replaced"
    with pytest.raises(ValueError), folders.whole(tmp_path / "made"):
        raise ValueError
    assert folders.former(tmp_path / "made") == tmp_path / "made"
    assert (tmp_path / "made" / "a.txt").read_text() == "one"


def test_the_current_folder_stands_for_itself():
    assert folders.former(Path(".")) == Path(".")
