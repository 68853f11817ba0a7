"""Search spaces: dotted config keys with ranges, choices and conditions, from YAML, checked against the config.

A space knows nothing of Ray or Optuna. A sampler proposes `values`: {dotted key: plain value} of the active parameters.
A parameter is active where every condition of its `when` holds. One that is not active has its `otherwise`.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from speaq import config as configs
from speaq.config import Config, ConfigError, Section
from speaq.files.shipped import chosen
from speaq.space.parameters import FloatRange, Parameter, Plain, identity
from speaq.space.settings import SearchConfig

Values = Mapping[str, Plain]

GROUPS = "matching.groups"
KINDS = ("float", "int", "categorical")  # of parameters
SCHEMA_LINE = "yaml-language-server:"
MAX_CORNERS = 512  # combinations of extreme values that are tried before a space is called impossible


@dataclass(frozen=True)
class Point:
    """A point of a space: what a sampler chose, and what that makes of a config."""

    values: dict[str, Plain]  # of the active parameters, in the order of the space
    overrides: dict[str, Plain]  # the same and `otherwise` of the others, by dotted key


class Space(Section):
    """A search space: fixed values, parameters in the order in which they are sampled, defaults of the search."""

    question: str = Field("", description="what the search answers: the comment at the head of the file")
    search: SearchConfig = SearchConfig()
    fixed: dict[str, Any] = Field(default={}, description="dotted config keys that every trial has")
    parameters: dict[str, Parameter] = Field(min_length=1, description="dotted config key → range or choices")

    def base(self, config: Config) -> Config:
        """`config` with the fixed values. Raises ConfigError."""
        return configs.apply(config, self.fixed, "space: fixed")

    def with_search(self, changes: Mapping[str, Any], where: str = "--search") -> Space:
        """The space with other settings of the search (keys of `SearchConfig`). Raises ConfigError."""
        if not changes:
            return self
        search = {**self.search.model_dump(mode="json", exclude_unset=True), **changes}
        return from_dict({**to_dict(self), "search": search}, where)

    def without(self, keys: Sequence[str]) -> Space:
        """The space where `keys`, given on the command line, are no longer searched or fixed. Raises ConfigError."""
        parameters = {k: p for k, p in self.parameters.items() if k not in keys}
        if not parameters:
            raise ConfigError(f"nothing is left to search: --set fixes {', '.join(self.parameters)}")
        fixed = {k: v for k, v in self.fixed.items() if k not in keys}
        return self.model_copy(update={"parameters": parameters, "fixed": fixed})

    def resolved(self, config: Config) -> Space:
        """The space with its relative ranges around the values that `config` has. Raises ConfigError."""
        values, parameters = configs.flatten(configs.to_dict(self.base(config))), dict(self.parameters)
        for key, parameter in self.parameters.items():
            if not (isinstance(parameter, FloatRange) and parameter.relative and key in values):
                continue  # a key that the config has not is refused by `checks.check`
            value = values[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"space: {key}: a relative range needs a number above 0 in the config, not {value}")
            parameters[key] = parameter.around(value)
        return self.model_copy(update={"parameters": parameters})

    def walk(self, base: Config, choose: Callable[[str, Parameter], Plain]) -> Point:
        """Goes over the parameters in their order: `choose` gives the value of each that is active.

        Whether one is active depends on `base` and on what was chosen before.
        """
        assigned = configs.flatten(configs.to_dict(base))
        values: dict[str, Plain] = {}
        overrides: dict[str, Plain] = {}
        for key, parameter in self.parameters.items():
            assert not (isinstance(parameter, FloatRange) and parameter.relative), f"{key}: see `resolved`"
            if parameter.is_active(assigned):
                values[key] = overrides[key] = assigned[key] = choose(key, parameter)
            elif parameter.has_otherwise:
                overrides[key] = assigned[key] = parameter.otherwise
        return Point(values, overrides)

    def apply(self, base: Config, values: Values) -> Config:
        """The config of a trial: `base` (with the fixed values in it) and the sampled values.

        Raises ConfigError unless `values` are those of the active parameters, allowed, and possible together.
        """

        def given(key: str, parameter: Parameter) -> Plain:
            if key not in values:
                raise ConfigError(f"values: {key} is active and has no value")
            if not parameter.allows(values[key]):
                raise ConfigError(f"values: {key}: {values[key]!r} is not in the space")
            return values[key]

        point = self.walk(base, given)
        if unknown := set(values) - set(self.parameters):
            raise ConfigError(f"values: {min(unknown)}: not a parameter of the space")
        if inactive := [key for key in values if key not in point.values]:
            raise ConfigError(f"values: {inactive[0]} is not active here")
        return configs.apply(base, point.overrides, "trial")

    def extract(self, base: Config, config: Config) -> dict[str, Plain] | None:
        """The values that make `config` from `base`, or None where the space does not contain it."""
        wanted = configs.flatten(configs.to_dict(config))
        values = self.walk(base, lambda key, _: wanted[key]).values
        try:
            return values if self.apply(base, values) == config else None
        except ConfigError:
            return None

    def corners(self, base: Config, limit: int = MAX_CORNERS) -> Iterator[dict[str, Plain]]:
        """Values at the ends of every range, every choice at least once; at most about `limit` of them, seeded."""
        combinations = itertools.product(*(parameter.extremes() for parameter in self.parameters.values()))
        yield from itertools.islice(self._each_once(base, itertools.islice(combinations, 8 * MAX_CORNERS)), limit // 2)
        generator = random.Random(0)
        for _ in range(limit // 2):
            yield self.draw(base, generator)

    def size(self) -> int | None:
        """Combinations of all values, conditions apart: at least as many as `points` gives; None: not countable."""
        counts = [parameter.count() for parameter in self.parameters.values()]
        known = [count for count in counts if count is not None]
        return math.prod(known) if len(known) == len(counts) else None

    def points(self, base: Config) -> Iterator[dict[str, Plain]]:
        """Values of every combination of the active parameters, each once. Only of a space whose size is known."""
        axes = [parameter.values() or () for parameter in self.parameters.values()]
        return self._each_once(base, itertools.product(*axes))

    def _each_once(self, base: Config, combinations: Iterable[Sequence[Plain]]) -> Iterator[dict[str, Plain]]:
        """The active values of combinations of all parameters, each once."""
        seen = set()
        for combination in combinations:
            values = self._active_of(base, dict(zip(self.parameters, combination, strict=True)))
            named = tuple((key, identity(value)) for key, value in values.items())
            if named not in seen:
                seen.add(named)
                yield values

    def draw(self, base: Config, generator: random.Random, fixed: Values | None = None) -> dict[str, Plain]:
        """Random extreme values of the active parameters; `fixed` ones as given."""
        values = {key: generator.choice(p.extremes()) for key, p in self.parameters.items()}
        return self._active_of(base, {**values, **(fixed or {})})

    def _active_of(self, base: Config, values: Values) -> dict[str, Plain]:
        return self.walk(base, lambda key, _: values[key]).values


def load(path: Path) -> Space:
    """Reads a search space, what it extends included, or the one of a name; its first comment becomes the question.

    Raises ConfigError in one line.
    """
    path = chosen(path, "search_spaces")
    values = configs.read_whole(path)
    if "question" in values:
        raise ConfigError(f"{path}: question: write it as a comment at the head of the file")
    return from_dict({**values, "question": _head_comment(path)}, str(path))


def _head_comment(path: Path) -> str:
    """Without the line that names a schema to editors."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ").rstrip() for line in lines if SCHEMA_LINE not in line).strip()


