"""Processes that decode: with little shared memory, with none, and when they hang."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from speaq.data import LoaderDied, workers
from tests.helpers.shared import ROOT


class Packed(list[Tensor]):
    """The smallest batch that can be sent."""

    def mapped(self, function: Callable[[Any], Any]) -> Packed:
        return Packed(map(function, self))

    def pin_memory(self) -> Packed:
        return self


class Numbers(Dataset[Tensor]):
    """Sample i: a MiB of the number i."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((2**20,), index, dtype=torch.uint8)


class Hanging(Dataset[Tensor]):
    """Sample 0 is there, every other one is read from a pipe into which nobody writes."""

    def __init__(self, pipe: Path) -> None:
        self._pipe = pipe

    def __getitem__(self, index: int) -> Tensor:
        return torch.zeros(1) if index == 0 else torch.tensor(list(self._pipe.read_bytes()))


def batches(claimed: int, count: int = 20) -> Iterator[Packed]:
    """`count` batches of a MiB, which are said to be of `claimed` bytes."""
    return workers.load(Numbers(), [[i] for i in range(count)], Packed, 2, claimed, pin_memory=False)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (7,), (1, 2), (0, 4)])
def test_a_tensor_that_travels_as_an_array_keeps_its_layout(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(math.prod(shape)).reshape(shape)
    for sent in (tensor, tensor.movedim(0, -1)):
        order, array = workers._as_array(sent)
        received = workers._as_tensor((order, np.ascontiguousarray(array)))  # what a pipe makes of it
        assert torch.equal(received, sent)
        assert received.stride() == sent.stride() or not sent.numel()


def test_processes_that_hang_end_the_run_with_a_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photo.jpg")
    looks: list[None] = []
    loader = workers.load(
        Hanging(tmp_path / "photo.jpg"),
        [[0], [1]],
        Packed,
        1,
        1,
        pin_memory=False,
        waiting=lambda: looks.append(None),
        limit=2.0,
    )
    assert len(next(loader)) == 1
    with pytest.raises(LoaderDied, match=r"data\.num_workers: 1 processes .* gave no batch within 2 s; look whether"):
        next(loader)
    assert looks


def test_who_waits_for_a_batch_can_stop_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photo.jpg")

    def stop() -> None:
        raise KeyboardInterrupt

    loader = workers.load(
        Hanging(tmp_path / "photo.jpg"), [[1]], Packed, 1, 1, pin_memory=False, waiting=stop, limit=600.0
    )
    with pytest.raises(KeyboardInterrupt):
        next(loader)


def with_shared_memory(options: str, code: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code where /dev/shm is a file system of its own. Skips where that cannot be made."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare")
    mount = f"mount -t tmpfs -o {options} none /dev/shm"
    if subprocess.run([unshare, "-m", "sh", "-c", mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    script = f'{mount} && exec "$0" -c "$1"'
    code = f"import logging; logging.basicConfig()\nfrom tests.data.test_workers import batches\n{code}"
    command = [unshare, "-m", "sh", "-c", script, sys.executable, code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def test_little_shared_memory_is_not_relied_on_and_said() -> None:
    """Too little from the start, and filled by others later: 20 batches of a MiB, 4 MiB of room."""
    code = """
for claimed in (2**20, 1):
    print([int(batch[0][0]) for batch in batches(claimed)] == list(range(20)))
"""
    done = with_shared_memory("size=4m", code)
    assert done.stdout.split() == ["True", "True"], done.stderr
    said = [line for line in done.stderr.splitlines() if line]
    assert "(/dev/shm) has 4 MiB free, of 8 MiB that 4 batches of every process may take; batches go through" in said[0]
    assert "(/dev/shm) is full; batches go through pipes" in said[1]
    assert len(said) == 2


def test_shared_memory_that_cannot_be_written_is_refused_with_what_to_do() -> None:
    done = with_shared_memory("ro", "next(batches(1))")
    line = (
        "data.num_workers: no process that decodes images can be started (/dev/shm: Read-only file system); make it a "
        "folder that can be written, or set data.num_workers=0, which needs none"
    )
    assert done.stderr.strip().endswith(line)
