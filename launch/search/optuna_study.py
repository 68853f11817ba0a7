"""The search as Optuna keeps it: our parameters as its distributions, trials of the ledger as its trials.

The sampler of a search that is resumed, the live storage, the exported file and the report's figures take them from
here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from speaq.config.user_groups import label
from speaq.space import GROUPS
from speaq.space.parameters import Choice, FloatRange, IntRange
from speaq.study.board import as_trained
from speaq.study.ledger import Entry
from speaq.study.plan import Plan, excess, ladder_of
from speaq.training.callbacks import is_number

TRIAL = "trial"  # the user attribute that holds our id
PROMOTIONS = "promotions"  # the one that says how often the trial went on after it was paused, where it did
RUNG = "rung"  # the one that says how far a trial of a search with a ladder has come

_STATES = {
    "finished": TrialState.COMPLETE,
    "paused": TrialState.PRUNED,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def distribution(parameter: FloatRange | IntRange | Choice) -> BaseDistribution:
    """The parameter as Optuna writes it; `parameter_of` is its inverse (but for the condition)."""
    match parameter:
        case FloatRange():
            return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case IntRange():
            return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1)
        case Choice():
            return CategoricalDistribution(parameter.choices)


def parameter_of(given: BaseDistribution) -> FloatRange | IntRange | Choice:
    """An Optuna distribution as a parameter of ours. Raises TypeError for one that `distribution` never makes."""
    match given:
        case FloatDistribution():
            return FloatRange(type="float", low=given.low, high=given.high, log=given.log, step=given.step)
        case IntDistribution():
            step = None if given.step == 1 else given.step
            return IntRange(type="int", low=given.low, high=given.high, log=given.log, step=step)
        case CategoricalDistribution():
            return Choice(type="categorical", choices=list(given.choices))
        case _:
            raise TypeError(f"{type(given).__name__} is not one of our distributions")


def open_study(plan: Plan, storage: str | BaseStorage | None = None, name: str | None = None) -> optuna.Study:
    """The study `name` of `storage` (None: in memory), made where it is not there yet."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [StudyDirection.MAXIMIZE] * len(plan.objective)
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    with quiet():
        study.set_metric_names(list(plan.objective))
    return study


def rebuild(
    entries: Sequence[Entry], plan: Plan, storage: BaseStorage | None = None, name: str | None = None
) -> optuna.Study:
    """Optuna's study of `entries`, in their order; a trial outside the space has no parameters.

    Args:
        storage: new, to write the study `name` into; None: in memory, for figures, with short names of groups.
    """
    study = open_study(plan, storage, name)
    trials = [optuna_trial(entry, plan) for entry in entries]
    study.add_trials(trials if storage is not None else [_readable(trial) for trial in trials])
    return study


def _readable(trial: FrozenTrial) -> FrozenTrial:
    """The trial with the names of the user's predicate groups instead of their text, which is long."""
    given = trial.distributions.get(GROUPS)
    if isinstance(given, CategoricalDistribution):
        names = [f"{n} {label(str(choice))}" if choice else "null" for n, choice in enumerate(given.choices)]
        trial.params = {**trial.params, GROUPS: names[given.choices.index(trial.params[GROUPS])]}
        trial.distributions = {**trial.distributions, GROUPS: CategoricalDistribution(names)}
    return trial


def optuna_trial(entry: Entry, plan: Plan) -> FrozenTrial:
    """The trial of the ledger as Optuna would have it now: running, or ended with its values and constraints."""
    params = dict(entry.values or {})
    values = [value for objective in plan.objective if is_number(value := entry.metrics.get(objective))]
    complete = entry.state in ("finished", "infeasible") and len(values) == len(plan.objective)
    single = plan.objective[0] if len(plan.objective) == 1 else None  # Optuna has steps of one objective alone
    steps = {
        step: value for step, metrics in entry.reports.items() if single and is_number(value := metrics.get(single))
    }
    ladder = ladder_of(plan)
    said = {
        TRIAL: entry.id,
        PROMOTIONS: entry.promotions or None,
        "label": entry.label,
        "origin": entry.origin,
        "protocol": entry.protocol,
        "reason": entry.reason,
        **_decoding(entry),
        RUNG: None if ladder is None else ladder.text(entry.step),
    }
    trial = optuna.trial.create_trial(
        state=_state(entry, complete),
        values=values if complete else None,
        params=params,
        distributions={key: distribution(plan.space.parameters[key]) for key in params},
        user_attrs={key: value for key, value in said.items() if value is not None} | dict(entry.metrics),
        intermediate_values=steps,
        constraints=excess(plan, entry.cost) if complete else None,
    )
    trial.datetime_start = datetime.fromtimestamp(entry.asked)
    if entry.ended:  # the ledger knows how long the trial worked, not how long it waited
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=entry.seconds)
    return trial


def _decoding(entry: Entry) -> dict[str, Any]:
    """The decoding at which the trial was judged, and its metrics with that of training."""
    if entry.decoding is None:
        return {}
    trained = {as_trained(name): value for name, value in entry.decoding.trained.items()}
    return {"decoding": entry.decoding.found, **trained}


def _state(entry: Entry, complete: bool) -> TrialState:
    if complete:
        return TrialState.COMPLETE
    return _STATES.get(entry.state, TrialState.FAIL if entry.ended else TrialState.RUNNING)


def bring_up(storage: BaseStorage, trial: int, found: FrozenTrial, wanted: FrozenTrial) -> None:
    """Writes what a running trial of a storage lacks. How it ended comes last: after that nothing can be written."""
    for step, value in wanted.intermediate_values.items():
        if found.intermediate_values.get(step) != value:
            storage.set_trial_intermediate_value(trial, step, value)
    for key, value in wanted.user_attrs.items():
        if key not in found.user_attrs or found.user_attrs[key] != value:
            storage.set_trial_user_attr(trial, key, value)
    for key, value in wanted.system_attrs.items():  # the constraints
        if found.system_attrs.get(key) != value:
            storage.set_trial_system_attr(trial, key, value)
    if wanted.state.is_finished():
        storage.set_trial_state_values(trial, wanted.state, wanted.values)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notes that a function is experimental, or that PED-ANOVA minimises (we negate)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
