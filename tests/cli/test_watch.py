"""`speaq status --watch`: a search that goes on beside it, on a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import pytest
from rich.console import Console

from speaq.cli import watch
from speaq.cli.help import with_pause
from speaq.study import snapshot as snapshots
from tests.helpers.command import command, refusal
from tests.helpers.searched import Search, searched

pytest.importorskip("optuna")
COLUMNS, LINES = 80, 24
PATIENCE = 600.0  # seconds


@contextmanager
def watching(study: Path, output: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    words = [sys.executable, "-m", "speaq.cli", "status", str(study), "--watch", "0.5"]
    with subprocess.Popen(words, stdin=output, stdout=output, stderr=subprocess.PIPE, env=environment) as process:
        os.close(output)
        yield process


class Output:
    """What a command has printed so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self.text = descriptor, ""

    def until(self, text: str | None) -> None:
        """Reads until a text has come, or to the end."""
        while text is None or text not in self.text:
            try:
                part = os.read(self._descriptor, 1 << 16)
            except OSError:  # how a terminal ends
                part = b""
            if not part:
                assert text is None, (text, self.text)
                return
            self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part.decode()).replace("\r", "\n")


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """A search of four trials: two have finished, one runs. Its driver is this process."""
    made = Search(tmp_path / "study", 4)
    for ending in ("finished", "finished", "running"):
        made.run(ending)
    return made


def on_terminal() -> tuple[int, int]:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    return ours, theirs


def test_a_terminal_is_drawn_again_until_the_search_ends(search: Search, tmp_path: Path) -> None:
    ours, theirs = on_terminal()
    output = Output(ours)
    with watching(tmp_path / "study", theirs) as process:
        output.until("2/4 trials")
        assert "Ctrl-C ends" in output.text
        search.run("failed", "too large")
        output.until("3/4 trials")
        search.ledger.close()
        output.until("no search is running")
        output.until(None)
        assert process.wait(PATIENCE) == 0
    assert "trial 0003 failed: too large" in output.text
    assert "interrupted" in output.text
    assert all(len(line) <= COLUMNS for line in output.text.splitlines())


def test_ctrl_c_ends_it_and_the_last_view_stays(search: Search, tmp_path: Path) -> None:
    ours, theirs = on_terminal()
    output = Output(ours)
    with watching(tmp_path / "study", theirs) as process:
        output.until("a search is running")
        process.send_signal(signal.SIGINT)
        output.until(None)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    search.ledger.close()


def test_a_pipe_gets_a_line_for_each_end(search: Search, tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    output = Output(ours)
    with watching(tmp_path / "study", theirs) as process:
        output.until("a search is running")
        before = output.text
        search.run("finished")
        output.until("0003 finished")
        search.ledger.close()
        output.until(None)
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    ended, last = output.text.removeprefix(before).strip().splitlines()
    assert ended.startswith("0003 finished · step 90/90 · F@50 ")
    assert last.startswith("3 finished, ")
    assert last.endswith("no search is running")


@pytest.mark.parametrize("finished", [3, 60])
@pytest.mark.parametrize("objective", [("F@50",), ("R@50", "mR@50")])
def test_a_view_fits_80_columns_and_24_lines(tmp_path: Path, finished: int, objective: tuple[str, ...]) -> None:
    snapshot = snapshots.read(searched(tmp_path / "study", objective, finished))
    screen = Console(width=COLUMNS, height=LINES, record=True, file=Path(os.devnull).open("w"))  # noqa: SIM115
    screen.print(watch.view(snapshot, COLUMNS, LINES, 2.0))
    lines = screen.export_text().splitlines()
    assert len(lines) <= LINES - 1
    assert all(len(line) <= COLUMNS for line in lines)
    assert lines[0].endswith(f"{finished + 2}/{finished + 2} trials")
    assert any(line.startswith("0000") for line in lines)


def test_a_search_that_has_ended_is_shown_once(tmp_path: Path) -> None:
    study = searched(tmp_path / "study", finished=3)
    assert command("status", study, "--watch").stdout == command("status", study).stdout


def test_seconds_may_be_left_out() -> None:
    assert with_pause(["S", "--watch"]) == ["S", "--watch", "2"]
    assert with_pause(["--watch", "S"]) == ["--watch", "2", "S"]
    assert with_pause(["--watch", "10", "S"]) == ["--watch", "10", "S"]
    assert with_pause(["--watch=10", "S"]) == ["--watch=10", "S"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--watch", "0"), "'--watch'"),
        (("--watch", "100000"), "'--watch'"),
        (("--watch", "--json"), "--watch 2: cannot be had with --json"),
        (("--watch", "5", "--wide"), "--watch 5: cannot be had with --wide"),
    ],
)
def test_what_cannot_be_watched_is_refused(tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    assert text in refusal("status", searched(tmp_path / "study", finished=1), *words)
