"""What a config's predicate groups would be on a data set, and how busy their queries: before anything is trained.

Letters: G groups, I images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speaq.config import Config, apply
from speaq.data.records import Split
from speaq.matching.groups import PredicateGroups, groups_for, make_groups
from speaq.structures import IntArray

STARVED = 0.25  # of the usual targets per query: below, a group's queries hardly learn
OVERLOADED = 0.05  # of the images that show a group: above, too many have more targets than it has queries


@dataclass(frozen=True)
class Load:
    """One group's targets: ground-truth relations, each once; with K repeats there are up to K times as many."""

    targets_per_image: float  # mean over all images
    targets_per_query: float  # the same, by relation query
    overloaded: float  # share of the images that show the group in which it has more targets than relation queries
    warning: str | None


def group_loads(split: Split, groups: PredicateGroups, query_multiple: int) -> list[Load]:
    """[G] the load of every group on a split with at least one relation."""
    group = np.asarray(groups.group_of_predicate)[split.relations[:, 2]]
    targets = np.zeros((len(split), len(groups.queries)), dtype=np.int64)  # [I, G]
    np.add.at(targets, (split.relation_image, group), 1)
    queries = [number * query_multiple for number in groups.queries]
    usual = targets.sum() / len(split) / sum(queries)
    return [_load(targets[:, g], number, float(usual)) for g, number in enumerate(queries)]


def _load(targets: np.ndarray[tuple[int], np.dtype[np.int64]], queries: int, usual: float) -> Load:
    shown = targets[targets > 0]
    mean = float(targets.mean())
    each = mean / queries if queries else 0.0
    overloaded = float((shown > queries).mean()) if len(shown) else 0.0
    warning = None
    if queries == 0:
        warning = "without a query: nothing can predict it"
    elif overloaded > OVERLOADED:
        warning = f"overloaded: more targets than queries in {overloaded:.0%} of its images"
    elif each < STARVED * usual:
        warning = f"starved: {each / usual:.0%} of the usual targets per query"
    return Load(mean, each, overloaded, warning)


@dataclass(frozen=True)
class Group:
    """One group of predicates."""

    number: int  # from 1
    name: str | None  # of a user's group
    predicates: tuple[tuple[str, int], ...]  # name and relations of the train split, most frequent first
    share: float  # of all relations, in [0, 1]
    subject_queries: int
    relation_queries: int
    load: Load

    @property
    def title(self) -> str:
        """Its number, and the name that a user's group has."""
        return f"{self.number}" if self.name is None else f"{self.number} {self.name}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `speaq groups --json` prints them."""
        return {
            "group": self.number,
            "name": self.name,
            "predicates": len(self.predicates),
            "share": round(self.share, 4),
            "subject queries": self.subject_queries,
            "relation queries": self.relation_queries,
            "members": ", ".join(name for name, _ in self.predicates),
            "relations": dict(self.predicates),
            **vars(self.load),
        }


def usual() -> Config:
    """The published setting over all train rows, none kept for validation; K refuses no number of queries."""
    return apply(Config(), {"data.num_val": 0, "matching.max_repeats": 1})


def group_lab(split: Split, counts: IntArray, predicates: Sequence[str], config: Config) -> list[Group]:
    """[G] the groups of a config; G = 1, no grouping, is one group of everything.

    Args:
        split: of training, with at least one relation.
        counts: [P+1] its relations of every predicate (the last is not used).
        predicates: P names.
        config: matching.num_groups, group_rule, group_counts and groups; model.num_queries and query_multiple.

    Raises:
        ConfigError: the config's groups do not fit the data (`groups_for`).
    """
    groups = groups_for(config, counts, predicates)
    if groups is None:
        groups = make_groups(counts[:-1].tolist(), 1, config.model.num_queries)
    loads = group_loads(split, groups, config.model.query_multiple)
    return [_group(g, groups, loads[g], counts, predicates, config) for g in range(len(loads))]


def _group(
    g: int, groups: PredicateGroups, load: Load, counts: IntArray, predicates: Sequence[str], config: Config
) -> Group:
    members = groups.predicates[g]
    return Group(
        number=g + 1,
        name=groups.names[g] if groups.names else None,
        predicates=tuple((predicates[p], int(counts[p])) for p in members),
        share=float(counts[list(members)].sum() / counts[:-1].sum()),
        subject_queries=groups.queries[g],
        relation_queries=groups.queries[g] * config.model.query_multiple,
        load=load,
    )
