"""Whether a space can be searched at all, and every value of it has its place in some trial. Asked once a search."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping

from speaq import config as configs
from speaq.config import Config, ConfigError, InferenceConfig
from speaq.config.before_encoder import from_features, without_effect
from speaq.config.words import MOST_REASONS
from speaq.files.plain_yaml import several
from speaq.space.parameters import Choice, Parameter, Plain, identity
from speaq.space.points import all_completed, check_value
from speaq.space.space import Space, Values

MAX_STEPS = "training.max_steps"
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


def check(space: Space, config: Config, where: str | None = None) -> None:
    """Raises ConfigError, with key, rule and value of all that is wrong, unless every value is possible in some trial.

    Args:
        where: the file of the space, for messages.
    """
    if found := list(itertools.islice(_problems(space, config), MOST_REASONS)):
        raise several(found if where is None else [f"{where}: {text.removeprefix('space: ')}" for text in found])


def _problems(space: Space, config: Config) -> Iterator[str]:
    try:
        base = space.base(config)
        cheap = base if space.search.features is None else from_features(base, space.search.features)
    except ConfigError as error:
        yield from error.each
        yield from _of_parameters(space, {})
        return
    yield from _of_search(space, base)
    of_parameters = list(_of_parameters(space, without_effect(cheap)))
    yield from of_parameters or _of_trials(space, base)
    if isinstance(space.search.prior, dict):
        yield from _of_prior(space, space.search.prior)
    if space.search.decoding:
        yield from _of_decoding(space)


def _of_parameters(space: Space, without: Mapping[str, str]) -> Iterator[str]:
    """Of each parameter by itself; `without` has beginnings of keys that have no effect here, and why."""
    for key, parameter in space.parameters.items():
        if (unknown := _no_such_key(key, "parameters")) is not None:
            yield unknown
            continue
        reasons = [why for prefix, why in {**_NOT_SEARCHED, **without}.items() if key.startswith(prefix)]
        if reasons:
            yield f"space: parameters: {key}: {reasons[0]} (set it under `fixed`)"
        yield from _of_conditions(key, space.parameters)
        for value in [*parameter.extremes(), *([parameter.otherwise] if parameter.has_otherwise else [])]:
            if (broken := configs.broken_rule(key, value)) is not None:
                yield f"space: {key}: {value!r} breaks the rule of the config: {broken}"


def _of_trials(space: Space, base: Config) -> Iterator[str]:
    """Of the parameters together, each of which is as it should be."""
    try:
        yield from _of_corners(space, base)
        all_completed(space, base)
    except ConfigError as error:
        yield from error.each


def _of_prior(space: Space, centre: Values) -> Iterator[str]:
    for key, value in centre.items():
        try:
            check_value(space, key, value)
        except ConfigError as error:
            yield f"search.prior: {error}"


def _of_decoding(space: Space) -> Iterator[str]:
    """Of keys that would be searched twice, and of trials that would be judged on other images."""
    for key in space.parameters:
        if key.startswith(INFERENCE):
            yield (
                f"space: {key}: search.decoding: true finds the decoding of each trial by itself; leave the key out, "
                "or set search.decoding: false"
            )
        if key in OF_IMAGES:
            yield f"space: {key}: search.decoding: true judges all trials on the same images; fix it"
    if not decoded_keys(space):
        yield "search.decoding: true has no effect: `fixed` has all inference.* keys"


def decoded_keys(space: Space) -> list[str]:
    """The keys that `search.decoding` searches: of the inference section, but its layer and what the space fixes."""
    keys = [f"{INFERENCE}{name}" for name in InferenceConfig.model_fields if name != "layer"]
    return [key for key in keys if key not in space.fixed]


def _of_search(space: Space, base: Config) -> Iterator[str]:
    search = space.search
    try:
        for metric in search.objective:
            configs.check_metric(metric, base)
        rungs = search.rungs(base.training.max_steps, base.training.eval_every)
        if search.brackets is not None and search.brackets > len(rungs):
            yield f"search.brackets {search.brackets} exceeds the rungs, at {rungs or 'no'} steps"
    except ConfigError as error:
        yield from error.each
    if search.sampler in ("cmaes", "gp"):
        yield from _of_sampler(search.sampler, space.parameters)
    if search.scheduler == "pbt":
        yield from _of_schedule(space.parameters, base)
    if search.ladder and MAX_STEPS in space.parameters:
        yield f"space: {MAX_STEPS}: the rungs of search.ladder are shares of it; fix it"


def _of_sampler(sampler: str, parameters: Mapping[str, Parameter]) -> Iterator[str]:
    """CMA-ES and GP move in one space; Optuna would draw at random, silently, what is outside of it."""
    for key, parameter in parameters.items():
        if parameter.when:
            yield f"space: {key}: sampler: {sampler} knows no conditions; use tpe, or fix it"
        if sampler == "cmaes" and isinstance(parameter, Choice):
            yield f"space: {key}: sampler: cmaes searches ranges, not choices; use tpe or gp, or fix it"
    if sampler == "cmaes" and len(parameters) < 2:
        yield "space: sampler: cmaes needs at least two parameters; use tpe or gp"


def _of_schedule(parameters: Mapping[str, Parameter], base: Config) -> Iterator[str]:
    """Of what population-based training cannot do."""
    weights = {key: parameter for key, parameter in parameters.items() if key.startswith(LOSSES)}
    if not weights:
        yield "space: scheduler: pbt changes losses.* while training, and none is searched; use asha"
    for key, parameter in weights.items():
        if parameter.when:
            yield f"space: {key}: scheduler: pbt knows no conditions; fix it, or use asha"
    if MAX_STEPS in parameters:
        yield f"space: {MAX_STEPS}: scheduler: pbt compares trials of one length; fix it"
    if base.losses.schedule:
        yield "losses.schedule: scheduler: pbt makes it; leave it empty"


def _of_conditions(key: str, parameters: Mapping[str, Parameter]) -> Iterator[str]:
    """Of a condition on a key that comes later, or on a value that its parameter never has."""
    order = list(parameters)
    for parent, values in parameters[key].when.items():
        if (unknown := _no_such_key(parent, f"parameters: {key}: when")) is not None:
            yield unknown
        elif parent in order and order.index(parent) >= order.index(key):
            yield f"space: {key}: when: {parent} must come before {key}"
        elif parent in order:
            yield from (
                f"space: {key}: when: {parent} is never {value!r}"
                for value in values
                if not _can_have(parameters[parent], value)
            )


def _can_have(parameter: Parameter, value: Plain) -> bool:
    """Whether a parameter has the value where it is active, or where it is not."""
    return parameter.allows(value) or (parameter.has_otherwise and identity(value) == identity(parameter.otherwise))


def _no_such_key(key: str, where: str) -> str | None:
    """What to say of a key that a config does not have; None of one that it has."""
    known = configs.defaults()
    return None if key in known else f"space: {where}: {configs.no_such_key(key, known)}"


def _of_corners(space: Space, base: Config) -> Iterator[str]:
    """Of extreme values that no trial can have, and why. Raises ConfigError where no trial is possible at all."""
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
            for key, value in named:
                if key.rpartition(".")[2] in reason or (key, value) not in reasons:  # else another key may be to blame
                    reasons[key, value] = reason
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
                yield f"space: {key}: no trial can have {value!r} ({why})"
