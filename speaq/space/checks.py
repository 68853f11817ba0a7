"""Whether a space can be searched at all, and every value of it has its place in some trial. Asked once a search."""

from __future__ import annotations

import random
from collections.abc import Mapping

from speaq import config as configs
from speaq.config import Config, ConfigError, InferenceConfig
from speaq.config.before_encoder import from_features, without_effect
from speaq.space.parameters import Choice, Parameter, Plain, identity
from speaq.space.points import all_completed, check_value
from speaq.space.space import Space, Values

LOSSES = "losses."  # how keys begin that scheduler: pbt changes while training
INFERENCE = "inference."  # how keys begin that search.decoding searches by itself
OF_IMAGES = ("data.num_val", "data.val", "data.keep_images_without_relations", "data.filter_non_overlap")
SECOND_CHANCES = 64  # draws in which a rare value is looked for before it is called impossible


# How keys begin that are no question for a search, and why.
_NOT_SEARCHED = {
    "evaluation.": "the evaluation is not searched: trials that are measured in different ways cannot be compared",
    "model.activation_checkpointing": "it changes memory and time, no result",
    "training.eval_every": "the best of more evaluations is better by chance, so trials could not be compared",
    "training.init_from": "a search has one start, which it knows by its digest; search from each on its own",
    "training.features": "trials of a search train from the same features",
    "model.frozen": "what is frozen decides what the start is worth; search with each on its own",
    "training.backbone_from": "a search has one start, which it knows by its digest; search from each on its own",
    "sinks.": "it changes where metrics go, no result",
    "resources.": "all trials of a search take the same share of the cluster",
}


def check(space: Space, config: Config) -> None:
    """Raises ConfigError, naming key, rule and value, unless every value of the space is possible in some trial."""
    base = space.base(config)
    _check_search(space, base)
    cheap = base if space.search.features is None else from_features(base, space.search.features)
    for key, parameter in space.parameters.items():
        _check_key(key, "parameters")
        for prefix, reason in {**_NOT_SEARCHED, **without_effect(cheap)}.items():
            if key.startswith(prefix):
                raise ConfigError(f"space: parameters: {key}: {reason} (set it under `fixed`)")
        _check_conditions(key, space.parameters)
        for value in [*parameter.extremes(), *([parameter.otherwise] if parameter.has_otherwise else [])]:
            if (broken := configs.broken_rule(key, value)) is not None:
                raise ConfigError(f"space: {key}: {value!r} breaks the rule of the config: {broken}")
    _check_corners(space, base)
    all_completed(space, base)
    if isinstance(space.search.prior, dict):
        _check_prior(space, space.search.prior)
    if space.search.decoding:
        _check_decoding(space)


def _check_prior(space: Space, centre: Values) -> None:
    for key, value in centre.items():
        try:
            check_value(space, key, value)
        except ConfigError as error:
            raise ConfigError(f"search.prior: {error}") from error


def _check_decoding(space: Space) -> None:
    """Raises ConfigError for keys that would be searched twice, and for trials that would be judged on other images."""
    for key in space.parameters:
        if key.startswith(INFERENCE):
            raise ConfigError(
                f"space: {key}: search.decoding: true finds the decoding of each trial by itself; leave the key out, "
                "or set search.decoding: false"
            )
        if key in OF_IMAGES:
            raise ConfigError(f"space: {key}: search.decoding: true judges all trials on the same images; fix it")
    if not decoded_keys(space):
        raise ConfigError("search.decoding: true has no effect: `fixed` has all inference.* keys")


def decoded_keys(space: Space) -> list[str]:
    """The keys that `search.decoding` searches: of the inference section, but its layer and what the space fixes."""
    keys = [f"{INFERENCE}{name}" for name in InferenceConfig.model_fields if name != "layer"]
    return [key for key in keys if key not in space.fixed]


