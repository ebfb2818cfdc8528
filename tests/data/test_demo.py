"""The photographs that ship with the package."""

import csv

import pytest

from tadsr_jax.data import demo, sources

pytestmark = pytest.mark.quick


def test_thirty_to_forty_photographs_take_six_megabytes_at_most():
    paths = demo.paths(is_training=True) + demo.paths(is_training=False)
    assert 30 <= len(paths) <= 40
    assert sum(path.stat().st_size for path in paths) <= 6e6


def test_every_photograph_is_credited_and_nothing_else_is():
    with open(demo.FOLDER / "CREDITS.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = {str(p.relative_to(demo.FOLDER).as_posix()) for p in demo.FOLDER.rglob("*.jpg")}
    assert files == {row["file"] for row in rows} and len(rows) == len(files)
    assert all(row["author"] and row["licence"] and row["source"] for row in rows)


def test_held_out_photographs_are_others_and_large_enough_for_256_pixels():
    held_out = {path.name for path in demo.paths(is_training=False)}
    assert 6 <= len(held_out) <= 8 and not held_out & {path.name for path in demo.paths(is_training=True)}
    for source in (sources.Demo(is_training=True), sources.Demo(is_training=False)):
        for i in range(len(source)):
            assert min(source.read(i)["gt"].shape[:2]) >= 256, source.name(i)


def test_a_photograph_is_decoded_once():
    path = demo.paths(is_training=False)[0]
    assert demo.read(path) is demo.read(path)
