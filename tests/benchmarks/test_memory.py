"""The table of what is needed: arithmetic on numbers that a hand can follow, and one real step."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # as a script has it

import memory

MIB = 2**20


def row(**changes) -> memory.Row:
    numbers = dict(
        name="AddSR", parameters=10**9, disk=4 * 10**9, run=6 * 10**9, learning=10**8, kept={1: 10e9, 8: 2e9},
        beside={1: 3e9, 4: 6e9, 16: 30e9}, batch=2,
    )  # fmt: skip
    return memory.Row(**numbers | changes)


@pytest.mark.quick
def test_memory_is_what_is_kept_and_a_line_between_the_estimates_and_beyond():
    assert row().memory(1, fsdp=1) == 13e9
    assert row().memory(2, fsdp=1) == 14e9
    assert row().memory(17, fsdp=8) == 2e9 + 32e9


@pytest.mark.quick
def test_a_chip_has_room_for_pictures_with_all_weights_or_a_share_or_not_at_all():
    assert row().fits(16e9) == "4"  # 10 + 6
    assert row().fits(12e9) == "6 (fsdp=8)"  # 2 + 6 + 2 * 2
    assert row().fits(4e9) == "-"


@pytest.mark.quick
def test_a_share_is_that_of_the_one_rule_for_parameters():
    tree = {
        "large": jax.ShapeDtypeStruct((1024, 256), jnp.float32),
        "small": jax.ShapeDtypeStruct((256,), jnp.bfloat16),
    }
    assert memory.held(tree) == MIB + 512
    assert memory.held(tree, fsdp=8) == MIB // 8 + 512


@pytest.mark.quick
def test_the_tree_of_a_student_that_learns_in_part_is_kept_once():
    one = memory.Training({}, None, None, {"student": 1, "teacher": 1, "autoencoder": 2})
    assert one.kept == (None, {"teacher": 1, "autoencoder": 2})


@pytest.mark.quick
def test_a_table_has_a_row_a_model_and_as_many_cells_as_columns():
    for table in memory.tables([row(), row(name="TAD-SeeSR")]).split("\n\n"):
        head, rule, *rows = table.splitlines()
        assert len(rows) == 2 and rows[1].startswith("| TAD-SeeSR |")
        assert {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}


def test_a_step_holds_its_gradients_at_least_and_more_for_more_pictures():
    step = memory.training(memory.config_of("x4:tiny"))
    one, four = (memory.beside(step, batch) for batch in (1, 4))
    assert memory.held(step.state.params["student"]) < one < four < 4 * one
