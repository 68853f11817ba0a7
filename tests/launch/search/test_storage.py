"""The search mirrored into Optuna storages: real files, a real PostgreSQL server, a real kill."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from launch.search import messages
from launch.search.messages import Failed, Finished, Report
from speaq.config import ConfigError
from speaq.study import creation
from speaq.study import file as study_record
from tests.helpers.shared import ROOT

pytest.importorskip("ray")
pytest.importorskip("optuna")

import optuna  # noqa: TID251

from launch.jobs import tune as studies
from launch.search import storage
from launch.search.mirror import Mirror
from launch.search.optuna_study import optuna_trial
from launch.search.promotions import Checkpoint
from launch.search.storage import StorageError
from speaq.study.file import Address
from speaq.study.ledger import Entry, Ledger
from speaq.study.plan import Plan
from tests.helpers import postgres
from tests.helpers.command import refusal
from tests.helpers.fake_tune import BASE, Fake, make_plan

TOGETHER = "ray"  # shares `ray_cluster`, see conftest

STATES = {"finished": "COMPLETE", "infeasible": "COMPLETE", "paused": "PRUNED", "pruned": "PRUNED", "failed": "FAIL"}
LIMIT = {"latency_ms": 50.0}


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    pytest.importorskip("psycopg")
    if postgres.program("initdb") is None:
        pytest.skip("no PostgreSQL here")
    with postgres.server() as running:
        yield running


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    if request.param == "postgresql":
        return Address(request.getfixturevalue("server").url, tmp_path.name)
    folder = tmp_path / "a {study} of 100%41 ?"  # all of it means something in URLs, or to Optuna
    folder.mkdir()
    return Address(storage.located(f"{request.param}:///storage", folder), "study")


def trials(address: Address) -> list[Any]:
    """As somebody else finds them, in the order of their numbers."""
    return list(optuna.load_study(storage=storage.connect(address), study_name=address.study).trials)


def check(address: Address, entries: list[Entry], plan: Plan) -> None:
    """The storage says of every trial what the ledger says, and has no others but those that went on after a pause."""
    every = trials(address)
    found = {trial.user_attrs["trial"]: trial for trial in every}  # the newest of each
    before = [trial for trial in every if trial not in found.values()]
    assert {trial.state.name for trial in before} <= {"PRUNED"}
    assert len(before) <= sum(entry.promotions for entry in entries)
    assert list(found) == [entry.id for entry in entries]
    for entry in entries:
        trial = found[entry.id]
        complete = entry.state in ("finished", "infeasible")
        assert trial.state.name == STATES.get(entry.state, "RUNNING")
        assert trial.params == (entry.values or {})
        assert trial.values == ([entry.metrics[name] for name in plan.objective] if complete else None)
        steps = {step: metrics["F@50"] for step, metrics in entry.reports.items()}
        assert trial.intermediate_values == (steps if len(plan.objective) == 1 else {})
        assert trial.user_attrs.get("label") == entry.label
        assert trial.user_attrs.get("reason") == entry.reason
        assert entry.metrics.items() <= trial.user_attrs.items()
        limited = complete and plan.settings.constraints
        assert trial.constraints == ({"latency_ms": (entry.cost["latency_ms"] or 0) - 50.0} if limited else {})


class Mirrored(Fake):
    """A search on paper, mirrored."""

    def __init__(self, plan: Plan, folder: Path, address: Address, checkpoint: Checkpoint = lambda trial: None) -> None:
        super().__init__(plan, folder, checkpoint)
        self.address = address
        self.mirror = Mirror(address, plan)
        self.mirror.follow(self.ledger.entries.values())
        self.search.listeners = [self.mirror]

    def end(self, name: str, value: float, latency: float) -> None:
        metrics = dict.fromkeys([*self.plan.objective, "F@50"], value)
        last = messages.report_result(Report(90, metrics, 1.0), value)
        done = Finished(metrics, 90, 90, seconds=2.0, cost={"latency_ms": latency})
        self.search.on_trial_complete(name, messages.final_result(last, done))

    def check(self) -> None:
        assert self.mirror.settle()
        check(self.address, list(self.ledger.entries.values()), self.plan)

    def close(self) -> None:
        self.mirror.close()
        self.ledger.close()


@pytest.mark.parametrize("objective", [("F@50",), ("R@50", "mR@50")], ids=["one", "two"])
def test_the_storage_follows_the_ledger_row_by_row(
    address: Address, objective: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tune = Mirrored(make_plan(trials=8, objective=objective, constraints=LIMIT), tmp_path, address)
    names = []
    for _ in range(6):
        names.append(tune.ask()[0])
        tune.check()
    tune.search.suggest("waits for a free processor")
    tune.check()
    tune.report(names[0], 10, 0.1)
    tune.check()
    tune.end(names[0], 0.5, 40.0)
    tune.check()
    tune.report(names[1], 10, 0.1)
    tune.prune(names[1], 20, 0.05)
    tune.check()
    tune.search.on_trial_complete(names[2], messages.final_result({}, Failed("ValueError: no")))
    tune.end(names[3], 0.9, 61.5)
    tune.check()
    states = [entry.state for entry in tune.ledger.entries.values()]
    assert states == ["finished", "paused", "failed", "infeasible", "running", "running", "asked"]
    tune.close()
    again = Mirrored(tune.plan, tmp_path, address)
    again.check()  # nothing is there twice
    name, _ = again.ask()
    again.report(name, 10, 0.3)
    again.end(name, 0.4, 10.0)
    again.check()
    again.close()
    assert caplog.text == ""


def five_paused(address: Address, folder: Path) -> Mirrored:
    """A mirrored search whose trials have all been paused at the first rung; 0000 deserves to go on, then 0003."""
    plan = make_plan(trials=8, grace_steps=10, reduction_factor=2.0)
    tune = Mirrored(plan, folder, address, checkpoint=lambda trial: 1)
    names = [tune.ask()[0] for _ in range(5)]
    for name, value in zip(names, (0.5, 0.4, 0.3, 0.45, 0.1), strict=True):
        tune.prune(name, 10, value)
    tune.check()
    return tune


def test_a_promotion_makes_another_trial_since_none_is_reopened(
    address: Address, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tune = five_paused(address, tmp_path)
    plan = tune.plan
    tune.mirror.close()
    tune.search.listeners = []  # the storage hears of what follows on the resume
    promoted = tune.ask()[0]
    assert tune.entry(promoted).id == "0000"
    tune.ledger.close()
    again = Mirrored(plan, tmp_path, address, checkpoint=lambda trial: 1)
    again.check()
    name, asked = again.ask()
    assert (asked["trial"], again.entry(name).attempts) == ("0000", 3)
    again.report(name, 20, 0.6)
    again.check()
    again.end(name, 0.7, 10.0)
    again.check()
    second, asked = again.ask()
    assert asked["trial"] == "0003"
    again.check()
    again.prune(second, 20, 0.2)
    again.check()
    found = [(trial.user_attrs["trial"], trial.state.name) for trial in trials(address)]
    assert found == [(f"{n:04d}", "PRUNED") for n in range(5)] + [("0000", "COMPLETE"), ("0003", "PRUNED")]
    assert [trial.user_attrs.get("promotions") for trial in trials(address)] == [None] * 5 + [1, 1]
    again.close()
    once_more = Mirrored(plan, tmp_path, address)
    once_more.check()  # nothing is there twice
    once_more.close()
    assert len(trials(address)) == 7
    assert caplog.text == ""


def test_a_promotion_by_the_driver_that_paused_makes_another_trial_too(
    address: Address, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tune = five_paused(address, tmp_path)
    name, asked = tune.ask()
    assert (asked["trial"], tune.entry(name).promotions) == ("0000", 1)
    tune.check()
    tune.end(name, 0.7, 10.0)
    tune.check()
    found = [(trial.user_attrs["trial"], trial.state.name) for trial in trials(address)]
    assert found == [(f"{n:04d}", "PRUNED") for n in range(5)] + [("0000", "COMPLETE")]
    tune.close()
    assert caplog.text == ""


def test_what_a_driver_did_not_write_comes_with_the_resume(address: Address, tmp_path: Path) -> None:
    plan = make_plan(trials=8)
    tune = Mirrored(plan, tmp_path, address)
    names = [tune.ask()[0] for _ in range(3)]
    tune.report(names[0], 10, 0.1)
    tune.finish(names[1], 0.5)
    tune.mirror.close()
    tune.search.listeners = []  # from here on only the ledger hears of it
    tune.report(names[0], 20, 0.2)
    tune.finish(names[0], 0.3)
    tune.prune(names[2], 10, 0.1)
    names.append(tune.ask()[0])
    tune.report(names[3], 10, 0.4)
    tune.ledger.close()
    known = trials(address)
    assert [trial.state.name for trial in known] == ["RUNNING", "COMPLETE", "RUNNING"]
    again = Mirrored(plan, tmp_path, address)
    again.check()
    again.close()
    assert [trial.state.name for trial in trials(address)] == ["COMPLETE", "COMPLETE", "PRUNED", "RUNNING"]


DRIVER = """
import sys, time
from pathlib import Path
from speaq.study.file import Address
from tests.helpers.fake_tune import make_plan
from tests.launch.search.test_storage import Mirrored
tune = Mirrored(make_plan(trials=500, sampler="random"), Path(sys.argv[1]), Address(sys.argv[2], "study"))
while isinstance((asked := tune.ask())[1], dict):
    for step in (10, 20, 30):
        tune.report(asked[0], step, step / 100)
    tune.finish(asked[0], 0.5)
    time.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_killed_driver_leaves_each_trial_once(scheme: str, tmp_path: Path) -> None:
    address = Address(f"{scheme}:///{tmp_path / 'storage'}", "study")
    for rows in (20, 60):
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), address.url], cwd=ROOT)
        ledger = tmp_path / "ledger.jsonl"
        while driver.poll() is None and (not ledger.exists() or ledger.read_bytes().count(b"\n") < rows):
            time.sleep(0.001)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
    entries = list(Ledger(tmp_path / "ledger.jsonl").entries.values())
    plan = make_plan(trials=500, sampler="random")
    with closing(Mirror(address, plan)) as mirror:
        mirror.follow(entries)
        assert mirror.settle()
    check(address, entries, plan)


