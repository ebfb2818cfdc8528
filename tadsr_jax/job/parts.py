"""What a plain config says without pictures and weights: family, recipe, optimisers; and whether it is well formed."""

import optax

from tadsr_jax import train
from tadsr_jax.config import bind
from tadsr_jax.families import FAMILIES
from tadsr_jax.recipes import RECIPES
from tadsr_jax.types import Family, Recipe

SECTIONS = ("networks", "diffusion", "losses", "data", "validation", "optimizer", "mesh", "train", "init")
KEYS = ("family", "recipe", "scale", "seed", *SECTIONS, "teacher")  # of a config


def parts(config: dict) -> tuple[Family, Recipe, dict, optax.Schedule]:
    """Family, recipe, optimisers and the student's rate: what a plain config says without pictures and weights."""
    check_sections(config)
    build = FAMILIES[config["family"]]
    family = build(**bind(build, "config.networks", family_settings(config)))
    make_recipe = RECIPES[config["recipe"]]
    recipe = make_recipe(family, **bind(make_recipe, "config.losses", config["losses"], given=("family",)))
    return family, recipe, *_optimizers(config, recipe)


def check_sections(config: dict) -> None:
    for key in config:
        if key not in KEYS:
            raise ValueError(f"config.{key} is unknown; expected {', '.join(KEYS)}.")
    for key, known in (("family", FAMILIES), ("recipe", RECIPES)):
        if not isinstance(config.get(key), str) or config[key] not in known:
            raise ValueError(f"config.{key} is {config.get(key)!r}; expected one of {', '.join(known)}.")
    for key in SECTIONS:
        if not isinstance(config.get(key), dict):
            raise ValueError(f"config.{key} is {config.get(key)!r}; expected a section.")
    check_numbers("config", config, {"scale": 1, "seed": 0})
    if config["seed"] >= 2**32:
        raise ValueError(f"config.seed is {config['seed']}; expected a whole number below 2^32.")
    train_numbers = {"accumulate": 1, "log_every": 1, "evaluate_every": 0, "save_every": 1, "keep": 1, "max_skipped": 1}
    check_numbers("config.train", {"steps": None} | config["train"], {"steps": 1} | train_numbers)
    decay = config["train"].get("ema_decay", 0)
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
        raise ValueError(f"config.train.ema_decay is {decay!r}; expected a number from 0 to below 1.")
    if config["validation"].get("count", 1) is not None:
        check_numbers("config.validation", config["validation"], {"count": 1})


def check_numbers(section: str, settings: dict, smallest: dict[str, int]) -> None:
    """Whole numbers that are too small; those that are left out have defaults."""
    for key, least in smallest.items():
        value = settings.get(key, least)
        if type(value) is not int or value < least:
            raise ValueError(f"{section}.{key} is {value!r}; expected a whole number, {least} or more.")


def family_settings(config: dict) -> dict:
    """The keywords of a family's `build`; a bundle stores them."""
    return {"scale": config["scale"], "diffusion": config["diffusion"]} | config["networks"]


def _optimizers(config: dict, recipe: Recipe) -> tuple[dict, optax.Schedule]:
    """({player: optimiser}, the student's learning rate)."""
    section = dict(config["optimizer"])
    full_rate = section.pop("first_step_full_rate", None)
    if full_rate is None:
        full_rate = recipe.first_step_full_rate
    players = ("student", *recipe.adds)
    for player in players:
        if not isinstance(section.get(player), dict):
            raise ValueError(
                f"config.optimizer.{player} is {section.get(player)!r}; recipe {config['recipe']!r} trains it."
            )
    for key in section:
        if key not in ("student", "discriminator"):
            raise ValueError(
                f"config.optimizer.{key} is unknown; expected student, discriminator, first_step_full_rate."
            )
    rates, made = {}, {}
    for player in players:
        rule = bind(_options_of_a_player, f"config.optimizer.{player}", section[player])
        _check_optimizer(f"config.optimizer.{player}", rule)
        adam = {key: rule.pop(key) for key in ("betas", "eps", "weight_decay", "clip") if key in rule}
        try:
            rates[player] = train.learning_rate(
                **rule, total_steps=config["train"]["steps"], first_step_full_rate=full_rate and player == "student"
            )
        except ValueError as error:  # it does not know whose rate it makes
            raise ValueError(str(error).replace("config.optimizer.", f"config.optimizer.{player}.")) from None
        made[player] = train.optimizer(rates[player], **adam)
    return made, rates["student"]


def _check_optimizer(section: str, rule: dict) -> None:
    """ValueError for numbers that make no optimiser."""
    bounds = {"lr": "above 0", "clip": "above 0", "eps": "above 0", "lr_min": "0 or more", "weight_decay": "0 or more"}
    for key, bound in bounds.items():
        value = rule.get(key)
        if value is not None and not (value > 0 or (bound == "0 or more" and value == 0)):
            raise ValueError(f"{section}.{key} is {value!r}; expected a number {bound}.")
    check_numbers(section, rule, {"warmup_steps": 0})
    if not all(0 <= beta < 1 for beta in rule.get("betas", ())):
        raise ValueError(f"{section}.betas is {rule['betas']!r}; expected two numbers from 0 to below 1.")


def _options_of_a_player(
    *, lr: float, warmup_steps: int = 0, schedule: str = "constant", lr_min: float = 0.0,
    milestones: tuple[int, ...] = (),
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0, clip: float | None = None,
):  # fmt: skip
    """What a player's section of config.optimizer may say: for `train.learning_rate` and for `train.optimizer`."""
