"""A project that was moved or renamed, or whose detector was deleted, goes on: files are known by what they hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from speaq import config as configs
from speaq.config import ConfigError
from speaq.data.toy.world import make_toy
from speaq.runs.run import data_directory, evaluate_run
from speaq.study import changes, file
from speaq.training import origins
from speaq.training.endings import StopTraining
from speaq.training.loop import train
from tests.helpers.command import refusal
from tests.helpers.shared import EARLIER
from tests.helpers.tiny import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: data, detector, a run from it that was stopped at step 3 and one that ended."""
    project = tmp_path_factory.mktemp("moved") / "then"
    make_toy(project / "data", 60, seed=1)
    train(
        tiny(training__max_steps=2, training__decay_steps=[1]), project / "data", project / "detector", task="detector"
    )
    shutil.copytree(project / "detector", project / "other")
    (project / "other" / "checkpoints" / "best.pt").write_bytes(b"other weights")

    def stop(step: int, metrics: Mapping[str, float | None], checkpoint: Path) -> None:
        raise StopTraining

    config = tiny(training__init_from=str(project / "detector"))
    train(config, project / "data", project / "runs" / "stopped", report=stop)
    train(config, project / "data", project / "runs" / "ended")
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Iterator[Path]:
    """The project at another place and under another name; the first one is not there any more."""
    shutil.copytree(made, tmp_path / "now")
    away = made.with_name("away")
    made.rename(away)
    yield tmp_path / "now"
    away.rename(made)


def ended(run: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((run / "result.json").read_text())["metrics"]
    return content


@pytest.mark.parametrize("start", ["old", "new", "none", "deleted"])
def test_a_run_that_has_a_checkpoint_needs_no_start(start: str, made: Path, project: Path) -> None:
    if start == "deleted":
        shutil.rmtree(project / "detector")
    paths = {"old": str(made / "detector"), "new": str(project / "detector"), "none": None}
    run = project / "runs" / "stopped"
    train(tiny(training__init_from=paths.get(start, str(made / "detector"))), project / "data", run, resume=True)
    assert ended(run) == ended(project / "runs" / "ended")
    kept = configs.load(run / "config.yaml").training.init_from
    assert kept == str((project if start in ("new", "old") else made) / "detector")
    noted = [origins.noted_start(project / "runs" / name) for name in ("stopped", "ended")]
    assert noted[0] == noted[1] is not None


def test_another_start_is_another_config(project: Path) -> None:
    run = project / "runs" / "stopped"
    with pytest.raises(ConfigError, match=r"cannot resume with another start \(training\.init_from: digest "):
        train(tiny(training__init_from=str(project / "other")), project / "data", run, resume=True)


def test_a_run_that_died_before_its_first_checkpoint_begins_again_from_what_it_began_from(project: Path) -> None:
    run = project / "runs" / "stopped"
    shutil.rmtree(run / "checkpoints")
    config = configs.load(run / "config.yaml")
    assert origins.placed(config, run).training.init_from == str(project / "detector")
    shutil.rmtree(project / "detector")
    with pytest.raises(
        ConfigError, match=r"stopped: training\.init_from: .*then/detector is not there; give --init-from"
    ):
        train(config, project / "data", run, resume=True)


def test_data_are_found_by_their_digest_alone(project: Path) -> None:
    run = project / "runs" / "ended"
    assert data_directory(run, None) == project / "data"
    assert evaluate_run(run).evaluation.metrics == pytest.approx(
        json.loads((run / "result.json").read_text())["best"]["metrics"], nan_ok=True
    )
    shutil.rmtree(project / "data")
    make_toy(project / "data", 20, seed=2)
    with pytest.raises(ConfigError, match=r"ended: its data are no longer at .*then/data; give --data"):
        data_directory(run, None)


def test_a_run_is_repeated_where_its_project_is_now(project: Path) -> None:
    pytest.importorskip("ray")
    from launch.jobs.rerun import rerun
    from speaq.cli.terminal import progress_bar

    run = project / "runs" / "ended"
    assert rerun(run, None, None, progress_bar).equal
    with pytest.raises(ConfigError, match="the weights that it started from have changed"):
        rerun(run, project / "again", None, progress_bar, start=project / "other")
    shutil.rmtree(project / "detector")
    with pytest.raises(ConfigError, match="give --init-from"):
        rerun(run, project / "again", None, progress_bar)


def test_a_study_of_an_earlier_version_is_known_at_its_new_place(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from launch.search.searcher import Search, config_of
    from speaq.study.ledger import Ledger, digest

    project = tmp_path / "now"
    shutil.copytree(EARLIER, project)
    (project / "data").symlink_to(toy)
    home = project / "study"
    found = changes.with_start(file.read(home / "study.yaml"), home, None)
    assert found.plan.start == project / "detector"
    assert changes.found_data(found, home, None) == toy
    assert changes.begins_with(found, home, needed=True) == found.start_digest
    ledger = Ledger(home / "ledger.jsonl")
    search = Search(found.plan.with_trials(5), ledger)
    for entry in ledger.entries.values():  # their digests hold the path of the start
        assert entry.digest != digest(config_of(search._plan, entry))
    asked = search.suggest("next")
    assert asked["config"]["training"]["init_from"] == str(project / "detector")
    config = configs.from_dict(asked["config"])
    elsewhere = configs.apply(config, {"training.init_from": "/elsewhere"})
    assert ledger.entries["0004"].digest == digest(config) == digest(elsewhere)
    ledger.close()


def test_a_study_needs_its_start_only_for_trials_that_begin(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from launch.jobs import tune

    project = tmp_path / "now"
    shutil.copytree(EARLIER, project)
    shutil.rmtree(project / "detector")
    (project / "data").symlink_to(toy)
    home = project / "study"
    asked = file.read(home / "study.yaml")
    assert changes.begins_with(asked, home, needed=False) == asked.start_digest
    assert len(tune.resume(home, force=True)) == 4  # the code was another
    line = refusal("tune", "--resume", home, "--trials", "5")
    assert line == (
        f"speaq: {home}: training.init_from: /project/detector is not there; "
        "give --init-from with the place where it is now"
    )
    assert "has changed since" in refusal("tune", "--resume", home, "--trials", "5", "--init-from", project / "run")


def test_a_mistyped_folder_begins_nothing(project: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(configs.dump(tiny()))
    wrong = project / "runs" / "stoped"
    for task in ("train", "pretrain"):
        line = refusal(task, "--config", config, "--data", project / "data", "--output", wrong, "--resume")
        assert line == (
            f"speaq: --resume: {wrong} holds no run (nearest: {project / 'runs' / 'stopped'}); "
            "to begin one, leave --resume out"
        )
    assert not wrong.exists()
    shutil.copytree(EARLIER / "study", tmp_path / "study")
    line = refusal("tune", "--resume", tmp_path / "stduy")
    assert f"stduy: holds no search (study.yaml) (nearest: {tmp_path / 'study'})" in line
    assert not (tmp_path / "stduy").exists()
    assert "missing --data" in refusal("train", "--config", config, "--output", wrong)