def test_a_server_that_goes_away_does_not_stop_the_search_and_catches_up(
    server: postgres.Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tune = Mirrored(make_plan(trials=9), tmp_path, Address(server.url, tmp_path.name))
    names = [tune.ask()[0] for _ in range(2)]
    tune.check()
    server.stop()
    try:
        tune.report(names[0], 10, 0.1)
        assert not tune.mirror.settle()
        tune.finish(names[1], 0.2)
        names.append(tune.ask()[0])
        assert not tune.mirror.settle()
    finally:
        server.start()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "the search goes on" in warnings[0]
    assert "\n" not in warnings[0]
    taken = optuna_trial(tune.entry(names[2]), tune.plan)  # as if the answer to our writing of it had been lost
    optuna.load_study(storage=storage.connect(tune.address), study_name=tmp_path.name).add_trial(taken)
    tune.report(names[0], 20, 0.3)
    tune.check()
    server.stop()
    tune.finish(names[0], 0.4)
    tune.close()
    server.start()
    assert "0000" in caplog.records[-1].getMessage()
    again = Mirrored(tune.plan, tmp_path, tune.address)
    again.check()
    again.close()
    assert postgres.PASSWORD not in caplog.text
    assert "gehe" not in caplog.text


def test_a_copy_of_a_study_does_not_change_what_has_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = Address(f"sqlite:///{tmp_path / 'study.db'}", "study")
    for name, value in (("first", 0.5), ("copy", 0.7)):
        (tmp_path / name).mkdir()
        tune = Mirrored(make_plan(), tmp_path / name, address)
        for _ in range(2):
            tune.finish(tune.ask()[0], value)
        tune.close()
    assert [trial.value for trial in trials(address)] == [0.5, 0.5]
    assert [record.getMessage().partition("trial ")[2][:4] for record in caplog.records] == ["0000"]


def test_a_server_is_asked_for_its_password_and_never_shows_it(server: postgres.Server, tmp_path: Path) -> None:
    wrong = server.url.replace("gehe", "verkehrt")
    with pytest.raises(StorageError, match=r"password authentication failed") as refused:
        Mirror(Address(wrong, "study"), make_plan())
    assert "verkehrt" not in str(refused.value)
    assert "verkehrt" not in repr(Address(wrong, "study"))
    said = storage.refusal(Address(wrong, "study"), OSError("no password verkehrt/im@1 here"))
    assert str(said).endswith("(no password *** here)")


def test_a_locked_file_is_refused_at_the_start_and_waited_for_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = Address(f"sqlite:///{tmp_path / 'study.db'}", "study")
    tune = Mirrored(make_plan(), tmp_path, address)
    name, _ = tune.ask()
    tune.check()
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"study\.db: database is locked$"):
            Mirror(address, tune.plan)
        tune.report(name, 10, 0.1)
        assert not tune.mirror.settle()
    assert "database is locked; the search goes on" in caplog.text
    tune.report(name, 20, 0.2)
    tune.check()
    tune.close()


