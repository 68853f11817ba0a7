"""Searches that climb a ladder, on a real local Ray cluster: from stored features to full training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError
from speaq.study import creation
from speaq.training.endings import StopTraining
from speaq.training.loop import train
from tests.helpers import features_of_toy
from tests.helpers.same_run import assert_same_run, weights
from tests.helpers.shared import ROOT

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.jobs import tune
from launch.trials.climb import Climb, trainings
from speaq.study.errors import Halted
from speaq.study.ledger import Entry
from tests.helpers.command import command

TOGETHER = "ray"  # shares `ray_cluster`, see conftest
pytestmark = pytest.mark.slow

LADDER = [
    {"features": True, "share": 0.5},
    {"features": True, "share": 1},
    {"features": False, "share": 0.5},
    {"features": False, "share": 1},
]
RATES = {"type": "categorical", "choices": [1e-3 * 0.9**number for number in range(1, 15)]}


@pytest.fixture(scope="module")
def config(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return features_of_toy.start(toy, tmp_path_factory.mktemp("start") / "detector")


@pytest.fixture(scope="module")
def features(config: Config, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return features_of_toy.features(config, toy, tmp_path_factory.mktemp("features") / "features")


def space(**search: Any) -> spaces.Space:
    chosen = {"sampler": "grid", "seed": 1732, "ladder": LADDER, "reduction_factor": 2.0, **search}
    return spaces.from_dict({"search": chosen, "parameters": {"training.learning_rate": RATES}})


def with_features(config: Config, folder: Path) -> Config:
    return configs.apply(config, {"training.features": str(folder)})


@pytest.mark.parametrize("climb", ["again", "go on"])
def test_trials_climb_from_features_to_full_training(
    climb: str, config: Config, features: Path, toy: Path, tmp_path: Path, ray_cluster: None
) -> None:
    study = creation.create(with_features(config, features), space(climb=climb), toy, trials=4)
    assert study.plan.base.training.features is None
    assert study.plan.base.model.frozen == ()
    entries = {entry.id: entry for entry in tune.start(study, tmp_path / "study")}
    assert {entry.state for entry in entries.values()} <= {"finished", "paused"}, [e.reason for e in entries.values()]
    published = entries["0000"]
    assert (published.state, published.step, sorted(published.reports)) == ("finished", 12, [3, 6, 9, 12])
    trial = tmp_path / "study" / "trials" / "0000"
    below, full = configs.load(trial / "features" / "config.yaml"), configs.load(trial / "config.yaml")
    assert (below.training.features, below.model.frozen) == (str(features), ("backbone", "encoder"))
    assert (full.training.features, full.model.frozen) == (None, ())
    started = str(trial / "features" / "checkpoints" / "last.pt") if climb == "go on" else config.training.init_from
    assert full.training.init_from == started
    frozen, start = weights(trial / "features"), weights(Path(config.training.init_from or ""))
    kept = [n for n in start if n.startswith(("backbone.", "transformer.encoder.")) and "num_batches" not in n]
    assert kept
    assert all(bool((frozen[name] == start[name]).all()) for name in kept)
    best = configs.load(tmp_path / "study" / "best.yaml")
    assert (best.training.features, best.model.frozen, best.training.init_from) == (None, (), config.training.init_from)
    if climb == "again":  # the second training is the one that a search without a ladder would have made
        train(
            configs.apply(config, {"training.learning_rate": 1e-3} | entries["0000"].overrides), toy, tmp_path / "one"
        )
        whole = json.loads((tmp_path / "one" / "result.json").read_text())
        assert json.loads((trial / "result.json").read_text())["metrics"] == whole["metrics"]
    assert "full 6/6" in command("status", tmp_path / "study").stdout


@pytest.mark.parametrize("goes_on", [False, True], ids=["again", "go on"])
def test_full_training_is_resumed_without_features_and_the_run_from_them(
    goes_on: bool, config: Config, features: Path, toy: Path, tmp_path: Path
) -> None:
    """A trial that is stopped at every evaluation comes to what one does that is never stopped."""
    for name, at_each in (("at_once", False), ("parts", True)):
        stored = Path(shutil.copytree(features, tmp_path / f"features_{name}"))
        trial = tmp_path / name
        trial.mkdir()
        told = climbed_to_its_end(Climb(str(stored), 6, goes_on), config, trial, toy, at_each=at_each)
        assert sorted(set(told)) == [3, 6, 9, 12]
    assert_same_run(tmp_path / "at_once", tmp_path / "parts")


def climbed_to_its_end(climb: Climb, config: Config, folder: Path, data: Path, *, at_each: bool) -> list[int]:
    """Trains a trial; with `at_each` it ends at each evaluation and begins anew. Returns the steps that it told."""
    told: list[int] = []
    while not told or told[-1] < 12:
        for training in trainings(climb, config, folder):

            def report(step: int, metrics: Any, checkpoint: Path, first: int = training.first) -> None:
                is_new = first + step not in told
                told.append(first + step)
                if at_each and is_new and told[-1] < 12:
                    raise StopTraining

            result = train(training.config, data, training.folder, report=report, resume=True)
            if result["status"] == "stopped":
                break
        if at_each and told[-1] == 9:
            shutil.rmtree(climb.features)
            shutil.rmtree(folder / "features")
    return told


def test_features_that_are_gone_end_a_search_in_one_line_until_they_are_back(
    config: Config, features: Path, toy: Path, tmp_path: Path, ray_cluster: None
) -> None:
    own = Path(shutil.copytree(features, tmp_path / "own"))
    study = creation.create(with_features(config, own), space(), toy, trials=2)
    tune.start(study, tmp_path / "study")
    own.rename(tmp_path / "away")
    assert len(tune.resume(tmp_path / "study")) == 2  # at rest, nobody needs them
    with pytest.raises(Halted, match="the features are not there any more") as caught:
        tune.resume(tmp_path / "study", trials=3)
    assert "\n" not in str(caught.value)
    (tmp_path / "away").rename(own)
    entries = tune.resume(tmp_path / "study", trials=3)
    assert [entry.state for entry in entries[:2]] == ["finished", "finished"]
    assert entries[2].state in ("finished", "paused")
    assert not [entry.reason for entry in entries if entry.reason]


KILLED = """
import os, sys
from pathlib import Path
os.environ["CHEAP_TRAINING_SLEEP"] = "0.02"
from launch.jobs import tune
from speaq import config as configs
from speaq import space as spaces
from speaq.study import creation
from tests.helpers.search_of_toy import CHEAP, LONG
if __name__ == "__main__":
    data, output, features = map(Path, sys.argv[1:4])
    search = {"sampler": "grid", "seed": 1732, "reduction_factor": 2.0, "climb": "go on", "ladder": %s}
    rates = {"type": "categorical", "choices": [1e-3 * 0.9**number for number in range(1, 15)]}
    space = spaces.from_dict({"search": search, "parameters": {"training.learning_rate": rates}})
    config = configs.apply(LONG, {"training.features": str(features)})
    tune.start(creation.create(config, space, data, trials=8, train=CHEAP), output)
