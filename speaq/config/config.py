"""The experiment as frozen, strict models: unknown keys, wrong types and impossible combinations are refused by name.

Keys use the words of the method. Every knob has an effect in every mode, or the combination is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from speaq.config.extending import read_whole
from speaq.config.sections import (
    DataConfig,
    EvaluationConfig,
    InferenceConfig,
    LossConfig,
    MatchingConfig,
    ModelConfig,
    Part,
    ResourcesConfig,
    Section,
    SinksConfig,
    TrainingConfig,
)
from speaq.config.words import no_such_key, place_and_rule, reasons, short
from speaq.files.plain_yaml import ConfigError, dump_yaml, parse_yaml, several
from speaq.files.shipped import chosen


class Config(Section):
    """One experiment."""

    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of weights, order, augmentation and dropout")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    matching: MatchingConfig = MatchingConfig()
    losses: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    inference: InferenceConfig = InferenceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sinks: SinksConfig = SinksConfig()
    resources: ResourcesConfig = ResourcesConfig()

    def __repr__(self) -> str:
        """What differs from the defaults, as assignments."""
        values, usual = flatten(to_dict(self)), defaults()
        changed = [f"{key}={short(str(value))}" for key, value in values.items() if value != usual[key]]
        return f"Config({', '.join(changed)})"

    __str__ = __repr__

    def _broken(self) -> Iterator[str]:
        relation_queries = self.model.num_queries * self.model.query_multiple
        yield from self._broken_by_groups()
        if self.training.features is not None and self.model.frozen != get_args(Part):
            yield "training.features needs model.frozen: [backbone, encoder]"
        if self.matching.max_repeats > relation_queries:
            yield (f"matching.max_repeats {self.matching.max_repeats} exceeds the {relation_queries} relation queries")
        if not -1 <= self.inference.layer < self.model.num_decoder_layers:
            yield (
                f"inference.layer {self.inference.layer} is none of the {self.model.num_decoder_layers} decoder layers"
            )
        if self.losses.schedule and self.losses.schedule[-1]["step"] >= self.training.max_steps:
            yield (
                f"losses.schedule: step {self.losses.schedule[-1]['step']:.0f} is not below training.max_steps "
                f"{self.training.max_steps}"
            )
        if self.training.backbone_from is not None and self.model.backbone == "small":
            yield "training.backbone_from needs a ResNet: model.backbone: small has no published weights"
        if self.evaluation.protocol == "per_query" and self.inference.predictions_per_query == 1:
            yield (
                "evaluation.protocol: per_query has no effect with inference.predictions_per_query 1: "
                "each query gives one triplet already"
            )
        share, left = divmod(self.training.batch_size, self.resources.num_workers)
        if left:
            yield (
                f"training.batch_size {self.training.batch_size} is not a multiple of "
                f"resources.num_workers {self.resources.num_workers}"
            )
        elif self.training.micro_batch_size is not None and share % self.training.micro_batch_size:
            yield (
                f"training.micro_batch_size {self.training.micro_batch_size} does not divide a worker's {share} images"
            )
        if (broken := _no_metric(self.training.best_metric, self.evaluation.recall_at)) is not None:
            yield broken

    def _broken_by_groups(self) -> Iterator[str]:
        matching, num_queries = self.matching, self.model.num_queries
        name = "num_groups" if matching.groups is None else "groups:"
        if self.model.multiply_queries == "all" and matching.group_number > 1:
            yield f"matching.{name} > 1 needs model.multiply_queries: relation"
        if matching.group_number > num_queries:
            yield f"matching.{name} {matching.group_number} exceeds model.num_queries {num_queries}"
        given = sum(group.queries or 0 for group in matching.user_groups)
        if given and given != num_queries:
            yield f"matching.groups: their queries sum to {given}, model.num_queries is {num_queries}"


# The two settings of the paper that every search starts with, as dotted keys.
PUBLISHED: Mapping[str, Any] = {
    "model.query_multiple": 2,
    "matching.scheme": "dynamic",
    "matching.quality": "max",
    "matching.max_repeats": 4,
    "matching.predicate_weight": -0.5,
    "matching.independent": True,
    "matching.num_groups": 4,
    "matching.group_rule": "halving",
    "matching.groups": None,
    "losses.oversample": 0.07,
    "losses.undersample": 1.5,
    "data.resampling": "none",
    "data.oversample": 0.0,
    "data.undersample": 0.0,
}
BASELINE: Mapping[str, Any] = {
    **PUBLISHED,
    "model.query_multiple": 1,
    "matching.scheme": "static",
    "matching.quality": None,
    "matching.max_repeats": 1,
    "matching.predicate_weight": 0.0,
    "matching.independent": False,
    "matching.num_groups": 1,
}

LARGEST = 3e38  # what float32 holds, in which networks compute
METRIC_NAMES = ("R", "ngR", "zR", "mR", "F", "head", "body", "tail")


def _no_metric(metric: str, recall_at: Sequence[int]) -> str | None:
    """What to say of a `metric` that evaluation does not report; None of one that it does, such as mR@50."""
    name, _, k = metric.partition("@")
    if name not in METRIC_NAMES or not k.isdecimal() or len(k) > 9 or int(k) not in recall_at:
        known = ", ".join(f"{name}@K" for name in METRIC_NAMES)
        return f"metric {metric!r} is not one of {known} with K in {list(recall_at)}"
    return None


def check_metric(metric: str, config: Config, where: str = "") -> None:
    """Raises `ConfigError`, which begins with `where`, unless `config` reports `metric` (such as R@50, mR@50, F@50)."""
    if (broken := _no_metric(metric, config.evaluation.recall_at)) is not None:
        raise ConfigError(f"{where}{broken}")


def check_numbers(values: Any, where: str, key: str = "") -> None:
    """Raises ConfigError, naming the dotted key, for a number that float32 or a whole number of 64 bits cannot hold."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            check_numbers(value, where, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            check_numbers(value, where, key)
    elif isinstance(values, float) and not abs(values) <= LARGEST:
        raise ConfigError(f"{where}: {key}: {values} is no number that float32 holds; at most {LARGEST:g}")
    elif isinstance(values, int) and not abs(values) < 2**63:
        raise ConfigError(
            f"{where}: {key}: {short(hex(values), 30)} is no whole number of 64 bits; at most {2**63 - 1}"
        )