def test_a_torn_row_of_a_journal_is_dropped(tmp_path: Path) -> None:
    address = Address(f"journal:///{tmp_path / 'log'}", "study")
    tune = Mirrored(make_plan(), tmp_path, address)
    tune.ask()
    tune.close()
    with (tmp_path / "log").open("a") as file:
        file.write('{"op_code":6,"worker')
    again = Mirrored(tune.plan, tmp_path, address)
    again.ask()
    again.check()
    again.close()


def test_a_damaged_storage_may_be_made_anew(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="file is not a database; move it away, a resume writes it anew"):
        Mirror(Address(f"sqlite:///{tmp_path / 'study.db'}", "study"), make_plan())


def test_tables_of_a_newer_optuna_are_left_alone(tmp_path: Path) -> None:
    address = Address(f"sqlite:///{tmp_path / 'study.db'}", "study")
    Mirror(address, make_plan()).close()
    with closing(sqlite3.connect(tmp_path / "study.db")) as tables:
        tables.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        tables.commit()
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(StorageError, match="no longer compatible with the table schema"):
        Mirror(address, make_plan())
    assert (tmp_path / "study.db").read_bytes() == before


REFUSED = {
    "redis://host": "redis:// is none of postgresql://, mysql://, sqlite://, journal://",
    "study.db": "not a URL",
    "sqlite://": "names a file",
    "sqlite:///{folder}/no/study.db": "unable to open database file",
    "sqlite:///{folder}/text": "file is not a database",
    "journal:///{folder}/text": "is no journal of Optuna",
    "journal:///{folder}/no/log": "No such file or directory",
    "postgresql+psycopg2://u:geheim@h/d": 'psycopg2 is not installed: pip install "psycopg2-binary"',
    "mysql+mysqldb://u:geheim@h/d": 'MySQLdb is not installed: pip install "mysqlclient"',
    "postgresql+none://u:geheim@h/d": "no such driver",
    "postgresql://u:ge@heim@h/d": "percent-encoded",
    "postgresql://u:geheim@127.0.0.1:1/d": "Connection refused",
    "mysql://u:geheim@127.0.0.1:1/d": "Can't connect to MySQL server",
}


