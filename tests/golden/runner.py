"""Runs golden cases through their group's module and prints one line a case."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.golden.case import Case, Check

EXIT_OK, EXIT_FAILED = 0, 1


class GoldenError(ValueError):
    """A directory that is not a golden set: one line that names the file and what is wrong."""


@dataclass(frozen=True)
class Outcome:
    """What one case came to: its comparisons, or the error that ended it."""

    case: Case
    checks: tuple[Check, ...] = ()
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error and all(check.ok for check in self.checks)

    @property
    def worst(self) -> Check | None:
        """The comparison with the largest error for its tolerance."""
        return max(self.checks, key=excess, default=None)


def excess(check: Check) -> float:
    """Error in units of the tolerance: at most 1 where the check is ok; NaN counts as infinite."""
    if math.isnan(check.error):
        return math.inf
    if check.tolerance == 0:
        return 0.0 if check.error == 0 else math.inf
    return check.error / check.tolerance


def read_index(directory: Path, device: str = "cpu") -> list[Case]:
    """All cases of a golden set in the order of its index; raises `GoldenError` where the index cannot be read."""
    path = directory / "index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GoldenError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # JSON and UTF-8 errors both
        raise GoldenError(f"{path}: not JSON: {error}") from error
    entries = index.get("cases") if isinstance(index, dict) else None
    if not isinstance(entries, list) or not entries:
        raise GoldenError(f"{path}: cases: must be a list with at least one case, found {type(entries).__name__}")
    return [_case(directory, path, row, entry, device) for row, entry in enumerate(entries)]


def _case(directory: Path, path: Path, row: int, entry: Any, device: str) -> Case:
    where = f"{path}: case {row}"
    if not isinstance(entry, dict):
        raise GoldenError(f"{where}: must be an object, found {type(entry).__name__}")
    for field in ("name", "group", "file"):
        if not isinstance(entry.get(field), str):
            raise GoldenError(f"{where}: {field}: must be text, found {entry.get(field)!r}")
    config = entry.get("config", {})
    if not isinstance(config, dict):
        raise GoldenError(f"{where}: config: must be an object, found {type(config).__name__}")
    notes = str(entry.get("notes") or "")
    return Case(entry["name"], entry["group"], directory / entry["file"], config, notes, device)


def _group_module(group: str) -> ModuleType | None:
    name = f"tests.golden.{group.lower()}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise


def run_case(case: Case) -> Outcome:
    """Runs one case; whatever it raises is a failure of that case with its message."""
    try:
        module = _group_module(case.group)
        if module is None:
            return Outcome(case, error=f"not implemented: group {case.group} has no module")
        run: Callable[[Case], list[Check]] = module.run
        checks = tuple(run(case))
    except Exception as error:
        return Outcome(case, error=f"{type(error).__name__}: {' '.join(str(error).split())}")
    if not checks:
        return Outcome(case, error="nothing was compared")
    return Outcome(case, checks)


def describe(outcome: Outcome) -> str:
    """The line of a case: group, case, largest absolute error, ok or FAIL, then the worst check or what differs.

    The largest absolute error need not be the worst: tolerances differ, and some are relative.
    """
    head = f"{outcome.case.group:4s} {outcome.case.name:48s}"
    if outcome.error:
        return f"{head} {'-':>9s}  FAIL  {outcome.error}"
    worst = outcome.worst
    assert worst is not None
    absolute = max(check.error if check.absolute is None else check.absolute for check in outcome.checks)
    figure = f"{head} {absolute:9.3g}"
    if outcome.ok:
        return f"{figure}  ok    {len(outcome.checks)} checks, at most {excess(worst):.2g} of the tolerance"
    failed = [check for check in outcome.checks if not check.ok]
    shown = "; ".join(describe_check(check) for check in failed[:3])
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    return f"{figure}  FAIL  {shown}{more}"


def describe_check(check: Check) -> str:
    """One comparison in words."""
    text = f"{check.name}: error {check.error:.3g} (tolerance {check.tolerance:.3g})"
    return f"{text}, {check.detail}" if check.detail else text


def run_all(
    directory: Path,
    group: str | None = None,
    verbose: bool = False,
    out: Callable[[str], None] = print,
    device: str = "cpu",
) -> int:
    """Runs every case (of one group) and returns the exit code; the closing line is `N passed, M failed` alone.

    Raises `GoldenError` where the directory cannot be read or has no case of the group.
    """
    counts = {True: 0, False: 0}
    for case in select(read_index(directory, device), group):
        outcome = run_case(case)
        counts[outcome.ok] += 1
        out(describe(outcome))
        if verbose:
            for check in outcome.checks:
                out(f"       {'ok  ' if check.ok else 'FAIL'} {describe_check(check)}")
    out(f"{counts[True]} passed, {counts[False]} failed")
    return EXIT_FAILED if counts[False] else EXIT_OK


def select(cases: list[Case], group: str | None) -> list[Case]:
    """The cases of one group, all of them where it is None; raises `GoldenError` where the group has no case."""
    if group is None:
        return cases
    chosen = [case for case in cases if case.group.lower() == group.lower()]
    if not chosen:
        known: Mapping[str, None] = dict.fromkeys(case.group for case in cases)
        raise GoldenError(f"group {group}: no case of it; the index has {', '.join(known)}")
    return chosen
