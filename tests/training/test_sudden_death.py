"""A run that dies at any one of its writes is resumed to what it would have been: weights, result, metrics, reports."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from speaq.config import Config
from speaq.files.atomic import MARK
from speaq.training import checkpoint
from speaq.training.loop import train
from tests.helpers.same_run import timeless
from tests.helpers.tiny import tiny

pytestmark = pytest.mark.slow

Way = Literal["killed", "full disk"]
KILLED, FULL, DONE = 9, 28, 0  # exit codes
SHORT: dict[str, Any] = {"training__eval_every": 1, "training__log_every": 1, "training__decay_steps": [2]}
FEW: dict[str, Any] = {"data__num_val": 2, "training__batch_size": 2}
ONE, TWO = (tiny(training__max_steps=steps, **SHORT, **FEW) for steps in (1, 2))


class Death:
    """Counts the writes of this process below a folder, by Python's audit events, and at one of them ends it.

    A full disk stays full: no file can be written from that write on, but files can be renamed and removed.
    """

    def __init__(self, folder: Path, at: int, way: Way) -> None:
        self._folder, self._at, self._way = f"{folder}/", at, way
        self.count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        written = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not written and (self._way == "full disk" or event not in ("os.rename", "os.remove")):
            return
        path, unfinished = str(arguments[0]), MARK in str(arguments[0])
        if not path.startswith(self._folder) or (unfinished and (event == "os.remove" or arguments[1] is None)):
            return  # a file that is made empty and then written, or that has its place already: nothing lies between
        self.count += 1
        if self.count == self._at and self._way == "killed":
            os._exit(KILLED)
        if 0 < self._at <= self.count and self._way == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run(config: Config, toy: Path, folder: Path) -> None:
    """What reports.jsonl gets stands for the ledger of a search."""

    def report(step: int, metrics: Mapping[str, float | None], path: Path) -> None:
        with (folder / "reports.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "metrics": dict(metrics)}) + "\n")

    train(config, toy, folder, report=report, resume=True)


def dying(config: Config, toy: Path, folder: Path, at: int, way: Way) -> tuple[int | None, int]:
    """(exit code, writes) of a process that trains and ends at a write; 0: at none."""
    fork = multiprocessing.get_context("fork")
    count = fork.Value("i", 0)

    def main() -> None:
        death = Death(folder, at, way)
        sys.addaudithook(death)
        try:
            run(config, toy, folder)
        except OSError as error:
            os._exit(FULL if error.errno == errno.ENOSPC else 1)
        count.value = death.count

    process = fork.Process(target=main)
    process.start()
    process.join(300)
    return process.exitcode, count.value


@pytest.fixture(scope="module")
def begun(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step whose best is worse than anything that follows: best.pt will be written again."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    run(ONE, toy, folder)
    for name in ("best.pt", "last.pt"):
        content = checkpoint.load(folder / "checkpoints" / name)
        checkpoint.save(folder / "checkpoints" / name, {**content, "best": {**content["best"], "value": -1.0}})
    return folder


def everything(folder: Path) -> dict[str, Any]:
    """What a run leaves, without what depends on the clock."""
    files = {name: checkpoint.load(folder / "checkpoints" / f"{name}.pt") for name in ("best", "last")}
    result = json.loads((folder / "result.json").read_text())
    reports = [json.loads(line) for line in (folder / "reports.jsonl").read_text().splitlines()]
    return {
        "best": result["best"],
        "end": (result["status"], result["step"], result["metrics"]),
        "steps": {name: (content["step"], content["best"]) for name, content in files.items()},
        "metrics": timeless(folder),
        "reports": {report["step"]: report["metrics"] for report in reports},
        "files": sorted(path.name for path in folder.rglob("*")),
        **{f"{name} {key}": value for name, content in files.items() for key, value in content["model"].items()},
    }


def assert_same(found: Mapping[str, Any], wanted: Mapping[str, Any], when: str) -> None:
    assert found.keys() == wanted.keys(), when
    for name, value in wanted.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, f"{when}: {name}"


def from_start(start: Path | None, folder: Path) -> Path:
    if start is not None:
        shutil.copytree(start, folder)
    return folder


@pytest.mark.parametrize(("config", "way"), [(ONE, "killed"), (TWO, "killed"), (TWO, "full disk")])
def test_a_death_at_any_write_is_mended(config: Config, way: Way, begun: Path, toy: Path, tmp_path: Path) -> None:
    start = begun if config is TWO else None
    code, writes = dying(config, toy, from_start(start, tmp_path / "undisturbed"), 0, way)
    wanted = everything(tmp_path / "undisturbed")
    assert (code, wanted["best"]["step"]) == (DONE, 2 if start else 1)
    assert writes > 5
    for at in range(1, writes + 1):
        folder = from_start(start, tmp_path / str(at))
        assert dying(config, toy, folder, at, way)[0] == (KILLED if way == "killed" else FULL), at
        run(config, toy, folder)
        assert_same(everything(folder), wanted, f"write {at} of {writes}")
        shutil.rmtree(folder)
