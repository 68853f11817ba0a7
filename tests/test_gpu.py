"""`python -m tests.gpu --dry`: every stage does its work and writes what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.plan import STAGES, Settings, missing, remedy
from tests.gpu.record import Record
from tests.helpers.shared import ROOT

PARTS = [[stage.name for stage in STAGES[first::4]] for first in range(4)]
MAY_BE_SKIPPED = {"golden"}  # without the reference's numbers


@pytest.mark.parametrize("names", PARTS, ids=lambda names: names[0])
def test_every_stage_writes_what_it_found(names: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", "--dry", "--minutes", "25", "--output", str(tmp_path)]
    done = subprocess.run([*command, "--only", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["stages"]
    assert [stage["name"] for stage in found] == [stage.name for stage in STAGES if stage.name in names]
    for stage in found:
        allowed = ("ok", "skipped") if stage["name"] in MAY_BE_SKIPPED else ("ok",)
        assert stage["status"] in allowed, (stage, done.stderr[-2000:])
        assert stage["rows"] or stage["status"] == "skipped", stage
        assert stage["name"] in done.stdout
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["gpu.json"]


def test_no_time_at_all_is_told_for_every_stage(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", "--dry", "--minutes", "0", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["stages"]
    assert {stage["status"] for stage in found} == {"not run"}
    assert len(found) == len(STAGES)


def test_missing_packages_are_named_with_their_version() -> None:
    found = missing({"no_such_module": "pydantic", "json": "json"})
    assert len(found) == 1
    assert found[0].startswith("pydantic==")
    assert found[0] in remedy(found, "3.12")


def test_a_record_is_on_disk_at_once(tmp_path: Path) -> None:
    record = Record(tmp_path, dry=True)
    record.begin("card")
    record.row({"row": "host", "cores": 2})
    assert json.loads((tmp_path / "gpu.json").read_text())["stages"][0]["status"] == "unfinished"
    record.end("failed", "no card", 1.0)
    assert not record.good
    assert "host: cores 2" in record.table()


def test_stages_take_settings() -> None:
    assert Settings(Path(), None, dry=True).device == "cpu"
    assert all(callable(stage.load()) for stage in STAGES)
