"""Groups that a user names, from a file to a trial; and the rules besides the method's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speaq import config as configs
from speaq import space as spaces
from speaq.config import BASELINE, PUBLISHED, Config, ConfigError
from speaq.config.user_groups import as_text, parse
from speaq.data.toy.scenes import PREDICATES
from speaq.data.visual_genome import open_data
from speaq.matching.groups import Rule, groups_for, make_groups, make_user_groups
from speaq.space.checks import check
from speaq.study import creation
from speaq.training.loop import train
from tests.helpers.command import refusal
from tests.helpers.group_problems import problems
from tests.helpers.tiny import assignments, tiny

NAMES = ("on", "has", "of", "riding")
COUNTS = [50, 30, 15, 5]
THREE = "space: [of, on]\npossession: [has]\naction: [riding]\n"
HALVES = {"first": list(PREDICATES[::2]), "second": list(PREDICATES[1::2])}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "three.yaml"
    path.write_text(f"# which words mean alike\n{THREE}", encoding="utf-8")
    return path


def made(value: Any, num_queries: int = 10) -> Any:
    return make_user_groups(parse(str(as_text(value))), NAMES, COUNTS, num_queries)


def test_groups_are_the_users_in_the_users_order(file: Path) -> None:
    groups = made(str(file))
    assert groups.names == ("space", "possession", "action")
    assert groups.predicates == ((0, 2), (1,), (3,))  # of a group the most frequent first
    assert groups.group_of_predicate == (0, 1, 0, 2)
    assert groups.queries == (6, 3, 1)  # 6.5, 3, 0.5, and what is over to the last group
    counted = {"a": {"predicates": ["riding"], "queries": 7}, "b": {"predicates": ["has", "on", "of"], "queries": 3}}
    assert made(counted).queries == (7, 3)


def test_a_file_its_mapping_and_its_text_are_one_setting(file: Path) -> None:
    mapping = {"space": ["of", "on"], "possession": ["has"], "action": ["riding"]}
    settings = [configs.apply(Config(), {"matching.groups": value}) for value in (str(file), mapping, THREE)]
    assert settings[0] == settings[1] == settings[2]
    text = settings[0].matching.groups
    file.unlink()
    again = configs.from_dict(configs.to_dict(settings[0]))
    assert again == settings[0]
    assert again.matching.groups == text
    assert again.matching.group_number == 3


def test_a_config_file_may_hold_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("matching: {groups: {a: [on, has], b: [of]}}\n", encoding="utf-8")
    config = configs.load(path)
    path.write_text(configs.dump(config), encoding="utf-8")
    assert configs.load(path) == config
    assert [group.predicates for group in config.matching.user_groups] == [("on", "has"), ("of",)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": "missing.yaml"}, r"matching\.groups: missing\.yaml: cannot be read"),
        ({"groups": "a: [on"}, r"matching\.groups: groups line 1"),
        ({"groups": ["on"]}, r"a mapping of NAME.*not \['on'\]"),
        ({"groups": {}}, r"a mapping of NAME.*not \{\}"),
        ({"groups": {"a": ["on"]}}, r"a: one group is no grouping; set num_groups: 1"),
        ({"groups": {"a": ["on"], "b": []}}, r"groups: b: is empty"),
        ({"groups": {"a": ["on"], "b": "of"}}, r"groups: b: NAME.*not 'of'"),
        ({"groups": {"a": ["on"], "b": [3]}}, r"groups: b: a predicate is text, not 3"),
        ({"groups": {"a": ["on", "on"], "b": ["of"]}}, r"groups: a: predicate 'on' is given 2 times"),
        ({"groups": {"a": ["on"], "b": ["of", "on"]}}, r"groups: a and b: predicate 'on' is given 2 times"),
        ({"groups": {"a": {"predicates": ["on"]}, "b": ["of"]}}, r"groups: a: has the keys predicates and queries"),
        ({"groups": {"a": {"predicates": ["on"], "queries": 0}, "b": ["of"]}}, r"queries: .* at least 1, not 0"),
        ({"groups": {"a": {"predicates": ["on"], "queries": 9}, "b": ["of"]}}, r"groups: b: has no queries"),
        (
            {"groups": {n: {"predicates": [n], "queries": 9} for n in ("on", "of")}},
            r"queries sum to 18, model\.num_queries is 300",
        ),
        ({"groups": {"a": ["on"], "b": ["of"]}, "num_groups": 2}, r"num_groups 2 has no effect with groups"),
        ({"groups": {"a": ["on"], "b": ["of"]}, "group_rule": "equal_mass"}, r"group_rule equal_mass has no effect"),
        (
            {
                "groups": {n: {"predicates": [n], "queries": 150} for n in ("on", "of")},
                "group_counts": "visual_genome",
            },
            r"group_counts has no effect with groups that say their queries",
        ),
        ({"num_groups": 1, "group_rule": "equal_count"}, r"group_rule has no effect with num_groups 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        configs.apply(Config(), {f"matching.{name}": value for name, value in changes.items()})
    assert "\n" not in str(error.value)


def test_more_groups_than_queries_and_queries_all_multiplied_are_refused() -> None:
    groups = {"matching.groups": {"a": ["on"], "b": ["of"], "c": ["has"]}}
    with pytest.raises(ConfigError, match=r"matching\.groups: 3 exceeds model\.num_queries 2"):
        configs.apply(Config(), {**groups, "model.num_queries": 2})
    with pytest.raises(ConfigError, match=r"needs model\.multiply_queries: relation"):
        configs.apply(Config(), {**groups, "model.multiply_queries": "all"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": ["on", "has", "off"], "b": ["of", "riding"]}, r"a: 'off' is no predicate of the data \(nearest: of\)"),
        ({"a": ["on", "has"], "b": ["of"]}, r"predicate 'riding' of the data has no group$"),
        ({"a": ["on"], "b": ["of"]}, r"predicate 'has' of the data has no group and 1 more"),
    ],
)
def test_the_names_are_those_of_the_data(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(value)


def test_the_published_setting_and_the_baseline_have_groups_of_their_own() -> None:
    base = configs.apply(Config(), {"matching.groups": {"a": ["on"], "b": ["of"]}})
    assert configs.apply(base, PUBLISHED).matching.groups is None
    assert configs.apply(base, BASELINE).matching.group_number == 1


def test_a_run_keeps_what_the_file_said_and_goes_on_with_it(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "halves.yaml"
    path.write_text(str(as_text(HALVES)), encoding="utf-8")
    config = tiny(matching__groups=str(path), training__max_steps=2, training__eval_every=2)
    train(config, toy, tmp_path / "run")
    path.unlink()
    kept = configs.load(tmp_path / "run" / "config.yaml")
    assert kept == config
    vg = open_data(toy)
    counts = np.arange(1, vg.num_predicates + 2)
    groups = groups_for(kept, counts, vg.vocabulary.predicates)
    assert groups is not None
    assert groups.names == ("first", "second")
    assert [{vg.vocabulary.predicates[p] for p in members} for members in groups.predicates] == [
        set(names) for names in HALVES.values()
    ]
    with pytest.raises(ConfigError, match=r"cannot resume with another config \(matching\.groups"):
        train(tiny(training__max_steps=3, training__eval_every=2), toy, tmp_path / "run", resume=True)
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    content = torch.load(last, weights_only=True)
    del content["config"]["matching"]["group_rule"]  # as in runs from before there was this key
    torch.save(content, last)
    longer = configs.apply(kept, {"training.max_steps": 3})
    assert train(longer, toy, tmp_path / "run", resume=True)["step"] == 3


def test_the_command_refuses_other_data(toy: Path, tmp_path: Path, file: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("{}", encoding="utf-8")
    given = assignments(matching__groups=str(file))
    line = refusal("train", "--config", config, "--data", toy, "--output", tmp_path / "run", *given)
    assert line.startswith("speaq: matching.groups: space: 'of' is no predicate of the data")


def searched(*choices: Any, **parameters: Any) -> dict[str, Any]:
    return {"parameters": {"matching.groups": {"type": "categorical", "choices": list(choices)}, **parameters}}


def test_a_search_chooses_between_files(file: Path) -> None:
    rule = {"type": "int", "low": 1, "high": 3, "when": {"matching.groups": [None]}, "otherwise": 4}
    space = spaces.from_dict(searched(None, str(file), {"a": ["on"], "b": ["of"]}, **{"matching.num_groups": rule}))
    file.unlink()
    check(space, Config())
    kept = spaces.from_dict(spaces.to_dict(space))
    text = str(as_text(THREE))
    config = kept.apply(Config(), {"matching.groups": text})
    assert config.matching.groups == text
    assert kept.extract(Config(), config) == {"matching.groups": text}
    assert kept.extract(Config(), configs.apply(Config(), PUBLISHED)) is None  # G = 4 is not in 1 … 3
    with pytest.raises(ConfigError, match=r"space: parameters: matching\.groups: .*three\.yaml: cannot be read"):
        spaces.from_dict(searched(None, str(file)))


def test_the_search_looks_at_the_data_before_any_trial(toy: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match=r"space: 'of' is no predicate of the data"):
        creation.create(tiny(), spaces.from_dict(searched(None, str(file))), toy)
    config = tiny(matching__groups=str(file))
    with pytest.raises(ConfigError, match=r"space: 'of' is no predicate of the data"):
        creation.create(config, spaces.from_dict({"parameters": {"seed": {"type": "int", "low": 0, "high": 9}}}), toy)
    made = creation.create(tiny(), spaces.from_dict(searched(None, HALVES)), toy)
    assert made.plan.references["published"].matching.groups is None


def test_figures_have_short_names_and_the_storage_the_whole(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    optuna = pytest.importorskip("optuna")
    from launch.search.optuna_study import rebuild
    from tests.helpers.fake_tune import Fake, make_plan

    plan = make_plan(parameters=searched(None, HALVES)["parameters"])
    fake = Fake(plan, tmp_path)
    for _ in range(4):
        fake.ask()
    entries = list(fake.ledger.entries.values())
    short = {trial.params["matching.groups"] for trial in rebuild(entries, plan).trials if trial.params}
    assert short <= {"null", "1 first | second"}
    assert len(short) > 0
    whole = rebuild(entries, plan, optuna.storages.InMemoryStorage())
    assert {t.params["matching.groups"] for t in whole.trials if t.params} <= {None, as_text(HALVES)}


@given(problems(), st.sampled_from(["equal_mass", "equal_count"]))
def test_every_rule_partitions_predicates_by_frequency(problem: tuple[list[int], int, int], rule: Rule) -> None:
    counts, num_groups, num_queries = problem
    groups = make_groups(counts, num_groups, num_queries, rule=rule)
    members = [p for group in groups.predicates for p in group]
    assert members == sorted(range(len(counts)), key=lambda p: (-counts[p], p))
    assert len(groups.predicates) == num_groups
    assert all(groups.predicates)
    assert sum(groups.queries) == num_queries
    assert min(groups.queries) >= 1
    sizes = [len(group) for group in groups.predicates]
    left = sum(counts)
    if rule == "equal_count":
        assert max(sizes) - min(sizes) <= 1
    else:
        for later, group in zip(range(num_groups, 1, -1), groups.predicates, strict=False):
            filled = sum(counts[p] for p in group)
            assert len(group) == 1 or filled <= left // later
            left -= filled


def test_the_rules_differ() -> None:
    counts = [40, 20, 10, 10, 10, 10]
    assert [len(g) for g in make_groups(counts, 3, 12).predicates] == [1, 1, 4]
    assert [len(g) for g in make_groups(counts, 3, 12, rule="equal_mass").predicates] == [1, 2, 3]
    assert [len(g) for g in make_groups(counts, 3, 12, rule="equal_count").predicates] == [2, 2, 2]
