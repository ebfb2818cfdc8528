import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from tadsr_jax.config import bind, override, plain, variant

pytestmark = pytest.mark.quick


def brew(
    *,
    beans: str,
    strength: float = 1.0,
    cups: int = 2,
    sizes: tuple[int, ...] = (),
    milk: float | None = None,
    pot=None,
):
    """A function with one argument of each kind that configs have."""


def config():
    return ConfigDict(
        {
            "train": {"steps": 10, "lr": 0.1},
            "data": {"sizes": (1, 2), "path": placeholder(str)},
            "student": {"clip": 1.0},
            "discriminator": {"clip": 1.0},
            "teacher": {"train": {"steps": 5}, "only_there": 1},
        }
    )


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(ValueError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- bind ------------------------------------------------------------------------------------------------------------


def test_a_section_becomes_keyword_arguments():
    settings = ConfigDict({"beans": "x", "sizes": [1, 2], "strength": 2, "milk": None})
    assert bind(brew, "config.brew", settings) == {"beans": "x", "sizes": (1, 2), "strength": 2, "milk": None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"beans": "x", "sugar": 1},
            "config.brew.sugar is unknown; config.brew has the keys beans, strength, cups, sizes",
        ),
        ({}, "config.brew.beans is missing; expected str."),
        ({"beans": 3}, "config.brew.beans is 3; expected str."),
        ({"beans": "x", "strength": "strong"}, "config.brew.strength is 'strong'; expected float."),
        ({"beans": "x", "strength": True}, "config.brew.strength is True; expected float."),
        ({"beans": "x", "cups": 2.0}, "config.brew.cups is 2.0; expected int."),
        ({"beans": "x", "cups": True}, "config.brew.cups is True; expected int."),
        ({"beans": "x", "sizes": (1, "2")}, "config.brew.sizes is (1, '2'); expected tuple[int, ...]."),
        ({"beans": "x", "sizes": 3}, "config.brew.sizes is 3; expected tuple[int, ...]."),
        ({"beans": "x", "milk": "oat"}, "config.brew.milk is 'oat'; expected float | None."),
        ({"beans": "x", "pot": 1}, "config.brew.pot is unknown"),
    ],
)
def test_a_section_that_does_not_fit_is_refused_with_the_key_and_what_is_accepted(settings, message):
    assert refusal(bind, brew, "config.brew", settings, given=("pot",)).startswith(message)


def test_a_pair_has_two_entries():
    def optimizer(*, betas: tuple[float, float]):
        pass

    assert bind(optimizer, "config", {"betas": (0, 0.9)}) == {"betas": (0, 0.9)}
    assert refusal(bind, optimizer, "config", {"betas": (0.9,)}).startswith("config.betas is (0.9,); expected tuple[")


def test_plain_takes_the_config_classes_away_all_the_way_down():
    got = plain(ConfigDict({"a": {"b": [1, {"c": 2}]}}))
    assert got == {"a": {"b": (1, {"c": 2})}}
    assert type(got["a"]) is dict and type(got["a"]["b"][1]) is dict


# ---- variants and overrides ------------------------------------------------------------------------------------------


def test_the_text_behind_the_file_is_a_variant_and_pairs():
    text, pairs = "small,steps=200,train.lr=1e-3", {"steps": "200", "train.lr": "1e-3"}
    assert variant(text, ("small", "tiny")) == ("small", pairs)
    assert variant("steps=200", ("small",)) == ("", {"steps": "200"})
    assert variant("", ("small",)) == variant(None, ("small",)) == ("", {})


def test_an_unknown_variant_is_refused_with_the_known_ones():
    message = "--config has the variant 'smal'; expected one of small, tiny, then KEY=VALUE."
    assert refusal(variant, "smal", ("small", "tiny")) == message
    assert refusal(variant, "small,tiny", ("small", "tiny")).startswith("--config has the variant 'tiny'")


def test_a_key_that_one_section_has_needs_no_path():
    assert override(config(), {"steps": "200"}).train.steps == 200
    assert override(config(), {"sizes": "(3,)"}).data.sizes == (3,)
    assert override(config(), {"path": "photos/here"}).data.path == "photos/here"  # text that is no Python is a string


def test_the_teachers_keys_need_their_path():
    changed = override(config(), {"teacher.train.steps": "7"})
    assert (changed.teacher.train.steps, changed.train.steps) == (7, 10)
    assert refusal(override, config(), {"only_there": "2"}).startswith("--config sets 'only_there', which no section")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"stepz": "1"}, "--config sets 'stepz', which no section of the config has; give SECTION.KEY=VALUE."),
        ({"clip": "1"}, "--config sets 'clip', which could be discriminator.clip or student.clip; give one of these."),
        ({"trian.steps": "1"}, "--config sets 'trian.steps'; 'trian' is no section of the config."),
        ({"train.steps.x": "1"}, "--config sets 'train.steps.x'; 'steps' is no section of the config."),
        ({"train.stepz": "1"}, "--config sets 'train.stepz'; that section has the keys lr, steps."),
        ({"steps": "many"}, "--config sets steps=many; expected int."),
        ({"steps": "1.5"}, "--config sets steps=1.5; expected int."),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(pair, message):
    assert refusal(override, config(), pair) == message
