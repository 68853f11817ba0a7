"""Population-based training: schedules of loss weights, who is replaced by whom, and that a schedule is a config."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError
from speaq.space.checks import check
from speaq.study import board, creation
from speaq.study import snapshot as snapshots
from speaq.training import checkpoint
from speaq.training.loop import train
from tests.helpers.tiny import tiny

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.jobs import tune as study
from launch.search import population
from launch.search.population import explored, rung_folder
from launch.search.scheduler import Population, make_scheduler
from launch.search.searcher import config_of
from tests.helpers.fake_tune import BASE, Fake, judge, make_plan

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest

WEIGHT = {"type": "float", "low": 0.5, "high": 4.0, "log": True}
UNDER = {"type": "float", "low": 0.5, "high": 2.5, "step": 0.25}
SPACE = {"losses.weight_predicate": WEIGHT, "losses.undersample": UNDER}


def scheduled(*changes: dict[str, float]) -> Config:
    return configs.apply(tiny(), {"losses.schedule": list(changes)})


def test_a_schedule_changes_weights_from_its_steps_on() -> None:
    losses = scheduled({"step": 2, "weight_l1": 3.0}, {"step": 4, "weight_l1": 1.0, "undersample": 0.5}).losses
    assert [losses.after(step).weight_l1 for step in range(6)] == [5.0, 5.0, 3.0, 3.0, 1.0, 1.0]
    assert [losses.after(step).undersample for step in (3, 4)] == [1.5, 0.5]
    assert losses.after(5).weight_giou == losses.weight_giou


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([{"weight_l1": 1.0}], "every change has a step"),
        ([{"step": 3, "weight_l1": 1.0}, {"step": 3, "weight_l1": 2.0}], "that rise"),
        ([{"step": 2.5, "weight_l1": 1.0}], "whole numbers"),
        ([{"step": 2}], "nothing changes at step 2"),
        ([{"step": 2, "learning_rate": 1.0}], "learning_rate is none of"),
        ([{"step": 2, "weight_l1": -1.0}], "greater than or equal to 0"),
        ([{"step": 2, "oversample": 0.0}], "oversample and undersample are both 0"),
        ([{"step": 6, "weight_l1": 1.0}], "step 6 is not below training.max_steps 6"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule: list[dict[str, float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scheduled(*schedule)


def weights(run: Path) -> dict[str, Any]:
    return checkpoint.load(run / "checkpoints" / "last.pt")["model"]


def test_a_run_that_takes_over_another_ones_checkpoint_equals_its_schedule_from_the_start(
    toy: Path, tmp_path: Path
) -> None:
    first = train(tiny(training__max_steps=3), toy, tmp_path / "parent")
    assert first["step"] == 3
    population.keep(tmp_path / "parent", 3)
    population.adopt(tmp_path / "parent", 3, tmp_path / "child")
    config = scheduled({"step": 3, "weight_predicate": 4.0})
    child = train(config, toy, tmp_path / "child", resume=True)
    whole = train(config, toy, tmp_path / "whole")
    assert child["metrics"] == whole["metrics"]
    other = train(tiny(), toy, tmp_path / "other")
    of_child, of_whole, of_other = (weights(tmp_path / name) for name in ("child", "whole", "other"))
    assert all((of_child[name] == value).all() for name, value in of_whole.items())
    assert any((of_other[name] != value).any() for name, value in of_whole.items())
    assert other["step"] == whole["step"] == 6
    own = [json.loads(line)["step"] for line in (tmp_path / "child" / "metrics.jsonl").read_text().splitlines()]
    assert min(own) > 3
    for changed in (scheduled({"step": 2, "weight_predicate": 4.0}), tiny(losses__weight_predicate=4.0)):
        with pytest.raises(ConfigError, match="cannot resume with another config"):
            train(changed, toy, tmp_path / "child", resume=True)


def test_the_worst_are_stopped_and_the_checkpoints_of_the_best_kept(tmp_path: Path) -> None:
    settings = spaces.SearchConfig(scheduler="pbt", perturb_steps=30)
    scheduler = make_scheduler(settings, 90, 10, tmp_path)
    assert isinstance(scheduler, Population)
    for number in range(8):
        folder = tmp_path / f"{number:04d}" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "last.pt").write_text(f"trial {number}")
    values = [0.5, 0.6, 0.4, 0.3, 0.7, 0.2, 0.1, 0.8]
    assert [judge(scheduler, f"{n:04d}", 10, v) for n, v in enumerate(values)] == ["CONTINUE"] * 8  # not its step
    decisions = [judge(scheduler, f"{n:04d}", 30, v) for n, v in enumerate(values)]
    assert [n for n, decision in enumerate(decisions) if decision == "STOP"] == [3, 5, 6]
    kept = [n for n in range(8) if rung_folder(tmp_path / f"{n:04d}", 30).exists()]
    assert kept == [0, 1, 4, 7]
    assert (rung_folder(tmp_path / "0004", 30) / "last.pt").read_text() == "trial 4"
    assert judge(scheduler, "0009", 30, 0.0, protected=True) == "CONTINUE"
    assert judge(scheduler, "0000", 90, 0.0) == "CONTINUE"


def played(tmp_path: Path, trials: int = 8) -> Fake:
    """Six trials of which the last is stopped at step 20; the first is the best there."""
    tune = Fake(make_plan(trials=trials, parameters=SPACE, scheduler="pbt", sampler="random"), tmp_path)
    names = [tune.ask()[0] for _ in range(6)]
    for place, name in enumerate(names):
        tune.report(name, 20, 0.9 - 0.1 * place)
    folder = rung_folder(tmp_path / "trials" / "0000", 20)
    folder.mkdir(parents=True)
    (folder / "last.pt").write_text("20")
    tune.prune(names[5], 20, 0.4)
    return tune


def test_a_stopped_trial_is_replaced_by_a_child_of_one_of_the_best(tmp_path: Path) -> None:
    tune = played(tmp_path)
    name, asked = tune.ask()
    assert asked["start"] == {"trial": "0000", "step": 20, "instead_of": "0005"}
    child, parent = configs.from_dict(asked["config"]), config_of(tune.plan, tune.ledger.entries["0000"])
    (change,) = child.losses.schedule
    assert change["step"] == 20
    assert change.keys() - {"step"} <= {"weight_predicate", "undersample"}
    assert configs.apply(child, {"losses.schedule": []}) == parent
    _, fresh = tune.ask()
    assert fresh["start"] is None  # nobody else was stopped
    tune.finish(name, 0.95)
    rows = board.Board(list(tune.ledger.entries.values()), tune.plan).rows
    assert rows[6]["label"] == "0000 from 20"
    assert rows[6]["losses.schedule"].startswith("from 20 ")
    for number in (*range(1, 6), 8):  # while they run they may die, and be handed out again
        tune.finish(f"tune{number}")
    assert tune.ask()[1] == "FINISHED"


def test_the_same_ledger_gives_the_same_child(tmp_path: Path) -> None:
    tune = played(tmp_path)
    tune.ledger.close()
    asked = []
    for copy in ("one", "two"):
        folder = tmp_path / copy
        (folder / "trials").mkdir(parents=True)
        (folder / "ledger.jsonl").write_bytes((tmp_path / "ledger.jsonl").read_bytes())
        shutil.copytree(tmp_path / "trials" / "0000", folder / "trials" / "0000")
        again = Fake(tune.plan, folder)
        for _ in range(5):  # those that had not ended go on first
            assert again.ask()[1]["start"] is None
        asked.append(again.ask()[1])
        again.ledger.close()
    assert asked[0] == asked[1]
    assert asked[0]["start"]["instead_of"] == "0005"


def test_without_a_kept_checkpoint_the_sampler_is_asked(tmp_path: Path) -> None:
    tune = played(tmp_path)
    (rung_folder(tmp_path / "trials" / "0000", 20) / "last.pt").unlink()
    assert tune.ask()[1]["start"] is None


def test_new_weights_are_drawn_anew_or_next_to_the_old_ones() -> None:
    space = spaces.from_dict(
        {"parameters": {**SPACE, "losses.oversample": {"type": "categorical", "choices": [0.02, 0.07, 0.2]}}}
    )
    generator = random.Random(0)
    seen: dict[str, set[float]] = {"weight_predicate": set(), "undersample": set(), "oversample": set()}
    for _ in range(400):
        for name, value in explored(
            {"weight_predicate": 2.0, "undersample": 1.5, "oversample": 0.07}, space, generator
        ).items():
            assert space.parameters[f"losses.{name}"].allows(value)
            seen[name].add(value)
    assert {1.6, 2.4} <= seen["weight_predicate"]
    assert len(seen["weight_predicate"]) > 20
    assert 2.0 not in seen["weight_predicate"]
    assert {1.25, 1.75} <= seen["undersample"]
    assert seen["oversample"] == {0.02, 0.2}


@pytest.mark.parametrize(
    ("search", "parameters", "base", "message"),
    [
        ({}, {"training.learning_rate": {**WEIGHT, "high": 1.0}}, {}, "none is searched"),
        ({}, {**SPACE, "losses.undersample": {**UNDER, "when": {"seed": [0]}}}, {}, "knows no conditions"),
        ({"perturb_steps": 15}, SPACE, {}, "a multiple of training.eval_every 10"),
        ({"perturb_steps": 90}, SPACE, {}, "below training.max_steps 90"),
        ({}, {**SPACE, "training.max_steps": {"type": "int", "low": 60, "high": 90}}, {}, "trials of one length"),
        ({}, SPACE, {"losses.schedule": [{"step": 5, "weight_l1": 1.0}]}, "leave it empty"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(
    search: dict[str, Any], parameters: dict[str, Any], base: dict[str, Any], message: str
) -> None:
    space = spaces.from_dict({"search": {"scheduler": "pbt", **search}, "parameters": parameters})
    with pytest.raises(ConfigError, match=message):
        check(space, configs.apply(BASE, base))


def test_knobs_of_other_schedulers_are_refused() -> None:
    with pytest.raises(ConfigError, match="quantile has no effect with scheduler: asha"):
        spaces.from_dict({"search": {"quantile": 0.3}, "parameters": SPACE})


@pytest.mark.slow
def test_a_search_breeds_schedules_that_train_alone_to_the_same_result(
    toy: Path,
    tmp_path: Path,
    ray_cluster: None,
) -> None:
    base = tiny(training__max_steps=4, training__eval_every=2, training__decay_steps=(3,), training__best_metric="R@20")
    parameters = {**SPACE, "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}
    # Half of the trials are replaced at the only judgement: with six trials there is at least one child.
    search = {"scheduler": "pbt", "perturb_steps": 2, "quantile": 0.5, "objective": ["R@20"], "sampler": "random"}
    asked = creation.create(base, spaces.from_dict({"search": search, "parameters": parameters}), toy, trials=6)
    entries = study.start(asked, tmp_path / "study")
    children = [entry for entry in entries if entry.start is not None]
    assert children
    for child in children:
        assert child.start is not None
        assert child.state == "finished"
        assert child.start["trial"] in {e.id for e in entries}
        lines = (tmp_path / "study" / "trials" / child.id / "metrics.jsonl").read_text().splitlines()
        assert min(json.loads(line)["step"] for line in lines) > 2
    config = configs.load(tmp_path / "study" / "trials" / children[0].id / "config.yaml")
    alone = train(config, toy, tmp_path / "alone")
    assert alone["best"]["metrics"] == children[0].metrics
    snapshot = snapshots.read(tmp_path / "study")
    steps = sum(e.step - e.first_step for e in entries)
    assert board.totals(board.trial_statuses(snapshot), snapshot).steps == steps
