"""What is printed: foreign text is shown and not obeyed, and an output that takes nothing ends no work."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command

from speaq.cli import help as helps
from speaq.cli import trials
from speaq.cli.main import app
from speaq.cli.tables import console, print_table
from speaq.cli.terminal import echo, echo_lines, progress_bar
from speaq.data.visual_genome import open_data
from speaq.plain_text import visible
from speaq.runs.run import evaluate_run
from speaq.study import snapshot as snapshots
from speaq.training.loop import train
from tests.helpers.calls import SOURCES, calls
from tests.helpers.command import command
from tests.helpers.shared import ROOT
from tests.helpers.tiny import assignments, tiny

ODD = "next [to] [/x] :dog: \x1b[31m\x07\r\x9b2J\u202enrut\n\u2028$x$ on"
PRINTS_A_NUMBER = ("all_reduce.py",)  # a process of its own
SHOWN = r"next [to] [/x] :dog: \x1b[31m\x07\r\x9b2J\u202enrut\n\u2028$x$ on"


def test_foreign_text_is_one_line_of_visible_characters() -> None:
    assert visible(ODD) == SHOWN
    assert visible(Path("a\udcff.jpg")) == r"a\udcff.jpg"  # a name that is no UTF-8
    for untouched in (
        "球 盒子",
        "\u0643\u0631\u0629",
        "\u0645\u06cc\u200c\u062e\u0648",
        "👩\u200d🚀",
        "\u3000",
        "[/x]",
        "",
    ):
        assert visible(untouched) == untouched
    assert visible("a\tb\n", keep="\t") == "a\tb\\n"


def test_lines_and_tables_show_foreign_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    echo(ODD)
    print_table((ODD, "b"), [(ODD, "[red]1"), ("x" * 300, "2")])
    echo_lines(f"{visible(ODD)}\nsecond")
    shown = capsys.readouterr().out
    assert shown.count(SHOWN) == 4
    assert "[red]1" in shown
    assert "x" * 300 in shown  # neither cut nor wrapped, as no terminal limits it
    assert not set(shown) & set("\x1b\x07\r\x9b\u202e\u2028")


def test_a_progress_bar_of_a_terminal_shows_foreign_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "250")
    with progress_bar("[b]predicting") as progress:
        progress(1, 2, ODD)
    assert SHOWN in terminal.getvalue()
    assert "[b]predicting" in terminal.getvalue()
    assert "\x07" not in terminal.getvalue()


def test_every_line_passes_through_the_terminal_module() -> None:
    """Other ways to print would have to care for control characters, encodings and markup themselves."""
    ways = ("typer.echo", "click.echo", "print", "Console", "sys.stdout.write", "sys.stderr.write")
    elsewhere = [
        (path.name, call)
        for path in SOURCES
        for function, call in calls(path)
        if function in ways and path.name not in ("terminal.py", "tables.py", *PRINTS_A_NUMBER)
    ]
    assert elsewhere == []


def test_log_lines_show_foreign_text() -> None:
    code = (
        "import logging; from speaq.cli.terminal import log_to_stderr; log_to_stderr();"
        f"logging.getLogger('speaq').warning('%s', {ODD!r})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert SHOWN.replace(r"\n", "\n") in said.stderr
    assert "\x1b" not in said.stderr


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A study whose ledger somebody else wrote: odd labels and reasons."""
    pytest.importorskip("optuna")
    from tests.helpers.fuzz_inputs import TARGETS

    study = tmp_path / "study"
    study.mkdir()
    TARGETS["ledger"](study)
    rows = [json.loads(line) for line in (study / "ledger.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {key: ODD for key in ("label", "reason") if row.get(key)}
    (study / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return study


def test_a_ledger_of_others_drives_no_terminal(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = command("status", hostile)
    assert shown.exit_code == 0
    assert shown.stdout.count(SHOWN) >= 3  # in the table, as the best, as a reason
    snapshot = snapshots.read(hostile)
    trials.print_trials(snapshot.entries, snapshot.plan)
    terminal = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    terminal.print(trials.render(snapshot))
    lines = trials.Lines(lambda: snapshot, console(stderr=True))
    failed = next(entry for entry in snapshot.entries if entry.state == "failed")
    lines(failed, "failed")
    texts = (shown.stdout, *capsys.readouterr(), terminal.file.getvalue())  # type: ignore[attr-defined]
    for text in texts:
        assert SHOWN in text
        assert not set(text) & set("\x1b\x07\r\x9b\u202e\u2028")


def test_a_page_shows_foreign_text_in_its_order() -> None:
    pytest.importorskip("plotly")
    from launch.report import html

    page = html.table([ODD], [[ODD]]) + html.text(ODD)
    assert page.count(r"\u202enrut") == 3
    assert "\u202e" not in page


def started(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "speaq.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=900, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_can_be_printed(encoding: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = started("config", "show", tmp_path / "球 é", capture_output=True, env=environment)
    assert done.returncode == 2
    lines = done.stderr.decode(encoding).splitlines()
    assert len(lines) == 1
    assert {"ascii": r"\u7403 \xe9", "latin-1": r"\u7403 é", "utf-8": "球 é"}[encoding] in lines[0]


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    reading, writing = os.pipe()
    os.close(reading)
    for stream in ("stdout", "stderr"):
        other = {"stdout": "stderr", "stderr": "stdout"}[stream]
        done = started("config", "show", tmp_path / "config.yaml", **{stream: writing, other: subprocess.PIPE})
        assert done.returncode == 0
        assert not done.stderr
    done = started("config", "show", tmp_path / "none.yaml", stdout=writing, stderr=writing)
    assert done.returncode == 2  # of the work, not of the printing
    os.close(writing)


NAMES = [(name, known) for _, name, known in helps.listed(get_command(app))]
TALKATIVE = [(name, known) for name, known in NAMES if any(p.name == "as_json" for p in known.params)]
OTHER_ENDINGS = {"confirm": 2}  # its study's data set is not here


def into_nothing(*words: str | Path) -> tuple[int, str]:
    """The exit code and the errors of a command whose reader has gone, as `| head` goes."""
    reading, writing = os.pipe()
    os.close(reading)
    done = started(*words, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    return done.returncode, done.stderr.decode()


@pytest.fixture(scope="module")
def given(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str | Path]]:
    """What to give a command for each of its parameters that it cannot do without."""
    folder = tmp_path_factory.mktemp("given")
    config = tiny(training__max_steps=1, training__eval_every=1, training__decay_steps=(), training__decay_factor=1.0)
    train(config, toy, folder / "run")
    evaluate_run(folder / "run", "test", predictions=folder / "test.h5")
    split = open_data(toy).split("val", config.data)
    study = ROOT / "tests" / "earlier" / "study"
    run = folder / "run"
    return {
        **{name: [run] for name in ("run", "runs", "first", "second", "models")},
        "study": [study],
        "trial": ["0002"],
        "image": [split.image_id(0)],
        "predictions": [folder / "test.h5"],
        "data": [toy],
        "file": [run / "config.yaml"],
        "seeds": ["3..4"],
    }


@pytest.mark.parametrize(("name", "known"), TALKATIVE, ids=[name for name, _ in TALKATIVE])
def test_every_command_that_prints_much_ends_quietly_when_its_reader_does(
    name: str, known: Any, given: dict[str, list[str | Path]], tmp_path: Path
) -> None:
    words: list[str | Path] = list(name.split())
    for parameter in known.params:
        if parameter.required:
            options = parameter.opts[:1] if parameter.param_type_name == "option" else []
            words += [*options, *given[parameter.name]]
    if name == "export-model":
        words += ["--output", tmp_path / "model.onnx"]
    code, said = into_nothing(*words)
    assert code == OTHER_ENDINGS.get(name, 0), said
    for trace in ("Traceback", "Exception ignored", "Broken pipe", "BrokenPipe"):
        assert trace not in said


def test_help_ends_quietly_when_its_reader_does() -> None:
    assert into_nothing("--help") == (0, "")


def without_output(*arguments: str | Path, redirect: str) -> int:
    """The exit code of a command whose output a shell has redirected."""
    shell = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-m", "speaq.cli", *map(str, arguments)]
    return subprocess.run(shell, check=False, timeout=900).returncode


@pytest.mark.parametrize("redirect", [">/dev/full 2>/dev/full", "<&- >&- 2>&-", None], ids=["full", "closed", "gone"])
def test_a_training_outlives_its_output(redirect: str | None, toy: Path, tmp_path: Path) -> None:
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text("")
    steps = assignments(training__max_steps=2, training__eval_every=2, training__decay_steps="[1]")
    arguments = ("pretrain", "--config", config, "--data", toy, "--output", run, *steps)
    if redirect is None:  # a pipe that nobody reads
        reading, writing = os.pipe()
        os.close(reading)
        code = started(*arguments, stdout=writing, stderr=writing).returncode
        os.close(writing)
    else:
        code = without_output(*arguments, redirect=redirect)
    assert code == 0
    assert json.loads((run / "result.json").read_text())["step"] == 2


def test_what_a_full_disk_swallows_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with open("/dev/full", "wb") as full:
        done = started("config", "show", tmp_path / "config.yaml", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stderr.decode() == ("speaq: standard output: No space left on device; what was printed is lost\n")


def test_files_get_no_number_of_a_closed_output(tmp_path: Path) -> None:
    """Whatever a library prints to descriptor 2 would else end in the first file that is opened."""
    code = (
        "import os, sys; from speaq.cli.terminal import keep_printing; keep_printing();"
        f"file = open({str(tmp_path / 'file')!r}, 'w'); os.write(1, b'x'); os.write(2, b'x'); print('x');"
        "sys.exit(file.fileno() < 3)"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", code], check=False, timeout=300
    )
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_a_terminal_that_goes_away_ends_no_work() -> None:
    code = (
        "import sys; from speaq.cli.terminal import echo, keep_printing, progress_bar; keep_printing();"
        "sys.stdin.readline()\nwith progress_bar('working') as progress: progress(1, 2, '')\n"
        "echo('x'); echo('x', err=True); open(sys.argv[1], 'w').write('done')"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, os.devnull], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.close(ours)
    process.communicate(b"\n", timeout=300)
    assert process.returncode == 0
