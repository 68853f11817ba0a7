"""What --help prints: whole sentences at the terminal's width, what is required, and examples that can be typed.

Commands and groups of ours write their help themselves; typer parses.
"""

from __future__ import annotations

import copy
import inspect
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from speaq.cli.terminal import echo
from speaq.training.endings import FAILED, INTERRUPTED, USAGE

WORDS = "speaq.words"  # of a context's `meta`: what the user typed behind the command's name
WIDEST = 120  # columns: longer lines are hard to read
FIRST = 26  # columns at most of what is explained, before its explanation goes below it
RESUME, WATCH = "--resume", "--watch"
USUAL_PAUSE = "2"  # seconds between two looks
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "FILE"}


def full_name(context: Any) -> str:
    """`speaq data check`: how a command is called, whatever the program's file is called."""
    names = []
    while context.parent is not None:
        names.append(context.info_name)
        context = context.parent
    return " ".join(["speaq", *reversed(names)])


def summary(text: str | None) -> str:
    """The first sentence of a docstring, in one line."""
    first = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.?]) ", first)[0]


def paragraphs(text: str | None) -> list[str]:
    """The paragraphs of a docstring, each in one line."""
    found = (" ".join(part.split()) for part in inspect.cleandoc(text or "").replace("\b", "").split("\n\n"))
    return [part for part in found if part]


def described(parameter: inspect.Parameter) -> inspect.Parameter:
    """An argument of a command, its help completed by what it is called there, its default, range and duty."""
    kind, *notes = (
        get_args(parameter.annotation) if get_origin(parameter.annotation) is Annotated else (parameter.annotation,)
    )
    info = next((copy.copy(note) for note in notes if isinstance(note, ArgumentInfo | OptionInfo)), None)
    is_required = parameter.default is inspect.Parameter.empty
    if info is None:
        info = typer.Argument() if is_required else typer.Option()
    is_required &= info.default_factory is None
    marks = ["required"] if is_required else []
    if not is_required and _is_worth_saying(parameter.default):
        marks.append(f"default: {parameter.default}")
    marks += [
        text.format(bound)
        for text, bound in (("at least {:g}", info.min), ("at most {:g}", info.max))
        if bound is not None
    ]
    others = [note for note in notes if not isinstance(note, ArgumentInfo | OptionInfo)]
    word = next((note.word for note in others if hasattr(note, "word")), None)
    info.metavar = info.metavar or word or _metavar(kind)
    if isinstance(info, ArgumentInfo) and info.metavar is None:
        info.metavar = parameter.name.upper()
    info.help = " ".join(part for part in (info.help, f"[{'; '.join(marks)}]" if marks else "") if part)
    info.show_default = False
    return parameter.replace(annotation=Annotated[(kind, info, *others)])


def _is_worth_saying(default: object) -> bool:
    return default is not inspect.Parameter.empty and default is not None and default is not False and default != []


def _metavar(kind: Any) -> str | None:
    """What stands for a value of a type: a|b|c, N, FILE …; None for a flag."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    return _METAVARS.get(kind)


def is_written(parameter: Any) -> bool:
    """Whether the help lists an argument or option: not where it is an older spelling."""
    return not parameter.hidden


def name_of(parameter: Any) -> str:
    """How an argument or option is written: `PHOTO...`, `-f, --follow`, `--output FOLDER`; older spellings left out."""
    if parameter.param_type_name == "argument":
        return f"{parameter.metavar or parameter.name.upper()}{'...' if parameter.nargs != 1 else ''}"
    first = next(option for option in parameter.opts if option.startswith("--"))
    names = ", ".join([*(option for option in parameter.opts if not option.startswith("--")), first])
    return names if parameter.is_flag or not parameter.metavar else f"{names} {parameter.metavar}"


def rows(command: Any, context: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What a command takes: its arguments and its options, each as it is written and what it means."""
    written = [one for one in command.get_params(context) if is_written(one)]
    found = [(one.param_type_name == "argument", name_of(one), one.help or "") for one in written]
    options = [(name, meaning) for is_one, name, meaning in found if not is_one]
    required = [row for row in options if "[required" in row[1]]
    return [(n, m) for is_one, n, m in found if is_one], [*required, *(row for row in options if row not in required)]


def usage(command: Any, context: Any, words: str) -> str:
    """How a command is written, with what it requires."""
    written = [one for one in command.get_params(context) if is_written(one)]
    if hasattr(command, "commands"):
        return f"{words} COMMAND [OPTIONS]"
    arguments = [one for one in written if one.param_type_name == "argument"]
    parts = [name_of(one) if one.required else f"[{name_of(one)}]" for one in arguments]
    parts += [name_of(one) for one in written if one not in arguments and is_needed(command, one)]
    return " ".join([words, *parts, "[OPTIONS]"])


def is_needed(command: Any, parameter: Any) -> bool:
    """Whether a command does nothing without an argument or option."""
    return parameter.required or parameter.name in getattr(command, "needed", ())


def width() -> int:
    """Columns of the terminal, no more than lines should be long."""
    return max(40, min(shutil.get_terminal_size().columns, WIDEST))


def wrapped(text: str, columns: int, indent: str, rest: str | None = None) -> list[str]:
    """A text in lines that break between words alone; those after the first begin with `rest`."""
    rest = indent if rest is None else rest
    return textwrap.wrap(
        text,
        columns,
        initial_indent=indent,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )


