"""The benchmark runs and writes rows; it asserts no time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_rows_have_names_and_seconds(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    done = bench("--only", "matching_losses_b4,decoding_b8", "--repeats", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert [row["name"] for row in rows] == ["calibration", "matching_losses_b4", "decoding_b8"]
    assert all(row["seconds"] > 0 for row in rows)


def test_an_unknown_name_is_refused() -> None:
    done = bench("--only", "nothing")
    assert done.returncode == 2
    assert "no such workload: nothing" in done.stderr
