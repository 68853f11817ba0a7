"""A new study from what a user gave: config, space, data and objective are judged together, before any trial."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from speaq import config as configs
from speaq import space as spaces
from speaq.config import BASELINE, PUBLISHED, Config, ConfigError
from speaq.data import DataError, photo_digest
from speaq.space import Space
from speaq.space.checks import check
from speaq.space.parameters import FloatRange
from speaq.space.points import all_completed
from speaq.study import plan as plans
from speaq.study.earlier import check_followed, with_sources
from speaq.study.features import check_features, with_features
from speaq.study.file import TRAIN, Study
from speaq.study.ledger import digest
from speaq.study.plan import Feasible, Plan, with_settings
from speaq.study.snapshot import Snapshot
from speaq.training import origins
from speaq.training.environment import versions
from speaq.training.feasible import Feasibility

log = logging.getLogger(__name__)


def create(
    config: Config,
    space: Space,
    data: Path,
    *,
    trials: int | None = None,
    objective: str | None = None,
    overrides: Sequence[str] = (),
    space_file: str | None = None,
    train: str = TRAIN,
    earlier: Mapping[str, Snapshot] = MappingProxyType({}),
) -> Study:
    """A study from what the user gave.

    Args:
        overrides: keys that the command line fixed in `config`.
        space_file: where the space was read from, for messages.
        earlier: searches to begin from, by name.

    Raises:
        ConfigError, DataError: config, space, objective or data cannot be used, alone or together.
    """
    space, config = _judged(space.without(list(overrides)), config, space_file)
    check_followed(space.search, earlier)
    asked, ours = space, train == TRAIN  # what another training function can do with the data is its own affair
    feasibility = feasibility_on(data) if ours else None
    if feasibility is not None:
        space = feasibility.narrowed(space)
    base = with_absolute_paths(space.base(config))
    origins.check_frozen(base)
    check_groups(base, space, data)
    check_features(base, space.search.features if ours else None, data)
    names = plans.objectives(objective or space.search.objective, base)
    if len(names) == 1:  # the checkpoint that a trial keeps is the one that the search compares
        base = configs.apply(base, {"training.best_metric": names[0]})
    space = space.with_search({"objective": list(names)}, "--objective")  # refused where the sampler takes one alone
    space = with_settings(space, trials=trials or space.search.trials)
    _check_decoding(space, data, base, train)
    feasible: Feasible = (lambda config: None) if feasibility is None else feasibility.check
    plan, known_as = Plan(base, space, _references(base, names, space, feasibility)), data_digest(data)
    plan = with_sources(with_points(plan, asked, feasible), earlier, known_as, feasible)
    if space.search.sampler == "grid":
        plans.grid(space, base, space.search.seed)
    start, seen = origins.start_digest(base), look_again(data, {})[0]
    return Study(plan, data.resolve(), known_as, start, versions(), train, seen=seen)


def _judged(space: Space, config: Config, space_file: str | None) -> tuple[Space, Config]:
    """Space and config with their features, judged without a look at the data. Raises ConfigError."""
    space, config = with_features(space, config)
    space = space.resolved(config)
    _check_trained(space)
    check(space, config, space_file)
    _say_ends(space, space.base(config))
    return space, config


def _check_trained(space: Space) -> None:
    """Raises ConfigError for a space of which no key changes what is trained."""
    if all(key.startswith("inference.") for key in space.parameters):
        raise ConfigError(
            "space: only inference.* keys: every trial would train the same network; train it once and search its "
            "outputs with speaq tune --from-predictions RUN"
        )


def _check_decoding(space: Space, data: Path, base: Config, train: str) -> None:
    """Raises ConfigError where trials are to be decoded, and could not be, or not be judged on other images."""
    if not space.search.decoding:
        return
    if train != TRAIN:
        raise ConfigError(f"search.decoding: true decodes the checkpoints of {TRAIN}; {train} may write others")
    from speaq.study.halves import check_halves

    check_halves(data, base, space.search.objective)


def _say_ends(space: Space, base: Config) -> None:
    """Warns of ranges over magnitudes that end where the config is: nearly all trials would get less, or more."""
    values = configs.flatten(configs.to_dict(base))
    for key, parameter in space.parameters.items():
        mine = values[key]
        if not (isinstance(parameter, FloatRange) and parameter.log and isinstance(mine, float)):
            continue
        if (above := mine >= parameter.high) or mine <= parameter.low:
            log.warning(
                "%s: the config has %g, the search takes %g to %g: nearly all trials get %s; write another range into "
                "the space, or --set %s=%g, which is then not searched",
                *(key, mine, parameter.low, parameter.high, "less" if above else "more", key, mine),
            )


def _references(
    base: Config, objective: Sequence[str], space: Space, feasibility: Feasibility | None
) -> Mapping[str, Config]:
    """The settings that the search is compared with, by label: those of the ones asked for that the data can carry.

    Raises ConfigError, DataError where the data cannot carry an objective or the space.
    """
    settings: Mapping[str, Mapping[str, Any]] = {"published": PUBLISHED, "baseline": BASELINE}
    asked: list[str] = [label for label in settings if label in space.search.references]
    found = {label: configs.apply(base, settings[label], f"the {label} setting") for label in asked}
    if feasibility is None:
        return found
    for name in objective:
        feasibility.check_metric(name, base, "objective: ")
    feasibility.check_space(space, base)
    return feasibility.possible(found)


def with_points(plan: Plan, asked: Space, feasible: Feasible = lambda config: None) -> Plan:
    """The plan with the user's points complete; says what was moved, and which points the data cannot carry.

    Args:
        asked: the space as the user wrote it, which the data may have narrowed since.

    Raises:
        ConfigError: a point is the same as another one, or as a reference.
    """
    known = {digest(config): f"the {label} setting, which is tried anyway" for label, config in plan.references.items()}
    kept = []
    if not plan.settings.points:
        return plan
    for number, found in enumerate(all_completed(asked, plan.base), start=1):
        for key, (wanted, taken) in found.moved.items():
            log.warning("point %d: %s: %s, as published, is not in the space; %s is taken", number, key, wanted, taken)
        config = asked.apply(plan.base, found.values)
        if (same := known.get(name := digest(config))) is not None:
            raise ConfigError(f"search.points: point {number}: is {same}")
        known[name] = f"point {number} again"
        try:
            feasible(config)
        except ConfigError as error:
            log.warning("point %d is left out, it cannot be trained on this data set: %s", number, error)
            continue
        except DataError:  # said by `check_splits`
            pass
        kept.append(plan.space.extract(plan.base, config))
    points = [values for values in kept if values is not None]
    first = len(plan.references) + len(points)
    if first > plan.trials:
        log.warning("%d trials are fewer than the references and points, %d: --trials %d", plan.trials, first, first)
    return dataclasses.replace(plan, space=with_settings(plan.space, points=points))


def check_groups(base: Config, space: Space, data: Path) -> None:
    """Before any trial: the predicates of groups of the user's own are those of the data. Raises ConfigError."""
    from speaq.data.visual_genome import open_data

    searched = space.parameters.get(spaces.GROUPS)
    texts = [base.matching.groups, *([] if searched is None else searched.extremes())]
    if named := [text for text in texts if isinstance(text, str)]:
        from speaq.config.user_groups import parse
        from speaq.matching.groups import check_names

        predicates = open_data(data, need_images=False).vocabulary.predicates
        for text in named:
            check_names(parse(text), predicates)