@pytest.mark.parametrize("url", REFUSED)
def test_a_storage_that_cannot_be_used_is_refused_before_anything_starts(
    url: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("a text that is no database\n" * 50)
    files = ["--config", ROOT / "configs" / "toy.yaml", "--space", ROOT / "search_spaces" / "toy.yaml", "--data", toy]
    given = ["tune", *files, "--output", tmp_path / "study", "--set", "data.num_val=6"]
    line = refusal(*given, "--storage", url.format(folder=tmp_path))
    assert REFUSED[url] in line
    assert "heim" not in line
    assert not list(tmp_path.glob("study/*"))
    monkeypatch.setenv(storage.VARIABLE, url.format(folder=tmp_path))
    assert refusal(*given) == line


def kept(output: Path, url: str | None) -> Address:
    """What study.yaml holds of the storage of a new study."""
    output.mkdir(parents=True)
    study = study_record.Study(make_plan(), output, "digest", None, {})
    studies.write(study, output, storage.choose(url, output))
    known = study_record.read(output / "study.yaml").storage
    assert known is not None
    return known


def test_a_password_is_not_kept_and_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://me:geheim@host/db?sslpassword=auch-geheim"
    known = kept(tmp_path / "study", url)
    assert known.url == "postgresql://me:***@host/db?sslpassword=***"
    assert "geheim" not in (tmp_path / "study" / "study.yaml").read_text()
    with pytest.raises(StorageError, match=r"me:\*\*\*@host/db\S*: its password is not kept"):
        storage.again(known, None, tmp_path / "study")
    assert storage.again(known, url, tmp_path / "study") == Address(url, known.study)
    monkeypatch.setenv(storage.VARIABLE, url)
    assert storage.again(known, None, tmp_path / "study") == Address(url, known.study)
    assert storage.again(known, "none", tmp_path / "study") is None


def test_a_password_on_the_command_line_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage.choose("sqlite:///plain.db", tmp_path)
    assert not caplog.records
    storage.choose("postgresql://me:geheim@host/db", tmp_path)
    assert "a URL with a password belongs into SPEAQ_STORAGE" in caplog.text
    assert "geheim" not in caplog.text


def test_a_storage_in_the_folder_is_remembered_and_moves_with_its_folder(tmp_path: Path) -> None:
    known = kept(tmp_path / "study", None)
    (tmp_path / "study").rename(tmp_path / "moved")
    found = storage.again(known, None, tmp_path / "moved")
    assert found == Address(f"sqlite:///{tmp_path / 'moved' / 'study.db'}", known.study)
    far = kept(tmp_path / "a" / "study", "mysql://me@host/db")
    with pytest.raises(StorageError, match="is not in the study's folder; give the URL again"):  # by who resumes it
        storage.again(far, None, tmp_path)
    assert storage.again(far, "mysql://me@host/db", tmp_path) == Address("mysql://me@host/db", far.study)
    assert far.study.startswith("study-")
    assert far.study != known.study  # two folders of one name in one database


def test_a_study_without_a_storage_gets_one_when_asked_and_finds_it_again(tmp_path: Path) -> None:
    plan = make_plan()
    studies.write(study_record.Study(plan, tmp_path, "digest", None, {}), tmp_path, None)
    assert study_record.read(tmp_path / "study.yaml").storage is None
    assert storage.again(None, None, tmp_path) is None
    first = storage.again(None, f"sqlite:///{tmp_path / 'late.db'}", tmp_path)
    assert first is not None
    assert storage.again(None, f"sqlite:///{tmp_path / 'late.db'}", tmp_path) == first
    tune = Fake(plan, tmp_path)
    tune.finish(tune.ask()[0])
    with closing(Mirror(first, plan)) as mirror:
        mirror.follow(tune.ledger.entries.values())
    check(first, list(tune.ledger.entries.values()), plan)


def test_the_dashboard_lists_the_trials(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    address = Address(f"sqlite:///{tmp_path / 'study.db'}", "study-of-queries")
    tune = Mirrored(make_plan(), tmp_path, address)
    names = [tune.ask()[0] for _ in range(3)]
    tune.finish(names[0], 0.5)
    tune.close()
    app = dashboard.wsgi(storage.connect(address))

    def get(path: str) -> Any:
        from wsgiref.util import setup_testing_defaults

        request = {"PATH_INFO": path}
        setup_testing_defaults(request)
        return json.loads(b"".join(app(request, lambda *answer: None)))

    (summary,) = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "study-of-queries"
    shown = get(f"/api/studies/{summary['study_id']}")["trials"]
    assert [trial["state"] for trial in shown] == ["Complete", "Running", "Running"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_with_ray_is_in_its_folders_storage_and_goes_on_in_it(toy: Path, tmp_path: Path) -> None:
    output = tmp_path / "study"
    plan = make_plan(trials=4)
    asked = creation.create(BASE, plan.space, toy, trials=4, train="tests.helpers.cheap_training:train")
    entries = studies.start(asked, output)
    written = study_record.read(output / "study.yaml")
    assert written.storage is not None
    assert written.storage.url == "sqlite:///study.db"
    found = storage.again(written.storage, None, output)
    assert found is not None
    check(found, entries, written.plan)
    entries = studies.resume(output, trials=6)
    assert len(entries) == 6
    check(found, entries, written.plan)
    with pytest.raises(ConfigError, match="none of"):
        studies.resume(output, url="redis://host")


@pytest.mark.parametrize("url", [None, "journal:///study.log"])
def test_a_folder_whose_name_is_no_utf8_is_refused_in_words(
    url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/stud\xff"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=r"stud\udcff/study\.\w+: a name in this path is no UTF-8; a search needs"):
        storage.choose(url, folder)
