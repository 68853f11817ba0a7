"""The fuzzer itself, a few inputs for every reader, and what it once found. Minutes of it: python -m tests.fuzz."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.shared import ROOT

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.trials.code import training_function
from speaq.config import ConfigError
from tests.fuzz import verdict
from tests.helpers.fuzz_inputs import TARGETS, Target

INPUTS = 12
FEWER = {"report": 2}  # a page takes a second


@pytest.mark.parametrize("name", TARGETS)
def test_changed_files_are_taken_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    target = TARGETS[name](tmp_path / "input")
    target.write(target.valid())
    assert verdict(target, tmp_path / "input") is None
    for number in range(FEWER.get(name, INPUTS)):
        target.write(target.changed(random.Random(number)))
        assert verdict(target, tmp_path / "input") is None, number


# What the fuzzer found before it was refused: (reader, changes of one row or of the whole file).
ROWS: list[dict[str, Any]] = [
    {"event": "asked"},  # twice
    {"trial": "../../x"},
    {"step": {}},
    {"seconds": {}},
    {"seconds": "1"},
    {"metrics": 3},
    {"metrics": {"R@50": "x"}},
    {"event": "finished", "trial": "0001"},  # ended before
    {"seconds": 1e308},
    {"seconds": -1.0},  # a budget in device hours would never end
    {"seconds": 1e11},
    {"time": -1},
    {"time": 1e12},  # no date
    {"clock": 1e11},
    {"step": -1},
]


@pytest.mark.parametrize("change", ROWS, ids=map(str, ROWS))
def test_odd_rows_of_a_ledger_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    target = TARGETS["ledger"](tmp_path)
    row = {"event": "reported", "trial": "0002", "time": 1e9, "step": 4, "metrics": {}, "seconds": 1.0}
    assert _reading(target, tmp_path, target.valid() + json.dumps(row).encode() + b"\n") is None
    wrong = target.valid() + json.dumps({**row, **change}).encode() + b"\n"
    assert "not a row of a ledger" in str(_reading(target, tmp_path, wrong))


@pytest.mark.parametrize("line", [b"[]", b"3", b"null", b"[" * 100_000, b'{"event": []}', b"\xff"])
def test_lines_that_are_no_rows_are_refused(line: bytes, tmp_path: Path) -> None:
    target = TARGETS["ledger"](tmp_path)
    assert "not a row of a ledger" in str(_reading(target, tmp_path, target.valid() + line + b"\n"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("trials: 4", "trials: x", "trials"),
        ("objective: [R@50]", "objective: []", "objective"),
    ],
)
def test_odd_studies_are_refused(old: str, new: str, reason: str, tmp_path: Path) -> None:
    target = TARGETS["study-yaml"](tmp_path)
    text = target.valid().decode()
    assert old in text
    assert reason in str(_reading(target, tmp_path, text.replace(old, new).encode()))


@pytest.mark.parametrize("path", ["os:system", "tests.x:y.z", "speaq:train", "speaq.config.config", "", "x\nspeaq.a:b"])
def test_a_study_names_no_code_but_ours(path: str) -> None:
    with pytest.raises(ConfigError, match="no training function of speaq"):
        training_function(path)


def _reading(target: Target, folder: Path, content: bytes) -> Exception | None:
    """The error of ours with which a reader ends."""
    target.write(content)
    assert verdict(target, folder) is None
    try:
        target.read(folder)
    except ValueError as error:
        return error
    return None


def _target(folder: Path, read: Any) -> Target:
    return Target(folder / "file", [b"x"], read, ())


def test_the_fuzzer_sees_what_must_not_happen(tmp_path: Path) -> None:
    def raises(folder: Path) -> None:
        raise KeyError("x")

    def two_lines(folder: Path) -> None:
        raise ConfigError("a\nb")

    def memory(folder: Path) -> None:
        raise ValueError("refused") from MemoryError()

    def endless(folder: Path) -> None:
        while True:
            pass

    assert str(verdict(_target(tmp_path, raises), tmp_path)).startswith("KeyError at test_fuzz.py:raises")
    assert "several lines" in str(verdict(_target(tmp_path, two_lines), tmp_path))
    assert "bytes" in str(verdict(_target(tmp_path, memory), tmp_path))
    assert "takes more than 0.2 s" in str(verdict(_target(tmp_path, endless), tmp_path, seconds=0.2))


WATCHED = """
import os, sys
from pathlib import Path
from tests.fuzz import Watch
watch = Watch(Path(sys.argv[1]))
open(os.devnull).close()
assert watch.seen == [], watch.seen
os.system("true")
open(sys.argv[1] + "/secret", "w").close()
print(len(watch.seen))
"""


def test_the_fuzzer_sees_programs_and_files_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "2", done.stderr


def test_the_program_reads_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "1", "--only", "yaml-config", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    name, _, rest = done.stdout.partition(": ")
    assert name == "yaml-config"
    assert int(rest.split()[0]) > 0
    assert rest.endswith("0 findings\n")
