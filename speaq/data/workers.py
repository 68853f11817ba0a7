"""Processes that decode images: how they send batches, and how long a batch is waited for.

A batch travels in shared memory. Where there is too little of it (a container has 64 MiB unless it is told otherwise),
or none can be used, its values go through the pipe between the processes instead: slower, and always possible.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from speaq.config import ConfigError
from speaq.data import DataError, LoaderDied
from speaq.plain_text import is_new

log = logging.getLogger(__name__)

AHEAD = 4  # batches that each process is ahead
LOOK = 1.0  # seconds between looks whether to wait on
LIMIT = 300.0  # seconds without a batch after which a run ends
SHARED_MEMORY = Path("/dev/shm")  # where Linux has it
MIB = 2**20


class Sendable(Protocol):
    """A batch that a process makes of samples: few tensors, since each takes a file descriptor until it is used."""

    def mapped(self, function: Callable[[Any], Any]) -> Self:
        """The same with what `function` makes of each tensor."""

    def pin_memory(self) -> Sendable:
        """The same with its large tensors in pinned memory."""


S = TypeVar("S", bound=Sendable)
Pack = Callable[[list[Any]], S]


@dataclass(frozen=True)
class _Piped(Generic[S]):
    """A batch with arrays in the place of its tensors, which PyTorch sends through shared memory alone."""

    content: S

    def unpack(self) -> S:
        return self.content.mapped(_as_tensor)

    def pin_memory(self) -> Sendable:
        return self.unpack().pin_memory()


@dataclass(frozen=True)
class _Sender(Generic[S]):
    """Called in a process that decodes."""

    pack: Pack[S]
    shared: bool

    def __call__(self, samples: list[Any]) -> S | _Piped[S]:
        packed = self.pack(samples)
        if self.shared:
            try:
                return packed.mapped(Tensor.share_memory_)
            except RuntimeError:  # others have filled it; later, in the queue, this would be lost without a word
                pass
        return _Piped(packed.mapped(_as_array))


def _as_array(tensor: Tensor) -> tuple[list[int], NDArray[Any]]:
    """The order of the dimensions in memory, and the values in that order: an array that is sent loses its strides."""
    order = sorted(range(tensor.dim()), key=lambda dimension: -tensor.stride()[dimension])
    return order, tensor.permute(order).numpy()


def _as_tensor(sent: tuple[list[int], NDArray[Any]]) -> Tensor:
    order, array = sent
    return torch.from_numpy(array).permute(np.argsort(order).tolist())


def load(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    pack: Pack[S],
    num_workers: int,
    batch_bytes: int,
    *,
    pin_memory: bool,
    waiting: Callable[[], None] = lambda: None,
    limit: float = LIMIT,
) -> Iterator[S]:
    """What `pack` makes of the samples of each batch, in order, from `num_workers` processes.

    Args:
        batch_bytes: what a batch may take at most.
        waiting: called every `LOOK` seconds in which there is no batch; may raise.
        limit: seconds without a batch.

    Raises:
        DataError: a photo cannot be read.
        ConfigError: no processes can be started here.
        LoaderDied: one was killed, or they gave nothing within `limit`.
    """
    reason = _why_not_shared(num_workers * AHEAD * batch_bytes)
    if reason is not None:
        _say_piped(reason)
    _check_queues()
    loader = _started(dataset, batches, _Sender(pack, reason is None), num_workers, pin_memory)
    while True:
        try:
            received = _next(loader, num_workers, waiting, limit)
        except StopIteration:
            return
        if isinstance(received, _Piped):
            if reason is None:
                _say_piped("is full")
            received = received.unpack()
        yield received


def _check_queues() -> None:
    """Raises ConfigError where processes cannot have queues between them, whatever travels in these."""
    try:
        multiprocessing.Lock()
    except OSError as error:
        raise ConfigError(
            f"data.num_workers: no process that decodes images can be started ({SHARED_MEMORY}: {error.strerror}); "
            "make it a folder that can be written, or set data.num_workers=0, which needs none"
        ) from error


def _started(
    dataset: Dataset[Any], batches: Iterable[list[Any]], sender: _Sender[Any], num_workers: int, pin_memory: bool
) -> Iterator[Any]:
    """The processes' batches, without PyTorch's handler that raises in the middle of a step when a process dies.

    That one died is noticed where a batch is waited for.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=sender,
        pin_memory=pin_memory,
        prefetch_factor=AHEAD,
        worker_init_fn=_leave_signals_to_the_main_process,
        timeout=LOOK,
        generator=torch.Generator(),  # else it draws from dropout's, and a resumed run's first step differs
    )
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and a closed terminal reach all processes; the main one saves first, and still needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _next(loader: Iterator[S | _Piped[S]], num_workers: int, waiting: Callable[[], None], limit: float) -> Any:
    end = time.monotonic() + limit
    while True:
        try:
            return next(loader)
        except DataError as error:  # the loader puts the whole traceback of the process into the message
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None
        except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: of a batch that lay ready
            if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader "):
                raise
            if not str(error).startswith("DataLoader timed out"):
                raise LoaderDied(
                    f"data.num_workers: one of {num_workers} processes that decode images was killed (too little "
                    "memory?)"
                ) from error
        waiting()
        if time.monotonic() > end:
            raise LoaderDied(
                f"data.num_workers: {num_workers} processes that decode images gave no batch within {limit:.0f} s; "
                "look whether the photos can be read (a file system that hangs?), or set data.num_workers=0"
            )


def _why_not_shared(need: int) -> str | None:
    """Why batches of `need` bytes in all cannot travel in shared memory; None where they can."""
    try:
        with Listener(family="AF_UNIX"):  # by such a socket a batch's file descriptor is fetched
            pass
    except OSError as error:
        return f"cannot be used: no socket can be made in {_temporary()} ({error.strerror or error})"
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:  # another system, with shared memory elsewhere
        return None
    free = status.f_bavail * status.f_frsize
    if need <= free:
        return None
    return f"has {free // MIB} MiB free, of {-(-need // MIB)} MiB that {AHEAD} batches of every process may take"


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "any temporary folder (set TMPDIR)"


def _say_piped(reason: str) -> None:
    if is_new(f"shared memory {reason.partition(' ')[0]}"):  # the loaders of a run are many
        log.warning(
            "data.num_workers: shared memory (%s) %s; batches go through pipes, which is slower. More of it: "
            "docker run --shm-size=8g, or an emptyDir of medium Memory on Kubernetes",
            SHARED_MEMORY,
            reason,
        )
