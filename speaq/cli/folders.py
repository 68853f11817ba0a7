"""What lies in a folder or file that a command is given, and what to type where it is not what the command takes.

Runs, studies and data sets are all folders, configs and search spaces are both YAML: taking one for another is easy. It
is noticed here, for all commands, before anything else is done.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from speaq.config import Config, ConfigError
from speaq.files.plain_yaml import read_yaml
from speaq.training import origins

Kind = Literal["RUN", "STUDY", "DATA", "CONFIG", "SPACE"]  # as the help writes what is of the kind
NAMES: Mapping[Kind, str] = {
    "RUN": "a run",
    "STUDY": "a study",
    "DATA": "a data set",
    "CONFIG": "a config",
    "SPACE": "a search space",
}
USES: Mapping[Kind, str] = {
    "RUN": "speaq evaluate {}",
    "STUDY": "speaq status {}",
    "DATA": "speaq explore {}",
    "CONFIG": "speaq config show {}",
    "SPACE": "speaq tune --config CONFIG --space {} --data DATA --output STUDY",
}
MARKS: Mapping[Kind, str] = {  # files that tell
    "RUN": "config.yaml",
    "STUDY": "study.yaml",
    "DATA": "image_data.json",
    "CONFIG": "known keys",
    "SPACE": "parameters",
}
ALSO: Mapping[str, Kind] = {"MODEL": "RUN"}  # what takes runs, and other things too
EITHER: Mapping[str, tuple[Kind, ...]] = {"STUDY|RUN": ("STUDY", "RUN")}  # what takes both
RESUMES: Mapping[Kind, str] = {"RUN": "speaq train --resume {}", "STUDY": "speaq tune --resume {}"}
NEW = ("output", "directory")  # arguments that name what is to be made
MOST = 200  # folders in one that are looked into


def kind_of(path: Path) -> Kind | None:
    """What a path holds; None where it is nothing of ours, or not there."""
    if path.is_dir():
        return next((kind for kind in ("STUDY", "RUN", "DATA") if _is(path, kind)), None)
    return next((kind for kind in ("SPACE", "CONFIG") if _is(path, kind)), None)


def _is(path: Path, kind: Kind) -> bool:
    match kind:
        case "STUDY":
            return (path / "study.yaml").exists()  # also where it is no file: what reads it says so
        case "RUN":
            return (path / "config.yaml").exists() or (path / "checkpoints").is_dir()
        case "DATA":
            return (path / "image_data.json").exists()
        case "SPACE":
            return bool(_keys(path) & {"parameters", "search"})  # one that extends another may have either alone
        case "CONFIG":
            keys = _keys(path)
            return bool(keys) and keys <= {*Config.model_fields, "extends"}


def _keys(path: Path) -> set[str]:
    """The first level of a YAML file; nothing where it is none."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return set()
    with contextlib.suppress(ConfigError):
        return set(map(str, read_yaml(path)))
    return set()


def check(command: Any, words: Sequence[str], values: Mapping[str, Any]) -> None:
    """Raises ConfigError where a command is given something of ours that is not what it takes there.

    Args:
        command: as typer knows it, with its full name and parameters.
        words: that the user typed, the program and the command's name in front.
        values: of its arguments, paths of this machine.
    """
    for parameter in command.params:
        either = EITHER.get(parameter.metavar) or (ALSO.get(parameter.metavar, parameter.metavar),)
        wanted = either[0]
        if wanted not in get_args(Kind) or parameter.name in NEW:
            continue
        given = values.get(parameter.name)
        for path in given if isinstance(given, list) else [given]:
            if isinstance(path, Path) and path.exists() and not any(_is(path, kind) for kind in either):
                _refuse(path, wanted, parameter.name, _Typed(command, words))


