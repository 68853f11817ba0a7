"""Predicate groups and their shares of the queries (method section 4).

Letters: P predicates, G groups, Q subject queries, m query multiple, R = Q m relation queries.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Literal

import numpy as np

from speaq.config import Config, ConfigError
from speaq.config.user_groups import UserGroup
from speaq.structures import IntArray
from speaq.vocabulary import difference, places

Rule = Literal["halving", "equal_mass", "equal_count"]

# Relations of every predicate in Visual Genome (150 objects, 50 predicates), in the order of the predicates' indices:
# the table that the reference groups by whatever it trains on (golden G1, `in.predicate_count`).
# fmt: off
VISUAL_GENOME_COUNTS = (
    47341, 1996, 3092, 3624, 3477, 9903, 10190, 41356, 3288, 3411, 5213, 2312, 3806, 4688, 1973, 9145, 2945, 1853, 9894,
    277936, 42722, 251756, 13715, 3739, 3083, 1869, 2380, 2253, 96589, 146339, 712409, 1914, 9317, 3095, 2721, 2065,
    3810, 8856, 2241, 18643, 14185, 2517, 22596, 1925, 1740, 4613, 3490, 136099, 15457, 66425,
)
VISUAL_GENOME_PREDICATES = (
    "above", "across", "against", "along", "and", "at", "attached to", "behind", "belonging to", "between", "carrying",
    "covered in", "covering", "eating", "flying in", "for", "from", "growing on", "hanging from", "has", "holding",
    "in", "in front of", "laying on", "looking at", "lying on", "made of", "mounted on", "near", "of", "on",
    "on back of", "over", "painted on", "parked on", "part of", "playing", "riding", "says", "sitting on",
    "standing on", "to", "under", "using", "walking in", "walking on", "watching", "wearing", "wears", "with",
)
# fmt: on


def visual_genome_counts(predicates: Sequence[str]) -> list[int]:
    """[P] Visual Genome's relations of the predicates with these names. Raises ConfigError where they are others."""
    if (differs := difference(predicates, VISUAL_GENOME_PREDICATES)) is not None:
        raise ConfigError(
            f"matching.group_counts: visual_genome is a table of {len(VISUAL_GENOME_COUNTS)} predicates; "
            f"the data has {len(predicates)}: {differs} (group_counts: train counts the data's own)"
        )
    there = places(VISUAL_GENOME_PREDICATES, predicates)
    return [VISUAL_GENOME_COUNTS[place] for place in there]


@dataclass(frozen=True)
class PredicateGroups:
    """A partition of predicates and of subject queries; made by a rule, group 0 has the most frequent predicates.

    A group owns a contiguous run of queries, in group order; on the relation queries the run is m times as long.
    """

    group_of_predicate: tuple[int, ...]  # P
    predicates: tuple[tuple[int, ...], ...]  # G, most frequent first; none is empty
    queries: tuple[int, ...]  # G subject queries of each group, sums to Q
    names: tuple[str, ...] = ()  # G, of groups that a user named

    def renumbered(self, before: Sequence[int]) -> PredicateGroups:
        """The same groups where predicate p is what `before[p]` was."""
        now = {old: p for p, old in enumerate(before)}
        members = tuple(tuple(now[p] for p in some) for some in self.predicates)
        owners = tuple(self.group_of_predicate[p] for p in before)
        return replace(self, group_of_predicate=owners, predicates=members)

    def group_of_query(self, query_multiple: int) -> IntArray:
        """[R] the group, from 0, of every relation query."""
        return np.repeat(np.arange(len(self.queries)), np.asarray(self.queries) * query_multiple)

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """[G+1] first subject query of every group, and Q."""
        return tuple(accumulate(self.queries, initial=0))


def groups_for(config: Config, counts: IntArray, predicates: Sequence[str]) -> PredicateGroups | None:
    """The predicate groups of a config, from the train split's counts [P+1] or Visual Genome's table; None for G = 1.

    `predicates` are the data's P names, by which a user's own groups know them.

    Raises:
        ConfigError: Visual Genome's table with other predicates, G that P or Q cannot carry, or groups of
            the user's that are not the data's predicates.
    """
    matching = config.matching
    if matching.group_number == 1:
        return None
    table = visual_genome_counts(predicates) if matching.group_counts == "visual_genome" else counts[:-1].tolist()
    if matching.groups is not None:
        return make_user_groups(matching.user_groups, predicates, table, config.model.num_queries)
    return make_groups(table, matching.num_groups, config.model.num_queries, rule=matching.group_rule)