def from_dict(values: Mapping[str, Any], where: str = "space") -> Space:
    """Plain values → `Space`. Raises ConfigError naming key, rule and value."""
    configs.check_numbers(values, where)
    parameters, search = values.get("parameters"), values.get("search")
    if isinstance(parameters, Mapping):
        read = {key: _as_kept(key, content, where) for key, content in parameters.items()}
        values = {**values, "parameters": read}
    if isinstance(search, Mapping):
        values = {**values, "search": _settings_as_kept(search, where)}
    try:
        return Space.model_validate(values)
    except ValidationError as error:
        raise configs.reasons(error, where, separator=": ", left_out=KINDS) from error


def _settings_as_kept(search: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings of a search with the values of its points and of its prior as a config keeps them."""

    def kept(given: Any, at: str) -> Any:
        at = f"{where}: search: {at}"
        return {key: _kept(key, value, at) for key, value in given.items()} if isinstance(given, Mapping) else given

    changed = dict(search)
    if isinstance(points := search.get("points"), list):
        changed["points"] = [kept(point, f"points: {number}") for number, point in enumerate(points, start=1)]
    if "prior" in search:
        changed["prior"] = kept(search["prior"], "prior")
    return changed


def _kept(key: str, value: Any, where: str) -> Any:
    """A value as the config keeps it: a file of predicate groups as what it says. Raises ConfigError."""
    try:
        return configs.as_kept(key, value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {key}: {error}") from error


def _as_kept(key: str, content: Any, where: str) -> Any:
    """A parameter with its values as a config keeps them."""

    def kept(of: str, value: Any) -> Any:
        return _kept(of, value, f"{where}: parameters")

    if not isinstance(content, Mapping):
        return content
    changed = dict(content)
    if isinstance(choices := content.get("choices"), list):
        changed["choices"] = [kept(key, value) for value in choices]
    if "otherwise" in content:
        changed["otherwise"] = kept(key, content["otherwise"])
    if isinstance(when := content.get("when"), Mapping):
        changed["when"] = {
            parent: [kept(parent, value) for value in some] if isinstance(some, list) else some
            for parent, some in when.items()
        }
    return changed


def to_dict(space: Space) -> dict[str, Any]:
    """`Space` → plain values: `from_dict(to_dict(s)) == s`."""
    return space.model_dump(mode="json", exclude_unset=True)
