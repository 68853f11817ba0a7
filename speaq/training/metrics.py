"""Where metrics go: metrics.jsonl always; TensorBoard and Weights & Biases by config."""

from __future__ import annotations

import functools
import json
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaq.config import Config, ConfigError, SinksConfig, to_dict
from speaq.files import atomic
from speaq.files.foreign import ForeignError, first_line, parse_json, read_json
from speaq.files.regular import check_regular
from speaq.training.callbacks import Sink

log = logging.getLogger(__name__)

WANDB = "wandb.json"  # in the run folder: ids of its Weights & Biases runs by project
ANSWER = 15.0  # seconds that their server is given at the begin and at the end; no step waits for it


class JsonLines:
    """One JSON object a line, each with its `step`; resuming drops lines after the resumed step.

    Lines of an evaluation (`val/…`) say the `protocol` of their metrics.
    """

    def __init__(self, path: Path, start_step: int, protocol: str) -> None:
        self._protocol = protocol
        kept = [line for line in read_lines(path) if line.get("step", 0) <= start_step] if start_step else []
        atomic.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = atomic.append_text(path)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Appends a line; one of an evaluation is on disk when this returns."""
        evaluated = any(name.startswith("val/") for name in values)
        said = {"protocol": self._protocol} if evaluated else {}
        self._file.write(json.dumps({"step": step, **said, **values}, allow_nan=False) + "\n")
        if evaluated:  # a checkpoint follows, which a resumed run believes
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_lines(path: Path, last: int | None = None) -> list[dict[str, Any]]:
    """The complete objects of a JSON-lines file; a torn last line (a crash while writing) is left out.

    With `last` only those that lie wholly within so many bytes before its end.
    """
    if not path.exists():
        return []
    with check_regular(path).open("rb") as file:
        begin = 0 if last is None else max(file.seek(0, os.SEEK_END) - last, 0)
        file.seek(begin)
        texts = file.read().decode("utf-8", errors="replace").splitlines()
    lines: list[dict[str, Any]] = []
    for text in texts[1 if begin else 0 :]:
        try:
            line = parse_json(text)
        except ForeignError:
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


class TensorBoard:
    """Scalars as TensorBoard events in the run folder."""

    def __init__(self, folder: Path, start_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError('sinks.tensorboard: pip install -e ".[tensorboard]" first') from error
        # Events of an earlier attempt are hidden from `purge_step` on; those of `start_step` are not made again.
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds the scalars that are not None."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is buffered, and closes the file."""
        self._writer.close()


class Wandb:
    """A Weights & Biases run, offline where no key is at hand or the server does not answer.

    A run that is resumed goes on under its id, which its folder keeps. The key is never read or written here.
    """

    def __init__(self, folder: Path, config: Config, start_step: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError('sinks.wandb: pip install -e ".[wandb]" first') from error
        options = {"silent": True, "console": "off", "disable_git": True, "save_code": False, "init_timeout": ANSWER}
        if "finish_timeout" in wandb.Settings.model_fields:  # what is not sent by then stays in the folder
            options["finish_timeout"] = ANSWER
        begin = functools.partial(
            wandb.init,
            project=config.sinks.wandb_project,
            id=_wandb_id(folder, config.sinks.wandb_project),
            resume="allow",
            dir=str(folder),
            name=folder.name,
            config={**to_dict(config), "start_step": start_step},
            settings=wandb.Settings(**options),
        )
        self._run: Any = None
        if config.sinks.wandb == "online" and (os.environ.get("WANDB_API_KEY") or _has_netrc()):
            try:
                self._run = begin(mode="online")
            except wandb.errors.Error as error:
                log.warning(
                    "sinks.wandb: offline from here on, the server cannot be used (%s); wandb sync %s sends it later",
                    first_line(error),
                    folder / "wandb" / "offline-run-*",
                )
                wandb.teardown()  # it would hold the id for the attempt
        if self._run is None:
            self._run = begin(mode="offline")

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Sends the scalars that are not None, or keeps them in the folder when offline."""
        self._run.log({name: value for name, value in values.items() if value is not None}, step=step)

    def close(self) -> None:
        """Ends the run; waits for the server for at most `ANSWER` seconds."""
        self._run.finish()


def _wandb_id(folder: Path, project: str) -> str:
    """The id of the folder's run in a project, made at the first call. Raises ConfigError where the file is odd."""
    path = folder / WANDB
    try:
        content = read_json(path) if path.exists() else {}
    except ForeignError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(one, str) and one.isalnum() for one in content.values()):
        raise ConfigError(f"{path}: is not what speaq writes (a project's name: the id of its run)")
    if project not in content:
        content[project] = uuid.uuid4().hex[:16]
        atomic.write_text(path, json.dumps(content) + "\n")
    found: str = content[project]
    return found


def _has_netrc() -> bool:
    path = Path.home() / ".netrc"
    return path.exists() and "api.wandb.ai" in path.read_text(encoding="utf-8", errors="replace")


def open_sinks(folder: Path, config: Config, start_step: int, protocol: str) -> list[Sink]:
    """The sinks that the config asks for; the folder's metrics.jsonl is always one."""
    wanted: SinksConfig = config.sinks
    sinks: list[Sink] = [JsonLines(folder / "metrics.jsonl", start_step, protocol)]
    if wanted.tensorboard:
        sinks.append(TensorBoard(folder, start_step))
    if wanted.wandb != "off":
        sinks.append(Wandb(folder, config, start_step))
    return sinks
