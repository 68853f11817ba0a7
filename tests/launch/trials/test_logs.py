"""What trials log, and how `speaq logs` shows it; searches and metrics on a real cluster are in test_jobs."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("optuna")


from launch.store.workspace import Workspace
from launch.trials.logs import log_to
from launch.trials.telemetry import STATES, trials_by_state
from speaq.cli import search
from speaq.study.ledger import Entry, Ledger
from speaq.study.logs import LOG, WORKER_LOG
from tests.helpers.command import command
from tests.helpers.fuzz_inputs import TARGETS


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A search whose trial 0002 is running, without a driver."""
    (tmp_path / "study").mkdir()
    TARGETS["ledger"](tmp_path / "study")
    return tmp_path / "study"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_row_says_when_where_and_what(tmp_path: Path) -> None:
    path = tmp_path / "trials" / "0004" / LOG
    (tmp_path / "trials").mkdir()
    other = logging.getLogger("elsewhere")
    with log_to(path) as steps:
        logging.getLogger("speaq.data").warning("odd %s\nand more", "sizes")
        steps(7, 10, "loss 1")
        logging.getLogger("launch.trials.trial").info("evaluated")
        other.warning("not ours")
    logging.getLogger("speaq.data").warning("afterwards")
    first, second = rows(path)
    assert list(first) == ["time", "level", "trial", "step", "message"]
    assert (first["level"], first["trial"], first["step"]) == ("WARNING", "0004", None)
    assert (first["message"], second["message"], second["step"]) == ("odd sizes\nand more", "evaluated", 7)
    assert first["time"] <= second["time"]
    assert first["time"].endswith("+00:00")


def test_a_failure_leaves_its_traceback_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "0001" / LOG

    def failing() -> None:
        with log_to(path) as steps:
            steps(3, 10, "")
            raise RuntimeError("two\nlines")

    with pytest.raises(RuntimeError, match="two"):
        failing()
    (row,) = rows(path)
    assert (row["level"], row["step"], row["message"]) == ("ERROR", 3, "two lines")
    assert row["traceback"].splitlines()[-2:] == ["RuntimeError: two", "lines"]
    assert "in failing" in row["traceback"]


def test_rows_of_trial_and_worker_are_shown_in_their_order(study: Path) -> None:
    folder = study / "trials" / "0002"
    said = [("2026-01-01T00:00:02+00:00", "second"), ("2026-01-01T00:00:04+00:00", "fourth \x1b[2J")]
    lines = [json.dumps({"time": moment, "level": "INFO", "step": 1, "message": text}) for moment, text in said]
    (folder / LOG).write_text("\n".join(lines) + '\n{"time": "2026-01-01T00:00:05')  # torn
    worker = {"time": "2026-01-01T00:00:03+00:00", "level": "ERROR", "message": "third", "traceback": "a\n  b"}
    (folder / WORKER_LOG).write_text(json.dumps(worker) + "\n")
    shown = command("logs", study, "0002").stdout.splitlines()
    assert [line.partition(" ")[2].partition(" ")[2] for line in shown if line.startswith("20")] == [
        "INFO step 1 second",
        "ERROR third",
        r"INFO step 1 fourth \x1b[2J",
    ]
    assert shown[2:4] == ["a", "  b"]
    assert command("logs", study, "0001").stderr == "trial 0001 (failed) has logged nothing yet\n"


def test_what_workers_said_of_a_training_from_features_is_told(study: Path) -> None:
    place = study / "trials" / "0002" / "features" / WORKER_LOG
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"time": "2026-01-01T00:00:03+00:00", "level": "ERROR", "message": "broken"}) + "\n")
    assert "ERROR broken" in command("logs", study, "0002").stdout


def test_following_ends_with_the_trial(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "POLL", 0.02)
    path = study / "trials" / "0002" / LOG
    ledger = Ledger(study / "ledger.jsonl")  # a driver is at work
    follower = threading.Thread(target=search.logs, args=(Workspace(), study, "0002"), kwargs={"follow": True})
    with log_to(path):
        logging.getLogger("speaq").info("one")
        follower.start()
        time.sleep(0.3)
        assert follower.is_alive()
        logging.getLogger("speaq").info("two")
        ledger.append("failed", "0002", reason="why")
        follower.join(60)
    assert not follower.is_alive()
    ledger.close()
    assert [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()] == ["one", "two"]


def test_trials_are_counted_by_state() -> None:
    entries = [Entry(str(n), "", None, None, {}, state=state) for n, state in enumerate(("asked", "running", "failed"))]
    counts = trials_by_state(entries, 5)
    assert list(counts) == list(STATES)
    assert counts == {"waiting": 3, "running": 1, "failed": 1, "finished": 0, "paused": 0, "pruned": 0, "infeasible": 0}
    assert trials_by_state(entries, 2)["waiting"] == 1
