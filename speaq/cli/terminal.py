"""The terminal's streams: what is printed, logged and shown of progress, and an output that takes nothing any more."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from speaq.cli.tables import console
from speaq.plain_text import visible
from speaq.training.callbacks import Progresses

ENDED_BARS = 8  # that stay on the screen


def log_to_stderr() -> None:
    """Shows log lines of this process on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


class _PlainFormatter(logging.Formatter):
    """Log lines whose foreign text is shown, not obeyed; tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), keep="\n\t")


class _LossyFile(io.FileIO):
    """A file descriptor that takes everything: what cannot be written is lost, and work goes on."""

    failure: OSError | None = None  # the first one

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            written = None
        return memoryview(data).nbytes if written is None else written  # None: a full pipe that must not block


def keep_printing() -> None:
    """Lets the process outlive its output: a reader that has gone, a full disk, a closed descriptor or terminal.

    Characters that the output's encoding lacks are printed as escapes.
    """
    closed = {descriptor for descriptor in range(3) if not _is_open(descriptor)}
    for _ in closed:  # else the next files would get these numbers, and what libraries print to them
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = _lossy(1, sys.stdout, 1 in closed)
    sys.stderr = _lossy(2, sys.stderr, 2 in closed)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _lossy(descriptor: int, stream: TextIO | None, is_null: bool) -> TextIO:
    """A stream that never fails on `descriptor`, or on the null device where the process began without a stream."""
    if stream is not None:
        stream.flush()
    elif not is_null:  # a file that was opened since has this number
        descriptor = os.open(os.devnull, os.O_WRONLY)
    buffer = io.BufferedWriter(_LossyFile(descriptor, "w", closefd=False))
    encoding = "utf-8" if stream is None else stream.encoding
    return io.TextIOWrapper(buffer, encoding, errors="backslashreplace", line_buffering=True)


def _failure() -> OSError | None:
    """Why standard output takes nothing any more."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _LossyFile) else None


def can_print() -> bool:
    """False once standard output has failed: whoever only prints, may stop."""
    return _failure() is None


def confess() -> None:
    """Says on stderr what has become of standard output; a reader that wanted no more is no failure."""
    sys.stdout.flush()
    error = _failure()
    if error is not None and error.errno != errno.EPIPE:
        echo(f"speaq: standard output: {error.strerror}; what was printed is lost", err=True)


def echo(text: object = "", *, err: bool = False) -> None:
    """Prints one line, whatever is in it: control characters as escapes."""
    print(visible(text, keep="\t"), file=sys.stderr if err else sys.stdout, flush=True)


def echo_lines(text: str, *, err: bool = False) -> None:
    """Prints text of several lines; names of others in it are `visible` already."""
    for line in text.split("\n"):
        echo(line, err=err)


def echo_words(text: str) -> None:
    """Prints one line on stdout; on a terminal as many as it takes, broken between words."""
    screen = console()
    if screen.is_terminal:
        lines = textwrap.wrap(visible(text), screen.width, break_long_words=False, break_on_hyphens=False)
        echo_lines("\n".join(lines))
    else:
        echo(text)


def echo_json(value: Any) -> None:
    """Prints JSON in ASCII, so that no name in it can do anything. Raises ValueError for NaN and infinity."""
    print(json.dumps(value, indent=1, allow_nan=False, default=str), flush=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar with ETA on a terminal; elsewhere a plain line every ten seconds. Both on stderr."""
    with progress_bars() as bars, bars(title) as shown:
        yield shown


@contextmanager
def progress_bars() -> Iterator[Progresses]:
    """Bars below each other, as `progress_bar` shows one: for what is done at the same time."""
    if not sys.stderr.isatty():
        yield _progress_lines
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    texts = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[text]"))
    columns = (next(texts), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), next(texts))
    with Progress(*columns, console=console(stderr=True)) as shown:

        @contextmanager
        def bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
            task = shown.add_task(visible(title), total=None, text="")
            yield lambda done, total, text: shown.update(task, completed=done, total=total, text=visible(text))
            shown.stop_task(task)
            for old in [known.id for known in shown.tasks if known.stop_time is not None][:-ENDED_BARS]:
                shown.remove_task(old)

        yield bar


@contextmanager
def _progress_lines(title: str) -> Iterator[Callable[[int, int, str], None]]:
    begin, first, shown = 0.0, -1, 0.0

    def line(done: int, total: int, text: str) -> None:
        nonlocal begin, first, shown
        now = time.monotonic()
        if first < 0:  # a resumed run starts here
            begin, first, shown = now, done, now
        if now - shown >= 10 and done > first:
            shown = now
            left = (now - begin) / (done - first) * (total - done)
            echo(f"{title} {done}/{total} · {text} · {left:.0f} s left", err=True)

    yield line