def _check_search(space: Space, base: Config) -> None:
    search = space.search
    for metric in search.objective:
        configs.check_metric(metric, base)
    rungs = search.rungs(base.training.max_steps, base.training.eval_every)
    if search.brackets is not None and search.brackets > len(rungs):
        raise ConfigError(f"search.brackets {search.brackets} exceeds the rungs, at {rungs or 'no'} steps")
    if search.sampler in ("cmaes", "gp"):
        _check_sampler(search.sampler, space.parameters)
    if search.scheduler == "pbt":
        _check_schedule(space.parameters, base)
    if search.ladder and "training.max_steps" in space.parameters:
        raise ConfigError("space: training.max_steps: the rungs of search.ladder are shares of it; fix it")


def _check_sampler(sampler: str, parameters: Mapping[str, Parameter]) -> None:
    """CMA-ES and GP move in one space; Optuna would draw at random, silently, what is outside of it."""
    for key, parameter in parameters.items():
        if parameter.when:
            raise ConfigError(f"space: {key}: sampler: {sampler} knows no conditions; use tpe, or fix it")
        if sampler == "cmaes" and isinstance(parameter, Choice):
            raise ConfigError(f"space: {key}: sampler: cmaes searches ranges, not choices; use tpe or gp, or fix it")
    if sampler == "cmaes" and len(parameters) < 2:
        raise ConfigError("space: sampler: cmaes needs at least two parameters; use tpe or gp")


def _check_schedule(parameters: Mapping[str, Parameter], base: Config) -> None:
    """Raises ConfigError for what population-based training cannot do."""
    weights = {key: parameter for key, parameter in parameters.items() if key.startswith(LOSSES)}
    if not weights:
        raise ConfigError("space: scheduler: pbt changes losses.* while training, and none is searched; use asha")
    for key, parameter in weights.items():
        if parameter.when:
            raise ConfigError(f"space: {key}: scheduler: pbt knows no conditions; fix it, or use asha")
    if "training.max_steps" in parameters:
        raise ConfigError("space: training.max_steps: scheduler: pbt compares trials of one length; fix it")
    if base.losses.schedule:
        raise ConfigError("losses.schedule: scheduler: pbt makes it; leave it empty")


def _check_conditions(key: str, parameters: Mapping[str, Parameter]) -> None:
    """Raises ConfigError for a condition on a key that comes later, or on a value that its parameter never has."""
    order = list(parameters)
    for parent, values in parameters[key].when.items():
        _check_key(parent, f"parameters: {key}: when")
        if parent not in order:
            continue
        if order.index(parent) >= order.index(key):
            raise ConfigError(f"space: {key}: when: {parent} must come before {key}")
        source = parameters[parent]
        possible = [source.otherwise] if source.has_otherwise else []
        for value in values:
            if not source.allows(value) and identity(value) not in map(identity, possible):
                raise ConfigError(f"space: {key}: when: {parent} is never {value!r}")


def _check_key(key: str, where: str) -> None:
    known = configs.defaults()
    if key not in known:
        raise ConfigError(f"space: {where}: {configs.no_such_key(key, known)}")


def _check_corners(space: Space, base: Config) -> None:
    """Raises ConfigError where no trial is possible, or none with one of the extreme values; says why."""
    possible: set[tuple[str, tuple[str, Plain]]] = set()
    reasons: dict[tuple[str, tuple[str, Plain]], str] = {}
    reason = ""

    def attempt(values: Mapping[str, Plain]) -> None:
        nonlocal reason
        named = {(key, identity(value)) for key, value in values.items()}
        try:
            space.apply(base, values)
        except ConfigError as error:
            reason = str(error)
            reasons.update(dict.fromkeys(named, reason))
        else:
            possible.update(named)

    for values in space.corners(base):
        attempt(values)
    if not possible:
        raise ConfigError(f"space: no trial is possible ({reason})")
    generator = random.Random(1)
    for key, parameter in space.parameters.items():
        for value in parameter.extremes():
            for _ in range(SECOND_CHANCES):
                if (key, identity(value)) in possible:
                    break
                attempt(space.draw(base, generator, {key: value}))
            else:
                why = reasons.get((key, identity(value)), "its `when` never holds")
                raise ConfigError(f"space: {key}: no trial can have {value!r} ({why})")
