"""What is searched: the plan of a study, and what follows from it alone."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.data import DataError
from speaq.space import SearchConfig, Space
from speaq.space.ladder import Ladder
from speaq.space.parameters import Plain
from speaq.study.ledger import Entry, digest, known_as
from speaq.study.source import Source
from speaq.training.callbacks import Metrics, is_number
from speaq.training.origins import with_features_at, with_start

log = logging.getLogger(__name__)

MEMORY = "peak_memory_mib"  # a constraint
MAX_STEPS = "training.max_steps"  # a key that trials may differ in
MAX_COUNTED = 10_000  # combinations up to which a space is counted
MAX_GRID = 10_000  # combinations up to which all of a space are tried

Listener = Callable[[Entry, str], None]  # hears of a trial, and of the event that its ledger now has
Feasible = Callable[[Config], None]  # raises ConfigError or DataError for a config that the data cannot carry


@dataclass(frozen=True)
class Plan:
    """What is searched, and how: fixed for the life of a study, but for the number of trials."""

    base: Config  # with the space's fixed values and those of the command line
    space: Space  # its `search` is that of the study: with the objectives and the number of trials that were asked for
    references: Mapping[str, Config]  # label → config: the first trials, never stopped early
    sources: tuple[Source, ...] = ()  # earlier searches, from which it took settings
    start: Path | None = None  # where the weights that trials start from are now; None: where their config says
    features: Path | None = None  # where the stored features of all trials are now, likewise

    @property
    def settings(self) -> SearchConfig:
        """How the search goes: sampler, scheduler, constraints, seed."""
        return self.space.search

    @property
    def trials(self) -> int:
        """The number of trials in all, the references included."""
        return self.settings.trials

    @property
    def objective(self) -> tuple[str, ...]:
        """The one or two metrics that are searched for."""
        return tuple(self.settings.objective)

    def with_trials(self, trials: int) -> Plan:
        """The plan with another number of trials in all."""
        return dataclasses.replace(self, space=with_settings(self.space, trials=trials))

    def placed(self, config: Config) -> Config:
        """The config of a trial, with its start and its stored features where they are now."""
        config = config if self.features is None else with_features_at(config, self.features)
        return config if self.start is None else with_start(config, self.start)


def with_settings(space: Space, **settings: Any) -> Space:
    """The space with other settings of its search, which have been judged already."""
    return space.model_copy(update={"search": space.search.model_copy(update=settings)})


def compared(plan: Plan) -> str:
    """What stands for a trial where only one number can: the objective, or of two the best-checkpoint metric."""
    return plan.objective[0] if len(plan.objective) == 1 else plan.base.training.best_metric


def is_countable(plan: Plan) -> bool:
    """Whether the points of the space can be looked at one by one. With pbt, trials are no points of it."""
    size = plan.space.size()
    return plan.settings.scheduler != "pbt" and size is not None and size <= MAX_COUNTED


def applied(plan: Plan, values: Mapping[str, Plain], feasible: Feasible) -> Config | None:
    """The config of values of the space; None for a combination that the config refuses, or the data cannot carry."""
    try:
        config = plan.space.apply(plan.base, values)
        feasible(config)
    except (ConfigError, DataError) as error:
        log.debug("%s", error)
        return None
    return config


def most_trials(plan: Plan, known: Collection[str], feasible: Feasible = lambda config: None) -> int:
    """How many different trials there can be, `known` ones (digests) included, counted up to `plan.trials`."""
    if not is_countable(plan):
        return plan.trials
    found = {*known, *(known_as(config, known) or digest(config) for config in plan.references.values())}
    for values in plan.space.points(plan.base):
        if len(found) >= plan.trials:
            break
        if (config := applied(plan, values, feasible)) is not None:
            found.add(known_as(config, known) or digest(config))
    return min(len(found), max(plan.trials, len(known)))


def ladder_of(plan: Plan) -> Ladder | None:
    """The ladder of a study with its steps; None without one."""
    training = plan.base.training
    return plan.settings.on_ladder(training.max_steps, training.eval_every)


def length(plan: Plan) -> int:
    """Steps of a trial of the study's config when it is not stopped; on a ladder those from features are among them."""
    ladder = ladder_of(plan)
    return plan.base.training.max_steps if ladder is None else ladder.length


def max_steps(entry: Entry, plan: Plan) -> int:
    """Steps of the trial when it is not stopped."""
    steps: int = entry.overrides.get(MAX_STEPS, length(plan))
    return steps


def excess(plan: Plan, cost: Metrics) -> dict[str, float]:
    """By how much each constrained value that was measured lies above its limit."""
    limits = plan.settings.constraints
    return {name: value - limit for name, limit in limits.items() if is_number(value := cost.get(name))}


def difference(base: Config, config: Config) -> dict[str, Any]:
    """The dotted keys in which `config` differs from `base`, with its values."""
    before, after = configs.flatten(configs.to_dict(base)), configs.flatten(configs.to_dict(config))
    return {key: value for key, value in after.items() if value != before[key]}


def objectives(text: str | Sequence[str], config: Config) -> tuple[str, ...]:
    """`R@50,mR@50` → its names, one or two. Raises ConfigError."""
    names = tuple(name.strip() for name in text.split(",")) if isinstance(text, str) else tuple(text)
    if not 1 <= len(names) <= 2 or len(set(names)) < len(names):
        raise ConfigError(f"--objective {text}: one metric, or two different ones with a comma between")
    for name in names:
        configs.check_metric(name, config)
    return names


def grid(space: Space, base: Config, seed: int) -> list[dict[str, Plain]]:
    """Every combination of a space without continuous ranges, shuffled. Raises ConfigError."""
    for key, parameter in space.parameters.items():
        if parameter.count() is None:
            raise ConfigError(f"sampler: grid: {key} is a continuous range; give it a step, or choices")
    size = space.size() or 0
    if size > MAX_GRID:
        raise ConfigError(f"sampler: grid: {size} combinations, more than {MAX_GRID}; use tpe or fewer choices")
    shuffled = list(space.points(base))
    random.Random(seed).shuffle(shuffled)
    return shuffled