class _Typed:
    """A command line, from which others like it are made."""

    def __init__(self, command: Any, words: Sequence[str]) -> None:
        self._command, self._words = command, words

    def with_path(self, old: Path, new: Path) -> str | None:
        """The command line with another path; None where the path is not written in it."""
        found = [at for at, word in enumerate(self._words) if word.partition("=")[2] == str(old) or _same(word, old)]
        if len(found) != 1:
            return None
        words = list(self._words)
        name, sign, _ = words[found[0]].partition("=")
        words[found[0]] = f"{name}={new}" if sign else str(new)
        return shlex.join(words)

    def option_of(self, kind: Kind) -> str | None:
        """The option by which the command takes what is of a kind."""
        name = f"--{kind.lower()}"
        return next((name for one in self._command.params if name in one.opts), None)


def _same(word: str, path: Path) -> bool:
    return not word.startswith("-") and Path(word) == path


def _refuse(path: Path, wanted: Kind, argument: str, typed: _Typed) -> None:
    found = kind_of(path)
    if found is None:
        if inner := dict(_inside(path)):
            _refuse_parent(path, inner, wanted, typed)
        return
    said = f"{path}: is {NAMES[found]}, not {NAMES[wanted]}"
    if argument == "resume" and found in RESUMES:
        raise ConfigError(f"{said}; to go on with it: {RESUMES[found].format(shlex.quote(str(path)))}")
    option = typed.option_of(found)
    if wanted == "DATA" and option is not None:
        raise ConfigError(f"{said}; give it as {option} {path}")
    name, instead = _instead(path, found, wanted)
    if instead is not None:
        raise ConfigError(f"{said}; {name}: {typed.with_path(path, instead) or instead}")
    if option is not None:
        raise ConfigError(f"{said}; give it as {option} {path}")
    raise ConfigError(f"{said}{name}; what takes it: {USES[found].format(shlex.quote(str(path)))}")


def _refuse_parent(path: Path, inner: Mapping[Path, Kind], wanted: Kind, typed: _Typed) -> None:
    """Refuses a folder in which others of ours lie, where one of them may be meant."""
    meant = [place for place, kind in inner.items() if kind == wanted]
    said = f"{path}: is no {NAMES[wanted].partition(' ')[2]} (it has no {MARKS[wanted]})"
    if len(meant) == 1:
        raise ConfigError(f"{said}; the one in it: {typed.with_path(path, meant[0]) or meant[0]}")
    if meant:
        raise ConfigError(f"{said}; in it are {', '.join(place.name for place in meant[:8])}: give one of them")
    held = ", ".join(f"{place.name} ({NAMES[kind]})" for place, kind in list(inner.items())[:8])
    raise ConfigError(f"{said}; in it are {held}")


def _inside(path: Path) -> Iterator[tuple[Path, Kind]]:
    if not path.is_dir():
        return
    for number, place in enumerate(sorted(path.iterdir())):
        if number < MOST and place.is_dir() and (kind := kind_of(place)) is not None:
            yield place, kind


def _instead(path: Path, found: Kind, wanted: Kind) -> tuple[str, Path | None]:
    """What may be meant, in words, and where that is; without a place, what to add to what is said."""
    from speaq.study import seal

    match found, wanted:
        case "STUDY", "RUN":
            best = _best_trial(path)
            return ("its best trial", best) if best is not None else (" (no trial of it has finished)", None)
        case "RUN", "STUDY" if (study := seal.study_of(path)) is not None:
            return "the study that it is a trial of", study
        case "RUN", "DATA":
            with contextlib.suppress(ConfigError):
                return "its data set", origins.data_directory(path, None)
        case "RUN", "CONFIG" if (path / "config.yaml").is_file():
            return "its config", path / "config.yaml"
        case "STUDY", "CONFIG" if (path / "best.yaml").is_file():
            return "the config of its best trial", path / "best.yaml"
    return "", None


def _best_trial(study: Path) -> Path | None:
    from speaq.study import snapshot
    from speaq.study.board import Board

    with contextlib.suppress(ConfigError, OSError):
        found = snapshot.read(study)
        if (best := Board.of(found).best) is not None:
            return found.trial_folder(best)
    return None
