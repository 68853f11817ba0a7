"""`speaq cache` on a real cluster: the features are those of one process, also where a worker is killed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from speaq.data.features import StoredSplit, read_header
from speaq.runs.cache import Maker, Part, Tell, asked, cache
from speaq.training.callbacks import no_progresses
from speaq.training.loop import train
from tests.helpers.tiny import tiny

ray = pytest.importorskip("ray")
from launch.jobs.cache import make_on_ray  # noqa: E402

TOGETHER = "ray_2"


def _workers() -> list[int]:
    """Processes of the cluster that make features."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::features"):
                found.append(int(process.name))
    return found


def test_workers_make_what_one_process_makes(ray_cluster: None, toy: Path, tmp_path: Path) -> None:
    config = tiny()
    train(tiny(training__max_steps=1), toy, tmp_path / "start", task="detector")
    cache(asked(tmp_path / "start", config, toy, tmp_path / "here"), no_progresses)
    killed = list[int]()

    def with_a_loss(maker: Maker, parts: list[Part], tell: Tell) -> None:
        def lost(number: int) -> None:
            if not killed:
                killed.extend(_workers())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
            tell(number)

        make_on_ray(maker, parts, lost)

    cache(asked(tmp_path / "start", config, toy, tmp_path / "there"), no_progresses, with_a_loss)  # type: ignore[arg-type]
    assert killed
    for name in ("train", "val"):
        here, there = (StoredSplit(tmp_path / f, read_header(tmp_path / f), name) for f in ("here", "there"))
        number = read_header(tmp_path / "here").entries[name]
        assert all(torch.equal(here.cells(entry), there.cells(entry)) for entry in range(number))
