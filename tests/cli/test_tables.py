"""Tables on a terminal of 80 columns and 24 lines: what matters is there, what is not says how to see it."""

from __future__ import annotations

import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path

import pytest
from rich.console import Console

from speaq.cli import trials
from speaq.cli.after import _print_confirmation, _short_names
from speaq.cli.evaluate import print_metrics
from speaq.cli.tables import print_table
from speaq.plain_text import spell
from speaq.study import board
from speaq.study import snapshot as snapshots
from tests.helpers.command import command
from tests.helpers.searched import Search

pytest.importorskip("optuna")
COLUMNS, LINES = 80, 24
STATES = ("finished", "paused", "failed", "interrupted")


def on_terminal(*arguments: str | Path) -> list[str]:
    """The lines that a command prints on a terminal, colours taken away."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "speaq.cli", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm"},
    )
    os.close(theirs)
    printed = bytearray()
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how a terminal ends
            break
        if not part:
            break
        printed += part
    assert process.wait(600) == 0, printed
    os.close(ours)
    return plain(printed.decode()).splitlines()


def plain(text: str) -> str:
    """What a terminal shows, without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def test_the_recalls_of_a_training_are_a_table_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("R", "ngR", "mR", "F", "head", "body", "tail")
    metrics: dict[str, float | None] = {f"{name}@{k}": k / 1000 for k in (20, 50, 100) for name in names}
    print_metrics({**metrics, "zR@20": 0.5, "zR@50": None, "AP50": 0.25}, 150_000)
    header, *rows, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["step", "150000", "@20", "@50", "@100"]
    assert [row.split()[0] for row in rows] == ["R", "ngR", "zR", *names[2:]]
    assert rows[0].split() == ["R", "0.0200", "0.0500", "0.1000", "recall"]
    assert rows[2].split()[:3] == ["zR", "0.5000", "recall"]
    assert last == "AP50 0.2500"
    assert all(len(row) <= COLUMNS for row in (header, *rows))
    print_metrics({"AP": 0.5, "AP50": None}, 3)
    assert capsys.readouterr().out == "AP 0.5000\n"


