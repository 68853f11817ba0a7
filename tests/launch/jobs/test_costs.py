"""What trials cost: constraints, budgets, and who worked how long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.search import messages
from launch.search.messages import Finished, Report, TooLarge
from launch.search.searcher import Search
from speaq import config as configs
from speaq import space as spaces
from speaq.config import ConfigError, ResourcesConfig
from speaq.study import budget as budgets
from speaq.study import creation, results
from speaq.study import snapshot as snapshots
from speaq.study.board import Board
from speaq.study.budget import parse
from speaq.study.ledger import Ledger
from speaq.training.device import peak_memory_mib, reset_peak_memory
from tests.helpers.command import command, refusal
from tests.helpers.fake_tune import Fake, make_plan
from tests.helpers.search_of_toy import CHEAP, GROUPS
from tests.helpers.searched import Search as Search_
from tests.helpers.tiny import tiny

TOGETHER = "ray"  # shares `ray_cluster`, see conftest

LIMITS = {"latency_ms": 50.0, "peak_memory_mib": 1000.0}


def finish(tune: Fake, name: str, value: float, cost: dict[str, float | None]) -> None:
    metrics = dict.fromkeys([*tune.plan.objective, "F@50"], value)
    last = messages.report_result(Report(90, metrics, 1.0), value)
    tune.search.on_trial_complete(name, messages.final_result(last, Finished(metrics, 90, 90, seconds=2.0, cost=cost)))


def test_a_trial_above_a_constraint_is_infeasible_and_never_the_best(tmp_path: Path) -> None:
    tune = Fake(make_plan(trials=4, constraints=LIMITS), tmp_path)
    names = [tune.ask()[0] for _ in range(4)]
    finish(tune, names[0], 0.3, {"latency_ms": 50.0, "peak_memory_mib": 900.0})
    finish(tune, names[1], 0.9, {"latency_ms": 61.5, "peak_memory_mib": 2000.0})
    finish(tune, names[2], 0.9, {"latency_ms": None, "peak_memory_mib": 900.0})
    last = messages.report_result(Report(10, {"F@50": 0.1}, 1.0), 0.1)
    tune.search.on_trial_complete(names[3], messages.final_result(last, TooLarge("OutOfMemory: too small")))
    entries = [tune.entry(name) for name in names]
    assert [entry.state for entry in entries] == ["finished", "infeasible", "failed", "infeasible"]
    assert entries[1].reason == "latency_ms 61.5 is above 50; peak_memory_mib 2000 is above 1000"
    assert entries[2].reason == "latency_ms is not a number"
    assert entries[1].metrics["F@50"] == 0.9  # kept, and shown
    best = results.best_entry(entries, ("F@50",))
    assert best is not None
    assert best.id == "0000"
    assert Board(entries, tune.plan).rows[1]["latency_ms"] == 61.5


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2", "random"])
def test_the_sampler_is_told_by_how_much_also_after_a_resume(name: str, tmp_path: Path) -> None:
    plan = make_plan(trials=30, sampler=name, constraints={"latency_ms": 50.0})
    tune = Fake(plan, tmp_path)
    for count in range(8):
        asked, _ = tune.ask()
        finish(tune, asked, 0.1 * count, {"latency_ms": 45.0 + count})
    told = tune.search.proposals.sampler.study.trials
    tune.ledger.close()
    again = Search(plan, Ledger(tmp_path / "ledger.jsonl"))
    assert again.suggest("after")["trial"] == "0008"
    for trials in (told, again.proposals.sampler.study.trials[: len(told)]):
        assert [t.constraints for t in trials if t.values] == [t.constraints for t in told if t.values]
    assert {"latency_ms": 2.0} in [t.constraints for t in told]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"constraints": {"latency": 5.0}}, "latency is none of peak_memory_mib, latency_ms"),
        ({"constraints": {"latency_ms": 0.0}}, r"latency_ms is above 0, not 0\.0"),
    ],
)
def test_constraints_that_mean_nothing_are_refused(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spaces.from_dict({"search": search, "parameters": {"matching.num_groups": GROUPS}})


@pytest.mark.parametrize(
    ("text", "kind", "seconds"),
    [("8h", "wall", 28_800), ("90m", "wall", 5400), ("1.5d", "wall", 129_600), ("40cpu-h", "cpu", 144_000)],
)
def test_budgets_are_read(text: str, kind: str, seconds: float) -> None:
    found = parse(text, ResourcesConfig())
    assert (found.kind, found.seconds) == (kind, seconds)
    assert parse("2gpu-h", ResourcesConfig(gpus_per_worker=0.5)).kind == "gpu"


@pytest.mark.parametrize("text", ["8", "h", "-1h", "0h", "8 hours", "8gpuh", "8w", "40gpu-h"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--budget {text}: "):
        parse(text, ResourcesConfig())


def test_device_time_counts_what_trials_hold(tmp_path: Path) -> None:
    tune = Fake(make_plan(trials=2), tmp_path)
    for _ in range(2):
        tune.finish(tune.ask()[0])  # two seconds each
    resources = ResourcesConfig(num_workers=3, cpus_per_worker=2, gpus_per_worker=0.5)
    entries = tune.ledger.entries.values()
    assert budgets.device_seconds(entries, resources, "cpu") == 2 * 2 * 3 * 2
    assert budgets.device_seconds(entries, resources, "gpu") == 2 * 2 * 3 * 0.5


def test_the_clock_counts_while_a_driver_is_at_work(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    asked = {"digest": "d", "label": None, "values": {}, "overrides": {}, "seed": 0}
    rows = [
        {"event": "opened", "time": 100.0},
        {"event": "asked", "trial": "0000", "time": 130.0, **asked},
        {"event": "running", "trial": "0000", "attempt": 1, "time": 150.0},  # then killed
        {"event": "opened", "time": 9000.0},
        {"event": "failed", "trial": "0000", "reason": "no", "time": 9005.0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Ledger(path).wall_seconds == pytest.approx(55.0)


def test_a_clock_that_is_set_neither_spends_a_budget_nor_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    asked = {"digest": "d", "label": None, "values": {}, "overrides": {}, "seed": 0}
    year, trial = 365 * 86_400.0, {"trial": "0000"}
    rows = [
        {"event": "opened", "time": 100.0},
        {"event": "asked", **trial, "time": 100.0 + year, "clock": 1.5, **asked},  # set forward
        {"event": "running", **trial, "attempt": 1, "time": 0.0, "clock": 2.5},  # and back
        {"event": "opened", "time": 50.0},
        {"event": "running", **trial, "attempt": 2, "time": 20.0, "clock": 4.0},
        {"event": "opened", "time": 100.0},  # of a version that did not keep its own clock
        {"event": "running", **trial, "attempt": 3, "time": 130.0},
        {"event": "running", **trial, "attempt": 4, "time": 130.0 + year},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counted = 2.5 + 4.0 + 30.0 + 86_400.0
    ledger = Ledger(path)
    assert ledger.wall_seconds == pytest.approx(counted)
    ledger.append("failed", "0000", reason="no")
    ledger.close()
    *_, opened, failed, closed = (json.loads(line) for line in path.read_text().splitlines())
    assert opened["event"] == "opened"
    assert 0 <= failed["clock"] <= closed["clock"]
    assert Ledger(path).wall_seconds == pytest.approx(counted + closed["clock"])


def test_a_process_forgets_the_peak_of_the_trial_before() -> None:
    device = torch.device("cpu")
    large = torch.ones(100 * 2**20 // 4)
    before = peak_memory_mib(device)
    del large
    reset_peak_memory(device)
    assert peak_memory_mib(device) < before - 50


@pytest.mark.usefixtures("ray_cluster")
def test_a_spent_budget_ends_a_search_that_can_be_resumed(toy: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("search: {scheduler: none}\nparameters: {matching.num_groups: {type: int, low: 1, high: 8}}\n")
    config = tmp_path / "config.yaml"
    config.write_text(configs.dump(tiny(training__max_steps=40, training__eval_every=4)))
    study = creation.create(configs.load(config, []), spaces.load(space), toy, trials=6, train=CHEAP)
    output = tmp_path / "study"
    environment = {**os.environ, "CHEAP_TRAINING_SLEEP": "0.05"}
    output.mkdir()
    (output / "study.yaml").write_text(study.dump())
    resume = ("tune", "--resume", str(output), "--budget")
    line = [sys.executable, "-m", "speaq.cli", *resume, "3cpu-s"]
    said = subprocess.run(line, capture_output=True, text=True, check=False, env=environment, timeout=360)
    assert "budget 3cpu-s is spent, trials left: " in said.stderr
    assert f"--resume {output}" in said.stderr
    snapshot = snapshots.read(output)
    assert snapshot.wall_seconds > 0
    assert budgets.device_seconds(snapshot.entries, snapshot.plan.base.resources, "cpu") >= 3
    ended = {entry.id for entry in snapshot.entries if entry.ended}
    assert len(ended) < 6
    assert "the study has taken" in refusal("tune", "--resume", output, "--budget", "3cpu-s")
    done = command(*resume, "1h")
    assert done.exit_code == 0, (done.output, done.exception)
    snapshot = snapshots.read(output)
    assert [entry.state for entry in snapshot.entries] == ["finished"] * 6
    for entry in snapshot.entries:  # a trial that had ended was not run again
        starts = (snapshot.trial_folder(entry) / "steps.txt").read_text().splitlines()
        assert len(starts) == 1 if entry.id in ended else len(starts) <= 2


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from speaq.study.errors import StorageLost
from speaq.study.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    for number in range(100):
        ledger.append("asked", f"{number:04d}", digest=str(number), label=None, values={}, overrides={}, seed=0)
except StorageLost as error:  # of no user's making: exit code 1
    print(len(ledger.entries), error)
ledger.close()
"""
    path = tmp_path / "ledger.jsonl"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    written, _, message = done.stdout.partition(" ")
    assert message.startswith(f"{path}: cannot be written (")
    assert len(message.strip().splitlines()) == 1
    again = Ledger(path)
    assert list(again.entries) == [f"{number:04d}" for number in range(int(written))]
    again.append("asked", "9999", digest="n", label=None, values={}, overrides={}, seed=0)
    again.close()
    assert list(Ledger(path).entries)[-1] == "9999"


def test_an_infeasible_trial_is_shown_everywhere_and_ranked_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    search = Search_(folder, trials=3)
    for ending in ("finished", "finished"):
        search.run(ending)
    metrics = dict.fromkeys(next(iter(search.ledger.entries.values())).metrics, 1.0)
    reason = "latency_ms 61 is above 50"
    trial = search.run("running")
    search.ledger.append("infeasible", trial, reason=reason, metrics=metrics, cost={"latency_ms": 61.0})
    search.ledger.close()
    text = command("status", folder).stdout
    assert "1 infeasible" in text
    assert f"trial {trial} infeasible: {reason}" in text
    assert command("report", folder).exit_code == 0
    assert reason in (folder / "report.html").read_text(encoding="utf-8")
    assert command("export", folder, tmp_path / "study.db").exit_code == 0
    assert f"best F@50 {1.0:.4f}" not in text
