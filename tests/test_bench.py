"""The benchmark runs and writes rows; it asserts no time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.bench.__main__ import ROWS as NAMES
from tests.bench.__main__ import main
from tests.helpers.shared import ROOT


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)


# The others: scaling starts Ray clusters, which takes minutes and which test_launch does as well.
ROWS = [name for name in NAMES if not name.startswith("scaling") and not name.endswith("_gpu")]
GPU_ROWS = [name for name in NAMES if name.endswith("_gpu")]


def test_every_row_has_a_name_seconds_and_a_ratio(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    done = bench("--quick", "--threads", "1", "--only", ",".join([*ROWS, *GPU_ROWS]), "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no GPU here") == len(GPU_ROWS) * (not torch.cuda.is_available())
    rows = {row["name"]: row for row in json.loads(file.read_text())}
    assert [name for name in rows if name not in GPU_ROWS] == ROWS
    assert all(row["seconds"] > 0 and row["ratio_to_calibration"] > 0 for row in rows.values())
    assert rows["matching_losses_b20"]["relations"] == 60
    assert rows["training_step_matmuls"]["share_of_step"] > 0
    assert len(rows["step_queries"]["points"]) == 2
    kept = {name: value for name, value in rows["memory"].items() if name.startswith("activations")}
    assert kept["activations_mib_per_image_float32_checkpointing"] < kept["activations_mib_per_image_float32"]


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "nothing"])
    assert main() == 2
    assert "no such workload: nothing" in capsys.readouterr().err
