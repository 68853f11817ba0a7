"""Which config is tried next: references, points of the user's, children of a population, the prior's or the sampler's.

A proposal is no trial yet: the search writes it into the ledger, and then says here under which id.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.space import LOSSES, Values
from speaq.space.parameters import Plain
from speaq.space.points import all_completed
from speaq.study.ledger import STOPPED, Entry, Ledger, known_as
from speaq.study.plan import Feasible, Plan, applied, is_countable

from .estimates import Estimates
from .population import next_child
from .prior import prior_of, share
from .sampler import Sampler

log = logging.getLogger(__name__)

MAX_REPEATS = 20  # proposals in a row that are known or impossible before one is taken of those that are left
MAX_ATTEMPTS = 200  # proposals in a row that are known or impossible before a space that is not counted is exhausted


@dataclass(frozen=True)
class Proposal:
    """A config that no trial of the study has yet."""

    config: Config
    label: str | None = None  # of a reference
    values: Mapping[str, Plain] | None = None  # of the space's parameters; None: no point of the space
    number: int | None = None  # of its Optuna trial
    start: Mapping[str, Any] | None = None  # of a child, see `Entry.start`
    origin: str | None = None  # of a point that is not the sampler's, see `Entry.origin`


class Proposals:
    """Finds the next config of a study, and tells the sampler what became of its own."""

    def __init__(self, plan: Plan, ledger: Ledger, feasible: Feasible, url: str | None = None) -> None:
        """Takes in the trials of earlier drivers.

        Args:
            feasible: raises ConfigError or DataError for a config that the data cannot carry, which is not proposed.
            url: of the trials, where the search is at one.
        """
        self._plan, self._ledger, self._feasible, self._url = plan, ledger, feasible, url
        self.sampler = Sampler(plan, len(ledger.entries))
        self._numbers: dict[str, int] = {}  # id of a trial of the space → number of its Optuna trial
        self._is_known_anew = False  # whether what the sampler was told of trials has changed since
        self._given = list(_given(plan))  # (origin, values) of points that come first, not looked at yet
        self._prior = prior_of(plan)
        self._is_countable = is_countable(plan)
        self._points: list[dict[str, Plain]] | None = None  # of a countable space, not looked at yet; None: all
        estimates = Estimates(ledger.entries.values(), plan)
        for entry in ledger.entries.values():
            if entry.values is not None:
                self._numbers[entry.id] = self.sampler.add(estimates.told(entry))

    def next(self) -> Proposal | None:
        """The next config; None when the study has all it wants or the space has no more."""
        if len(self._ledger.entries) >= self._plan.trials:
            return None
        if self._is_known_anew:
            self._tell_again()
        asked = {entry.label for entry in self._ledger.entries.values()}
        for label, config in self._plan.references.items():
            if label not in asked:
                return self._reference(label, config)
        known = {entry.digest for entry in self._ledger.entries.values()}
        if (given := self._first_given(known)) is not None:
            return given
        if self._plan.settings.scheduler == "pbt" and (child := self._child(known)) is not None:
            return child
        return self._expected(known) or self._proposed(known) or self._left_over(known)

    def asked(self, trial: str, proposal: Proposal) -> None:
        """A proposal has become a trial."""
        if proposal.number is not None:
            self._numbers[trial] = proposal.number

    def ended(self, entry: Entry) -> None:
        """A trial has ended as the ledger says. One that came to its end tells more of those that were stopped."""
        entries = self._ledger.entries.values()
        if entry.id in self._numbers and not self._is_known_anew:
            self.sampler.tell(self._numbers[entry.id], Estimates(entries, self._plan).told(entry))
        if entry.state in ("finished", "infeasible") and any(other.state in STOPPED for other in entries):
            self._is_known_anew = True

    def reopened(self) -> None:
        """A trial that was paused goes on: what was told of it does not hold any more."""
        self._is_known_anew = True

    def _tell_again(self) -> None:
        """Has the sampler know what it would know after a resume."""
        estimates = Estimates(self._ledger.entries.values(), self._plan)
        told = {trial: estimates.told(self._ledger.entries[trial]) for trial in self._numbers}
        self.sampler.tell_again({self._numbers[trial]: known for trial, known in told.items()})
        self._is_known_anew = False

    def _reference(self, label: str, config: Config) -> Proposal:
        values = self._plan.space.extract(self._plan.base, config)
        number = None if values is None else self.sampler.adopt(values)[0]
        return Proposal(config, label, values, number)

    def _first_given(self, known: Collection[str]) -> Proposal | None:
        """The first given point that no trial has and the data can carry; None where there is none left."""
        while self._given:
            origin, values = self._given.pop(0)
            config = self._new_config(values, known)
            if config is not None:
                number, values = self.sampler.adopt(values)
                return Proposal(config, values=values, number=number, origin=origin)
        return None

    def _expected(self, known: Collection[str]) -> Proposal | None:
        """A point drawn from the prior, which the sampler learns from; None where it is the sampler's turn.

        The same ledger gives the same answer.
        """
        if self._prior is None:
            return None
        entries, settings = self._ledger.entries.values(), self._plan.settings
        generator = random.Random(f"{settings.seed} {len(entries)} prior")
        evidence = sum(entry.values is not None and (entry.ended or bool(entry.reports)) for entry in entries)
        if generator.random() >= share(settings.prior_strength, evidence):
            return None
        for _ in range(MAX_REPEATS):
            config = self._new_config(values := self._prior.draw(generator), known)
            if config is not None:
                number, values = self.sampler.adopt(values)
                return Proposal(config, values=values, number=number, origin="prior")
        return None

    def _proposed(self, known: Collection[str]) -> Proposal | None:
        """The sampler's next point that no trial has; None where too many in a row are known or impossible."""
        for _ in range(MAX_REPEATS if self._is_countable else MAX_ATTEMPTS):
            asked = self.sampler.ask()
            if asked is None:
                break
            number, values = asked
            config = self._new_config(values, known)
            if config is not None:
                return Proposal(config, values=values, number=number)
            self.sampler.reject(number)
        return None

    def _left_over(self, known: Collection[str]) -> Proposal | None:
        """A point of a countable space that no trial has: left to itself, a sampler comes back to known ones."""
        if not self._is_countable:
            return None
        if self._points is None:
            self._points = list(self._plan.space.points(self._plan.base))
            random.Random(self._plan.settings.seed).shuffle(self._points)
        while self._points:
            point = self._points.pop()
            config = self._new_config(point, known)
            if config is not None:
                number, values = self.sampler.adopt(point)
                return Proposal(config, values=values, number=number)
        return None

    def _new_config(self, values: Mapping[str, Plain], known: Collection[str]) -> Config | None:
        """The config of values of the space; None for an impossible or a known one."""
        config = applied(self._plan, values, self._feasible)
        return None if config is None or known_as(config, known) is not None else config

    def _child(self, known: Collection[str]) -> Proposal | None:
        """A child of one of the best trials, in the place of one that was stopped; None where no place is free."""
        plan, entries = self._plan, list(self._ledger.entries.values())
        trials = self._ledger.path.parent / "trials"
        for attempt in range(MAX_ATTEMPTS):
            child = next_child(plan, entries, trials, attempt, self._url)
            if child is None:
                return None
            changes = {**child.parent.overrides, LOSSES + "schedule": child.schedule}
            try:
                config = configs.apply(plan.base, changes, "trial")
            except ConfigError as error:
                log.debug("%s", error)
                continue
            if known_as(config, known) is None:
                start = {"trial": child.parent.id, "step": child.step, "instead_of": child.instead_of}
                return Proposal(config, start=start)
        return None


def _given(plan: Plan) -> Iterator[tuple[str, Values]]:
    """(origin, values) of the points that are tried before the sampler is asked. Raises ConfigError."""
    for number, point in enumerate(all_completed(plan.space, plan.base), start=1):
        yield f"point {number}", point.values
    for source in plan.sources:
        for taken in source.points:
            yield f"{source.name}:{taken.trial}", taken.values
