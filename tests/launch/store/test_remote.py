"""Runs and searches at a URL: against a real S3 server, with nodes that share nothing but the data set."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq.config import ConfigError
from speaq.study import seal
from speaq.training.checkpoint import load
from speaq.training.loop import train
from tests.helpers.command import command, refusal
from tests.helpers.same_run import assert_same_run
from tests.helpers.shared import ROOT
from tests.helpers.tiny import tiny

pytest.importorskip("ray")
pytest.importorskip("moto")
pytest.importorskip("flask")

from launch.cluster.probe import Probe
from launch.search import population
from launch.store import remote, url_claim, workspace
from launch.store.remote import Store, StoreError, joined, local_name
from launch.store.workspace import Opened, Workspace
from speaq.files import locks
from speaq.files.locks import Taken
from speaq.study.errors import StorageLost
from tests.helpers.s3 import Server, server

TOGETHER = "nodes"  # starts nodes, see conftest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(workspace.VARIABLE, str(tmp_path / "scratch"))
    monkeypatch.setattr(url_claim, "SETTLE", 0.0)
    monkeypatch.setattr(url_claim, "SILENT", 1.5)
    return tmp_path / "scratch"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A folder in the bucket of the test's own."""
    return f"{request.node.name[5:45]}/run"


# URLs


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("zzz://bucket/x", "zzz:// is none of s3://, gs://, gcs://, abfs://, abfss:// (or file://)"),
        ("s3://bucket", "names a bucket alone; give a folder in it"),
        ("s3://:80/x", "names no bucket"),
        ("s3://AKIA:geheim@bucket/x", "a URL with credentials would be written into files and logs"),
        ("s3://AKIA@bucket/x", "a URL with credentials would be written into files and logs"),
        ("abfss://box:geheim@account.dfs.core.windows.net/x", "a URL with credentials would be written"),
        ("abfss://box@account.dfs.core.windows.net/x?client_secret=geheim", "a secret belongs into the environment"),
        ("s3://bucket/../x", "'..' is no name of a folder here"),
        ("s3://bucket/x?geheim=1", "geheim"),  # an option that pyarrow does not know is shown
    ],
)
def test_a_url_that_cannot_be_used_is_refused_in_one_line(url: str, said: str, toy: Path, scratch: Path) -> None:
    (scratch.parent / "config.yaml").write_text(configs.dump(tiny()))
    line = refusal("train", "--config", scratch.parent / "config.yaml", "--data", toy, "--output", url)
    assert line.startswith("speaq: output: ")
    assert said in line
    assert ("geheim" in line) == (said == "geheim")
    assert not list(scratch.rglob("*.yaml"))


def test_a_url_is_refused_where_a_path_is_meant_and_a_file_url_is_a_path(toy: Path) -> None:
    assert "speaq: data: s3:// is no path; give that of a file system" in refusal("data", "check", "s3://b/data")
    assert command("data", "check", f"file://{toy}").stdout == "0 errors, 0 warnings\n"
    assert "/nowhere at all" in refusal("data", "stats", "file:///nowhere%20at%20all")


def test_folders_below_a_url_lie_below_its_copy() -> None:
    url = "s3://bucket/a/study?scheme=http"
    assert joined(url, "trials/0000") == "s3://bucket/a/study/trials/0000?scheme=http"
    assert local_name(joined(url, "trials/0000")) == local_name(url) / "trials" / "0000"
    assert remote.parent(joined(url, "a b")) == (url, "a b")
    assert local_name(url) != local_name("s3://bucket/a/study")  # another server


def test_a_store_that_is_not_there_is_refused_before_anything_starts(s3: Server, scratch: Path) -> None:
    url = s3.url("x")
    missing = url.replace("s3://runs/", "s3://missing/")
    assert "The specified bucket does not exist" in refusal("calibrate", missing)
    assert f"speaq: study: {url}: nothing is there" in refusal("status", url)
    closed = url.replace(str(s3.port), str(Probe().free_port("127.0.0.1")))
    assert "NETWORK_CONNECTION" in refusal("status", closed)


