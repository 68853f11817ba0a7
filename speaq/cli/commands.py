"""How a function becomes a command: URLs become folders of this machine, errors one line and an exit code."""

from __future__ import annotations

import inspect
import shlex
import signal
import sys
import traceback as tracebacks
from collections.abc import Callable, Container, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, get_args, get_type_hints

import typer

from speaq.cli import folders
from speaq.cli.help import WORDS, SpeaqCommand, described, full_name
from speaq.cli.launched import Opened, Workspace, workspace
from speaq.cli.terminal import can_print, echo, echo_lines
from speaq.config import ConfigError
from speaq.data import DataError
from speaq.files import storage
from speaq.files.urls import place
from speaq.plain_text import visible
from speaq.training.endings import (
    DONE,
    FAILED,
    INTERRUPTED,
    USAGE,
    Interrupted,
    count_hang_up_once,
    ending_signals,
)

# Of a module that is not installed: the extra of this package that brings it.
EXTRAS = {
    **dict.fromkeys(("ray", "optuna", "cmaes", "plotly", "pyarrow", "sqlalchemy"), "ray"),
    **dict.fromkeys(("starlette", "uvicorn", "jinja2"), "explore"),
}

OLDER = "_as_before"  # how the name of an option ends that is given by an older spelling
AS_ARGUMENT = ""


@dataclass(frozen=True)
class Command:
    """A command of the command line. A dataclass among the function's arguments is a group of options, its fields."""

    function: Callable[..., int | None]  # returns the exit code; None: 0
    name: str | None = None  # default: the function's
    # Argument → how the command uses what lies at a URL: `launch.store.workspace.Kind`. Others take paths alone.
    urls: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()  # of --help
    # What to do then: command lines in which {name} stands for an argument that is given; else the line is left out.
    then: tuple[str, ...] = ()
    # Option → how older command lines give it: another option, or AS_ARGUMENT. It works, and no help shows it.
    older: Mapping[str, str] = field(default_factory=dict)
    loads: str | None = None  # what takes seconds to import, said on a terminal

    def add_to(self, app: typer.Typer, panel: str | None = None) -> None:
        """Adds the command to `app`, whose --help lists it below `panel`."""
        kind = inspect.Parameter.KEYWORD_ONLY
        given = [p.replace(kind=kind) for p in _parameters(self.function) if p.annotation is not Workspace]
        asked = [described(p) for one in given for p in (_parameters(one.annotation) if _is_group(one) else (one,))]
        needed = frozenset(p.name for p in asked if p.name in self.older and p.default is inspect.Parameter.empty)
        asked = [made for p in asked for made in (_either(p, self.older[p.name]) if p.name in self.older else (p,))]

        def run(context: typer.Context, **arguments: Any) -> None:
            self._run(context, arguments)

        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        run.__signature__ = inspect.Signature([context, *asked])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (context, *asked)}
        run.__name__, run.__doc__ = self.function.__name__, self.function.__doc__
        made = type("Helped", (SpeaqCommand,), {"examples": self.examples, "needed": needed})
        app.command(self.name, cls=made, rich_help_panel=panel)(run)

    def _run(self, context: typer.Context, arguments: dict[str, Any]) -> None:
        """Runs the function; turns expected errors into one line on stderr and an exit code."""
        for number in ending_signals():
            if number != signal.SIGINT:  # which does so already
                signal.signal(number, _raise_interrupt)
        here = Workspace()
        try:
            with ExitStack() as stack:
                arguments = merged(arguments, self.older, context.command.needed)  # type: ignore[attr-defined]
                here, values = _opened(arguments, self.urls, stack)
                words = (*full_name(context).split(), *context.meta[WORDS])
                folders.check(context.command, words, values)
                if self.loads and sys.stderr.isatty():  # for there is nothing else to see for a while
                    echo(f"{full_name(context)}: loading {self.loads}", err=True)
                code = self.function(*(_value(p, values, here) for p in _parameters(self.function)))
        except KeyboardInterrupt:
            raise _exit(here, "interrupted", INTERRUPTED) from None
        except Exception as error:
            if context.find_root().params.get("traceback"):
                echo_lines(visible(tracebacks.format_exc().rstrip(), keep="\n"), err=True)
            listed = error.problems if isinstance(error, ConfigError) and len(error.problems) > 1 else ()
            text, code = _explained(error)
            ended = _exit(here, f"{len(listed)} problems:" if listed else text, code)
            for problem in listed:
                echo(f"  {here.with_urls(' '.join(problem.split()))}", err=True)
            raise ended from error
        if not code:
            self._say_what_is_next(arguments)
        raise typer.Exit(code or DONE)

    def _say_what_is_next(self, arguments: Mapping[str, Any]) -> None:
        """Prints the command lines that follow, on stderr: what a program reads stays as it is."""
        if arguments.get("as_json") or not can_print():
            return
        given = {name: value for name, value in arguments.items() if value is not None and not _is_other(name, value)}
        names = {name: shlex.quote(str(place(str(value)))) for name, value in given.items()}
        if "resume" in names:  # a folder that was begun as the output of the same command
            names["output"] = names["resume"]
        head = "next: "
        for line in self.then:
            if all(name in names for _, name, _, _ in Formatter().parse(line) if name):
                echo(head + line.format_map(names), err=True)
                head = " " * len(head)


