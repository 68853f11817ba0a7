"""`speaq doctor STUDY`: a ledger that two drivers wrote, or that was damaged, is made readable again.

Rows are kept in the order of their drivers as long as they apply. The others go into a file beside it, and so does the
ledger as it was; nothing is thrown away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.config import ConfigError
from speaq.files.atomic import check_links, replaced
from speaq.files.foreign import ForeignError, parse_json
from speaq.files.locks import Lock
from speaq.study.ledger import Rows, checked, digest

SAME_START = 5.0  # seconds by which the start of a driver, told by two of its rows, may differ


@dataclass
class Repair:
    """What became of the rows of a ledger."""

    kept: list[bytes] = field(default_factory=list)
    aside: list[bytes] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # of the rows aside
    doubled: set[str] = field(default_factory=set)  # trials that two drivers asked for as different ones


def repair(folder: Path) -> list[str]:
    """Repairs the ledger of a study where it has to be. Returns what was done, in lines.

    Raises:
        ConfigError: no study, or a search is running on it.
        OSError: it cannot be written.
    """
    path = folder / "ledger.jsonl"
    if not path.is_file():
        raise ConfigError(f"{folder}: holds no ledger.jsonl, so it is no study that has begun")
    check_links(folder)
    with Lock(folder):
        found, ledger = sorted_out(path, path.read_bytes())
        if not found.aside:
            return [f"{path}: {len(found.kept)} rows, all whole; nothing to do"]
        stamp = time.strftime("%Y%m%d-%H%M%S")
        before, aside = path.with_name(f"ledger.before-{stamp}.jsonl"), path.with_name(f"ledger.aside-{stamp}.jsonl")
        for target, rows in ((before, [path.read_bytes()]), (aside, found.aside), (path, found.kept)):
            with replaced(target) as temporary:
                temporary.write_bytes(b"".join(rows))
        said = [
            f"{path}: {len(found.kept)} rows kept, {len(found.aside)} set aside in {aside.name} ({found.reasons[0]})"
        ]
        said.append(f"as it was: {before.name}")
        for trial in sorted(found.doubled):
            if not _is_of(folder / "trials" / trial, ledger, trial):
                moved = folder / f"trials-aside-{stamp}" / trial
                moved.parent.mkdir(exist_ok=True)
                (folder / "trials" / trial).rename(moved)
                said.append(f"trial {trial}: its folder holds a run of the other driver; it is {moved} now")
    return [*said, f"speaq tune --resume {folder} goes on"]


def sorted_out(path: Path, content: bytes) -> tuple[Repair, Rows]:
    """The rows of a ledger that can be kept, and those that cannot, with what the former tell."""
    found, ledger = Repair(), Rows(path)
    for line, row in _by_driver(content, found):
        trial = row.get("trial", "")
        known = ledger.entries.get(trial)
        if row["event"] == "asked" and known is not None and known.digest != row.get("digest"):
            found.doubled.add(trial)
        try:
            if trial in found.doubled:
                raise ValueError(f"trial {trial} is of another driver")
            ledger.take(row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found.aside.append(line)
            found.reasons.append(str(error))
        else:
            found.kept.append(line)
    return found, ledger


def _by_driver(content: bytes, found: Repair) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    """Rows, those of a driver together, in the order in which drivers began; what is no row goes aside.

    A driver is known by when it began: the time of its row `opened`, and of the others `time` without `clock`.
    """
    starts: list[float] = []
    parts: list[list[tuple[bytes, Mapping[str, Any]]]] = [[]]
    for line in content.splitlines(keepends=True):
        try:
            row = checked(parse_json(line))
            time_, clock = float(row["time"]), row.get("clock")
            event = str(row["event"])
        except (ForeignError, ValueError, KeyError, TypeError, AttributeError) as error:
            found.aside.append(line if line.endswith(b"\n") else line + b"\n")
            found.reasons.append(f"no row of a ledger: {error}")
            continue
        if event == "opened":
            starts.append(time_)
            parts.append([])
        number = len(parts) - 1
        if clock is not None and starts:
            nearest = min(range(len(starts)), key=lambda i: abs(starts[i] - (time_ - clock)))
            number = nearest + 1 if abs(starts[nearest] - (time_ - clock)) < SAME_START else number
        parts[number].append((json.dumps(row).encode() + b"\n" if not line.endswith(b"\n") else line, row))
    for part in parts:
        yield from part


def _is_of(run: Path, ledger: Rows, trial: str) -> bool:
    """Whether a run folder holds the trial that the ledger tells of; one that is not there is as good."""
    if not (run / "config.yaml").exists():
        return not run.exists()
    try:
        config = configs.load(run / "config.yaml")
    except ConfigError:
        return False
    whole = configs.apply(config, {"training.micro_batch_size": None})
    return ledger.entries[trial].digest in (digest(config), digest(whole))
