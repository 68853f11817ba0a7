"""What all commands share: options, exit codes, progress, tables. Light, so that --help is quick."""

from __future__ import annotations

import functools
import importlib
import logging
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec
from urllib.parse import unquote

import typer

from speaq import config as configs
from speaq.data import DataError

P = ParamSpec("P")
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

ConfigFile = Annotated[Path, typer.Option("--config", help="YAML config, see configs/", dir_okay=False)]
DataDir = Annotated[Path, typer.Option("--data", help="folder with the four files of the data set")]
OutputDir = Annotated[Path, typer.Option("--output", help="folder to write")]
Assignments = Annotated[list[str], typer.Option("--set", help="key=value, any number of times", default_factory=list)]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --output")]
SplitOption = Annotated[Literal["val", "test", "train"], typer.Option("--split")]
StudyDir = Annotated[Path, typer.Argument(help="folder of a search", metavar="STUDY")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

_traceback = False


def options(traceback: Annotated[bool, typer.Option(help="show the traceback of an error")] = False) -> None:
    global _traceback
    _traceback = traceback
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turns expected errors into one line on stderr and an exit code: 1 failed, 2 usage, 130 interrupted."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        signal.signal(signal.SIGTERM, _raise_interrupt)
        try:
            with ExitStack() as stack:
                code = function(*args, **_here(kwargs, _kinds.get(function, {}), stack))
        except KeyboardInterrupt:
            _complain("interrupted", INTERRUPTED)
        except Exception as error:
            if _traceback:
                raise
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

    The command gets the path of a copy; kinds are those of `launch.copies.opened`: work, small, weights, all.
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
            path: Path = stack.enter_context(launch("copies").opened(where, kinds[name]))
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
    save: Callable[[], None] = launch("copies").saver(output)
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
    raise KeyboardInterrupt


def _complain(message: str, code: int) -> None:
    typer.echo(f"speaq: {shown(message)}", err=True)
    raise typer.Exit(code)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar with ETA on a terminal; elsewhere a plain line every ten seconds. Both on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None, text="")
            yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)
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
            typer.echo(f"{title} {done}/{total} · {text} · {left:.0f} s left", err=True)

    yield line


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False).print(table)


def launch(module: str) -> Any:
    """A module of launch/, which needs Ray and Optuna."""
    try:
        return importlib.import_module(f"launch.{module}")
    except ModuleNotFoundError as error:
        raise configs.ConfigError(f'{error.name} is not installed: pip install -e ".[ray]"') from error
