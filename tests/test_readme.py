"""Every command of the README and of docs/walk.md is run: as it stands, but on less data and for fewer steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.command import command, speaq
from tests.helpers.readme import commands, commands_of
from tests.helpers.shared import ROOT
from tests.helpers.tiny import TINY

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest

# What makes a command short without changing what it does.
SHORT = {
    key: TINY[key]
    for key in (
        "data.num_val",
        "training.max_steps",
        "training.eval_every",
        "training.decay_steps",
        "training.num_threads",
    )
}
# Run elsewhere: make by CI and by the demo test below, the rest in the tests named.
ELSEWHERE = {
    "make demo": "here",
    "make test": "CI",
    "ray job submit": "test_jobs",
    "speaq data convert": "test_coco",
    "speaq explore": "test_explore",
    "speaq microscope": "test_microscope",
    "speaq export-model": "test_export_model",
    "speaq benchmark": "test_export_model",
    "speaq doctor": "test_doctor",
}


def shortened(line: str, folder: Path) -> list[str]:
    names = (
        "DATA",
        "RUN",
        "DETECTOR",
        "STUDY",
        "PICTURES",
        "CURVE",
        "QUERIES",
        "PREDICTIONS.h5",
        "OTHER.h5",
        "TRIALS.csv",
    )
    words = [str(folder / word) if word.partition("/")[0] in names else word for word in line.split()]
    words = [word.replace("=DETECTOR", f"={folder / 'DETECTOR'}") for word in words]
    words = [str(ROOT / word) if word.startswith(("configs/", "search_spaces/")) else word for word in words]
    words = ["60" if before == "--images" else word for before, word in zip(["", *words], words, strict=False)]
    if words[1] in ("pretrain", "train", "tune") and not {"--resume", "--from-predictions"} & {*words}:
        words += [part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")]
    return words[1:]


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert len(text.split()) < 1000


def test_every_command_of_the_readme_is_covered() -> None:
    assert len(commands_of("README.md")) > 5
    assert len(commands_of("docs/walk.md")) > 15
    for line in commands():
        assert line.startswith(".venv/bin/speaq ") or any(known in line for known in ELSEWHERE), line


@pytest.mark.slow
@pytest.mark.timeout(2700)
@pytest.mark.usefixtures("ray_cluster")
def test_the_commands_of_the_readme_work_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in commands():
        if not any(known in line for known in ELSEWHERE):
            done = command(*shortened(line, tmp_path))
            assert done.exit_code == 0, (line, done.output, done.exception)


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_the_demo_goes_all_the_way_and_repeats_nothing(tmp_path: Path) -> None:
    sets = [part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")]
    arguments = ["demo", "--output", str(tmp_path / "demo"), "--images", "100", *sets]
    first = speaq(*arguments, timeout=2400)
    assert first.returncode == 0, (first.stdout, first.stderr)
    assert re.search(r"on the \d+ images of the test split", first.stdout)
    for name in ("untrained", "baseline", "published", "best"):
        assert name in first.stdout
    ledger = (tmp_path / "demo" / "search" / "ledger.jsonl").read_bytes()
    again = command(*arguments)
    assert again.exit_code == 0, again.output
    assert (tmp_path / "demo" / "search" / "ledger.jsonl").read_bytes() == ledger
