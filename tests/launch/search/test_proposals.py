"""What a search tries before it asks its sampler, on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.search.optuna_study import optuna_trial
from tests.helpers.fake_tune import Fake, make_plan

POINTS: list[dict[str, Any]] = [
    {"training.learning_rate": 3e-3},
    {"matching.num_groups": 2},
    {"training.learning_rate": 2e-4, "matching.num_groups": 6},
]


def ask_all(tune: Fake) -> list[dict[str, Any]]:
    """What Tune is given until the search has no more; each trial is finished at once."""
    given = []
    while isinstance((asked := tune.ask())[1], dict):
        given.append(asked[1])
        tune.finish(asked[0], 0.1)
    return given


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random", "qmc"])
def test_the_users_points_come_behind_the_references_and_are_not_protected(tmp_path: Path, sampler: str) -> None:
    tune = Fake(make_plan(trials=7, sampler=sampler, points=POINTS), tmp_path)
    given = ask_all(tune)
    entries = list(tune.ledger.entries.values())
    assert [e.label for e in entries] == ["published", "baseline", *[None] * 5]
    assert [e.remark for e in entries] == ["published", "baseline", "point 1", "point 2", "point 3", "", ""]
    assert [g["protected"] for g in given] == [True, True, *[False] * 5]
    assert [e.values for e in entries[2:5]] == [
        {"training.learning_rate": 3e-3, "matching.num_groups": 4},
        {"training.learning_rate": 1e-4, "matching.num_groups": 2},
        {"training.learning_rate": 2e-4, "matching.num_groups": 6},
    ]
    assert len(tune.search.proposals.sampler.study.trials) == 6  # it learns from all but the baseline
    assert optuna_trial(entries[3], tune.plan).user_attrs["origin"] == "point 2"


def test_a_grid_does_not_come_back_to_a_point(tmp_path: Path) -> None:
    parameters = {"matching.num_groups": {"type": "int", "low": 1, "high": 4}}
    plan = make_plan(trials=9, parameters=parameters, sampler="grid", points=[{"matching.num_groups": 3}])
    tune = Fake(plan, tmp_path)
    ask_all(tune)
    entries = list(tune.ledger.entries.values())
    assert entries[2].values == {"matching.num_groups": 3}
    assert {e.values["matching.num_groups"] for e in entries if e.values is not None} == {1, 2, 3, 4}
    assert len(entries) == 5  # with the baseline, which is no point of the space


def test_a_search_that_goes_on_tries_the_points_that_are_left(tmp_path: Path) -> None:
    plan = make_plan(trials=4, points=POINTS)
    first = Fake(plan, tmp_path)
    ask_all(first)
    first.ledger.close()
    again = Fake(plan.with_trials(6), tmp_path)
    ask_all(again)
    assert [e.remark for e in again.ledger.entries.values()][2:] == ["point 1", "point 2", "point 3", ""]