""" % str(LADDER)  # noqa: UP031


def rows(output: Path) -> list[dict[str, Any]]:
    path = output / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def killed(toy: Path, output: Path, features: Path, event: str, step: int) -> list[dict[str, Any]]:
    """Starts a search, kills its driver as soon as a trial has such a row; returns the rows that it left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    arguments = [sys.executable, "-c", KILLED, str(toy), str(output), str(features)]
    driver = subprocess.Popen(arguments, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 720
    try:
        while not any(row["event"] == event and row.get("step", step) >= step for row in rows(output)):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    return rows(output)


def starts(output: Path, trial: str) -> tuple[list[int], list[int]]:
    """From which steps a trial's two trainings have begun or gone on."""
    folder = output / "trials" / trial
    files = [folder / "features" / "steps.txt", folder / "steps.txt"]
    found = [[int(line.split()[-1]) for line in f.read_text().splitlines()] if f.exists() else [] for f in files]
    return found[0], found[1]


@pytest.mark.parametrize(("event", "step"), [("reported", 100), ("promoted", 0)], ids=["climb", "promotion"])
def test_a_killed_climb_goes_on_and_repeats_nothing(
    event: str, step: int, toy: Path, tmp_path: Path, ray_cluster: None
) -> None:
    output, features = tmp_path / "study", tmp_path / "features"
    features.mkdir()
    (features / "features.json").write_text("{}")
    before = killed(toy, output, features, event, step)
    entries = {entry.id: entry for entry in tune.resume(output)}
    assert rows(output)[: len(before)] == before
    check_climbed(output, entries, 8)
    shutil.rmtree(features)  # at rest, nobody needs them
    assert tune.resume(output) == list(entries.values())  # nothing is left to do
    more = {entry.id: entry for entry in tune.resume(output, trials=12)}
    check_climbed(output, more, 12)


def check_climbed(output: Path, entries: dict[str, Entry], trials: int) -> None:
    assert len(entries) == trials
    assert not [entry.reason for entry in entries.values() if entry.reason]
    assert {entry.state for entry in entries.values()} == {"finished", "paused"}
    assert [entries[name].step for name in ("0000", "0001")] == [180, 180]
    for rung in (40, 90, 130):
        there = [entry for entry in entries.values() if rung in entry.reports]
        assert sum(entry.step > rung for entry in there) >= len(there) // 2
    for entry in entries.values():
        below, full = starts(output, entry.id)
        assert below == sorted(below)  # each attempt goes on from the last checkpoint
        assert full == sorted(full)
        assert len(below) + len(full) <= entry.attempts + 1
        assert bool(full) == (entry.step > 90)
        asked_ = [row for row in rows(output) if row["event"] == "reported" and row["trial"] == entry.id]
        assert len({row["step"] for row in asked_}) == len(asked_)


def test_what_cannot_be_climbed_is_refused_in_one_line(
    config: Config, features: Path, toy: Path, tmp_path: Path
) -> None:
    full = [{"features": False, "share": 0.5}, {"features": False, "share": 1}]
    unfinished = Path(shutil.copytree(features, tmp_path / "unfinished"))
    header = json.loads((unfinished / "features.json").read_text())
    (unfinished / "features.json").write_text(json.dumps({**header, "complete": False}))
    other = configs.apply(config, {"data.flip_probability": 0.5})
    start = configs.apply(config, {"training.init_from": None})
    cases: list[tuple[Config, dict[str, Any], str]] = [
        (config, {}, "no features are given: speaq cache makes them"),
        (with_features(config, features), {"ladder": full}, "no rung of search.ladder is of features"),
        (with_features(config, tmp_path / "none"), {}, "does not exist"),
        (with_features(config, tmp_path), {}, "holds no features"),
        (with_features(config, unfinished), {}, "is not finished"),
        (with_features(config, features), {"features": str(unfinished)}, "give one of them"),
        (with_features(other, features), {}, "acts before the encoder"),
        (with_features(start, features), {}, "would stay at random weights"),
    ]
    for given, search, said in cases:
        with pytest.raises((ConfigError, ValueError), match=said) as caught:
            creation.create(given, space(**search), toy, trials=4)
        assert "\n" not in str(caught.value)
    named = creation.create(config, space(features=str(features)), toy, trials=4)
    assert named == creation.create(with_features(config, features), space(), toy, trials=4)
