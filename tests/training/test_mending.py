"""Runs that are resumed: best.pt that is not what last.pt says, an evaluation that was broken off, what may change."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from speaq.config import ConfigError
from speaq.data import DataError
from speaq.data.loading import train_loader
from speaq.data.visual_genome import open_data
from speaq.runs.run import evaluate_run
from speaq.training import checkpoint
from speaq.training.endings import Interrupted, ending_signals
from speaq.training.loop import train
from tests.helpers.same_run import assert_same_run, timeless, weights
from tests.helpers.tiny import assignments, tiny

EACH = tiny(training__eval_every=1, training__log_every=1, training__max_steps=3, training__decay_steps=[2])


@pytest.fixture(scope="module")
def trained(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps, of which the last is the best: last.pt of step 3, previous.pt of step 2."""
    folder = tmp_path_factory.mktemp("mending") / "run"
    train(EACH, toy, folder)
    _set_best(folder, "last.pt", 3)
    checkpoint.save(folder / "checkpoints" / "best.pt", _of_step(folder, 3))
    return folder


def _of_step(folder: Path, step: int) -> dict[str, Any]:
    """What best.pt holds where this step is the best."""
    names = ("last.pt", "previous.pt")
    content = next(c for c in (checkpoint.load(folder / "checkpoints" / n) for n in names) if c["step"] == step)
    return {name: content[name] for name in ("task", "step", "model", "config", "objects", "predicates", "data_digest")}


def _set_best(folder: Path, name: str, step: int) -> None:
    content = checkpoint.load(folder / "checkpoints" / name)
    checkpoint.save(folder / "checkpoints" / name, {**content, "best": {**content["best"], "step": step}})


def _remove(file: Path) -> None:
    file.unlink()


def _damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


def _of_before(file: Path) -> None:
    """As versions left it that wrote last.pt first, and were killed."""
    checkpoint.save(file, _of_step(file.parent.parent, 2))