def section(title: str, found: Sequence[tuple[str, str]], columns: int, first: int) -> list[str]:
    """A title and below it rows of two columns, the first one `first` wide."""
    lines = ["", f"{title}:"]
    for name, meaning in found:
        head, rest = f"  {name:<{first}}  ", " " * (first + 4)
        if len(name) > first and meaning:
            lines.append(f"  {name}")
            head = rest
        lines += wrapped(meaning, columns, head, rest) or [f"  {name}"]
    return lines


def _first_column(tables: Iterable[Sequence[tuple[str, str]]]) -> int:
    return max((len(name) for table in tables for name, _ in table if len(name) <= FIRST), default=FIRST)


def help_of(command: Any, context: Any, words: str, columns: int) -> Iterator[str]:
    """The lines of a command's help."""
    arguments, options = rows(command, context)
    first = _first_column((arguments, options))
    yield from wrapped(f"Usage: {usage(command, context, words)}", columns, "", " " * (len(f"Usage: {words}") + 1))
    for text in paragraphs(command.help):
        yield from ("", *wrapped(text, columns, "  "))
    for title, found in (("Arguments", arguments), ("Options", options)):
        if found:
            yield from section(title, found, columns, first)
    if examples := getattr(command, "examples", ()):
        yield from ("", "Examples:")
        for example in examples:
            yield from broken(example, columns, "  ")


def broken(line: str, columns: int, indent: str) -> list[str]:
    """A command line, where it is longer than the columns with backslashes, as a shell takes it."""
    lines = [indent]
    for part in re.split(r" (?=--)", line):
        if lines[-1].strip() and len(lines[-1]) + len(part) + 3 > columns:
            lines[-1] += " \\"
            lines.append(f"{indent}  {part}")
        else:
            lines[-1] += f" {part}" if lines[-1].strip() else part
    return lines


def with_resume(given: Sequence[str]) -> list[str]:
    """The words of a command where `--resume` without a folder takes that of --output."""
    words = list(given)
    at = words.index(RESUME) if RESUME in words else -1
    if at < 0 or (at + 1 < len(words) and not words[at + 1].startswith("-")):
        return words
    for position, word in enumerate(words):
        if word == "--output" and position + 1 < len(words):
            folder, taken = words[position + 1], {position, position + 1}
        elif word.startswith("--output="):
            folder, taken = word.partition("=")[2], {position}
        else:
            continue
        return [w for n, w in enumerate([*words[:at], f"{RESUME}={folder}", *words[at + 1 :]]) if n not in taken]
    return words


def with_pause(given: Sequence[str]) -> list[str]:
    """The words of a command where `--watch` without seconds takes the usual ones."""
    words = list(given)
    for at in [place for place, word in enumerate(words) if word == WATCH][:1]:
        if at + 1 == len(words) or not re.fullmatch(r"-?[\d.]+", words[at + 1]):
            words.insert(at + 1, USUAL_PAUSE)
    return words


class SpeaqCommand(TyperCommand):
    """A command whose help is ours, and whose words are kept for messages that show what to type."""

    examples: tuple[str, ...] = ()
    needed: frozenset[str] = frozenset()  # options that are required, in this spelling or an older one

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the words behind the command's name."""
        ctx.meta[WORDS] = tuple(args)
        known = {name for one in self.params for name in one.opts}
        args = with_resume(args) if RESUME in known else args
        return super().parse_args(ctx, with_pause(args) if WATCH in known else args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        formatter.write("\n".join(help_of(self, ctx, full_name(ctx), width())))


class SpeaqGroup(TyperGroup):
    """Commands that are listed below the titles of their panels, each with its whole summary."""

    panels: tuple[str, ...] = ()  # in this order; those of others come behind

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        columns = width()
        panels: dict[str, list[tuple[str, str]]] = {panel: [] for panel in self.panels}
        for panel, name, command in listed(self):
            panels.setdefault(panel, []).append((name, summary(command.help)))
        _, options = rows(self, ctx)
        first = _first_column(panels.values())
        lines = wrapped(f"Usage: {usage(self, ctx, full_name(ctx))}", columns, "")
        for text in paragraphs(self.help):
            lines += ["", *wrapped(text, columns, "  ")]
        for panel, found in panels.items():
            lines += section(panel, found, columns, first)
        lines += section("Options", options, columns, _first_column((options,)))
        lines += [
            "",
            *wrapped(f"{full_name(ctx)} COMMAND --help says more of a command, with examples.", columns, ""),
        ]
        formatter.write("\n".join(lines))

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs the command line; what is written wrongly there is said in one line."""
        run: Any = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        try:
            code = run(*args, standalone_mode=False, **extra)
        except typer.Abort:
            code = INTERRUPTED
        except Exception as error:
            if not hasattr(error, "format_message"):  # no usage error of typer's
                raise
            code = _refused(error)
        sys.exit(code if isinstance(code, int) else 0)


def _refused(error: Any) -> int:
    """Says what is wrong with the words that were typed; returns the exit code."""
    context = getattr(error, "ctx", None)
    if context is None or type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    text = " ".join(error.format_message().split()).rstrip(".")
    echo(f"{full_name(context)}: {text}; see {full_name(context)} --help", err=True)
    return USAGE if error.exit_code == USAGE else FAILED


def listed(group: Any) -> Iterator[tuple[str, str, Any]]:
    """The commands of a group with their panel and name; those of a group in it by both names."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        panel = getattr(command, "rich_help_panel", None)
        if hasattr(command, "commands"):
            for _, inner, found in listed(command):
                yield panel if isinstance(panel, str) else "Commands", f"{name} {inner}", found
        else:
            yield panel if isinstance(panel, str) else "Commands", name, command
