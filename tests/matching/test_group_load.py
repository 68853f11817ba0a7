"""Which groups have too many targets for their queries, or too few."""

import json
from pathlib import Path

import numpy as np
import pytest

from speaq import config as configs
from speaq.analysis.group_lab import group_lab, group_loads
from speaq.config import Config, DataConfig
from speaq.data.statistics import predicate_count
from speaq.data.toy.scenes import PREDICATES
from speaq.data.toy.world import make_toy
from speaq.data.visual_genome import open_data
from speaq.matching.groups import PredicateGroups
from tests.helpers.command import command, refusal
from tests.helpers.shared import SHARED, needs
from tests.helpers.subsets import made_of

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


def test_the_lab_has_a_row_for_every_group() -> None:
    counts = np.array([5, 3, 1, 0])
    config = configs.apply(Config(), {"model.num_queries": 9, "matching.num_groups": 2})
    common, rare = group_lab(SPLIT, counts, ("on", "has", "of"), config)
    assert common.predicates == (("on", 5),)
    assert rare.predicates == (("has", 3), ("of", 1))
    assert (common.share, rare.share) == (pytest.approx(5 / 9), pytest.approx(4 / 9))
    assert (common.subject_queries, rare.subject_queries) == (5, 4)
    assert (common.relation_queries, rare.relation_queries) == (10, 8)
    assert rare.load.targets_per_image == 1
    whole = group_lab(SPLIT, counts, ("on", "has", "of"), configs.apply(config, {"matching.num_groups": 1}))
    assert [(group.share, group.subject_queries) for group in whole] == [(1, 9)]
    named = configs.apply(Config(), {"matching.groups": {"rare": ["of"], "rest": ["on", "has"]}})
    assert [group.title for group in group_lab(SPLIT, counts, ("on", "has", "of"), named)] == ["1 rare", "2 rest"]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crowded") / "toy"
    make_toy(folder, 40, seed=0)
    return folder


FOUR = ("--num-groups", "4", "--num-queries", "4", "--query-multiple", "1")


def test_the_command_warns(crowded: Path) -> None:
    rows = json.loads(command("groups", "--data", crowded, *FOUR, "--json").stdout)
    assert sum(row["relation queries"] for row in rows) == 4
    assert any((row["warning"] or "").startswith("overloaded") for row in rows)
    done = command("groups", "--data", crowded, *FOUR)
    assert done.exit_code == 0, done.exception
    assert f"group {1 + [bool(row['warning']) for row in rows].index(True)} is overloaded" in done.stdout
    assert "relations" not in done.stdout


def test_the_command_shows_every_predicate_and_the_users_groups(crowded: Path, tmp_path: Path) -> None:
    file = tmp_path / "halves.yaml"
    file.write_text(f"even: {json.dumps(PREDICATES[::2])}\nodd: {json.dumps(PREDICATES[1::2])}\n", encoding="utf-8")
    rows = json.loads(command("groups", "--data", crowded, "--groups", file, "--json").stdout)
    assert [row["name"] for row in rows] == ["even", "odd"]
    assert {name for row in rows for name in row["relations"]} == set(PREDICATES)
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-3)
    done = command("groups", "--data", crowded, "--groups", file, "--table")
    assert done.exit_code == 0, done.exception
    lines = [line for line in done.stdout.splitlines() if line.startswith("hanging from")]
    assert [line.split()[2:4] for line in lines] == [["1", "even"]]
    line = refusal("groups", "--data", crowded, "--groups", file, "--num-groups", "2")
    assert line.endswith("num_groups 2 has no effect with groups, which say it: leave it at 4")


def test_the_command_takes_the_setting_of_a_config(crowded: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "{data: {num_val: 5}, model: {num_queries: 12}, matching: {num_groups: 3, group_rule: equal_count}}",
        encoding="utf-8",
    )
    given = ("groups", "--data", crowded, "--config", config, "--json")
    rows = json.loads(command(*given).stdout)
    assert [row["predicates"] for row in rows] == [5, 5, 6]
    assert sum(row["subject queries"] for row in rows) == 12
    more = json.loads(command(*given, "--num-queries", "30", "--set", "data.num_val=0", "--rule", "halving").stdout)
    assert sum(row["subject queries"] for row in more) == 30
    assert sum(sum(row["relations"].values()) for row in more) > sum(sum(row["relations"].values()) for row in rows)
    assert [row["predicates"] for row in more] != [row["predicates"] for row in rows]


@pytest.mark.parametrize("num_groups", range(1, 13))
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs("data", name)) for name in ("vg-100", "rs-mksgg")])
def test_real_annotations_have_groups(name: str, num_groups: int) -> None:
    vg = open_data(SHARED / "data" / name, need_images=False)
    split = vg.split("train", DataConfig(num_val=0))
    counts = predicate_count(split, vg.num_predicates)
    config = configs.apply(Config(), {"matching.num_groups": num_groups})
    made = group_lab(split, counts, vg.vocabulary.predicates, config)
    assert [group.number for group in made] == list(range(1, num_groups + 1))
    members = [member for group in made for member in group.predicates]
    assert sorted(name for name, _ in members) == sorted(vg.vocabulary.predicates)
    relations = [number for _, number in members]
    assert relations == sorted(relations, reverse=True)
    assert sum(relations) == counts.sum()
    assert sum(group.share for group in made) == pytest.approx(1)
    assert sum(group.subject_queries for group in made) == 300
    assert all(group.subject_queries >= 1 and group.relation_queries == 2 * group.subject_queries for group in made)
    assert sum(group.load.targets_per_image for group in made) == pytest.approx(counts.sum() / len(split))
