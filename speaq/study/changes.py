"""A study as it is today: where its data and its start are now, and what has changed since it began."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from speaq.config import ConfigError
from speaq.study.creation import look_again
from speaq.study.file import Study
from speaq.study.plan import with_settings
from speaq.training import origins
from speaq.training.environment import versions

log = logging.getLogger(__name__)


def found_data(study: Study, home: Path, given: Path | None) -> Path:
    """Where the data are now: given, where they were, or moved with `home`. Raises ConfigError."""
    found = origins.find_data(study.data, study.data_digest, home) if given is None else given
    return found.resolve()


def with_start(study: Study, home: Path, given: Path | None) -> Study:
    """The study with the weights that its trials start from where they are now: given, or moved with `home`."""
    plan = study.plan
    if given is not None:
        if study.start_digest is None:
            raise ConfigError(f"--init-from {given}: has no effect, the trials of {home} start from random weights")
        return dataclasses.replace(study, plan=dataclasses.replace(plan, start=given.resolve()))
    found = origins.with_found_start(plan.placed(plan.base), home, study.start_digest)
    named = None if found in (None, plan.base) else origins.start(found)
    return study if named is None else dataclasses.replace(study, plan=dataclasses.replace(plan, start=named[1]))


def with_features(study: Study, home: Path) -> Study:
    """The study with its stored features, of its ladder or of all its trials, where they are now: where they were, or
    moved with `home`.
    """
    plan = study.plan
    of_ladder, of_trials = (
        None if named is None else origins.find_features(Path(named), home, study.data_digest)
        for named in (plan.settings.features, plan.base.training.features)
    )
    if of_ladder is not None:
        plan = dataclasses.replace(plan, space=with_settings(plan.space, features=str(of_ladder)))
    return dataclasses.replace(study, plan=dataclasses.replace(plan, features=of_trials))


def begins_with(study: Study, home: Path, *, needed: bool) -> str | None:
    """The digest of the weights that trials start from; as it was where they are gone and no trial needs them.

    Args:
        needed: whether a trial has yet to begin from them.

    Raises:
        ConfigError: they are gone, and needed.
    """
    config = study.plan.placed(study.plan.base)
    named = origins.start(config)
    if named is None or named[1].exists():
        return origins.start_digest(config)
    if needed:
        raise origins.missing_start(config, home)
    return study.start_digest


def as_now(study: Study, output: Path, data: Path, digest: str, start: str | None, force: bool) -> Study:
    """The study with the data, the start and the code of today. Raises ConfigError with what differs, unless forced."""
    seen, differences = ({}, []) if study.of_predictions else look_again(data, study.seen)
    now = dataclasses.replace(study, data=data, data_digest=digest, start_digest=start, versions=versions(), seen=seen)
    changes = [f"{name} {then} then, {new} now" for name, then, new in _facts(study, now) if then != new]
    changes += differences if digest == study.data_digest else []  # else it is another data set altogether
    if not changes:
        return now
    if not force:
        raise ConfigError(f"{output}: has changed since the search began ({'; '.join(changes)}); --force goes on")
    for change in changes:
        log.warning("%s", change)
    forced = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "changes": changes}
    return dataclasses.replace(now, forced=(*study.forced, forced))


def _facts(then: Study, now: Study) -> Iterator[tuple[str, str | None, str | None]]:
    """What must stay as it is: (name, then, now)."""
    yield "data set", then.data_digest[:12], now.data_digest[:12]
    yield "start of the trials", (then.start_digest or "none")[:12], (now.start_digest or "none")[:12]
    for name in sorted({*then.versions, *now.versions}):
        if name != "source" or name in then.versions:  # studies from before it was kept
            yield name, then.versions.get(name), now.versions.get(name)
