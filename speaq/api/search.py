"""A search's folder as a value: its trials, the best of them and their runs. Neither Ray nor Optuna is needed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from speaq.api.run import AnyPath, LoadedRun, load_run, local_folder
from speaq.config import ConfigError
from speaq.study import results, snapshot
from speaq.study.board import Board
from speaq.study.ledger import Entry
from speaq.study.snapshot import Snapshot
from speaq.table import Row, Table, facts_html

if TYPE_CHECKING:
    from speaq.drawing import ShownFigure


@dataclass(frozen=True, eq=False)
class LoadedStudy:
    """A search as its folder tells it when it is loaded; `load_study` makes it."""

    folder: Path
    _now: Snapshot = field(repr=False)

    @cached_property
    def board(self) -> Board:
        """What the trials came to, as the command line's tables have it."""
        return Board.of(self._now)

    @property
    def objective(self) -> tuple[str, ...]:
        """The one or two metrics that are searched for."""
        return self._now.plan.objective

    @property
    def active(self) -> bool:
        """Whether a search was working on the folder."""
        return self._now.active

    @cached_property
    def trials(self) -> Table:
        """A row for each trial in the order of asking, with the columns of trials.csv; `trial` is text: `0000`."""
        return Table(tuple(self.board.rows))

    @cached_property
    def best(self) -> Row | None:
        """The row of the best finished trial, of two objectives that of the best harmonic mean; None without one."""
        return next(iter(self._rows([] if (best := self.board.best) is None else [best])), None)

    @cached_property
    def front(self) -> Table:
        """Rows of the finished trials that no other one beats in both metrics of `plane`."""
        return self._rows(self.board.front(self.plane))

    @property
    def plane(self) -> tuple[str, str]:
        """The two metrics by which trials are drawn: the objectives where there are two, else R and mR."""
        return results.plane(self.objective, self._now.plan.base)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The config's keys that are searched: columns of `trials`."""
        return tuple(self._now.plan.space.parameters)

    def run(self, trial: str | None = None) -> LoadedRun:
        """The run of a trial, `0003`, or of the best one. Raises ConfigError where there is none, or it has no run."""
        entries = {entry.id: entry for entry in self.board.entries}
        name = trial if trial is not None else None if self.board.best is None else self.board.best.id
        if name is None:
            raise ConfigError(f"{self.folder}: no trial has finished; name one of {', '.join(entries) or 'none'}")
        if name not in entries:
            near = difflib.get_close_matches(str(name), entries, 1, 0.0)
            raise ConfigError(f"{self.folder}: has no trial {name!r}{f' (nearest: {near[0]!r})' if near else ''}")
        return load_run(self._now.run_folder(entries[name]))

    def figure(self) -> ShownFigure:
        """The trials over `plane`, the front, and the references, as a figure of matplotlib."""
        from speaq.api.figures import plane

        return plane(self.board, self.folder.name)

    def _rows(self, entries: Sequence[Entry]) -> Table:
        by_trial = {row["trial"]: row for row in self.trials}
        return Table(tuple(by_trial[entry.id] for entry in entries))

    def __repr__(self) -> str:
        found = self._facts()
        return f"LoadedStudy({self.folder}: {found['trials']}, {found['best']})"

    def _repr_html_(self) -> str:
        ranked = self._rows(results.ranked(self.board.entries, self.objective))
        return facts_html(str(self.folder), self._facts()) + ranked._repr_html_()

    def _facts(self) -> dict[str, str]:
        finished = f"{len(self.board.finished)} of {self._now.plan.trials} trials finished"
        return {
            "trials": finished + (", a search is running" if self.active else ""),
            "best": "; ".join(self.board.best_lines()) or "no best trial yet",
        }


def load_study(study: AnyPath) -> LoadedStudy:
    """Opens the folder of a search, at work or not; nothing in it is changed.

    Raises ConfigError where there is no search, in one line that says what to do.
    """
    folder = local_folder(study)
    if not (folder / "study.yaml").exists():
        raise ConfigError(f"{folder}: {_not_a_study(folder)}")
    return LoadedStudy(folder, snapshot.read(folder))


def _not_a_study(folder: Path) -> str:
    if (folder / "config.yaml").exists():
        return f'is a run; load_run("{folder}") opens it'
    return "no such folder" if not folder.exists() else "is no search (it has no study.yaml)"
