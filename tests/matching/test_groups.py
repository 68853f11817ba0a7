from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from speaq.config import ConfigError
from speaq.matching.groups import VISUAL_GENOME_COUNTS, make_groups
from tests.helpers.group_problems import problems


@given(problems())
@settings(deadline=None)
def test_groups_partition_predicates_and_queries(problem: tuple[list[int], int, int]) -> None:
    counts, num_groups, num_queries = problem
    groups = make_groups(counts, num_groups, num_queries)
    members = [p for group in groups.predicates for p in group]
    assert sorted(members) == list(range(len(counts)))
    assert len(groups.predicates) == len(groups.queries) == num_groups
    assert all(groups.predicates)
    assert sum(groups.queries) == num_queries == groups.bounds[-1]
    assert min(groups.queries) >= 1
    assert all(p in groups.predicates[g] for p, g in enumerate(groups.group_of_predicate))
    assert [counts[p] for p in members] == sorted(counts, reverse=True)


@given(problems())
@settings(deadline=None)
def test_a_full_group_but_the_first_predicate_stays_below_half_of_the_rest(problem: tuple[list[int], int, int]) -> None:
    counts, num_groups, num_queries = problem
    left = sum(counts)
    for group in make_groups(counts, num_groups, num_queries).predicates[:-1]:
        filled = sum(counts[p] for p in group)
        assert len(group) == 1 or filled < left // 2
        left -= filled


@given(problems())
@settings(deadline=None)
def test_groups_follow_predicates_into_another_order(problem: tuple[list[int], int, int]) -> None:
    counts, num_groups, num_queries = problem
    counts = [1000 * count + number for number, count in enumerate(counts)]  # no ties
    order = np.random.default_rng(len(counts)).permutation(len(counts))
    groups = make_groups(counts, num_groups, num_queries)
    moved = make_groups([counts[p] for p in order], num_groups, num_queries)
    assert moved.queries == groups.queries
    assert [groups.group_of_predicate[p] for p in order] == list(moved.group_of_predicate)


def test_visual_genome_table_gives_the_published_groups() -> None:
    groups = make_groups(VISUAL_GENOME_COUNTS, num_groups=4, num_queries=300)
    assert [len(members) for members in groups.predicates] == [2, 2, 3, 43]
    assert groups.queries == (145, 58, 44, 53)
    assert groups.predicates[0] == (30, 19)
    assert make_groups(VISUAL_GENOME_COUNTS, num_groups=1, num_queries=300).queries == (300,)


def test_a_head_predicate_above_half_is_a_group_of_its_own() -> None:
    groups = make_groups([900, 50, 30, 20], num_groups=3, num_queries=10)
    assert groups.predicates == ((0,), (1,), (2, 3))


def test_later_groups_keep_a_predicate_each() -> None:
    groups = make_groups([10] * 6, num_groups=6, num_queries=60)
    assert [len(members) for members in groups.predicates] == [1] * 6


def test_predicates_that_never_occur_come_last() -> None:
    groups = make_groups([0, 5, 0, 50, 7], num_groups=3, num_queries=9)
    assert groups.predicates == ((3,), (4,), (1, 0, 2))


def test_rare_groups_get_a_query_from_the_largest_unless_the_reference_is_asked_for() -> None:
    counts = [2**n for n in range(11, -1, -1)]
    as_reference = make_groups(counts, num_groups=8, num_queries=16, min_queries=0)
    ours = make_groups(counts, num_groups=8, num_queries=16)
    assert min(as_reference.queries) == 0
    assert min(ours.queries) == 1
    assert sum(ours.queries) == sum(as_reference.queries) == 16
    assert ours.predicates == as_reference.predicates


@pytest.mark.parametrize(
    ("counts", "num_groups", "num_queries", "message"),
    [
        ([3, 2, 1], 4, 10, "matching.num_groups 4"),
        ([3, 2, 1], 0, 10, "matching.num_groups 0"),
        ([3, 2, 1], 3, 2, "exceeds model.num_queries 2"),
        ([0, 0], 1, 10, "not all 0"),
        ([3, -1], 1, 10, "at least 0"),
    ],
)
def test_impossible_groups_are_refused(counts: list[int], num_groups: int, num_queries: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_groups(counts, num_groups, num_queries)
