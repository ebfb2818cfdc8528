"""Config sections as keyword arguments: what a function accepts, said before anything runs; and short overrides.

bind       check a section against a function's signature: unknown keys, missing ones, wrong types
variant    "small,steps=200" -> ("small", {"steps": "200"}), the text behind `--config=FILE.py:`
override   put such values into a ConfigDict, by the name of a key or by its dotted path
"""

import ast
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict


def plain(value):
    """ConfigDicts as dicts and tuples as they are, all the way down."""
    if isinstance(value, ConfigDict | Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return tuple(plain(entry) for entry in value) if isinstance(value, list | tuple) else value


def _accepts(value, hint) -> bool:
    """Whether a value from a config can stand for this annotation: whole numbers for float, lists for tuples."""
    if hint in (inspect.Parameter.empty, typing.Any):
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_accepts(value, each) for each in arguments)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_accepts(entry, arguments[0]) for entry in value)
        return len(value) == len(arguments) and all(map(_accepts, value, arguments))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is dict:
        return isinstance(value, Mapping)
    if hint in (type(None), None):
        return value is None
    return isinstance(value, hint) if isinstance(hint, type) else True


def _named(hint) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "").replace("NoneType", "None")


def bind(function: Callable, section: str, settings: Mapping, *, given: tuple[str, ...] = ()) -> dict:
    """`settings` as keyword arguments of `function`; ValueError with the key, what is accepted, and what to do.

    section   the config's name for it: "config.train"
    given     arguments that the code provides, so that a config cannot
    """
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    if dataclasses.is_dataclass(function):
        hints = {field.name: field.type for field in dataclasses.fields(function)}
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in given and name not in ("parent", "name")
    }
    settings = plain(settings)
    for key, value in settings.items():
        if key not in parameters:
            raise ValueError(f"{section}.{key} is unknown; {section} has the keys {', '.join(parameters)}.")
        hint = hints.get(key, inspect.Parameter.empty)
        if not _accepts(value, hint):
            raise ValueError(f"{section}.{key} is {value!r}; expected {_named(hint)}.")
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in settings:
            raise ValueError(f"{section}.{key} is missing; expected {_named(hints.get(key, object))}.")
    return settings


def variant(arg: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """The text behind the config's file name: a variant, then KEY=VALUE pairs, separated by commas."""
    name, pairs = "", {}
    for word in filter(None, re.split(r",(?![^(\[]*[)\]])", arg or "")):  # commas outside of brackets
        key, equals, value = word.partition("=")
        if equals:
            pairs[key] = value
        elif name or word not in known:
            raise ValueError(f"--config has the variant {word!r}; expected one of {', '.join(known)}, then KEY=VALUE.")
        else:
            name = word
    return name, pairs


def _homes(config: ConfigDict, key: str, path: str = "") -> list[str]:
    """Dotted paths under which `key` stands."""
    found = []
    for name, value in config.items(preserve_field_references=True):
        if name == key:
            found.append(f"{path}{name}")
        elif isinstance(value, ConfigDict) and name != "teacher":  # the teacher's keys need their path
            found += _homes(value, key, f"{path}{name}.")
    return found


def override(config: ConfigDict, pairs: Mapping[str, str]) -> ConfigDict:
    """Set KEY=VALUE pairs. `steps` means `train.steps` where only one section has such a key; else give the path."""
    for key, text in pairs.items():
        homes = [key] if "." in key else _homes(config, key)
        if not homes:
            raise ValueError(f"--config sets {key!r}, which no section of the config has; give SECTION.KEY=VALUE.")
        if len(homes) > 1:
            raise ValueError(f"--config sets {key!r}, which could be {' or '.join(homes)}; give one of these.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        *sections, leaf = homes[0].split(".")
        place = config
        for section in sections:
            if section not in place or not isinstance(place[section], ConfigDict):
                raise ValueError(f"--config sets {key!r}; {section!r} is no section of the config.")
            place = place[section]
        if leaf not in place:
            raise ValueError(f"--config sets {key!r}; that section has the keys {', '.join(place)}.")
        try:
            place[leaf] = value
        except TypeError:
            wanted = type(place[leaf]).__name__
            raise ValueError(f"--config sets {key}={text}; expected {wanted}.") from None
    return config
