"""The configs that ship: whole, and every number of theirs settable alone."""

import dataclasses
import inspect
import runpy
from pathlib import Path

import pytest

from tadsr_jax import data, train
from tadsr_jax.degrade.settings import Settings
from tadsr_jax.recipes import RECIPES

pytestmark = pytest.mark.quick

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = ("x4", "sinsr_x4", "teacher_x4")


def config_of(file: str, arg: str = ""):
    return runpy.run_path(str(CONFIGS / f"{file}.py"))["get_config"](arg)


SEESR = [("addsr_x4", ""), ("addsr_x4", "tiny"), ("tad_seesr_x4", ""), ("tad_seesr_x4", "tiny")]


def keywords(function, *given: str) -> set[str]:
    return set(inspect.signature(function).parameters) - set(given)


@pytest.mark.parametrize(("file", "arg"), [(file, arg) for file in FILES for arg in ("", "small", "tiny")] + SEESR)
def test_every_option_of_a_recipe_is_a_key_of_its_config(file, arg):
    config = config_of(file, arg)
    assert set(config.losses) == keywords(RECIPES[config.recipe], "family")


@pytest.mark.parametrize("file", [*FILES, *dict(SEESR)])
def test_every_setting_of_data_and_degradation_is_a_key(file):
    config = config_of(file)
    words = () if config.family == "seesr" else ("tokenizer", "null_text_ratio")  # which other models do not read
    assert set(config.data) == keywords(data.training_stream, "scale", "seed", "start", *words)
    assert set(config.data.degradation.realesrgan) == {field.name for field in dataclasses.fields(Settings)}
    assert set(config.validation) == keywords(data.validation_pairs, "scale", "seed", "degradation", "multiple")


def test_every_number_of_an_optimiser_is_a_key():
    wanted = (keywords(train.learning_rate) | keywords(train.optimizer)) - {
        "total_steps",
        "first_step_full_rate",
        "rate",
    }
    for player in ("student", "discriminator"):
        assert set(config_of("x4").optimizer[player]) == wanted


@pytest.mark.parametrize("arg", ["small", "tiny"])
def test_one_override_of_model_or_data_serves_teacher_and_student(arg):
    config = config_of("x4", f"{arg},batch_size=6,kappa=0.3")
    assert config.teacher.data.batch_size == config.data.batch_size == 6
    assert config.teacher.diffusion.kappa == config.diffusion.kappa == 0.3
    assert config.teacher.train.steps != config_of("x4", f"{arg},steps=7").train.steps == 7


def test_the_full_run_is_the_papers():
    config = config_of("x4")
    assert (config.recipe, config.train.steps, config.data.batch_size) == ("tadsr", 30_000, 64)
    assert config.losses.variant == "paper"
    assert (config.losses.regression, config.losses.score, config.losses.adversarial) == (1.0, 1.0, 0.02)
    assert config.teacher is None


def test_tuples_can_be_given_behind_the_variant():
    assert config_of("x4", "student_times=(3,7),steps=9").losses.student_times == (3, 7)