@pytest.mark.parametrize("harm", [_remove, _damage, _of_before])
def test_best_weights_are_made_again_from_a_checkpoint_of_their_step(
    harm: Callable[[Path], None], trained: Path, toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    harm(run / "checkpoints" / "best.pt")
    result = train(EACH, toy, run, resume=True)
    assert "best.pt did not hold step 3, the best; made again from last.pt" in caplog.text
    assert result["best"]["step"] == checkpoint.load(run / "checkpoints" / "best.pt")["step"] == 3
    ours, theirs = weights(run, "best.pt"), weights(trained, "last.pt")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_best_weights_that_are_lost_are_said_and_another_evaluation_takes_their_place(
    trained: Path, toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    _set_best(run, "last.pt", 1)
    result = train(EACH, toy, run, resume=True)
    assert (
        "weights of the best evaluation (step 1, F@50 0.0000) are lost; step 3 (0.0000) takes its place" in caplog.text
    )
    assert result["best"]["step"] == checkpoint.load(run / "checkpoints" / "best.pt")["step"] == 3
    assert result["best"]["metrics"] == result["metrics"]


def test_a_run_without_its_best_says_what_is_used_instead(
    trained: Path, toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    evaluate_run(run)
    assert not caplog.records
    (run / "checkpoints" / "best.pt").unlink()
    assert evaluate_run(run).checkpoint.name == "last.pt"
    assert "has no best.pt; last.pt of step 3 is used, which need not be its best" in caplog.text


def test_weights_under_the_name_of_a_checkpoint_are_no_run(trained: Path, toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    shutil.copy(run / "checkpoints" / "best.pt", run / "checkpoints" / "last.pt")
    with pytest.raises(ConfigError, match="its checkpoint has no optimizer: it holds weights alone"):
        train(EACH, toy, run, resume=True)


def test_a_result_of_fewer_steps_is_not_kept(trained: Path, toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)

    def die(step: int, metrics: Mapping[str, float | None], path: Path) -> None:
        if step == 4:
            raise KeyError("died")

    longer = tiny(training__eval_every=1, training__log_every=1, training__max_steps=5, training__decay_steps=[2])
    with pytest.raises(KeyError):
        train(longer, toy, run, resume=True, report=die)
    assert not (run / "result.json").exists()


def test_an_interrupt_in_an_evaluation_acts_at_once_and_the_resumed_run_evaluates(toy: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    config = tiny(data__num_workers=1, data__cache_images=False)
    with pytest.raises(Interrupted, match=r"interrupted at step 3; .* can be resumed"):
        train(
            config,
            toy,
            tmp_path / "run",
            progress=lambda done, total, text: asked.append(text),
            interrupted=lambda: any(text.startswith("evaluating") for text in asked),
        )
    last = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert (last["step"], last["evaluated"], last["best"]) == (3, 0, {})
    train(config, toy, tmp_path / "run", resume=True)
    train(config, toy, tmp_path / "undisturbed")
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_a_broken_photo_costs_no_step(toy: Path, tmp_path: Path) -> None:
    data, config = tmp_path / "data", tiny(training__eval_every=6)
    shutil.copytree(toy, data)
    split = open_data(data).split("train", config.data)
    batches = train_loader(split, config)
    seen = [next(batches).indices for _ in range(6)]
    row, step = next((row, k) for k in range(2, 6) for row in seen[k] if not any(row in seen[i] for i in range(k)))
    photo = split.image_path(row)
    shutil.copy2(photo, tmp_path / "whole.jpg")
    photo.write_bytes(photo.read_bytes()[:100])
    with pytest.raises(DataError, match=photo.name):
        train(config, data, tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == step
    shutil.copy2(tmp_path / "whole.jpg", photo)
    train(config, data, tmp_path / "run", resume=True, force=True)  # the photo has changed
    train(config, data, tmp_path / "undisturbed")
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_what_is_to_come_may_change_and_what_was_used_may_not(trained: Path, toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    more: dict[str, Any] = {"training__eval_every": 2, "training__log_every": 1, "training__max_steps": 5}
    result = train(tiny(**more, training__decay_steps=[2, 4]), toy, run, resume=True)
    assert result["step"] == 5
    lines = {line["step"]: line for line in timeless(run) if "train/loss" in line}
    assert lines[5]["train/learning_rate"] == pytest.approx(lines[4]["train/learning_rate"] * 0.1)
    assert [line["step"] for line in timeless(run) if "val/R@50" in line] == [1, 2, 3, 4, 5]
    for other in ({"training__decay_steps": [1, 4]}, {"training__decay_steps": [2, 4], "training__decay_factor": 0.5}):
        with pytest.raises(ConfigError, match="cannot resume with another config"):
            train(tiny(**more, **other), toy, run, resume=True)


def test_a_factor_that_was_not_used_may_change(toy: Path, tmp_path: Path) -> None:
    train(tiny(training__max_steps=1, training__decay_steps=[5]), toy, tmp_path / "run")
    later = tiny(training__max_steps=3, training__decay_steps=[2], training__decay_factor=0.5)
    result = train(later, toy, tmp_path / "run", resume=True)
    assert (result["status"], result["step"]) == ("finished", 3)


def test_a_signal_that_is_ignored_ends_nothing() -> None:
    """As `nohup` does."""
    assert signal.SIGHUP in ending_signals()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ending_signals() == [signal.SIGINT, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_file_that_cannot_be_written_is_named_with_what_to_do(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "speaq.cli", "train", "--config", str(tmp_path / "config.yaml")]
    command += ["--data", str(toy), "--output", str(run), *assignments(training__max_steps=1)]
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
    limited = [sys.executable, "-c", limit + "os.execv(sys.argv[1], sys.argv[1:])", *command]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1] == (
        f"speaq: {run}/checkpoints/last.pt: cannot be used (File too large); the file system, or ulimit -f, allows no "
        "file so large; then --resume begins again: there is no checkpoint yet"
    )
