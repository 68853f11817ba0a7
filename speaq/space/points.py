"""Settings that a user gives as points of a space: judged by name, and completed from the published setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from speaq import config as configs
from speaq.config import PUBLISHED, Config, ConfigError
from speaq.files.plain_yaml import several
from speaq.space.parameters import Choice, Parameter, Plain
from speaq.space.space import Space, Values


@dataclass(frozen=True)
class Completed:
    """A point of a space, of which a user gave a part."""

    values: dict[str, Plain]  # of the active parameters, in the order of the space
    moved: dict[str, tuple[Plain, Plain]]  # key → its published value, which the space does not have, and what is taken


def published(base: Config) -> dict[str, Any]:
    """The published setting on top of `base`, dotted key → value; not judged, which a reference is."""
    return {**configs.flatten(configs.to_dict(base)), **PUBLISHED}


def completed(space: Space, base: Config, given: Values) -> Completed:
    """The point with values that a user gave; the rest is as published, or the nearest to it that the space has.

    Where no value is near (text beside other text), it is the first choice.

    Args:
        base: with the fixed values of the space in it.

    Raises:
        ConfigError: a key or a value that the space does not have, a parameter that is not active with the others, or
            a combination that the config refuses.
    """
    if not given:
        raise ConfigError("it gives no parameter a value")
    for key, value in given.items():
        check_value(space, key, value)
    usual, moved = published(base), dict[str, tuple[Plain, Plain]]()

    def choose(key: str, parameter: Parameter) -> Plain:
        wanted = given.get(key, usual[key])
        taken = next(iter(parameter.near(wanted) or parameter.extremes()))
        if key not in given and not parameter.allows(wanted):
            moved[key] = wanted, taken
        return taken

    point = space.walk(base, choose)
    if inactive := [key for key in given if key not in point.values]:
        needed = " and ".join(
            f"{parent} {_any_of(values)}" for parent, values in space.parameters[inactive[0]].when.items()
        )
        raise ConfigError(f"{inactive[0]}: is not active here, it needs {needed}")
    configs.apply(base, point.overrides, "impossible")
    return Completed(point.values, moved)


def all_completed(space: Space, base: Config) -> list[Completed]:
    """The points of the space's search, each as `completed` has it. Raises ConfigError for all that cannot be tried."""
    found, broken = [], list[str]()
    for number, point in enumerate(space.search.points, start=1):
        try:
            found.append(completed(space, base, point))
        except ConfigError as error:
            broken.append(f"search.points: point {number}: {error}")
    if broken:
        raise several(broken)
    return found


def check_value(space: Space, key: str, value: Plain) -> None:
    """Raises ConfigError unless the space has the parameter, and the parameter the value."""
    parameter = space.parameters.get(key)
    if parameter is None and key in configs.defaults():
        raise ConfigError(f"{key}: is no parameter of this search, which has {', '.join(space.parameters)}")
    if parameter is None:
        raise ConfigError(configs.no_such_key(key, space.parameters))
    if not parameter.allows(value):
        raise ConfigError(f"{key}: {value!r} is not in the space, which has {_words(parameter)}")


def _words(parameter: Parameter) -> str:
    """Which values a parameter has."""
    if isinstance(parameter, Choice):
        return _any_of(parameter.choices)
    kind = "whole numbers" if parameter.type == "int" else "numbers"
    step = "" if parameter.step is None else f" in steps of {parameter.step}"
    return f"{kind} from {parameter.low} to {parameter.high}{step}"


def _any_of(values: list[Plain]) -> str:
    return " or ".join("null" if value is None else configs.short(str(value)) for value in values)
