"""A study as its folder tells it: how many trials there can be, how long each is, where its files lie."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError
from speaq.space.checks import check
from speaq.study import board, creation, extent, file
from speaq.study import plan as plans
from speaq.study import snapshot as snapshots

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.jobs import calibrate, tune
from launch.search import scheduler
from launch.search.messages import Finished, Report, final_result, report_result
from launch.search.searcher import Search
from speaq.space.parameters import Plain
from speaq.study.ledger import Entry, Ledger
from speaq.study.plan import Plan
from tests.helpers.command import command

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest

CHEAP = "tests.helpers.cheap_training:train"
BASE = configs.apply(Config(), {"training.max_steps": 90, "training.eval_every": 10, "training.decay_steps": [50]})
GROUPS = {"type": "int", "low": 2, "high": 4}
LENGTH = {"type": "categorical", "choices": [30, 270]}


def make_study(data: Path, parameters: dict[str, Any], trials: int, **settings: Any) -> file.Study:
    space = spaces.from_dict({"search": settings, "parameters": parameters})
    return creation.create(BASE, space, data, trials=trials, train=CHEAP)


def ask_all(plan: Plan, folder: Path) -> tuple[Search, list[dict[str, Plain] | None]]:
    """Every trial of a search, each ended at once: (the searcher, values of the trials)."""
    ledger = Ledger(folder / "ledger.jsonl")
    found = Search(plan, ledger)
    number = 0
    while isinstance(found.suggest(str(number)), dict):
        found.started(str(number))
        done = Finished({"F@50": 0.5}, best_step=90, step=90, seconds=1.0)
        found.on_trial_complete(str(number), final_result({}, done))
        number += 1
    ledger.close()
    return found, [entry.values for entry in ledger.entries.values()]


# How many trials there can be


def test_more_trials_than_the_space_has_points_are_said_kept_and_not_promised(
    toy: Path, tmp_path: Path, ray_cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    asked = make_study(toy, {"matching.num_groups": GROUPS}, 20, scheduler="none")
    with caplog.at_level(logging.INFO):
        entries = tune.start(asked, tmp_path / "study")
    assert [entry.state for entry in entries] == ["finished"] * 4  # the published setting is one of the three points
    (said,) = [record.getMessage() for record in caplog.records if "holds" in record.getMessage()]
    assert said.startswith("the space holds 4 different trials, published and baseline included")
    assert said.endswith("not after the 20 asked for")
    snapshot = snapshots.read(tmp_path / "study")
    totals = board.totals(board.trial_statuses(snapshot), snapshot)
    assert (totals.trials, totals.projected_seconds) == (4, 0.0)
    assert "to come" not in board.totals_line(totals, active=False)

    caplog.clear()
    with caplog.at_level(logging.INFO):
        tune.resume(tmp_path / "study")
    assert [record.getMessage() for record in caplog.records if record.name == "speaq.study.extent"] == [
        "all 4 trials have ended, nothing is left to do; the space has no other"
    ]
    assert command("tune", "--resume", tmp_path / "study").exit_code == 0


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "qmc", "random", "grid"])
def test_every_sampler_comes_to_the_end_of_a_space_that_can_be_counted(sampler: str, toy: Path, tmp_path: Path) -> None:
    parameters = {"matching.num_groups": GROUPS, "matching.max_repeats": {"type": "categorical", "choices": [2, 4]}}
    plan = make_study(toy, parameters, 50, sampler=sampler, scheduler="none").plan
    assert plans.most_trials(plan, ()) == 7  # six points, and the baseline
    _, values = ask_all(plan, tmp_path)
    inside = {tuple(value.items()) for value in values if value is not None}
    assert (len(values), len(inside)) == (7, 6)


def test_a_grid_that_goes_on_finds_what_is_left_behind_more_known_points_than_it_tries(
    toy: Path, tmp_path: Path
) -> None:
    queries = {"type": "int", "low": 264, "high": 300}
    plan = make_study(toy, {"model.num_queries": queries}, 31, sampler="grid", scheduler="none").plan
    ask_all(plan, tmp_path)
    _, values = ask_all(
        make_study(toy, {"model.num_queries": queries}, 38, sampler="grid", scheduler="none").plan, tmp_path
    )
    assert len({value["model.num_queries"] for value in values if value is not None}) == 37


def test_a_space_that_cannot_be_counted_ends_with_what_was_found(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = {"type": "float", "low": 1.0, "high": 1.0 + 4e-16}  # three numbers
    asked = make_study(toy, {"losses.weight_l1": weights}, 9, sampler="random", scheduler="none")
    found, values = ask_all(asked.plan, tmp_path)
    assert found.exhausted
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with caplog.at_level(logging.WARNING):
        left = extent.as_exhausted(asked, ledger)
    assert left.plan.trials == len(values) < 9
    assert f"the search ends after {len(values)} of 9" in caplog.text


# How long each is


def test_trials_of_different_lengths_are_judged_at_equal_shares_and_finish_at_their_own_ends(
    toy: Path, tmp_path: Path, ray_cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    output, moved = tmp_path / "study", tmp_path / "data"
    moved.symlink_to(toy)
    parameters = {"training.max_steps": LENGTH, "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2}}
    asked = make_study(toy, parameters, 5, grace_steps=30, reduction_factor=2.0, sampler="random")
    tune.start(asked, output)
    with caplog.at_level(logging.INFO):  # the number of trials, and where the data are, is kept
        entries = tune.resume(output, trials=9, data=moved)
    assert "trials in all: 5 until now, 9 from now on" in caplog.text
    assert {entry.overrides.get("training.max_steps", 90) for entry in entries} == {30, 90, 270}
    for entry in entries:
        length = entry.overrides.get("training.max_steps", 90)
        assert entry.state in ("finished", "paused")
        assert (entry.state == "finished") == (entry.step == length)
        if entry.state == "paused":  # at a rung: a third or two thirds of its own steps
            assert entry.step * 3 in (length, 2 * length)
    snapshot = snapshots.read(output)
    trials = board.trial_statuses(snapshot)
    assert all(trial.max_steps in (30, 90, 270) for trial in trials)
    assert (snapshot.plan.trials, board.totals(trials, snapshot).trials) == (9, 9)
    assert len(tune.resume(output, trials=1)) == 9  # fewer than there are
    assert file.read(output / "study.yaml").plan.trials == 9


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_a_trial_of_another_length_is_where_its_share_is(name: str) -> None:
    settings = spaces.SearchConfig(scheduler=name, grace_steps=30)  # type: ignore[arg-type]
    chooser: Any = scheduler.make_scheduler(settings, 90, 10, Path("trials"))
    for number in range(0, 9, 3):  # of one bracket
        assert judged(chooser, f"{number:04d}", 30, 90, 0.5 + number) == "CONTINUE"
    assert judged(chooser, "0012", 9, 30, 0.1) == "CONTINUE"  # not at a third yet
    assert judged(chooser, "0012", 10, 30, 0.1) == "STOP"
    assert judged(chooser, "0015", 30, 30, 0.1) == "CONTINUE"  # its own last step, though 30 is a rung of the others
    assert judged(chooser, "0018", 30, 270, 0.1) == "CONTINUE"
    assert judged(chooser, "0018", 90, 270, 0.1) == "STOP"


def judged(chooser: Any, name: str, step: int, length: int, value: float) -> str:
    from types import SimpleNamespace

    trial = SimpleNamespace(config={"trial": name, "protected": False, "max_steps": length}, trial_id=name)
    result = report_result(Report(step, {"F@50": value}, 1.0), value)
    decision: str = chooser.on_trial_result(None, trial, result)
    return decision


def test_a_scheduler_that_goes_on_counts_each_trial_by_its_own_steps() -> None:
    settings = spaces.SearchConfig(grace_steps=30)
    chooser = scheduler.make_scheduler(settings, 90, 10, Path("trials"))
    assert isinstance(chooser, scheduler.Stopping)
    short = Entry("0000", "d", None, None, {"training.max_steps": 30}, reports={10: {"F@50": 0.5}})
    chooser.replay([short])
    assert judged(chooser, "0001", 30, 90, 0.4) == "STOP"


@pytest.mark.parametrize(
    ("key", "parameter", "reason"),
    [
        ("training.eval_every", {"type": "int", "low": 5, "high": 10}, "more evaluations is better by chance"),
        ("training.init_from", {"type": "categorical", "choices": ["a", "b"]}, "a search has one start"),
        ("resources.num_workers", {"type": "int", "low": 1, "high": 2}, "the same share of the cluster"),
    ],
)
def test_keys_that_make_trials_incomparable_are_refused_by_name(
    key: str, parameter: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"^space: parameters: {key}: .*{reason}.*set it under `fixed`"):
        check(spaces.from_dict({"parameters": {key: parameter}}), BASE)


def test_budgets_are_not_judged_over_trials_of_different_lengths(toy: Path, tmp_path: Path) -> None:
    config, space = tmp_path / "config.yaml", tmp_path / "space.yaml"
    config.write_text(configs.dump(BASE))
    space.write_text("parameters: {training.max_steps: {type: categorical, choices: [30, 90]}}")
    with pytest.raises(ConfigError, match=r"training\.max_steps: a budget"):
        calibrate.calibrate(tmp_path / "new", config=config, space=space, data=toy, trials=5)
    assert not (tmp_path / "new").exists()
