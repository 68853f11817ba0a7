"""What all commands share: options, exit codes, progress, tables. Light, so that --help is quick."""

from __future__ import annotations

import errno
import functools
import importlib
import io
import json
import logging
import os
import re
import signal
import sys
import time
import traceback as tracebacks
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TextIO
from urllib.parse import unquote

import typer

from speaq import config as configs
from speaq.data import DataError
from speaq.files import storage
from speaq.plain_text import visible
from speaq.training.endings import count_hang_up_once, ending_signals

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

P = ParamSpec("P")
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

ConfigFile = Annotated[Path, typer.Option("--config", help="YAML config, see configs/", dir_okay=False)]
DataDir = Annotated[Path, typer.Option("--data", help="folder with the four files of the data set")]
RunData = Annotated[
    Path | None, typer.Option("--data", help="folder with the four files of the data set; --resume finds it again")
]
OutputDir = Annotated[Path, typer.Option("--output", help="folder to write")]
Assignments = Annotated[list[str], typer.Option("--set", help="key=value, any number of times", default_factory=list)]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --output")]
Force = Annotated[bool, typer.Option("--force", help="with --resume: go on where the data set has changed since")]
InitFrom = Annotated[
    Path | None,
    typer.Option("--init-from", help="run or file whose weights to start from; of a run or search: where they are now"),
]
SplitOption = Annotated[Literal["val", "test", "train"], typer.Option("--split")]
StudyDir = Annotated[Path, typer.Argument(help="folder of a search", metavar="STUDY")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

_traceback = False


def options(traceback: Annotated[bool, typer.Option(help="show the traceback of an error")] = False) -> None:
    global _traceback
    _traceback = traceback
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


def echo_json(value: Any) -> None:
    """Prints JSON in ASCII, so that no name in it can do anything. Raises ValueError for NaN and infinity."""
    print(json.dumps(value, indent=1, allow_nan=False, default=str), flush=True)


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turns expected errors into one line on stderr and an exit code: 1 failed, 2 usage, 130 interrupted."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        for number in ending_signals():
            if number != signal.SIGINT:  # which does so already
                signal.signal(number, _raise_interrupt)
        try:
            with ExitStack() as stack:
                code = function(*args, **_here(kwargs, _kinds.get(function, {}), stack))
        except KeyboardInterrupt:
            _complain("interrupted", INTERRUPTED)
        except Exception as error:
            if _traceback:
                echo_lines(visible(tracebacks.format_exc().rstrip(), keep="\n"), err=True)
            if (said := storage.line(error)) is not None:
                _complain(said, FAILED)
            text = " ".join(str(error).split())
            if isinstance(error, configs.ConfigError | DataError):
                _complain(text, USAGE)
            if type(error).__name__ == "Interrupted":
                _complain(text, INTERRUPTED)
            _complain(
                text if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {text}", FAILED
            )
        else:
            raise typer.Exit(code or DONE)

    return wrapper


def at_urls(**kinds: str) -> Callable[[Callable[P, int | None]], Callable[P, int | None]]:
    """Which arguments of a command may be URLs of an object store, and how it uses what lies there.

    The command gets the path of a copy; kinds are those of `launch.store.workspace.opened`: work, small, weights, all.
    """

    def mark(function: Callable[P, int | None]) -> Callable[P, int | None]:
        _kinds[function] = kinds
        return function

    return mark


_kinds: dict[object, Mapping[str, str]] = {}
_urls: dict[str, str] = {}  # path of a copy → URL, in this process


def _here(arguments: Mapping[str, Any], kinds: Mapping[str, str], stack: ExitStack) -> dict[str, Any]:
    """The arguments with paths of this machine where URLs were given. Raises ConfigError, naming the argument."""

    def local(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [local(name, one) for one in value]
        if not isinstance(value, Path):
            return value
        where = place(str(value))
        if isinstance(where, Path):
            return where
        if name not in kinds:
            scheme = where.partition(":")[0]
            raise configs.ConfigError(
                f"{name}: {scheme}:// is no path; give that of a file system which every node mounts (NFS, EFS, "
                "Filestore; for data alone also a bucket by mount-s3 or gcsfuse)"
            )
        try:
            path: Path = stack.enter_context(launch("store.workspace").opened(where, kinds[name]))
        except configs.ConfigError as error:
            raise configs.ConfigError(f"{name}: {error}") from error
        _urls[str(path)] = where
        return path

    return {name: local(name, value) for name, value in arguments.items()}


def place(text: str) -> Path | str:
    """The path of a folder, given as such or as a file:// URL, or any other URL."""
    found = re.match(r"([A-Za-z][\w+.-]+):/+", text)
    if found is None:
        return Path(text)
    rest = text[found.end() :]  # a Path has lost one of two slashes
    return Path("/" + unquote(rest)) if found[1] == "file" else f"{found[1]}://{rest}"


def saver(output: Path) -> Callable[[], None]:
    """What a run in `output` calls after each checkpoint: at a URL, it is uploaded."""
    if str(output) not in _urls:
        return lambda: None
    save: Callable[[], None] = launch("store.workspace").saver(output)
    return save


def shown(text: object) -> str:
    """As people know it: URLs instead of the paths of their copies."""
    result = str(text)
    for path, url in _urls.items():
        base, mark, query = url.partition("?")
        found = re.escape(path) + r"((?:/[\w.-]+)*)"
        result = re.sub(found, lambda m, b=base, q=mark + query: f"{b}{m[1]}{q}", result)  # type: ignore[misc]
    return result


def _raise_interrupt(number: int, frame: object) -> None:
    count_hang_up_once(number)
    raise KeyboardInterrupt


def _complain(message: str, code: int) -> None:
    echo(f"speaq: {shown(message)}", err=True)
    raise typer.Exit(code)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar with ETA on a terminal; elsewhere a plain line every ten seconds. Both on stderr."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        texts = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[text]"))
        columns = (next(texts), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), next(texts))
        with Progress(*columns, console=console(stderr=True)) as bar:
            task = bar.add_task(visible(title), total=None, text="")
            yield lambda done, total, text: bar.update(task, completed=done, total=total, text=visible(text))
        return
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


def console(*, stderr: bool = False) -> Console:
    """Where tables and live displays go; it finds no markup, emoji codes or numbers in what is printed."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, numbers: Container[str] = (), best: int = -1
) -> Table:
    """A table of plain text: every cell is shown as it is.

    Args:
        left: so many first columns stand left, the others right.
        numbers: where given, columns of these titles stand right and no others.
        best: row in bold.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False)
    for position, title in enumerate(header):
        right = title in numbers if numbers else position >= left
        made.add_column(Text(visible(title)), justify="right" if right else "left")
    for position, row in enumerate(rows):
        made.add_row(*(Text(visible(cell)) for cell in row), style="bold" if position == best else None)
    return made


def show(content: RenderableType) -> None:
    """Prints a table on stdout; as wide as it is where that is no terminal, so that nothing is cut or wrapped."""
    from rich.measure import Measurement

    out = console()
    if not out.is_terminal:
        out.width = max(1, Measurement.get(out, out.options.update(max_width=1 << 16), content).maximum)
    out.print(content)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, its first column left, the others right."""
    show(table(header, rows))


def launch(module: str) -> Any:
    """A module of launch/, which needs Ray and Optuna."""
    try:
        return importlib.import_module(f"launch.{module}")
    except ModuleNotFoundError as error:
        raise configs.ConfigError(f'{error.name} is not installed: pip install -e ".[ray]"') from error
