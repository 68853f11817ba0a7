"""Which groups have too many targets for their queries, or too few."""

import json
from pathlib import Path

import pytest

from speaq.data.toy import make_toy
from speaq.matching.groups import PredicateGroups
from speaq.matching.load import group_loads
from tests.command import command
from tests.test_subset import made_of

# Four images; predicates 0 and 1 are one group, 2 the other.
SPLIT = made_of([[0, 0, 1, 1, 0], [0, 1], [0], [2]], 3)


def groups(*queries: int) -> PredicateGroups:
    return PredicateGroups((0, 0, 1), ((0, 1), (2,)), queries)


def test_targets_are_counted_by_image_and_query() -> None:
    common, rare = group_loads(SPLIT, groups(3, 1), query_multiple=2)
    assert (common.targets_per_image, rare.targets_per_image) == (2.0, 0.25)
    assert (common.targets_per_query, rare.targets_per_query) == (pytest.approx(2 / 6), pytest.approx(0.25 / 2))
    assert (common.overloaded, rare.overloaded) == (0, 0)
    assert common.warning is None
    assert rare.warning is None  # 44 % of the usual 2.25 / 8


def test_too_many_and_too_few_targets_are_said() -> None:
    common, rare = group_loads(SPLIT, groups(2, 38), query_multiple=2)
    assert common.overloaded == pytest.approx(1 / 3)  # five targets, four queries, in one of three images
    assert common.warning == "overloaded: more targets than queries in 33% of its images"
    assert rare.warning == "starved: 12% of the usual targets per query"
    assert group_loads(SPLIT, groups(4, 0), query_multiple=1)[1].warning == "without a query: nothing can predict it"


def test_the_command_warns(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", 40, seed=0)
    given = ("groups", "--data", tmp_path / "toy", "--num-groups", "4", "--num-queries", "4", "--query-multiple", "1")
    rows = json.loads(command(*given, "--json").stdout)
    assert sum(row["relation queries"] for row in rows) == 4
    assert any((row["warning"] or "").startswith("overloaded") for row in rows)
    done = command(*given)
    assert done.exit_code == 0, done.exception
    assert f"group {1 + [bool(row['warning']) for row in rows].index(True)} is overloaded" in done.stdout