def test_a_name_that_would_leave_the_folder_is_refused(s3: Server, scratch: Path, name: str) -> None:
    s3.write(f"{name}/study.yaml", b"x")
    s3.write_as_is(f"{name}/../../../evil.yaml", b"x")
    assert "which is none of speaq's" in refusal("status", s3.url(name))
    assert not list(scratch.rglob("evil.yaml"))


# Copies


def lines(url: str, kind: workspace.Kind = "work") -> dict[str, str]:
    """What is there for who opens it."""
    with workspace.opened(url, kind) as place:
        folder = place.path
        return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_what_one_machine_writes_another_goes_on_with(
    s3: Server, scratch: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.url(name)
    with workspace.opened(url, "work") as place:
        folder = place.path
        folder.mkdir(parents=True)
        (folder / "checkpoints").mkdir()
        for step in ("one", "two"):
            last = folder / "checkpoints" / "last.pt"
            (folder / "checkpoints" / "new").write_text(step)
            if last.exists():
                last.replace(last.with_name("previous.pt"))
            (folder / "checkpoints" / "new").replace(last)
            Workspace((place,)).saver(folder)()
        (folder / ".hidden").write_text("stays here")
        (folder / "half.tmp").write_text("stays here")
        (folder / "trials").mkdir()
        (folder / "trials" / "x").write_text("is the trial's affair")
        (folder / "empty").write_text("")
    expected = {"checkpoints/last.pt": "two", "checkpoints/previous.pt": "one", "empty": ""}
    assert s3.names(name) == {*expected, url_claim.CLAIM}
    shutil.rmtree(scratch)
    assert lines(url) == expected
    with workspace.opened(url, "work") as place:  # a machine on its own from here on
        folder = place.path
        (folder / "empty").unlink()
        (folder / "more").write_text("more")
    shutil.copytree(scratch, scratch.with_name("other"))
    with monkeypatch.context() as other:  # meanwhile another machine is at work
        other.setenv(workspace.VARIABLE, str(scratch.with_name("other")))
        with workspace.opened(url, "work") as place:
            folder = place.path
            (folder / "more").write_text("less")
    assert lines(url) == {**expected, "more": "less"}
    assert lines(url, "small") == {"empty": "", "more": "less"}
    assert set(lines(url, "all")) == {*expected, "more"}


def test_a_reader_adds_what_it_made_and_nothing_else(s3: Server, scratch: Path, name: str) -> None:
    s3.write(f"{name}/study.yaml", b"a study")
    s3.write(f"{name}/trials/0000/result.json", b"{}")
    with workspace.opened(s3.url(name), "small") as place:
        folder = place.path
        (folder / "report.html").write_text("a page")
        s3.write(f"{name}/study.yaml", b"another study")  # by who works on it
    assert s3.read(f"{name}/study.yaml") == b"another study"
    assert s3.read(f"{name}/report.html") == b"a page"
    trial = s3.url(f"{name}/trials/0000")
    assert lines(trial, "small") == {"result.json": "{}"}
    with workspace.opened(trial, "small") as place:
        folder = place.path
        study = seal.study_of(folder)
        assert study is not None
        seal.unseal(study, "paper")
    assert b'"reason": "paper"' in s3.read(f"{name}/test_looks.jsonl")


def test_a_store_that_is_away_for_a_while_costs_time_alone(
    s3: Server, scratch: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.1)
    with workspace.opened(s3.url(name), "work") as place:
        folder = place.path
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
        s3.way.cut()
        threading.Timer(8.0, s3.way.heal).start()
        Workspace((place,)).saver(folder)()
        assert s3.read(f"{name}/result.json") == b"{}"


def test_a_store_that_stays_away_ends_the_work_and_the_copy_has_it_all(
    s3: Server, scratch: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger here goes on where the store's ends; where it has gone another way, the store is right."""
    monkeypatch.setattr(remote, "PATIENCE", 0.1)
    told: list[Exception] = []

    def work(place: Opened) -> None:
        place.path.mkdir(parents=True)
        ledger = place.path / "ledger.jsonl"
        with Workspace((place,)).following(place.path, told.append) as follower:
            assert follower is not None
            ledger.write_text("one\n")
            follower(None, "asked")
            ledger.write_text("one\ntwo\n")
            s3.way.cut()
            follower(None, "asked")

    with (
        pytest.raises(StorageLost, match=f"{name}.*NETWORK_CONNECTION"),
        workspace.opened(s3.url(name), "work") as place,
    ):
        work(place)
    s3.way.heal()
    assert [type(error) for error in told] == [StorageLost]
    assert s3.read(f"{name}/ledger.jsonl") == b"one\n"
    shutil.copytree(scratch, scratch.with_name("kept"))
    assert lines(s3.url(name)) == {"ledger.jsonl": "one\ntwo\n"}
    assert s3.read(f"{name}/ledger.jsonl") == b"one\ntwo\n"
    s3.write(f"{name}/ledger.jsonl", b"one\nanother\n")
    monkeypatch.setenv(workspace.VARIABLE, str(scratch.with_name("kept")))
    found = lines(s3.url(name))
    assert found.pop("ledger.jsonl") == "one\nanother\n"
    assert list(found.values()) == ["one\ntwo\n"]  # set aside


def test_one_at_a_time_works_on_a_url(s3: Server, scratch: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3.url(name)
    monkeypatch.setattr(url_claim, "BEAT_EVERY", 0.2)
    with workspace.opened(url, "work") as place:
        folder = place.path
        folder.mkdir(parents=True)
        with (
            pytest.raises(ConfigError, match="another process of this machine works on it"),
            workspace.opened(url, "work"),
        ):
            pass
        monkeypatch.setenv(workspace.VARIABLE, str(scratch / "elsewhere"))
        monkeypatch.setattr(locks, "_machine", lambda: "another machine")
        with pytest.raises(ConfigError, match=r"process \d+ on .* works on it"), workspace.opened(url, "work"):
            pass
    assert lines(url) == {}


def test_who_is_dead_is_waited_for_and_who_comes_back_writes_no_more(
    s3: Server, scratch: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.url(name)

    def work(place: Opened) -> None:
        place.path.mkdir(parents=True)
        place.copy.claim.fall_silent()
        time.sleep(0.2)
        with monkeypatch.context() as other:
            other.setenv(workspace.VARIABLE, str(scratch / "elsewhere"))
            other.setattr(locks, "_machine", lambda: "another machine")
            with workspace.opened(url, "work") as taken:
                taken.path.mkdir(parents=True)
                (taken.path / "result.json").write_text("ours")
                Workspace((taken,)).saver(taken.path)()
                (place.path / "result.json").write_text("theirs")
                Workspace((place,)).saver(place.path)()

    with pytest.raises(Taken, match="another process works on it now"), workspace.opened(url, "work") as place:
        work(place)
    assert s3.read(f"{name}/result.json") == b"ours"


def test_the_latest_attempt_of_a_trial_writes(s3: Server, scratch: Path, name: str) -> None:
    url = s3.url(name)
    with workspace.of_trial(url, scratch / "a" / "0000") as first:
        first.folder.mkdir()
        (first.folder / "config.yaml").write_text("first")
        first.push()
        with workspace.of_trial(url, scratch / "b" / "0000") as second:
            assert (second.folder / "config.yaml").read_text() == "first"
            (second.folder / "result.json").write_text("second")
            second.push()
            (first.folder / "result.json").write_text("first")
            with pytest.raises(Taken):
                first.push()
    (scratch / "a" / "0000" / "log.jsonl").write_text("never uploaded")
    with workspace.of_trial(url, scratch / "a" / "0000") as third:
        assert (third.folder / "result.json").read_text() == "second"
        assert not (third.folder / "log.jsonl").exists()


def test_a_population_keeps_its_checkpoints_in_the_store(s3: Server, scratch: Path, name: str) -> None:
    with workspace.opened(s3.url(name), "work") as place:
        folder = place.path
        trial = folder / "trials" / "0000"  # which runs on another node
        s3.write(f"{name}/trials/0000/checkpoints/last.pt", b"at 40")
        there = Workspace((place,)).url_of(trial)
        assert not population.is_kept(trial, 40, there)
        population.keep(trial, 40, there)
        s3.write(f"{name}/trials/0000/checkpoints/last.pt", b"at 80")
        population.keep(trial, 40, there)
        assert population.is_kept(trial, 40, there)
        child = scratch / "b" / "0001"
        population.adopt(Path("not here"), 40, child, there)
        assert {p.name: p.read_bytes() for p in (child / "checkpoints").iterdir()} == {"last.pt": b"at 40"}


def test_nodes_are_asked_whether_they_see_what_others_write_at_a_url(
    s3: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.cluster.probe.CACHED", 0.1)
    probe, where = Probe(), joined(s3.url(name), ".speaq-doctor")
    probe.write_token(where, "first", "abc")
    assert probe.unseen(where, {"first": "abc"}) == []
    assert probe.unseen(where, {"first": "other", "second": "abc"}) == ["first", "second"]
    assert Store(s3.url(name)).stamps() == {}  # hidden from who lists it
    probe.remove(where, ["first", "second"])
    assert s3.names(name) == set()
    with pytest.raises((StorageLost, StoreError)):
        probe.write_token(where.replace("s3://runs/", "s3://missing/"), "first", "abc")


def test_a_job_that_is_started_again_goes_on_at_a_url(s3: Server, tmp_path: Path, name: str) -> None:
    shows = f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nshift 2; echo "$@"\n'
    (tmp_path / "python").write_text(shows)
    (tmp_path / "python").chmod(0o755)
    script, url = ROOT / "launch" / "files" / "clusters" / "again.sh", s3.url(name)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def called() -> str:
        line = [str(script), "tune", "--output", url]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert called() == f"tune --output {url}"
    s3.write(f"{name}/study.yaml", b"a study")
    assert called() == f"tune --resume {url}"


# Runs


def test_a_run_survives_its_machine_bit_for_bit(s3: Server, toy: Path, tmp_path: Path, scratch: Path) -> None:
    asked = tiny(training__max_steps=10, training__eval_every=10, training__checkpoint_every=2)
    config, url = tmp_path / "config.yaml", s3.url("killed")
    config.write_text(configs.dump(asked))
    arguments = ["train", "--config", str(config), "--data", str(toy), "--output", url]
    line = [sys.executable, "-m", "speaq.cli", *arguments]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while "checkpoints/last.pt" not in s3.names("killed"):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
        process.kill()
    assert "result.json" not in s3.names("killed")
    shutil.rmtree(scratch)
    done = command(*arguments, "--resume")
    assert done.exit_code == 0, (done.output, done.exception)
    assert url in done.stdout
    train(asked, toy, tmp_path / "undisturbed")
    with workspace.opened(url, "all") as place:
        folder = place.path
        assert_same_run(tmp_path / "undisturbed", folder)
        begun = load(folder / "checkpoints" / "previous.pt")["step"], load(folder / "checkpoints" / "last.pt")["step"]
        assert begun == (8, 10)
    best = url.replace("killed", "killed/checkpoints/best.pt")
    for where in (url, best):
        judged = command("evaluate", where, "--data", toy, "--json")
        assert judged.exit_code == 0, judged.output
        assert json.loads(judged.stdout)["step"] == 10
    assert "holds a run already" in refusal(*arguments)


def rows(s3: Server) -> list[dict[str, Any]]:
    """Of the search's ledger in the store."""
    with contextlib.suppress(FileNotFoundError):  # not yet
        return [json.loads(line) for line in s3.read("study/ledger.jsonl").splitlines()]
    return []


DRIVER = """
import sys
from pathlib import Path
from launch.jobs import tune
from launch.store import workspace
from speaq.study import creation
from tests.helpers.search_of_toy import CHEAP, LONG, make_space
with workspace.opened(sys.argv[1], "work") as place:
    asked = creation.create(LONG, make_space(objective=["F@50"]), Path(sys.argv[2]), trials=4, train=CHEAP)
    tune.start(asked, place.path, here=workspace.Workspace((place,)))
"""


@pytest.mark.cluster
def test_a_search_survives_its_machine_on_nodes_that_share_nothing(
    s3: Server, toy: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster  # noqa: TID251

    for key, value in {"PYTHONPATH": str(ROOT), "CHEAP_TRAINING_SLEEP": "0.03", "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(url_claim, "SILENT", 60.0)
    url = s3.url("study")
    own = [{"num_cpus": 1, "env_vars": {workspace.VARIABLE: str(tmp_path / node)}} for node in ("a", "b")]
    folder = tempfile.mkdtemp(prefix="speaq-", dir="/tmp")  # short: it holds sockets
    nodes = Cluster(initialize_head=True, head_node_args={**own[0], "include_dashboard": False, "temp_dir": folder})
    try:
        nodes.add_node(**own[1])
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        with subprocess.Popen([sys.executable, "-c", DRIVER, url, str(toy)], cwd=ROOT) as driver:
            while sum(row["event"] == "finished" for row in rows(s3)) < 2:
                assert driver.poll() is None
                time.sleep(0.3)
            seen = json.loads(command("status", url, "--json").stdout)
            driver.kill()
        assert seen["active"]
        shutil.rmtree(scratch)
        before = rows(s3)
        done = command("tune", "--resume", url)
        assert done.exit_code == 0, (done.output, done.exception)
        looked = json.loads(command("doctor", "--storage", url, "--min-free", "0.001", "--json").stdout)
    finally:
        nodes.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    seen_by = [(row["state"], row["outcome"]) for row in looked if row["check"] == "storage"]
    assert seen_by == [("ok", "every node reads what every node writes")] * 2
    assert all(workspace.VARIABLE in row["outcome"] for row in looked if row["check"] == "free disk")
    after = rows(s3)
    assert after[: len(before)] == before
    ended = {row["trial"] for row in before if row["event"] in ("finished", "paused")}
    assert len(ended) >= 2
    for trial in ended:
        assert sum(row.get("trial") == trial and row["event"] == "running" for row in after) == 1
    trials = [f"{number:04}" for number in range(4)]
    for trial in trials:  # who went on began where the store had been left
        starts = [int(line.split()[-1]) for line in s3.read(f"study/trials/{trial}/steps.txt").decode().splitlines()]
        steps = [r["step"] for r in before if r["event"] == "reported" and r["trial"] == trial]
        assert starts[-1] >= max(steps, default=0) or trial in ended
    both = [{path.name for path in (tmp_path / node).glob("work/*/study/trials/0*")} for node in ("a", "b")]
    assert all(both)
    assert both[0] | both[1] == set(trials)
    reads_a_search(s3, url)


def reads_a_search(s3: Server, url: str) -> None:
    """What the commands make of it that only read."""
    seen = json.loads(command("status", url, "--json").stdout)
    assert not seen["active"]
    assert len(seen["trials"]) == 4
    assert "finished at step 90" in command("logs", url, "0000").stdout
    page = command("report", url)
    assert page.stdout.strip() == url.replace("study?", "study/report.html?")
    assert s3.read("study/report.html").startswith(b"<!DOCTYPE html>")
