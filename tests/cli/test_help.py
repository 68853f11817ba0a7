"""What --help prints of every command, how older spellings are understood, and what a shell completes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main

from speaq.cli import help as helps
from speaq.cli.commands import merged
from speaq.cli.main import COMMANDS, CONFIG, DATA, app
from tests.helpers.command import command, refusal

ROOT: Any = typer.main.get_command(app)
LISTED = [(name, known) for _, name, known in helps.listed(ROOT)]
NAMES = [name for name, _ in LISTED]
MADE = [*(made for panel in COMMANDS.values() for made in panel), *DATA, *CONFIG]
WORDS = {"--data": "DATA", "--config": "CONFIG", "--space": "SPACE", "--run": "RUN", "--study": "STUDY"}


def help_of(name: str, option: str = "--help") -> str:
    done = command(*name.split(), option)
    assert done.exit_code == 0, done.output
    return done.stdout


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """What a command line means, not run."""
    known, rest = ROOT, list(words)
    while hasattr(known, "commands"):
        known = known.commands[rest.pop(0)]
    found: dict[str, Any] = known.make_context("speaq", rest).params
    return found


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
@pytest.mark.parametrize("name", ["", "data", "config", *NAMES])
def test_help_fits_the_terminal_and_cuts_nothing(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = help_of(name).splitlines()
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    for sign in ("…", "<class", "<path>", "list[", "factory", "None"):
        assert sign not in text
    if columns == 200:
        assert max(map(len, lines)) <= helps.WIDEST


@pytest.mark.parametrize(("name", "known"), LISTED, ids=NAMES)
def test_help_explains_everything_and_marks_what_is_required(name: str, known: Any) -> None:
    context = known.make_context(f"speaq {name}", [], resilient_parsing=True)
    usage = help_of(name).split("\n\n")[0]
    arguments, options = helps.rows(known, context)
    assert [row for row in (*arguments, *options) if not row[1]] == []
    for parameter in known.params:
        if helps.is_written(parameter) and helps.is_needed(known, parameter):
            assert "[required" in parameter.help, parameter.name
            assert helps.name_of(parameter).split()[0] in usage
    firsts = [("[required" in meaning) for _, meaning in options]
    assert firsts == sorted(firsts, reverse=True)


def test_the_first_page_has_every_command_with_its_whole_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = " ".join(help_of("").split())
    for name, known in LISTED:
        assert f"{name} {helps.summary(known.help)}" in text
        assert helps.summary(known.help)[-1] in ".?"
    titles = [line[:-1] for line in help_of("").splitlines() if line.endswith(":")]
    assert titles == [
        "Start",
        "Data",
        "Train",
        "Look",
        "Search",
        "After a search",
        "Cluster",
        "Elsewhere",
        "Options",
    ]


@pytest.mark.parametrize(("name", "known"), LISTED, ids=NAMES)
def test_examples_are_in_the_help_and_can_be_typed(name: str, known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert known.examples
    shown = help_of(name).split("Examples:")[1]
    assert [shlex.split(line) for line in shown.replace("\\\n", "").splitlines() if line] == [
        shlex.split(example) for example in known.examples
    ]
    for example in known.examples:
        program, *words = shlex.split(example)
        assert program == "speaq"
        assert example.startswith(f"speaq {name}")
        parsed(words)


def test_what_is_said_to_be_next_can_be_typed() -> None:
    for made in MADE:
        known = next(known for _, known in LISTED if known.examples == made.examples)
        names = {parameter.name: parameter.name.upper() for parameter in known.params}
        for line in made.then:
            assert parsed(shlex.split(line.format_map(names))[1:])


def test_one_word_stands_for_one_thing() -> None:
    for name, known in LISTED:
        for parameter in known.params:
            if helps.is_written(parameter) and parameter.param_type_name == "option":
                option = parameter.opts[0]
                assert parameter.metavar == WORDS.get(option, parameter.metavar), (name, option)
                assert len([one for one in parameter.opts if one.startswith("--")]) == 1


@pytest.mark.parametrize(
    ("older", "now"),
    [
        ("export S o.csv", "export S --output o.csv"),
        ("export-model R a.onnx b.pt2", "export-model R --output a.onnx --output b.pt2"),
        ("data convert a.json D --images p", "data convert a.json --output D --images p"),
        ("convert p.pth R", "convert p.pth --output R"),
        ("predict p.jpg --checkpoint R --output O", "predict p.jpg --run R --output O"),
        ("doctor --storage s", "doctor --output s"),
        ("reproduce --output O --checkpoint R", "reproduce --output O --run R"),
    ],
)
def test_older_spellings_mean_the_same(older: str, now: str) -> None:
    name = next(name for name in NAMES if older.startswith(f"{name} "))
    made = next(made for made in MADE if made.examples == dict(LISTED)[name].examples)
    values = [merged(parsed(line.split()), made.older, ()) for line in (older, now)]
    assert values[0] == values[1]


def test_what_is_given_twice_or_not_at_all_is_refused(tmp_path: Path) -> None:
    assert "missing --output" in refusal("export", tmp_path)
    line = refusal("export", tmp_path, "a.csv", "--output", "b.csv")
    assert line == "speaq: --output b.csv: a.csv is given already; give it once"


def test_resume_takes_the_folder_of_output_where_it_has_none() -> None:
    for name in ("train", "pretrain", "tune"):
        for words in (
            ("--output", "R", "--resume"),
            ("--resume", "--output", "R"),
            ("--output=R", "--resume"),
            ("--resume", "R"),
        ):
            found = parsed((name, *words))
            assert (found["resume"], found["output"]) == (Path("R"), None)
    assert "--resume" in refusal("train", "--resume")
    assert "--output O: --resume R says" in refusal("train", "--output", "O", "--resume", "R")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "x"), "speaq predict: Missing option '--output'"),
        (("tune", "--nothing"), "speaq tune: No such option: --nothing"),
        (("tun",), "speaq: No such command 'tun'. Did you mean 'tune'?"),
        (("data", "make"), "speaq data make: Missing argument 'DATA'"),
        (("evaluate", "R", "--split", "none"), "speaq evaluate: Invalid value for '--split'"),
    ],
)
def test_what_is_typed_wrongly_is_said_in_one_line(words: tuple[str, ...], said: str) -> None:
    line = refusal(*words)
    assert line.startswith(said)
    assert line.endswith("--help")


def test_short_help_and_version() -> None:
    for name in ("", "data", "tune"):
        assert help_of(name, "-h") == help_of(name)
    words = command("--version").stdout.split()
    assert [words[0], words[3], words[6]] == ["speaq", "torch", "python"]


def test_a_shell_completes_commands_options_and_values() -> None:
    def completed(*words: str) -> list[str]:
        environment = os.environ | {"_SPEAQ_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
        environment["COMP_CWORD"] = str(len(words) - 1)
        code = "import sys; sys.argv = ['speaq']; from speaq.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        return done.stdout.split()

    assert completed("speaq", "tu") == ["tune"]
    assert completed("speaq", "data", "ch") == ["check"]
    assert completed("speaq", "tune", "--fo") == ["--force"]
    assert completed("speaq", "evaluate", "R", "--split", "v") == ["val"]


def test_a_terminal_shows_something_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    words = {"evaluate": ["run"], "predict": ["x.jpg", "--run", "run", "--output", "o"], "doctor": []}
    code = (
        "import sys\n"
        "class Heavy:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'ray'): print('imports', flush=True)\n"
        "sys.meta_path.insert(0, Heavy())\n"
        "sys.stderr.isatty = lambda: True\n"
        "from speaq.cli.main import app\napp()"
    )
    for name, rest in words.items():
        done = subprocess.run(
            [sys.executable, "-c", code, name, *rest],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"RAY_ADDRESS": "none:1"},
            timeout=300,
        )
        loaded = "Ray" if name == "doctor" else "PyTorch"
        assert done.stdout.splitlines()[:2] == [f"speaq {name}: loading {loaded}", "imports"]
