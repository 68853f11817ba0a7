"""Whether a data set can carry a config: all that is known before anything is trained. Needs no PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from speaq.config import Config, ConfigError, DataConfig
from speaq.data import DataError
from speaq.data.records import looked_at
from speaq.data.statistics import predicate_count, zero_shot_triplets
from speaq.data.visual_genome import Split, SplitName, VisualGenome
from speaq.evaluation.recall import THIRDS, head_body_tail
from speaq.evaluation.triplets import triplet_key
from speaq.matching.groups import groups_for
from speaq.space import Space
from speaq.space.parameters import Choice, IntRange, Parameter, Plain
from speaq.structures import IntArray

log = logging.getLogger(__name__)

OF_SPLITS = ("num_val", "val", "keep_images_without_relations", "filter_non_overlap")  # keys of `data`
NUM_GROUPS = "matching.num_groups"
CORNERS = 64  # combinations of extreme values that are tried before a space is called impossible on a data set


class Feasibility:
    """Judges configs against one data set, whose splits are made once."""

    def __init__(self, vg: VisualGenome) -> None:
        self._vg = vg
        self._split = lru_cache(maxsize=8)(vg.split)

    def check(self, config: Config) -> None:
        """Raises ConfigError or DataError, which say what to set, where training SpeaQ with `config` would fail."""
        self.check_splits(config)
        self._check_groups(config)
        self.check_metric(config.training.best_metric, config, "training.best_metric: ")

    def _check_groups(self, config: Config) -> None:
        matching, counts = config.matching, self._counts(config)
        of_data = matching.groups is None and matching.group_counts == "train"
        if of_data and matching.num_groups > 1 and counts.sum() == 0:
            raise ConfigError(f"{self._vg.directory}: no relation in the training split to make groups from")
        groups_for(config, counts, self._vg.vocabulary.predicates)

    def check_splits(self, config: Config) -> None:
        """Raises DataError where nothing is left to train on, or to evaluate."""
        where, num_val = self._vg.directory, config.data.num_val
        if len(self._of("train", config)) == 0:
            raise DataError(
                f"{where}: no image is left to train on: data.num_val {num_val} takes the first rows; set it lower"
            )
        if len(self._of("val", config)) == 0:
            remedy = "the h5 has no row of split 1" if config.data.val == "split" else "set num_val higher"
            raise DataError(
                f"{where}: no image to evaluate on (data.num_val is {num_val}, data.val {config.data.val}): {remedy}"
            )

    def check_metric(self, metric: str, config: Config, where: str = "") -> None:
        """Raises ConfigError, which begins with `where`, where no prediction could give the metric a value."""
        name = metric.partition("@")[0]
        reason = None
        if name == "zR":
            reason = self._without_zero_shot(config)
        elif name in THIRDS and not len(head_body_tail(self._counts(config)[:-1])[THIRDS.index(name)]):
            reason = f"of {self._vg.num_predicates} predicates there is no {name} (predicates are cut into thirds)"
        if reason is not None:
            raise ConfigError(f"{where}{metric} is undefined on this data set: {reason}")

    def narrowed(self, space: Space) -> Space:
        """The space without what the data cannot carry in any trial; says what was taken out. Raises ConfigError."""
        space, said = narrowed(space, self._vg.num_predicates)
        if said is not None:
            log.warning("%s", said)
        return space

    def check_space(self, space: Space, base: Config) -> None:
        """Raises ConfigError, with the reason, where no trial of the space could be trained on the data.

        Whether its splits have images is `check_splits`' affair.
        """
        reason = ""
        for values in space.corners(base, limit=CORNERS):
            try:
                self.check(space.apply(base, values))
            except ConfigError as error:
                reason = str(error)
            except DataError:
                return
            else:
                return
        raise ConfigError(f"space: no trial is possible on this data set ({reason})")

    def possible(self, references: Mapping[str, Config]) -> dict[str, Config]:
        """Those of the settings that can be trained on the data; says which are left out, and why."""
        kept = {}
        for label, config in references.items():
            try:
                self.check(config)
            except ConfigError as error:
                log.warning("the %s setting is left out, it cannot be trained on this data set: %s", label, error)
                continue
            except DataError:  # said by `check_splits`
                pass
            kept[label] = config
        return kept

    def _without_zero_shot(self, config: Config) -> str | None:
        val = looked_at(self._of("val", config), config.evaluation)
        triplets = zero_shot_triplets(self._vg, val, config.data, config.evaluation.zero_shot)
        if triplets is None:
            return "it has no zeroshot_triplets.npy; evaluation.zero_shot: recompute makes a list, or take R, mR or F"
        if not np.isin(_keys(val), triplet_key(triplets[:, :2], triplets[:, 2])).any():
            return "no relation of the validation split is one of its zero-shot triplets; take R, mR or F"
        return None

    def _counts(self, config: Config) -> IntArray:
        return predicate_count(self._of("train", config), self._vg.num_predicates)

    def _of(self, name: SplitName, config: Config) -> Split:
        kept = {key: value for key, value in config.data if key in OF_SPLITS}
        return self._split(name, DataConfig(**kept))


def _keys(split: Split) -> IntArray:
    """[M] one number for the triplet of every relation of a split."""
    first = split.box_offsets[split.relation_image]
    pairs = split.relations[:, :2] + first[:, None]
    classes: IntArray = split.classes[pairs].astype(np.int64)
    return triplet_key(classes, split.relations[:, 2].astype(np.int64))


def narrowed(space: Space, predicates: int) -> tuple[Space, str | None]:
    """The space without numbers of groups that `predicates` cannot carry, and what was taken out of it in one line.

    Raises ConfigError where nothing is left. A parameter with a condition is left as it is while fewer than two values
    remain: what is impossible is then not tried.
    """
    parameter = space.parameters.get(NUM_GROUPS)
    values = None if parameter is None else parameter.values()
    if parameter is None or values is None:
        return space, None
    kept = [value for value in values if not isinstance(value, int) or value <= predicates]
    if len(kept) == len(values) or (parameter.when and len(kept) < 2):
        return space, None
    if not kept:
        raise ConfigError(
            f"space: {NUM_GROUPS}: a group has at least one of the {predicates} predicates of the data, and all values "
            f"are above; search 1 … {predicates}, or --set {NUM_GROUPS}={predicates}"
        )
    said = f"the data have {predicates} predicates: {NUM_GROUPS} is searched over {_text(kept)} alone"
    if len(kept) > 1:
        changed = {**space.parameters, NUM_GROUPS: _with_values(parameter, kept)}
        return _without_impossible(space.model_copy(update={"parameters": changed})), said
    rest = {key: other for key, other in space.parameters.items() if key != NUM_GROUPS}
    if not rest:
        raise ConfigError(
            f"space: nothing is left to search: with {predicates} predicates in the data, {NUM_GROUPS} is {kept[0]}"
        )
    fixed = {**space.fixed, NUM_GROUPS: kept[0]}
    return _without_impossible(space.model_copy(update={"parameters": rest, "fixed": fixed})), said


def _with_values(parameter: Parameter, kept: list[Plain]) -> Parameter:
    if isinstance(parameter, Choice):
        return parameter.model_copy(update={"choices": kept})
    assert isinstance(parameter, IntRange)
    return parameter.model_copy(update={"high": kept[-1]})


def _without_impossible(space: Space) -> Space:
    """Without conditions on numbers of groups that are not searched any more."""
    searched = space.parameters.get(NUM_GROUPS)
    parameters, fixed = dict(space.parameters), dict(space.fixed)
    for key, parameter in space.parameters.items():
        wanted = parameter.when.get(NUM_GROUPS)
        if wanted is None:
            continue
        possible = [v for v in wanted if (searched.allows(v) if searched else v == space.fixed[NUM_GROUPS])]
        if possible:
            when = {**parameter.when, NUM_GROUPS: possible}
            parameters[key] = parameter.model_copy(update={"when": when})
            continue
        del parameters[key]
        if parameter.has_otherwise:
            fixed[key] = parameter.otherwise
    return space.model_copy(update={"parameters": parameters, "fixed": fixed})


def _text(values: list[Plain]) -> str:
    return ", ".join(map(str, values))