def feasibility_on(data: Path) -> Feasibility:
    """Judges configs against a data set. Raises DataError."""
    from speaq.data.visual_genome import open_data

    return Feasibility(open_data(data, need_images=False, log=lambda line: None))


def data_digest(data: Path) -> str:
    """The digest by which a data set is known again. Raises DataError."""
    from speaq.data.visual_genome import open_data

    return open_data(data).digest


def look_again(data: Path, before: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What study.yaml notes of photos and zero-shot list, and what differs from before. Raises DataError."""
    from speaq.data.visual_genome import open_data

    return photo_digest.look_again(open_data(data, log=lambda line: None), before)


def check_images(study: Study) -> None:
    """Raises DataError where the study's splits have no image to train on, or to evaluate."""
    if study.train == TRAIN:
        feasibility_on(study.data).check_splits(study.plan.base)


def feasible_on(study: Study) -> Feasible:
    """What raises ConfigError or DataError for a config that the study's data cannot carry."""
    return feasibility_on(study.data).check if study.train == TRAIN else lambda config: None


def with_absolute_paths(config: Config, *, needed: bool = True) -> Config:
    """For workers, which have other working directories: files of the config made absolute, and there.

    Raises ConfigError where one is missing that is needed.
    """
    paths = {}
    for key in ("init_from", "backbone_from", "features"):
        if (value := getattr(config.training, key)) is not None:
            paths[f"training.{key}"] = str(Path(value).resolve())
            if needed and not Path(value).exists():
                raise ConfigError(f"training.{key}: {paths[f'training.{key}']} does not exist")
    return configs.apply(config, paths) if paths else config