def parse_overrides(assignments: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """`["training.max_steps=10", …]` → {dotted key: YAML value}; raises `ConfigError` on anything else."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key:
            raise ConfigError(
                f"{option} {short(assignment)}: the form is key=value, for example training.max_steps=100"
            )
        overrides[key.strip()] = parse_yaml(value, f"{option} {short(assignment)}")
    return overrides


def from_dict(values: Mapping[str, Any], where: str = "config") -> Config:
    """Nested plain values → `Config`, missing keys at their defaults; raises `ConfigError` naming key, rule, value.

    Where `training.features` are given and nothing is frozen, the parts that they replace are.
    """
    check_numbers(values, where)
    values = _with_frozen(values)
    try:
        text = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
    try:
        return Config.model_validate_json(text)  # JSON mode: strict, yet lists become tuples
    except ValidationError as error:
        raise reasons(error, where, defaults()) from error


def _with_frozen(values: Mapping[str, Any]) -> Mapping[str, Any]:
    training, model = values.get("training"), values.get("model") or {}
    if not isinstance(training, Mapping) or not isinstance(model, Mapping):
        return values
    if training.get("features") is None or model.get("frozen"):
        return values
    return {**values, "model": {**model, "frozen": list(get_args(Part))}}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping → {dotted key: leaf}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def defaults() -> dict[str, Any]:
    """All dotted keys with their default values, in order."""
    return flatten(to_dict(Config()))


def to_dict(config: Config) -> dict[str, Any]:
    """`Config` → nested plain values (tuples as lists): `from_dict(to_dict(c)) == c`."""
    values: dict[str, Any] = config.model_dump(mode="json")
    return values


def apply(config: Config, overrides: Mapping[str, Any], where: str = "--set") -> Config:
    """A new config with dotted keys replaced, all at once (so that dependent keys may change together).

    Raises:
        ConfigError: unknown key, wrong type, or a combination that has no meaning.
    """
    values = to_dict(config)
    known = defaults()
    if unknown := [f"{where}: {no_such_key(key, known)}" for key in overrides if key not in known]:
        raise several(unknown)
    for key, value in overrides.items():
        _set(values, key, list(value) if isinstance(value, tuple) else value, where)
    return from_dict(values, where)


def _set(values: dict[str, Any], key: str, value: Any, where: object) -> None:
    """Sets a dotted key in place, sections that are not there are made. Raises ConfigError where one is no section."""
    *sections, leaf = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: {section}: a section is a mapping of keys, not {values!r}")
    values[leaf] = value


def load(path: Path, assignments: Sequence[str] = ()) -> Config:
    """Reads a config file, what it extends included, or the one of a name, and applies `key=value` assignments.

    Raises ConfigError.
    """
    path = chosen(path, "configs")
    values = read_whole(path)
    overrides = parse_overrides(assignments)
    if not overrides:
        return from_dict(values, str(path))
    known = defaults()  # unknown keys are named before combinations are judged
    if unknown := [f"--set: {no_such_key(key, known)}" for key in overrides if key not in known]:
        raise several(unknown)
    for key, value in overrides.items():
        _set(values, key, value, path)
    return from_dict(values, f"{path} with --set {' '.join(map(short, assignments))}")


def dump(config: Config) -> str:
    """`Config` → YAML text that `load` reads back to an equal config."""
    return dump_yaml(to_dict(config))


def as_kept(key: str, value: Any) -> Any:
    """A value as the config keeps it under a dotted key: a file of predicate groups as what it says.

    A key that there is not keeps everything. Raises ConfigError where the value cannot be read.
    """
    if key in defaults():
        for rule in _field(key).metadata:
            if isinstance(rule, BeforeValidator):
                value = rule.func(value)  # type: ignore[call-arg]
    return value


def broken_rule(key: str, value: Any) -> str | None:
    """Which rule a value breaks under a dotted key, other keys apart; None where it breaks none."""
    field = _field(key)
    kind: Any = Annotated[field.annotation, field]
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        return place_and_rule(error)[1]
    return None


def _field(key: str) -> FieldInfo:
    section: type[BaseModel] = Config
    *parents, leaf = key.split(".")
    for parent in parents:
        kind = section.model_fields[parent].annotation
        assert isinstance(kind, type)
        section = kind
    return section.model_fields[leaf]


def describe() -> Iterator[tuple[str, str, str]]:
    """Yields (dotted key, allowed type, meaning) of every field, in order."""

    def walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from walk(kind, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", _type_name(kind), field.description or ""

    yield from walk(Config, "")


def _type_name(kind: Any) -> str:
    options = [str(a) for a in get_args(kind) if isinstance(a, str)]
    if options:
        return " | ".join(options)
    parts = [a for a in get_args(kind) if a is not Ellipsis]
    if isinstance(kind, type) and not parts:
        return kind.__name__
    names = ["null" if a is type(None) else _type_name(a) for a in parts]
    return f"list of {names[0]}" if "tuple" in str(kind) else " | ".join(names)