def make_groups(
    predicate_count: Sequence[int], num_groups: int, num_queries: int, min_queries: int = 1, rule: Rule = "halving"
) -> PredicateGroups:
    """Splits predicates by frequency into groups and shares the queries out by the groups' frequencies.

    Args:
        predicate_count: [P] relations of every predicate; those with 0 come last, in the order of their indices.
        num_groups: G in 1 … P.
        num_queries: Q, subject queries.
        min_queries: every group has at least so many, taken one by one from the group that has the most. 0 is the
            reference's behaviour: there a rare group may get no query (golden G1's note), and its knob no effect.
        rule: halving, the method's: a group takes predicates while they stay below half of the relations that remain.
            equal_mass: while they stay within the remaining relations' equal share. equal_count: P / G predicates
            each, what is over to the last groups.
    Raises:
        ConfigError: G exceeds P, Q is below G · min_queries, or no predicate ever occurs.
    """
    num_predicates = len(predicate_count)
    if not 1 <= num_groups <= num_predicates:
        raise ConfigError(
            f"matching.num_groups {num_groups} is not in 1 … {num_predicates}: a group has at least one of the data's "
            f"predicates; set it to at most {num_predicates}, or to 1 for no groups"
        )
    order = sorted(range(len(predicate_count)), key=lambda p: (-predicate_count[p], p))
    split = (
        _by_count(order, num_groups) if rule == "equal_count" else _by_mass(order, predicate_count, num_groups, rule)
    )
    return _with_queries(split, predicate_count, num_queries, min_queries)


def make_user_groups(
    groups: Sequence[UserGroup], predicates: Sequence[str], predicate_count: Sequence[int], num_queries: int
) -> PredicateGroups:
    """The groups that a user named, in the user's order; where they say no queries, shared out as by `make_groups`.

    Args:
        groups: G, at least one.
        predicates: P names, of which every one has a group.
        predicate_count: [P] relations of every predicate.
        num_queries: Q, subject queries.
    Raises:
        ConfigError: a name is no predicate's, a predicate has no group, or the queries do not sum to Q.
    """
    check_names(groups, predicates)
    index = {name: p for p, name in enumerate(predicates)}
    split = [
        tuple(sorted((index[name] for name in group.predicates), key=lambda p: (-predicate_count[p], p)))
        for group in groups
    ]
    given = [group.queries for group in groups if group.queries is not None]
    if given and sum(given) != num_queries:
        raise ConfigError(f"matching.groups: their queries sum to {sum(given)}, model.num_queries is {num_queries}")
    return _with_queries(
        split, predicate_count, num_queries, queries=given or None, names=tuple(group.name for group in groups)
    )


def check_names(groups: Sequence[UserGroup], predicates: Sequence[str]) -> None:
    """Raises ConfigError unless the groups' predicates are those of the data."""
    for group in groups:
        for name in group.predicates:
            if name not in predicates:
                close = difflib.get_close_matches(name, predicates, n=1)
                nearest = f" (nearest: {close[0]})" if close else ""
                raise ConfigError(f"matching.groups: {group.name}: {name!r} is no predicate of the data{nearest}")
    named = {name for group in groups for name in group.predicates}
    if missing := [name for name in predicates if name not in named]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"matching.groups: predicate {missing[0]!r} of the data has no group{more}")


def _with_queries(
    split: Sequence[tuple[int, ...]],
    count: Sequence[int],
    num_queries: int,
    min_queries: int = 1,
    queries: Sequence[int] | None = None,
    names: tuple[str, ...] = (),
) -> PredicateGroups:
    if num_queries < len(split) * min_queries:
        raise ConfigError(
            f"the number of groups, {len(split)}, exceeds model.num_queries {num_queries}: a group needs a query"
        )
    if min(count) < 0 or sum(count) == 0:
        raise ConfigError("predicate counts are at least 0 and not all 0: no relation in the training split?")
    if queries is None:
        queries = _raise_to(min_queries, _quotas([sum(count[p] for p in group) for group in split], num_queries))
    group_of_predicate = {p: g for g, group in enumerate(split) for p in group}
    return PredicateGroups(
        group_of_predicate=tuple(group_of_predicate[p] for p in range(len(count))),
        predicates=tuple(split),
        queries=tuple(queries),
        names=names,
    )


def _by_mass(order: Sequence[int], count: Sequence[int], num_groups: int, rule: Rule) -> list[tuple[int, ...]]:
    groups: list[tuple[int, ...]] = []
    start = 0
    for later_groups in range(num_groups - 1, 0, -1):
        rest = sum(count[p] for p in order[start:])
        limit = rest // 2 if rule == "halving" else rest // (later_groups + 1) + 1  # what a group stays below
        stop, filled = start + 1, count[order[start]]  # at least one predicate, even one above the limit
        while stop < len(order) - later_groups and filled + count[order[stop]] < limit:
            filled += count[order[stop]]
            stop += 1
        groups.append(tuple(order[start:stop]))
        start = stop
    return [*groups, tuple(order[start:])]


def _by_count(order: Sequence[int], num_groups: int) -> list[tuple[int, ...]]:
    size, over = divmod(len(order), num_groups)
    sizes = [size + (g >= num_groups - over) for g in range(num_groups)]
    starts = [sum(sizes[:g]) for g in range(num_groups)]
    return [tuple(order[start : start + size]) for start, size in zip(starts, sizes, strict=True)]


def _quotas(sums: Sequence[int], num_queries: int) -> list[int]:
    total, num_groups = sum(sums), len(sums)
    quotas = [num_queries * group_sum // total for group_sum in sums]
    quotient, remainder = divmod(num_queries - sum(quotas), num_groups)
    return [q + quotient + (g >= num_groups - remainder) for g, q in enumerate(quotas)]


def _raise_to(minimum: int, quotas: list[int]) -> list[int]:
    while min(quotas) < minimum:
        quotas[quotas.index(max(quotas))] -= 1
        quotas[quotas.index(min(quotas))] += 1
    return quotas