def _is_other(name: str, value: Any) -> bool:
    """Whether a run is given where lines of what is next name a study."""
    where = place(str(value)) if name == "study" else None
    return isinstance(where, Path) and folders.kind_of(where) == "RUN"


def _either(parameter: inspect.Parameter, older: str) -> list[inspect.Parameter]:
    """An option, and how older command lines give it."""
    kind, info, *rest = get_args(parameter.annotation)
    hidden = typer.Argument(hidden=True) if older == AS_ARGUMENT else typer.Option(older, hidden=True)
    return [
        parameter.replace(annotation=Annotated[(kind | None, info, *rest)], default=None),
        parameter.replace(name=parameter.name + OLDER, annotation=Annotated[kind | None, hidden], default=None),
    ]


def merged(arguments: Mapping[str, Any], older: Mapping[str, str], needed: Container[str]) -> dict[str, Any]:
    """The arguments without older spellings. Raises ConfigError for what is given in both, or needed and in none."""
    values = dict(arguments)
    for name in older:
        option, before = f"--{name.removesuffix('s')}", values.pop(name + OLDER) or None
        if before is not None and values[name]:
            raise ConfigError(f"{option} {_first(values[name])}: {_first(before)} is given already; give it once")
        values[name] = values[name] or before
        if values[name] is None and name in needed:
            raise ConfigError(f"missing {option}")
    return values


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """What a function takes, or the fields of a dataclass, with the types that the annotations stand for."""
    hints = get_type_hints(function, include_extras=True)
    return [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]


def _is_group(parameter: inspect.Parameter) -> bool:
    """Whether the options of a command are the fields of this one value."""
    return is_dataclass(parameter.annotation)


def _value(parameter: inspect.Parameter, values: Mapping[str, Any], here: Workspace) -> Any:
    """What a function gets as one of its arguments."""
    if parameter.annotation is Workspace:
        return here
    if _is_group(parameter):
        return parameter.annotation(**{field.name: values[field.name] for field in fields(parameter.annotation)})
    return values[parameter.name]


def _explained(error: Exception) -> tuple[str, int]:
    """An error in one line, and the exit code."""
    if (said := storage.line(error)) is not None:
        return said, FAILED
    text = " ".join(str(error).split())
    match error:
        case ConfigError() | DataError():
            return text, USAGE
        case Interrupted():
            return text, INTERRUPTED
        case ModuleNotFoundError() if (extra := EXTRAS.get((error.name or "").partition(".")[0])) is not None:
            return f'{error.name} is not installed: pip install -e ".[{extra}]"', USAGE
        case ValueError() | RuntimeError():
            return text, FAILED
    return f"{type(error).__name__}: {text}", FAILED


def _raise_interrupt(number: int, frame: object) -> None:
    count_hang_up_once(number)
    raise KeyboardInterrupt


def _opened(
    arguments: Mapping[str, Any], kinds: Mapping[str, str], stack: ExitStack
) -> tuple[Workspace, dict[str, Any]]:
    """The arguments with paths of this machine where URLs were given. Raises ConfigError, naming the argument."""
    opened: list[Opened] = []

    def local(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [local(name, one) for one in value]
        where = place(str(value)) if isinstance(value, Path) else value
        if not isinstance(value, Path) or isinstance(where, Path):
            return where
        opened.append(_open(name, where, kinds.get(name), stack))
        return opened[-1].path

    values = {name: local(name, value) for name, value in arguments.items()}
    return Workspace(tuple(opened)), values


def _open(name: str, url: str, kind: Any, stack: ExitStack) -> Opened:
    if kind is None:
        scheme = url.partition(":")[0]
        raise ConfigError(
            f"{name}: {scheme}:// is no path; give that of a file system which every node mounts (NFS, EFS, "
            "Filestore; for data alone also a bucket by mount-s3 or gcsfuse)"
        )
    try:
        return stack.enter_context(workspace.opened(url, kind))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _exit(here: Workspace, message: str, code: int) -> typer.Exit:
    """Says why the command ends."""
    echo(f"speaq: {here.with_urls(message)}", err=True)
    return typer.Exit(code)
