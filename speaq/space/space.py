"""Search spaces: dotted config keys with ranges, choices and conditions, from YAML, checked against the config.

A space knows nothing of Ray or Optuna. `values` are what a sampler proposes: {dotted key: plain value} of the active
parameters only. A parameter is active where every `when` holds; elsewhere its `otherwise` is written into the config.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from speaq import config as configs
from speaq.config import Config, ConfigError, Section, user_groups
from speaq.space.parameters import Choice, Parameter, Plain, identity

Values = Mapping[str, Plain]

CONSTRAINED = ("peak_memory_mib", "latency_ms")
LOSSES = "losses."  # how keys begin that scheduler: pbt changes while training
GROUPS = "matching.groups"
MOST_TRIALS = 10**6  # of a search
MAX_CORNERS = 512  # combinations of extreme values that are tried before a space is called impossible


def check_trials(trials: int | None) -> None:
    """Raises ConfigError for a number given by --trials that no search can have."""
    if trials is not None and not 1 <= trials <= MOST_TRIALS:
        raise ConfigError(f"--trials {trials}: between 1 and {MOST_TRIALS}")


class SearchConfig(Section):
    """What a search does where the command line does not say otherwise."""

    objective: list[str] = Field(
        ["F@50"], min_length=1, max_length=2, description="metrics to maximise; two give a Pareto front"
    )
    trials: int = Field(
        20, ge=1, le=MOST_TRIALS, description="trials in all, with the published setting and the baseline"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the sampler")
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "nsga3", "random", "qmc", "grid"] = Field(
        "tpe", description="Optuna's sampler"
    )
    scheduler: Literal["asha", "hyperband", "median", "pbt", "none"] = Field(
        "asha",
        description="what stops trials early: successive halving, the same in brackets, or the median rule; pbt also "
        "replaces them by copies of the best ones with other loss weights from there on (a schedule)",
    )
    grace_steps: int | None = Field(
        None, ge=1, description="no trial is stopped before; null: max_steps / reduction_factor², evaluated"
    )
    reduction_factor: float = Field(3.0, gt=1, description="asha, hyperband: one of so many trials passes a rung")
    brackets: int | None = Field(
        None, ge=2, description="hyperband: trials take turns in so many, each with one rung less; null: one a rung"
    )
    constraints: dict[str, float] = Field(
        default={},
        description="most memory of training, and milliseconds for predicting an image; a trial above is infeasible",
    )
    min_trials: int = Field(3, ge=1, description="median: trials that must have come as far before one is stopped")
    perturb_steps: int | None = Field(
        None, ge=1, description="pbt: steps between its judgements; null: a fifth of max_steps, evaluated"
    )
    quantile: float = Field(
        0.25, gt=0, le=0.5, description="pbt: share of the trials at a step that is replaced, and that is copied"
    )

    @model_validator(mode="after")
    def _check(self) -> SearchConfig:
        if len(set(self.objective)) < len(self.objective):
            raise ValueError("objective names a metric twice")
        if self.sampler == "cmaes" and len(self.objective) > 1:
            raise ValueError("sampler: cmaes has one objective; use tpe, gp, nsga2 or nsga3 for two")
        if self.sampler == "cmaes" and self.constraints:
            raise ValueError("constraints: sampler: cmaes does not look at them; use tpe, gp, nsga2 or nsga3")
        for name, limit in self.constraints.items():
            if name not in CONSTRAINED:
                raise ValueError(f"constraints: {name} is none of {', '.join(CONSTRAINED)}")
            if limit <= 0:
                raise ValueError(f"constraints: {name} is above 0, not {limit}")
        for knob, users in _SCHEDULER_KNOBS.items():
            if self.scheduler not in users and getattr(self, knob) != SearchConfig.model_fields[knob].default:
                raise ValueError(f"{knob} has no effect with scheduler: {self.scheduler} ({', '.join(users)} use it)")
        return self

    def rungs(self, max_steps: int, eval_every: int) -> list[int]:
        """Steps at which asha or pbt judges, below `max_steps`, from the first of any scheduler; empty without one.

        Raises ConfigError.
        """
        if self.scheduler == "none":
            return []
        if self.scheduler == "pbt":
            every = self.perturb_steps or max(1, round(max_steps / 5 / eval_every)) * eval_every
            if every >= max_steps or every % eval_every:
                raise ConfigError(
                    f"search.perturb_steps {every} is a multiple of training.eval_every {eval_every} below "
                    f"training.max_steps {max_steps}"
                )
            return list(range(every, max_steps, every))
        grace = self.grace_steps
        if grace is None:  # a rung between evaluations would wait for the next one anyway
            grace = max(1, round(max_steps / self.reduction_factor**2 / eval_every)) * eval_every
        elif grace >= max_steps:
            raise ConfigError(f"search.grace_steps {grace} is not below training.max_steps {max_steps}")
        rungs = []
        while grace < max_steps:
            rungs.append(int(grace))
            grace = grace * self.reduction_factor  # type: ignore[assignment]
        return rungs


# How keys begin that are no question for a search, and why.
_NOT_SEARCHED = {
    "evaluation.": "the evaluation is not searched: trials that are measured in different ways cannot be compared",
    "model.activation_checkpointing": "it changes memory and time, no result",
    "training.eval_every": "the best of more evaluations is better by chance, so trials could not be compared",
    "training.init_from": "a search has one start, which it knows by its digest; search from each on its own",
    "training.backbone_from": "a search has one start, which it knows by its digest; search from each on its own",
    "sinks.": "it changes where metrics go, no result",
    "resources.": "all trials of a search take the same share of the cluster",
}

_SCHEDULER_KNOBS = {
    "grace_steps": ("asha", "hyperband", "median"),
    "reduction_factor": ("asha", "hyperband"),
    "brackets": ("hyperband",),
    "min_trials": ("median",),
    "perturb_steps": ("pbt",),
    "quantile": ("pbt",),
}


class Space(Section):
    """A search space: fixed values, parameters in the order in which they are sampled, defaults of the search."""

    question: str = Field("", description="what the search answers: the comment at the head of the file")
    search: SearchConfig = SearchConfig()
    fixed: dict[str, Any] = Field(default={}, description="dotted config keys that every trial has")
    parameters: dict[str, Parameter] = Field(min_length=1, description="dotted config key → range or choices")

    def base(self, config: Config) -> Config:
        """`config` with the fixed values."""
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

    def active(self, key: str, assigned: Mapping[str, Any]) -> bool:
        """Whether `key` is searched, given the config values (flat) assigned so far."""
        return all(
            any(identity(assigned[parent]) == identity(v) for v in values)
            for parent, values in self.parameters[key].when.items()
        )

    def resolve(self, base: Config, values: Values) -> dict[str, Any]:
        """{dotted key: value} of every parameter, active or not. Raises ConfigError unless `values` fit the space."""
        assigned = configs.flatten(configs.to_dict(base))
        resolved: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            if self.active(key, assigned):
                if key not in values:
                    raise ConfigError(f"values: {key} is active and has no value")
                if not parameter.allows(values[key]):
                    raise ConfigError(f"values: {key}: {values[key]!r} is not in the space")
                resolved[key] = values[key]
            elif key in values:
                raise ConfigError(f"values: {key} is not active here")
            elif parameter.has_otherwise:
                resolved[key] = parameter.otherwise
            assigned[key] = resolved.get(key, assigned[key])
        if unknown := set(values) - set(self.parameters):
            raise ConfigError(f"values: {min(unknown)}: not a parameter of the space")
        return resolved

    def apply(self, base: Config, values: Values) -> Config:
        """The config of a trial: `base` (with the fixed values in it) and the sampled values. Raises ConfigError."""
        return configs.apply(base, self.resolve(base, values), "trial")

    def extract(self, base: Config, config: Config) -> dict[str, Plain] | None:
        """The values that make `config` from `base`, or None where the space does not contain it."""
        wanted = configs.flatten(configs.to_dict(config))
        assigned = configs.flatten(configs.to_dict(base))
        values: dict[str, Plain] = {}
        for key, parameter in self.parameters.items():
            if self.active(key, assigned):
                values[key] = wanted[key]
                if not parameter.allows(values[key]):
                    return None
            assigned[key] = wanted[key]
        try:
            return values if self.apply(base, values) == config else None
        except ConfigError:
            return None

    def check(self, config: Config) -> None:
        """Raises ConfigError, naming key, rule and value, unless every value of the space is possible in some trial."""
        base = self.base(config)
        for metric in self.search.objective:
            configs.check_metric(metric, base)
        rungs = self.search.rungs(base.training.max_steps, base.training.eval_every)
        if self.search.brackets is not None and self.search.brackets > len(rungs):
            raise ConfigError(f"search.brackets {self.search.brackets} exceeds the rungs, at {rungs or 'no'} steps")
        self._check_sampler()
        if self.search.scheduler == "pbt":
            self._check_schedule(base)
        for key, parameter in self.parameters.items():
            _check_key(key, "parameters")
            for prefix, reason in _NOT_SEARCHED.items():
                if key.startswith(prefix):
                    raise ConfigError(f"space: parameters: {key}: {reason} (set it under `fixed`)")
            self._check_conditions(key)
            for value in [*parameter.extremes(), *([parameter.otherwise] if parameter.has_otherwise else [])]:
                _check_field(key, value)
        self._check_corners(base)

    def _check_sampler(self) -> None:
        """CMA-ES and GP move in one space; what is outside of it Optuna would draw at random, silently."""
        sampler = self.search.sampler
        if sampler not in ("cmaes", "gp"):
            return
        for key, parameter in self.parameters.items():
            if parameter.when:
                raise ConfigError(f"space: {key}: sampler: {sampler} knows no conditions; use tpe, or fix it")
            if sampler == "cmaes" and isinstance(parameter, Choice):
                raise ConfigError(
                    f"space: {key}: sampler: cmaes searches ranges, not choices; use tpe or gp, or fix it"
                )
        if sampler == "cmaes" and len(self.parameters) < 2:
            raise ConfigError("space: sampler: cmaes needs at least two parameters; use tpe or gp")

    def _check_schedule(self, base: Config) -> None:
        """What population-based training cannot do."""
        weights = {key: parameter for key, parameter in self.parameters.items() if key.startswith(LOSSES)}
        if not weights:
            raise ConfigError("space: scheduler: pbt changes losses.* while training, and none is searched; use asha")
        for key, parameter in weights.items():
            if parameter.when:
                raise ConfigError(f"space: {key}: scheduler: pbt knows no conditions; fix it, or use asha")
        if "training.max_steps" in self.parameters:
            raise ConfigError("space: training.max_steps: scheduler: pbt compares trials of one length; fix it")
        if base.losses.schedule:
            raise ConfigError("losses.schedule: scheduler: pbt makes it; leave it empty")

    def _check_conditions(self, key: str) -> None:
        order = list(self.parameters)
        for parent, values in self.parameters[key].when.items():
            _check_key(parent, f"parameters: {key}: when")
            if parent not in order:
                continue
            if order.index(parent) >= order.index(key):
                raise ConfigError(f"space: {key}: when: {parent} must come before {key}")
            source = self.parameters[parent]
            possible = [source.otherwise] if source.has_otherwise else []
            for value in values:
                if not source.allows(value) and identity(value) not in map(identity, possible):
                    raise ConfigError(f"space: {key}: when: {parent} is never {value!r}")

    def corners(self, base: Config, limit: int = MAX_CORNERS) -> Iterator[dict[str, Plain]]:
        """Values at the ends of every range, every choice at least once; at most about `limit` of them, seeded."""
        yield from itertools.islice(self._all_corners(base), limit // 2)
        generator = random.Random(0)
        for _ in range(limit // 2):
            yield self.draw(base, generator)

    def _all_corners(self, base: Config) -> Iterator[dict[str, Plain]]:
        extremes = [p.extremes() for p in self.parameters.values()]
        seen = set()
        for combination in itertools.islice(itertools.product(*extremes), 8 * MAX_CORNERS):
            values = self.keep_active(base, dict(zip(self.parameters, combination, strict=True)))
            identity = tuple(values.items())
            if identity not in seen:
                seen.add(identity)
                yield values

    def size(self) -> int | None:
        """Combinations of all values, conditions apart: at least as many as `points` gives; None: not countable."""
        axes = [parameter.values() for parameter in self.parameters.values()]
        counts = [len(axis) for axis in axes if axis is not None]
        return math.prod(counts) if len(counts) == len(axes) else None

    def points(self, base: Config) -> Iterator[dict[str, Plain]]:
        """Values of every combination of the active parameters, each once. Only of a space whose size is known."""
        axes = [parameter.values() or () for parameter in self.parameters.values()]
        seen = set()
        for combination in itertools.product(*axes):
            values = self.keep_active(base, dict(zip(self.parameters, combination, strict=True)))
            named = tuple((key, identity(value)) for key, value in values.items())
            if named not in seen:
                seen.add(named)
                yield values

    def draw(self, base: Config, generator: random.Random, fixed: Values | None = None) -> dict[str, Plain]:
        """Random extreme values of the active parameters; `fixed` ones as given."""
        values = {key: generator.choice(p.extremes()) for key, p in self.parameters.items()}
        return self.keep_active(base, {**values, **(fixed or {})})

    def keep_active(self, base: Config, values: Values) -> dict[str, Plain]:
        assigned = configs.flatten(configs.to_dict(base))
        kept: dict[str, Plain] = {}
        for key, parameter in self.parameters.items():
            if self.active(key, assigned):
                kept[key] = assigned[key] = values[key]
            elif parameter.has_otherwise:
                assigned[key] = parameter.otherwise
        return kept

    def _check_corners(self, base: Config) -> None:
        possible: set[tuple[str, tuple[str, Plain]]] = set()
        reasons: dict[tuple[str, tuple[str, Plain]], str] = {}
        reason = ""

        def attempt(values: dict[str, Plain]) -> None:
            nonlocal reason
            named = {(key, identity(value)) for key, value in values.items()}
            try:
                self.apply(base, values)
            except ConfigError as error:
                reason = str(error)
                reasons.update(dict.fromkeys(named, reason))
            else:
                possible.update(named)

        for values in self.corners(base):
            attempt(values)
        if not possible:
            raise ConfigError(f"space: no trial is possible ({reason})")
        generator = random.Random(1)
        for key, parameter in self.parameters.items():
            for value in parameter.extremes():
                for _ in range(64):  # rare values get a second chance before they are called impossible
                    if (key, identity(value)) in possible:
                        break
                    attempt(self.draw(base, generator, {key: value}))
                else:
                    why = reasons.get((key, identity(value)), "its `when` never holds")
                    raise ConfigError(f"space: {key}: no trial can have {value!r} ({why})")


def _check_key(key: str, where: str) -> None:
    known = configs.defaults()
    if key not in known:
        close = difflib.get_close_matches(key, list(known), n=1)
        key = " ".join(key.split())  # in one line, whatever a file names
        raise ConfigError(f"space: {where}: {key}: no such key" + (f" (nearest: {close[0]})" if close else ""))


def _check_field(key: str, value: Plain) -> None:
    """Raises ConfigError unless the field `key` on its own accepts `value`."""
    section: type[BaseModel] = Config
    *parents, leaf = key.split(".")
    for parent in parents:
        kind = section.model_fields[parent].annotation
        assert isinstance(kind, type)
        section = kind
    field = section.model_fields[leaf]
    rule: Any = Annotated[field.annotation, field]
    try:
        TypeAdapter(rule).validate_python(value, strict=True)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise ConfigError(f"space: {key}: {value!r} breaks the rule of the config: {message}") from error


def load(path: Path) -> Space:
    """Reads a search space; its leading comment becomes the question. Raises ConfigError in one line."""
    values = configs.read_yaml(path)
    if "question" in values:
        raise ConfigError(f"{path}: question: write it as a comment at the head of the file")
    return from_dict({**values, "question": _head_comment(path)}, str(path))


def _head_comment(path: Path) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ").rstrip() for line in lines).strip()


def from_dict(values: Mapping[str, Any], where: str = "space") -> Space:
    """Plain values → `Space`. Raises ConfigError naming key, rule and value."""
    configs.check_numbers(values, where)
    try:
        return Space.model_validate(_with_groups_read(values, where))
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(where, detail) for detail in error.errors()[:3])) from error


def _with_groups_read(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Files of predicate groups as what they say, which the study keeps and its trials have."""

    def read(key: str, some: Any) -> Any:
        if key != GROUPS or not isinstance(some, list):
            return some
        try:
            return [user_groups.as_text(value) for value in some]
        except ConfigError as error:
            raise ConfigError(f"{where}: parameters: {GROUPS}: {error}") from error

    def parameter(key: str, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        changed = dict(content)
        if "choices" in content:
            changed["choices"] = read(key, content["choices"])
        if "otherwise" in content:
            changed["otherwise"] = (read(key, [content["otherwise"]]))[0]
        if isinstance(content.get("when"), Mapping):
            changed["when"] = {parent: read(parent, some) for parent, some in content["when"].items()}
        return changed

    parameters = values.get("parameters")
    if not isinstance(parameters, Mapping):
        return dict(values)
    return {**values, "parameters": {key: parameter(key, content) for key, content in parameters.items()}}


def _describe(where: str, detail: Mapping[str, Any]) -> str:
    kinds = ("float", "int", "categorical")
    key = ": ".join(str(part) for part in detail["loc"] if part not in kinds)
    message = str(detail["msg"]).removeprefix("Value error, ")
    shown = "" if isinstance(detail.get("input"), dict) else f", not {detail.get('input')!r}"
    return f"{where}: {key + ': ' if key else ''}{message}{shown}"


def to_dict(space: Space) -> dict[str, Any]:
    """`Space` → plain values: `from_dict(to_dict(s)) == s`."""
    return space.model_dump(mode="json", exclude_unset=True)
