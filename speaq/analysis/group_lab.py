"""What a config's predicate groups would be on a data set, and how busy their queries: before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speaq.config import Config, apply
from speaq.data.split import Split
from speaq.matching.groups import PredicateGroups, groups_for, make_groups
from speaq.matching.load import Load, group_loads
from speaq.structures import IntArray


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
