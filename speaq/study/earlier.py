"""From earlier searches to what a new one knows: trials are mapped by the names of parameters, results stay behind."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from speaq import config as configs
from speaq import space as spaces
from speaq.config import ConfigError
from speaq.space.parameters import Parameter, Plain
from speaq.space.points import all_completed
from speaq.study import results
from speaq.study.ledger import Entry, digest
from speaq.study.plan import Feasible, Plan, applied
from speaq.study.snapshot import Snapshot
from speaq.study.source import Source, Taken
from speaq.training.callbacks import is_number

log = logging.getLogger(__name__)

MOST_POINTS = 3  # of its settings, that are tried first
GOOD = 0.2  # share of its trials around which the prior lies
MOST_CENTRES = 25  # as many as TPE takes for good


def with_sources(plan: Plan, earlier: Mapping[str, Snapshot], data: str, feasible: Feasible) -> Plan:
    """The plan with what earlier searches know, by name; says of each what was taken.

    Args:
        data: digest of the plan's data set.

    Raises:
        ConfigError: a search has nothing to say here, or its trials differ in their protocol.
    """
    sources = []
    for name, snapshot in earlier.items():
        try:
            found = _source(name, snapshot, plan, feasible)
        except ConfigError as error:
            raise ConfigError(f"--from {snapshot.folder}: {error}") from error
        log.info("from %s", found.line(data, plan.objective))
        sources.append(found)
    return dataclasses.replace(plan, sources=tuple(sources))


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """A trial of an earlier search as a point of the new space."""

    trial: str
    values: dict[str, Plain]
    moved: list[str]
    digest: str  # of its config here


def _source(name: str, snapshot: Snapshot, plan: Plan, feasible: Feasible) -> Source:
    theirs, ours = snapshot.plan.space.parameters, plan.space.parameters
    if not set(theirs) & set(ours):
        raise ConfigError(f"it searched {', '.join(theirs)}, of which nothing is searched here")
    left_out: Counter[str] = Counter()
    objective, entries = _ranked(snapshot, plan.objective, left_out)
    mapped = [found for entry in entries if (found := _mapped(entry, snapshot, plan, feasible, left_out)) is not None]
    if not mapped:
        why = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        raise ConfigError(f"none of its trials says anything here ({why or 'there are none'})")
    return Source(
        name=name,
        data=snapshot.study.data_digest,
        objective=tuple(objective),
        trials=len(mapped),
        left_out=dict(left_out),
        moved=dict(Counter(key for found in mapped for key in found.moved)),
        dropped=tuple(key for key in theirs if key not in ours),
        points=tuple(Taken(found.trial, found.values) for found in _new(mapped, _tried_first(plan))[:MOST_POINTS]),
        centres=tuple(found.values for found in mapped[: min(math.ceil(GOOD * len(mapped)), MOST_CENTRES)]),
    )


def _ranked(snapshot: Snapshot, wanted: Sequence[str], left_out: Counter[str]) -> tuple[Sequence[str], list[Entry]]:
    """By what its trials are ranked, and those of its space that finished, the best first.

    By the objective that is wanted, where all of them have it, else by the search's own.
    """
    finished = [entry for entry in snapshot.entries if entry.state == "finished"]
    inside = [entry for entry in finished if entry.values is not None]
    if outside := len(finished) - len(inside):
        left_out["no point of its own space"] = outside
    if others := len(snapshot.entries) - len(finished):
        left_out["not finished"] = others
    measured = all(is_number(entry.metrics.get(name)) for entry in inside for name in wanted)
    objective = wanted if measured else snapshot.plan.objective
    return objective, results.ranked(inside, objective)


def _mapped(entry: Entry, snapshot: Snapshot, plan: Plan, feasible: Feasible, left_out: Counter[str]) -> _Mapped | None:
    """A trial as a point of the plan's space; None, counted, where it is none."""
    theirs: dict[str, Any] = {**configs.flatten(configs.to_dict(snapshot.plan.base)), **entry.overrides}
    moved: list[str] = []

    def choose(key: str, parameter: Parameter) -> Plain:
        (near,) = parameter.near(theirs[key])  # ValueError: none is
        if not parameter.allows(theirs[key]):
            moved.append(key)
        return near

    try:
        values = plan.space.walk(plan.base, choose).values
    except ValueError:
        left_out["with a choice that is none here"] += 1
        return None
    config = applied(plan, values, feasible)
    if config is None:
        left_out["impossible here"] += 1
        return None
    return _Mapped(entry.id, values, moved, digest(config))


def _new(mapped: Sequence[_Mapped], known: Collection[str]) -> list[_Mapped]:
    """Those that are none of the known ones, each setting once."""
    first = {found.digest: found for found in reversed(mapped)}
    return [found for found in mapped if first[found.digest] is found and found.digest not in known]


def _tried_first(plan: Plan) -> set[str]:
    """Digests of what the search tries anyway: its references, and the points of the user's own."""
    own = [plan.space.apply(plan.base, point.values) for point in all_completed(plan.space, plan.base)]
    return {digest(config) for config in (*plan.references.values(), *own)}


def check_followed(search: spaces.SearchConfig, earlier: Collection[str]) -> None:
    """Raises ConfigError for a strength of a prior that there is not, and a prior that the sampler does not follow."""
    usual = spaces.SearchConfig.model_fields["prior_strength"].default
    if search.prior == "none" and not earlier and search.prior_strength not in (0, usual):
        raise ConfigError(f"search.prior_strength {search.prior_strength:g} has no effect with prior: none")
    if earlier and search.sampler in spaces.WITHOUT_PRIOR and search.prior_strength > 0:
        raise ConfigError(
            f"--from {min(earlier)}: sampler: {search.sampler} follows no prior; --search prior_strength=0 takes its "
            "best settings alone"
        )
