"""Commands that write beside what they read: on a full disk they say which file, in one line, and lose nothing."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speaq.study import seal
from tests.helpers.shared import EARLIER, ROOT


def on_full_disk(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that can write 4 bytes into a file, which is what Python needs to find a temporary folder."""
    line = [sys.executable, "-m", "speaq.cli", *words]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))  # noqa: E731
    paths = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder.parent)}
    return subprocess.run(line, cwd=folder, env=paths, capture_output=True, text=True, check=False, preexec_fn=limit)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (("unseal", "study", "--reason", "paper"), "study/test_looks.jsonl"),
        (("report", "study"), "study/report.html"),
        (("export", "study", "table.csv"), "table.csv"),
        (("doctor", "study"), "study/.claim"),
    ],
)
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, words: tuple[str, ...], file: str) -> None:
    shutil.copytree(EARLIER / "study", tmp_path / "study")
    before = {path: path.read_bytes() for path in (tmp_path / "study").rglob("*") if path.is_file()}
    done = on_full_disk(tmp_path, *words)
    (line,) = [line for line in done.stderr.splitlines() if "font_manager" not in line]  # of matplotlib
    assert done.returncode in (1, 2)
    assert line.startswith(f"speaq: {file}: cannot be ")
    assert {path: path.read_bytes() for path in before} == before
    assert seal.rows(tmp_path / "study") == []


def test_half_a_look_at_the_test_split_is_none(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "study", tmp_path / "study")
    (tmp_path / "study" / seal.FILE).write_text('{"time": "2026')
    assert seal.rows(tmp_path / "study") == []
    seal.unseal(tmp_path / "study", "paper")
    assert [row["reason"] for row in seal.rows(tmp_path / "study")] == ["paper"]
