"""Checkpoints are atomic, verified, and never execute what they hold."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speaq.data.tables import is_name
from speaq.training import checkpoint
from speaq.training.checkpoint import CheckpointError

CONTENT = {"task": "speaq", "model": {"w": torch.arange(4000.0)}, "config": {"seed": 1}, "step": 3}


def test_round_trip_and_previous(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    checkpoint.save_step(tmp_path, CONTENT)
    checkpoint.save_step(tmp_path, {**CONTENT, "step": 4})
    assert checkpoint.load(last)["step"] == 4
    assert checkpoint.load(tmp_path / "previous.pt")["step"] == 3
    assert torch.equal(checkpoint.load(last)["model"]["w"], CONTENT["model"]["w"])  # type: ignore[index]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


def test_names_that_a_data_set_may_have_are_read_again(tmp_path: Path) -> None:
    """A Persian word and an emoji, whose parts are joined by letters that Python calls unprintable."""
    names = ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f469\u200d\U0001f467"]
    assert all(map(is_name, names))
    checkpoint.save_step(tmp_path, {**CONTENT, "objects": names, "predicates": names})
    assert checkpoint.load(tmp_path / "last.pt")["objects"] == names


@pytest.mark.parametrize("position", [0.3, 0.5, 0.7])
def test_a_flipped_byte_falls_back_to_the_previous_one_with_a_warning(
    position: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (3, 4):
        checkpoint.save_step(tmp_path, {**CONTENT, "step": step})
    data = bytearray((tmp_path / "last.pt").read_bytes())
    data[int(len(data) * position)] ^= 0xFF
    (tmp_path / "last.pt").write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        content = checkpoint.load_latest(tmp_path)
    assert content is not None
    assert content["step"] == 3
    assert "falling back to" in caplog.text
    # The damaged one never takes the place of the good one before it.
    checkpoint.save_step(tmp_path, {**CONTENT, "step": 5})
    assert [checkpoint.load(tmp_path / name)["step"] for name in ("last.pt", "previous.pt")] == [5, 3]


def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "previous.pt", CONTENT)
    (tmp_path / "last.pt").mkdir()  # an error of the file system, for root too
    with pytest.raises(IsADirectoryError):
        checkpoint.load_latest(tmp_path)
    assert (tmp_path / "last.pt").exists()


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", CONTENT)
    (tmp_path / ".last.pt.123.tmp").write_bytes(b"half")
    checkpoint.tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", CONTENT)
    code = """
import resource, signal, sys, torch
from pathlib import Path
from speaq.training import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    content = {"model": {"w": torch.zeros(100_000)}, "config": {}}
    checkpoint.save_step(Path(sys.argv[1]), content)
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "File too large"
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 3


def test_a_torn_file_without_a_previous_one_is_an_error(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", CONTENT)
    data = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.load_latest(tmp_path)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path) is None


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


def test_foreign_pickles_are_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"model": Evil(), "config": {}}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"model": Evil()}))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path / name)


def test_other_content_and_other_formats_are_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of speaq"):
        checkpoint.load(tmp_path / "other.pt")
    torch.save({**CONTENT, "format": 99}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(tmp_path / "new.pt")


def test_find_prefers_the_best_and_takes_files_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in this run folder"):
        checkpoint.find(tmp_path)
    folder = tmp_path / "checkpoints"
    for name in ("last.pt", "best.pt"):
        checkpoint.save(folder / name, CONTENT)
    assert checkpoint.find(tmp_path) == folder / "best.pt"
    assert checkpoint.find(folder / "last.pt") == folder / "last.pt"
