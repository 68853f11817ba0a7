"""Predicate groups and their shares of the queries (method section 4).

Letters: P predicates, G groups, Q subject queries, m query multiple, R = Q m relation queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from speaq.config import ConfigError

# Relations of every predicate in Visual Genome (150 objects, 50 predicates), in the order of the predicates' indices:
# the table that the reference groups by whatever it trains on (golden G1, `in.predicate_count`).
# fmt: off
VISUAL_GENOME_COUNTS = (
    47341, 1996, 3092, 3624, 3477, 9903, 10190, 41356, 3288, 3411, 5213, 2312, 3806, 4688, 1973, 9145, 2945, 1853, 9894,
    277936, 42722, 251756, 13715, 3739, 3083, 1869, 2380, 2253, 96589, 146339, 712409, 1914, 9317, 3095, 2721, 2065,
    3810, 8856, 2241, 18643, 14185, 2517, 22596, 1925, 1740, 4613, 3490, 136099, 15457, 66425,
)
# fmt: on


@dataclass(frozen=True)
class PredicateGroups:
    """A partition of predicates and of subject queries; group 0 has the most frequent predicates.

    A group owns a contiguous run of queries, in group order; on the relation queries the run is m times as long.
    """

    group_of_predicate: tuple[int, ...]  # P
    predicates: tuple[tuple[int, ...], ...]  # G, most frequent first; none is empty
    queries: tuple[int, ...]  # G subject queries of each group, sums to Q

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """[G+1] first subject query of every group, and Q."""
        bounds = [0]
        for count in self.queries:
            bounds.append(bounds[-1] + count)
        return tuple(bounds)


def make_groups(
    predicate_count: Sequence[int], num_groups: int, num_queries: int, min_queries: int = 1
) -> PredicateGroups:
    """Splits predicates by frequency into groups and shares the queries out by the groups' frequencies.

    Args:
        predicate_count: [P] relations of every predicate; those with 0 come last, in the order of their indices.
        num_groups: G in 1 … P.
        num_queries: Q, subject queries.
        min_queries: every group has at least so many, taken one by one from the group that has the most. 0 is the
            reference's behaviour: there a rare group may get no query (golden G1's note), and its knob no effect.
    Raises:
        ConfigError: G exceeds P, Q is below G · min_queries, or no predicate ever occurs.
    """
    _check(predicate_count, num_groups, num_queries, min_queries)
    order = sorted(range(len(predicate_count)), key=lambda p: (-predicate_count[p], p))
    groups = _split(order, predicate_count, num_groups)
    sums = [sum(predicate_count[p] for p in group) for group in groups]
    group_of_predicate = {p: g for g, group in enumerate(groups) for p in group}
    return PredicateGroups(
        group_of_predicate=tuple(group_of_predicate[p] for p in range(len(predicate_count))),
        predicates=tuple(groups),
        queries=tuple(_raise_to(min_queries, _quotas(sums, num_queries))),
    )


def _check(predicate_count: Sequence[int], num_groups: int, num_queries: int, min_queries: int) -> None:
    if not 1 <= num_groups <= len(predicate_count):
        raise ConfigError(f"matching.num_groups {num_groups} is not in 1 … {len(predicate_count)}, the predicates")
    if num_queries < num_groups * min_queries:
        raise ConfigError(
            f"matching.num_groups {num_groups} exceeds model.num_queries {num_queries}: a group needs a query"
        )
    if min(predicate_count) < 0 or sum(predicate_count) == 0:
        raise ConfigError("predicate counts are at least 0 and not all 0: no relation in the training split?")


def _split(order: Sequence[int], count: Sequence[int], num_groups: int) -> list[tuple[int, ...]]:
    groups: list[tuple[int, ...]] = []
    start = 0
    for later_groups in range(num_groups - 1, 0, -1):
        half = sum(count[p] for p in order[start:]) // 2
        stop, filled = start + 1, count[order[start]]  # at least one predicate, even one above half
        while stop < len(order) - later_groups and filled + count[order[stop]] < half:
            filled += count[order[stop]]
            stop += 1
        groups.append(tuple(order[start:stop]))
        start = stop
    return [*groups, tuple(order[start:])]


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


def group_table(
    groups: PredicateGroups, predicates: Sequence[str], predicate_count: Sequence[int], query_multiple: int
) -> list[tuple[int, int, float, int, int, str]]:
    """One row a group for printing: its number from 1, predicates, share of all relations in [0, 1], subject queries,
    relation queries, and the names, most frequent first."""
    total = sum(predicate_count)
    return [
        (
            number,
            len(members),
            round(sum(predicate_count[p] for p in members) / total, 4),
            queries,
            queries * query_multiple,
            ", ".join(predicates[p] for p in members),
        )
        for number, (members, queries) in enumerate(zip(groups.predicates, groups.queries, strict=True), start=1)
    ]
