"""The search without Ray's processes: ledger, sampler, searcher, scheduler, results."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.cli import trials
from speaq.config import BASELINE, PUBLISHED, ConfigError
from speaq.study import board, creation
from speaq.study import plan as plans

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.report import png
from launch.search import messages, searcher
from launch.search.estimates import Estimates
from launch.search.messages import Failed, Finished, Report
from launch.search.sampler import Sampler
from launch.search.scheduler import Halving, Stopping, make_scheduler
from speaq.explore.study import ExploredStudy
from speaq.study import results
from speaq.study.file import Study
from speaq.study.ledger import Entry, Ledger, LedgerError, digest
from speaq.study.plan import grid
from tests.helpers.fake_tune import BASE, GROUPS, RATE, Fake, judge, make_plan

TRIALS = Path("trials")


def test_the_references_come_first_then_the_sampler_until_the_number_of_trials(tmp_path: Path) -> None:
    tune = Fake(make_plan(trials=5), tmp_path)
    suggestions = []
    while isinstance((asked := tune.ask())[1], dict):
        suggestions.append(asked[1])
        tune.finish(asked[0])
    assert asked[1] == "FINISHED"
    assert [s["trial"] for s in suggestions] == ["0000", "0001", "0002", "0003", "0004"]
    assert [s["protected"] for s in suggestions] == [True, True, False, False, False]
    first, second = (configs.from_dict(s["config"]) for s in suggestions[:2])
    assert first == configs.apply(BASE, PUBLISHED)
    assert second == configs.apply(BASE, BASELINE)
    entries = list(tune.ledger.entries.values())
    assert [e.label for e in entries] == ["published", "baseline", None, None, None]
    assert entries[0].values is not None  # inside the space: the sampler learns from it
    assert entries[1].values is None  # the baseline is not: it differs in keys that are not searched
    for entry, suggestion in zip(entries, suggestions, strict=True):
        assert json.loads(json.dumps(suggestion)) == suggestion
        assert digest(configs.from_dict(suggestion["config"])) == entry.digest


def test_how_trials_end(tmp_path: Path) -> None:
    tune = Fake(make_plan(trials=9), tmp_path)
    names = [tune.ask()[0] for _ in range(6)]
    tune.finish(names[0], 0.5)
    tune.report(names[1], 10, 0.1)
    tune.prune(names[1], 20, 0.2)
    tune.search.on_trial_complete(names[2], messages.final_result({}, Failed("ValueError: no")))
    tune.search.on_trial_complete(names[3], None, error=True)
    for _ in range(searcher.MAX_DEATHS):
        again, _ = tune.ask()
        assert tune.entry(again) is tune.entry(names[3])
        tune.search.on_trial_complete(again, None, error=True)
    tune.finish(names[4], math.nan)
    entries = [tune.entry(name) for name in names]
    assert [e.state for e in entries] == ["finished", "paused", "failed", "failed", "failed", "running"]
    assert entries[1].reports == {10: {"F@50": 0.1}, 20: {"F@50": 0.2}}
    assert (entries[1].best_step, entries[1].metrics) == (20, {"F@50": 0.2})
    assert entries[2].reason == "ValueError: no"
    assert "died" in entries[3].reason
    assert entries[4].reason == "F@50 is not a number"
    states = [t.state.name for t in tune.search.proposals.sampler.study.trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "FAIL", "RUNNING"]  # the baseline is not among them
    tune.search.on_trial_complete(names[0], None, error=True)  # Tune may tell twice
    assert entries[0].state == "finished"


def test_a_pruned_trial_keeps_its_curve_for_the_sampler(tmp_path: Path) -> None:
    tune = Fake(make_plan(), tmp_path)
    name, _ = tune.ask()
    tune.report(name, 10, 0.1)
    tune.prune(name, 20, 0.2)
    (trial,) = tune.search.proposals.sampler.study.trials
    assert (trial.state.name, trial.value, trial.intermediate_values) == ("PRUNED", 0.2, {10: 0.1, 20: 0.2})


@pytest.mark.parametrize("objective", [("F@50",), ("R@50", "mR@50")], ids=["one", "two"])
def test_a_killed_search_goes_on_where_the_ledger_ends(tmp_path: Path, objective: tuple[str, ...]) -> None:
    plan = make_plan(trials=8, objective=objective)
    tune = Fake(plan, tmp_path)
    names = [tune.ask()[0] for _ in range(5)]
    tune.finish(names[0], 0.3)
    tune.report(names[2], 10, 0.1)
    tune.finish(names[3], 0.4)
    before = {e.id: (e.state, e.digest) for e in tune.ledger.entries.values()}
    tune.ledger.close()  # what the kernel does to a killed driver
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"event": "reported", "tri')

    again = Fake(plan, tmp_path)
    assert {e.id: (e.state, e.digest) for e in again.ledger.entries.values()} == before
    assert again.search.remaining == 6
    asked = []
    while isinstance((answer := again.ask())[1], dict):
        asked.append((answer[1]["trial"], again.entry(answer[0]).attempts))
        again.finish(answer[0], 0.2)
    assert asked == [("0001", 2), ("0002", 2), ("0004", 2), ("0005", 1), ("0006", 1), ("0007", 1)]
    assert all(e.state == "finished" for e in again.ledger.entries.values())
    assert len({e.digest for e in again.ledger.entries.values()}) == 8
    assert again.ledger.entries["0002"].reports[10] == dict.fromkeys([*objective, "F@50"], 0.1)
    values = [t.values for t in again.search.proposals.sampler.study.trials if t.state.name == "COMPLETE"]
    assert [0.3] * len(objective) in values
    assert [0.4] * len(objective) in values


def test_two_drivers_do_not_share_a_study(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(LedgerError, match="another search is running"):
        Ledger(tmp_path / "ledger.jsonl")
    first.close()
    Ledger(tmp_path / "ledger.jsonl").close()


def test_a_ledger_that_is_not_one_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"event": "running", "trial": "0000", "attempt": 1}\n')
    with pytest.raises(LedgerError, match="line 1: not a row of a ledger"):
        Ledger(path)


def test_a_space_with_few_points_ends_the_search(tmp_path: Path) -> None:
    parameters = {"matching.num_groups": {"type": "int", "low": 2, "high": 4}}
    tune = Fake(make_plan(trials=20, parameters=parameters), tmp_path)
    groups = []
    while isinstance((asked := tune.ask())[1], dict):
        groups.append(asked[1]["config"]["matching"]["num_groups"])
        tune.finish(asked[0], 0.1)
    assert groups[:2] == [4, 1]
    assert sorted(groups[2:]) == [2, 3]  # the published setting has 4 already: nothing is run twice


def test_impossible_combinations_are_not_trials(tmp_path: Path) -> None:
    parameters = {
        "model.num_queries": {"type": "categorical", "choices": [2, 8]},
        "matching.num_groups": {"type": "categorical", "choices": [2, 6]},
        "training.learning_rate": RATE,
    }
    tune = Fake(make_plan(trials=12, parameters=parameters), tmp_path)
    while isinstance((asked := tune.ask())[1], dict):
        config = configs.from_dict(asked[1]["config"])
        assert config.matching.num_groups <= config.model.num_queries
        tune.finish(asked[0], 0.1)
    assert len(tune.ledger.entries) == 12


def test_a_grid_is_every_active_combination_once() -> None:
    space = spaces.from_dict(
        {
            "parameters": {
                "matching.scheme": {"type": "categorical", "choices": ["dynamic", "static"]},
                "matching.quality": {
                    "type": "categorical",
                    "choices": ["min", "max"],
                    "when": {"matching.scheme": ["dynamic"]},
                    "otherwise": None,
                },
                "losses.undersample": {"type": "float", "low": 0.5, "high": 1.5, "step": 0.5},
            }
        }
    )
    points = grid(space, BASE, seed=0)
    assert len(points) == 9
    assert len({tuple(sorted(p.items())) for p in points}) == 9
    continuous = spaces.from_dict({"parameters": {"training.learning_rate": RATE}})
    with pytest.raises(ConfigError, match="continuous range"):
        grid(continuous, BASE, seed=0)


@pytest.mark.parametrize("name", ["tpe", "random", "gp", "cmaes", "nsga2", "nsga3", "qmc", "grid"])
def test_every_sampler_stays_in_the_space_and_repeats_itself_with_its_seed(name: str) -> None:
    groups = {"matching.num_groups": GROUPS, "losses.oversample": {"type": "categorical", "choices": [0.0, 0.07]}}
    undersample = {"type": "float", "low": 0.5, "high": 1.5, "step": 0.5, "when": {"losses.oversample": [0.07]}}
    parameters = {**groups, "losses.undersample": {**undersample, "otherwise": 0.0}}
    if name in ("cmaes", "gp"):
        parameters = {
            "matching.num_groups": GROUPS,
            "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1},
        }
    plan = make_plan(parameters=parameters, sampler=name, seed=3)

    def draw(asked: int = 0) -> list[dict[str, Any]]:
        sampler = Sampler(plan, asked)
        drawn = []
        for count in range(14):
            number, values = sampler.ask() or (0, {})
            plan.space.apply(plan.base, values)
            entry = Entry(f"{count:04d}", "d", None, values, {}, reports={10: {"F@50": 0.1}})
            entry.state, entry.metrics = "finished" if count % 3 else "pruned", {"F@50": count / 10}
            sampler.tell(number, Estimates([], plan).told(entry))
            drawn.append(values)
        return drawn

    assert draw() == draw()
    if name in ("tpe", "random"):
        assert draw() != draw(asked=14)  # a resumed search does not draw the same again


def test_two_objectives_give_a_front_and_a_knee(tmp_path: Path) -> None:
    tune = Fake(make_plan(trials=5, objective=("R@50", "mR@50")), tmp_path)
    points = [(0.6, 0.1), (0.5, 0.3), (0.3, 0.4), (0.4, 0.2), (0.9, 0.9)]
    for recall, mean in points:
        name, _ = tune.ask()
        metrics = {"R@50": recall, "mR@50": mean, "F@50": 0.0}
        last = messages.report_result(Report(90, metrics, 1.0), 0.0)
        if recall == 0.9:  # stopped early: not compared with full runs
            tune.search.on_trial_complete(name, last)
        else:
            tune.search.on_trial_complete(name, messages.final_result(last, Finished(metrics, 90, 90, seconds=1.0)))
    entries = list(tune.ledger.entries.values())
    assert [e.id for e in results.pareto(entries, ("R@50", "mR@50"))] == ["0002", "0001", "0000"]
    best = results.best_entry(entries, ("R@50", "mR@50"))
    assert best is not None
    assert best.id == "0001"


def test_halving_stops_the_worst_at_rungs_but_neither_references_nor_complete_trials() -> None:
    settings = spaces.SearchConfig(grace_steps=10, reduction_factor=3.0)
    scheduler = make_scheduler(settings, 90, 10, TRIALS)
    assert isinstance(scheduler, Halving)
    assert judge(scheduler, "0000", 10, 0.5) == "CONTINUE"
    assert judge(scheduler, "0001", 10, 0.4) == "STOP"
    assert judge(scheduler, "0002", 10, 0.4, protected=True) == "CONTINUE"
    assert judge(scheduler, "0000", 20, 0.0) == "CONTINUE"  # not a rung
    assert judge(scheduler, "0000", 90, 0.6) == "CONTINUE"
    assert judge(scheduler, "0003", 90, 0.1) == "CONTINUE"  # at its end: it writes its result
    assert judge(scheduler, "0004", 10, math.nan) == "CONTINUE"


def test_hyperband_trials_take_turns_in_brackets_of_fewer_and_fewer_rungs() -> None:
    scheduler = make_scheduler(spaces.SearchConfig(scheduler="hyperband", grace_steps=10, brackets=2), 90, 10, TRIALS)
    assert judge(scheduler, "0000", 10, 0.5) == "CONTINUE"
    assert judge(scheduler, "0001", 10, 0.1) == "CONTINUE"  # its bracket judges at 30 for the first time
    assert judge(scheduler, "0002", 10, 0.1) == "STOP"
    assert judge(scheduler, "0003", 30, 0.5) == "CONTINUE"
    assert judge(scheduler, "0001", 30, 0.1) == "STOP"
    assert judge(scheduler, "0005", 30, 0.1, protected=True) == "CONTINUE"


def both(scheduler: Any, name: str, step: int, recall: float, mean: float | None) -> str:
    return judge(scheduler, name, step, 0.5, R50=recall, mR50=mean)


@pytest.mark.parametrize("name", ["asha", "median", "pbt"])
def test_two_objectives_are_judged_by_both_and_by_no_scalar(name: str, tmp_path: Path) -> None:
    knobs = {"perturb_steps": 10, "quantile": 0.5} if name == "pbt" else {"grace_steps": 10}
    settings = spaces.SearchConfig(scheduler=name, objective=["R@50", "mR@50"], **knobs)  # type: ignore[arg-type]
    scheduler = make_scheduler(settings, 90, 10, tmp_path)
    for number, (recall, mean) in enumerate(((0.5, 0.3), (0.6, 0.2), (0.4, 0.4))):
        (tmp_path / f"{number:04d}" / "checkpoints").mkdir(parents=True)
        assert both(scheduler, f"{number:04d}", 10, recall, mean) == "CONTINUE"
    for number in range(3, 9):
        (tmp_path / f"{number:04d}" / "checkpoints").mkdir(parents=True)
    assert both(scheduler, "0003", 10, 0.1, 0.5) == "CONTINUE"  # best of all in one, poor in the other
    assert both(scheduler, "0004", 10, 0.3, 0.25) == "STOP"
    assert both(scheduler, "0005", 10, 0.7, 0.1) == "CONTINUE"
    assert both(scheduler, "0006", 10, 0.1, None) == "CONTINUE"  # not comparable


def test_a_step_that_is_reported_again_counts_once() -> None:
    scheduler = make_scheduler(spaces.SearchConfig(scheduler="median", grace_steps=10, min_trials=1), 90, 10, TRIALS)
    for value in (0.1, 0.9, 0.9, 0.9):  # step 10 again and again: its mean stays 0.1
        assert judge(scheduler, "0000", 10, value) == "CONTINUE"
    assert judge(scheduler, "0001", 10, 0.2) == "CONTINUE"


def test_two_objectives_are_refused_to_cmaes_in_one_line(toy: Path) -> None:
    rate = {"type": "float", "low": 1e-4, "high": 1e-2}
    parameters = {"matching.num_groups": GROUPS, "training.learning_rate": rate}
    space = spaces.from_dict({"search": {"sampler": "cmaes"}, "parameters": parameters})
    with pytest.raises(ConfigError, match="--objective: search: sampler: cmaes has one objective"):
        creation.create(configs.Config(), space, toy, objective="R@50,mR@50")


def test_the_median_rule_waits_for_enough_trials_and_stops_what_is_below_them() -> None:
    scheduler = make_scheduler(spaces.SearchConfig(scheduler="median", grace_steps=10, min_trials=2), 90, 10, TRIALS)
    assert judge(scheduler, "0000", 10, 0.5) == "CONTINUE"
    assert judge(scheduler, "0001", 10, 0.1) == "CONTINUE"  # one other trial alone
    assert judge(scheduler, "0002", 10, 0.2) == "STOP"  # below the median of 0.5 and 0.1
    assert judge(scheduler, "0003", 10, 0.4) == "CONTINUE"
    assert judge(scheduler, "0004", 10, 0.0, protected=True) == "CONTINUE"
    assert judge(scheduler, "0004", 20, 0.0, protected=True) == "CONTINUE"
    assert judge(scheduler, "0005", 90, 0.0) == "CONTINUE"


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_a_resumed_scheduler_decides_as_one_that_saw_everything(name: str, tmp_path: Path) -> None:
    plan = make_plan(trials=20, scheduler=name, grace_steps=10)
    tune = Fake(plan, tmp_path)
    undisturbed = make_scheduler(plan.settings, 90, 10, TRIALS)
    for value in (0.5, 0.2, 0.4, 0.1, 0.3, 0.6):
        trial_name, _ = tune.ask()
        for step in (10, 20, 30):
            tune.report(trial_name, step, value)
            judge(undisturbed, tune.entry(trial_name).id, step, value)
    resumed = make_scheduler(plan.settings, 90, 10, TRIALS)
    assert isinstance(resumed, Stopping)
    resumed.replay(tune.ledger.entries.values())
    decisions = []
    for number, value in enumerate((0.05, 0.45, 0.35, 0.15, 0.55, 0.25), start=6):
        for step in (10, 30):
            both = [judge(scheduler, f"{number:04d}", step, value) for scheduler in (undisturbed, resumed)]
            assert both[0] == both[1]
            decisions.append(both[0])
    assert {"STOP", "CONTINUE"} == set(decisions)


def test_rungs_are_the_same_after_a_resume(tmp_path: Path) -> None:
    plan = make_plan(trials=20, grace_steps=10, reduction_factor=3.0)
    tune = Fake(plan, tmp_path)
    before = make_scheduler(plan.settings, 90, 10, TRIALS)
    assert isinstance(before, Halving)
    for value in (0.5, 0.2, 0.4, 0.1, 0.3):
        name, _ = tune.ask()
        for step in (10, 20, 30):
            tune.report(name, step, value + step / 1000)
            judge(before, tune.entry(name).id, step, value + step / 1000)
    after = make_scheduler(plan.settings, 90, 10, TRIALS)
    assert isinstance(after, Halving)
    after.replay(tune.ledger.entries.values())
    assert after.rungs.values() == before.rungs.values()
    assert all(recorded for recorded in after.rungs.values()[0].values())


def test_the_table_has_all_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune = Fake(make_plan(trials=4), tmp_path)
    for value in (0.2, 0.3):
        tune.finish(tune.ask()[0], value)
    name, _ = tune.ask()
    tune.search.on_trial_complete(name, messages.final_result({}, Failed("RuntimeError: [no] luck")))
    entries = list(tune.ledger.entries.values())
    png.write_results(tmp_path, entries, tune.plan)
    header, *lines = (tmp_path / "trials.csv").read_text().splitlines()
    columns = header.split(",")
    assert {"trial", "label", "status", "protocol", "R@50", "mR@50", "F@50", "head@50", "body@50", "tail@50"} <= set(
        columns
    )
    assert {"steps", "seconds", "training.learning_rate", "matching.num_groups", "matching.scheme"} <= set(columns)
    assert len(lines) == 3
    study = Study(tune.plan, tmp_path / "data", "0123456789abcdef", None, {})
    (tmp_path / "study.yaml").write_text(study.dump())
    explored = ExploredStudy(tmp_path, study)
    read = explored.trials(explored.read(), "val")
    assert [(row["trial"], row["status"], row["F@50"]) for row in read] == [
        (entry.id, entry.state, entry.metrics.get("F@50")) for entry in entries
    ]
    assert set(read[0]["settings"]) == set(columns[columns.index("reason") + 1 :])
    best = configs.load(tmp_path / "best.yaml")
    assert best == configs.apply(BASE, BASELINE)
    assert (tmp_path / "search.png").read_bytes()[:4] == b"\x89PNG"
    trials.print_trials(entries, tune.plan)
    text = capsys.readouterr().out
    assert "RuntimeError: [no] luck" in text
    assert "baseline" in text
    assert "protocol: sgdet published" in text
    assert "sgdet published" in (tmp_path / "best.yaml").read_text().splitlines()[0]


def test_trials_of_different_protocols_are_not_ranked(tmp_path: Path) -> None:
    tune = Fake(make_plan(trials=3), tmp_path)
    for value in (0.2, 0.3):
        tune.finish(tune.ask()[0], value)
    one, other = tune.ledger.entries.values()
    assert one.protocol == other.protocol == "sgdet published"
    assert [row["protocol"] for row in board.Board([one, other], tune.plan).rows] == ["sgdet published"] * 2
    strict = replace(other, protocol="sgdet strict")
    for refused in (
        lambda: results.best_entry([one, strict], ("F@50",)),
        lambda: results.pareto([one, strict], ("F@50", "F@50")),
        lambda: trials.print_trials([one, strict], tune.plan),
    ):
        with pytest.raises(ConfigError, match="'sgdet published' and 'sgdet strict'"):
            refused()


def test_a_ledger_that_does_not_say_the_protocol_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune = Fake(make_plan(trials=3), tmp_path)
    for value in (0.2, 0.3):
        tune.finish(tune.ask()[0], value)
    tune.ledger.close()
    lines = [json.loads(line) for line in tune.ledger.path.read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key != "protocol"} for line in lines]
    tune.ledger.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    entries = list(Ledger(tune.ledger.path).entries.values())
    assert [entry.protocol for entry in entries] == [None, None]
    best = results.best_entry(entries, ("F@50",))
    assert best is not None
    assert best.id == "0001"
    trials.print_trials(entries, tune.plan)
    assert "protocol" not in capsys.readouterr().out


def test_objectives_are_one_or_two_metrics() -> None:
    assert plans.objectives("R@50, mR@50", BASE) == ("R@50", "mR@50")
    for text in ("", "R@50,R@50", "R@20,R@50,R@100", "R@7", "loss"):
        with pytest.raises(ConfigError):
            plans.objectives(text, BASE)
