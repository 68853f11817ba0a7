"""What a data set cannot carry is said before training: few predicates or images, metrics without a value."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speaq import space as spaces
from speaq.config import Config, ConfigError
from speaq.data import DataError
from speaq.space import checks
from speaq.study import creation, extent, file
from speaq.training.feasible import narrowed
from speaq.training.loop import train
from tests.helpers import data_sets
from tests.helpers.command import command, refusal
from tests.helpers.shared import ROOT
from tests.helpers.tiny import tiny

MANY = {"type": "int", "low": 3, "high": 8}
TWO = {"matching__num_groups": 2}
RATE = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of four images to train on, and two predicates."""
    return data_sets.write(tmp_path_factory.mktemp("two") / "data")


def few(**changes: Any) -> Config:
    return tiny(data__num_val=1, **changes)


def make_space(parameters: dict[str, Any], **search: Any) -> spaces.Space:
    return spaces.from_dict({"search": {"objective": ["R@20"], **search}, "parameters": parameters})


# One run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"matching\.num_groups 4 is not in 1 … 2: .*set it to at most 2, or to 1 for no groups"),
        (
            {"matching__num_groups": 2, "training__best_metric": "head@50"},
            r"training\.best_metric: head@50 is undefined",
        ),
        (
            {"matching__num_groups": 2, "training__best_metric": "zR@50"},
            r"zR@50 is undefined .* has no zeroshot_triplets",
        ),
        (
            {"matching__num_groups": 2, "matching__group_counts": "visual_genome"},
            r"matching\.group_counts: visual_genome",
        ),
    ],
)
def test_a_run_that_the_data_cannot_carry_is_refused_before_it_begins(
    changes: dict[str, Any], message: str, two: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(few(**changes), two, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_split_without_an_image_says_what_to_set(two: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from launch.jobs import tune
    from launch.jobs.on_ray import OnRay

    for number, remedy in ((5000, "set it lower"), (0, "set num_val higher")):
        config = tiny(data__num_val=number, matching__num_groups=2)
        with pytest.raises(DataError, match=f"data.num_val .*{remedy}"):
            train(config, two, tmp_path / "run")
        asked = creation.create(config, make_space({"training.learning_rate": RATE}), two)
        with pytest.raises(DataError, match=f"data.num_val .*{remedy}"):
            tune.run(asked, tmp_path / "study", None, OnRay(), begins=True)
        assert not (tmp_path / "study").exists()


def test_zero_shot_triplets_that_validation_does_not_show_define_nothing(tmp_path: Path) -> None:
    shown, other = np.array([[1, 2, 1]]), np.array([[3, 3, 2]])
    config = few(
        matching__num_groups=1, training__best_metric="zR@20", training__max_steps=2, training__decay_steps=[1]
    )
    with pytest.raises(ConfigError, match="no relation of the validation split"):
        train(config, data_sets.write(tmp_path / "other", zero_shot=other), tmp_path / "run")
    train(config, data_sets.write(tmp_path / "shown", zero_shot=shown), tmp_path / "run")


def test_groups_and_reproduce_say_it_in_one_line(two: Path, tmp_path: Path) -> None:
    assert "set it to at most 2" in refusal("groups", "--data", two)
    assert command("groups", "--data", two, "--num-groups", "2").exit_code == 0
    options = ("--scale", "toy", "--data", two, "--set", "data.num_val=1", "--output", tmp_path / "reproduction")
    done = command("reproduce", *options)
    assert done.exit_code == 2
    assert "set it to at most 2" in done.stderr
    assert not (tmp_path / "reproduction" / "detector").exists()


# A search


def test_a_space_is_narrowed_to_what_the_predicates_carry(
    two: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    from launch.jobs import tune

    groups = {"type": "categorical", "choices": [1, 2, 4]}
    with caplog.at_level(logging.WARNING):
        asked = creation.create(few(), make_space({"matching.num_groups": groups, "training.learning_rate": RATE}), two)
    said = [record.getMessage() for record in caplog.records if record.name == "speaq.training.feasible"]
    assert said[0] == "the data have 2 predicates: matching.num_groups is searched over 1, 2 alone"
    assert said[1].startswith("the published setting is left out, it cannot be trained on this data set: matching.num")
    assert len(said) == 2
    assert list(asked.plan.references) == ["baseline"]
    assert asked.plan.space.parameters["matching.num_groups"].values() == [1, 2]
    tune.write(asked, tmp_path, None)
    assert file.read(tmp_path / "study.yaml").plan == asked.plan


@pytest.mark.parametrize(
    ("parameters", "config", "objective", "message"),
    [
        ({"matching.num_groups": MANY, "training.learning_rate": RATE}, {}, "R@20", "all values are above"),
        ({"matching.num_groups": {**MANY, "low": 2}}, {}, "R@20", "nothing is left to search"),
        ({"training.learning_rate": RATE}, {}, "R@20", r"no trial is possible .*num_groups 4 .*set it to at most 2"),
        ({"training.learning_rate": RATE}, TWO, "zR@20", "objective: zR@20 is undefined"),
        ({"training.learning_rate": RATE}, TWO, "R@20,head@20", "objective: head@20 is undefined"),
    ],
)
def test_a_search_without_a_possible_trial_is_refused_with_what_to_set(
    parameters: dict[str, Any], config: dict[str, Any], objective: str, message: str, two: Path
) -> None:
    pytest.importorskip("ray")

    with pytest.raises(ConfigError, match=message):
        creation.create(tiny(**{"data__num_val": 1, **config}), make_space(parameters), two, objective=objective)


@pytest.mark.parametrize("predicates", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["everything", "groups", "speaq", "toy"])
def test_the_shipped_spaces_can_be_narrowed(name: str, predicates: int) -> None:
    space = spaces.load(ROOT / "search_spaces" / f"{name}.yaml").resolved(Config())
    if name == "groups" and predicates == 1:
        with pytest.raises(ConfigError, match="all values are above"):
            narrowed(space, predicates)
        return
    small, said = narrowed(space, predicates)
    assert said is not None or (name == "toy" and predicates == 5)
    checks.check(small, Config())
    checks.check(spaces.from_dict(spaces.to_dict(small)), Config())
    searched = small.parameters.get("matching.num_groups")
    values = [small.fixed["matching.num_groups"]] if searched is None else list(searched.values() or ())
    assert max(value for value in values if isinstance(value, int)) <= predicates


def test_what_a_condition_leaves_in_the_space_is_not_tried(two: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from launch.search.searcher import Search
    from speaq.study.ledger import Ledger

    groups = {"type": "categorical", "choices": [2, 3], "when": {"matching.scheme": ["dynamic"]}, "otherwise": 1}
    parameters = {"matching.scheme": {"type": "categorical", "choices": ["dynamic", "static"]}}
    quality = {"type": "categorical", "choices": ["min", "max"], "when": {"matching.scheme": ["dynamic"]}}
    weight = {"type": "categorical", "choices": [-0.5, 0.5], "when": {"matching.scheme": ["dynamic"]}, "otherwise": 0.0}
    parameters |= {"matching.num_groups": groups, "matching.quality": {**quality, "otherwise": None}}
    asked = creation.create(few(), make_space({**parameters, "matching.predicate_weight": weight}), two, trials=20)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    feasible = creation.feasible_on(asked)
    assert extent.with_possible_trials(asked, ledger, feasible).plan.trials == 6  # 4 dynamic, 1 static, the baseline
    search, number = Search(asked.plan, ledger, feasible=feasible), 0
    while isinstance(suggestion := search.suggest(str(number)), dict):
        assert suggestion["config"]["matching"]["num_groups"] <= 2
        search.started(str(number))
        end(search, str(number), "metrics")
        number += 1
    ledger.close()
    assert number == 6


def end(search: Any, name: str, how: str) -> None:
    from launch.search.messages import Failed, Finished, final_result

    ends = {"metrics": Finished({"R@20": 0.5}, 6, 6, seconds=1.0), "failure": Failed("no")}
    search.on_trial_complete(name, final_result({}, ends[how]))


@pytest.mark.parametrize(
    ("fails", "code", "line"),
    [
        (lambda label: True, 1, None),
        (lambda label: label is None, 1, "all 2 trials of the space failed: only references finished"),
        (
            lambda label: label == "published",
            1,
            "the published setting failed: nothing is compared with it (trial 0000)",
        ),
        (lambda label: False, 0, None),
    ],
    ids=["all", "all that were searched", "a reference", "none"],
)
def test_failures_are_in_the_exit_code_or_in_a_line(
    fails: Callable[[str | None], bool], code: int, line: str | None, toy: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    from launch.jobs import tune
    from launch.search.searcher import Search
    from speaq.study.ledger import Ledger

    asked = creation.create(tiny(), make_space({"training.learning_rate": RATE}), toy, trials=4)
    tune.write(asked, tmp_path, None)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    search, number = Search(asked.plan, ledger), 0
    while isinstance(search.suggest(str(number)), dict):
        search.started(str(number))
        end(search, str(number), "failure" if fails(search.entry(str(number)).label) else "metrics")
        number += 1
    ledger.close()
    done = command("tune", "--resume", tmp_path)
    assert done.exit_code == code
    if line is not None:
        assert line in done.stderr.splitlines()
    assert ("failed:" in done.stderr) == (line is not None)