def narrow(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed on a terminal of 80 columns, in this process."""
    found = io.StringIO()
    monkeypatch.setattr(found, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", found)
    for name, value in (("COLUMNS", str(COLUMNS)), ("LINES", str(LINES)), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    return found


def test_titles_and_cells_of_several_words_take_lines_where_a_screen_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = narrow(monkeypatch)
    header = ("run", "mean entropy of all", "leakage by group and more", "relation queries", "targets per image")
    rows = [("0000", "1.234567", " ".join(["12.5%"] * 9), 12, 0.5), ("x" * 30, "-", "-", 3, 0.25)]
    print_table(header, rows)
    lines = plain(screen.getvalue()).splitlines()
    assert all(len(line) <= COLUMNS for line in lines)
    said = " ".join(plain(screen.getvalue()).split())
    for word in {*" ".join(header).split(), "1.234567", "0.25"}:
        assert word in said
    assert said.count("12.5%") == 9
    assert "…" not in said
    assert said.count("x") == 30


def test_the_table_of_a_confirmation_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = narrow(monkeypatch)
    interval = {"value": 0.123, "low": 0.101, "high": 0.145}
    setting = {
        "trial": "0000",
        "label": "published",
        "search": 0.5,
        "seeds": {"3": 0.5},
        "mean": interval,
        "over_published": interval,
        "over_images_alone": True,
        "left_after_seed": 4,
        "failure": None,
    }
    _print_confirmation(
        {
            "objective": ["R@50", "mR@50"],
            "protocol": "sgdet published",
            "images": 5000,
            "trials": 40,
            "leader": "0001",
            "optimism": {"trial": "0001", "search": 0.5, "confirmed": 0.4, "value": 0.1, "interval": [0.05, 0.15]},
            "settings": [{**setting, "trial": "0001", "label": None, "failure": "diverged " * 12}, setting],
        }
    )
    lines = plain(screen.getvalue()).splitlines()
    assert all(len(line) <= COLUMNS for line in lines)
    assert lines[0].split() == ["trial", "search", "seeds", "mean", "95", "%", "over", "published"]
    assert lines[2].split()[-3:] == ["+12.3", "[10.1,", "14.5]"]
    assert "trial 0000: behind after seed 4" in lines
    assert plain(screen.getvalue()).count("diverged") == 12


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ("s/trials/0000", "s/trials/0003", ("0000", "0003")),
        ("a/run", "b/run", ("a/run", "b/run")),
        ("s", "s/trials/0003", ("s", "s/trials/0003")),
        ("s/0001", "s/0001", ("s/0001", "s/0001")),
    ],
)
def test_compared_runs_are_called_by_what_tells_them_apart(first: str, second: str, names: tuple[str, str]) -> None:
    assert _short_names(Path(first), Path(second)) == names


@pytest.fixture(scope="module", params=[("F@50",), ("R@50", "mR@50")], ids=["one", "two"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of 30 trials whose driver was killed, of one objective and of two."""
    folder = tmp_path_factory.mktemp("tables") / "study"
    search = Search(folder, 40, request.param)
    for ending in ["finished"] * 12 + ["paused"] * 9 + ["failed"] * 6 + ["running"] * 3:
        search.run(ending, "RuntimeError: no luck")
    search.ledger.close()
    return folder


def test_status_fits_the_terminal_and_says_what_it_leaves_out(study: Path) -> None:
    lines = on_terminal("status", study)
    assert sum(-(-len(line) // COLUMNS) for line in lines) <= LINES + 2  # of which the path's length takes some
    rows = [line for line in lines if re.match(r"\d{4} ", line)]
    assert max(map(len, rows)) <= COLUMNS
    best = [line.rpartition(" ")[2] for line in lines if line.startswith("best ")]
    assert all(any(row.startswith(name) for row in rows) for name in best)
    assert sum("interrupted" in row for row in rows) == 3
    assert any(line.startswith(f"{30 - len(rows)} more trials (") and line.endswith("--wide") for line in lines)
    wide = on_terminal("status", study, "--wide")
    assert len([line for line in wide if re.match(r"\d{4} ", line)]) == 30


def test_elsewhere_than_on_a_terminal_all_is_printed(study: Path) -> None:
    text = command("status", study).stdout
    assert len(re.findall(r"^\d{4} ", text, flags=re.MULTILINE)) == 30
    assert "--wide" not in text


def test_the_live_table_fits_with_a_ladder_and_decodings(study: Path) -> None:
    snapshot = replace(snapshots.read(study), active=True)
    objective = snapshot.plan.objective
    running = [
        replace(
            status, rung="features 120/360", label="point 1, promoted", eta_seconds=86400.0, decoding={"trained": {}}
        )
        for status in board.trial_statuses(snapshot)
        if status.state == "running"
    ]
    screen = Console(file=(out := io.StringIO()), width=COLUMNS, height=LINES, force_terminal=True, color_system=None)
    made, is_whole = trials.trial_table(running, objective, COLUMNS, bars=True)
    screen.print(made)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert not is_whole
    assert all("features 120/360" in line and "24 h" in line for line in lines[1:])
    assert all(name in lines[0] for name in objective)

    screen = Console(file=(out := io.StringIO()), width=COLUMNS, height=LINES, force_terminal=True, color_system=None)
    screen.print(trials.render(snapshot, COLUMNS, LINES, "12 min, about 3.1 h left"))
    lines = out.getvalue().splitlines()
    assert len(lines) <= LINES
    assert lines[0] == "━━━━━━━─── 27/40 trials 12 min, about 3.1 h left"
    assert sum("━━━─────── " in line for line in lines) == 3


def test_the_last_table_has_the_best_trials_first(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = snapshots.read(study)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("LINES", str(LINES))
    trials.print_trials(snapshot.entries, snapshot.plan, "STUDY")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert len(lines) <= LINES
    assert max(len(line) for line in lines if line[0] in " *") <= COLUMNS  # sentences may be longer than the table
    best = board.Board.of(snapshot).best
    assert best is not None
    assert lines[1].split()[:2] == ["*", best.id]
    assert {"published", "baseline"} <= set(" ".join(lines).split())
    assert any(line.endswith(" and more columns: speaq status STUDY --wide") for line in lines)


def test_the_words_for_states_are_the_same_everywhere(study: Path, tmp_path: Path) -> None:
    snapshot = snapshots.read(study)
    shown = {trial.trial: trial.state for trial in board.trial_statuses(snapshot)}
    assert set(shown.values()) == set(STATES)
    assert {row["trial"]: row["status"] for row in board.Board.of(snapshot).rows} == shown
    assert command("export", study, "--output", tmp_path / "t.csv").exit_code == 0
    text = (tmp_path / "t.csv").read_text()
    assert all(f",{state}," in text for state in STATES)
    line = board.totals_line(board.totals(board.trial_statuses(snapshot), snapshot), active=False)
    assert line.startswith("12 finished, 9 paused, 3 interrupted, 6 failed, 0 running of 40 trials")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "100 min"), (6000, "1.7 h"), (172799, "48 h"), (216000, "2.5 d")],
)
def test_times_are_said_as_people_do(seconds: float, text: str) -> None:
    assert spell(seconds) == text
