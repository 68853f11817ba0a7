"""The report's section on training health: how training went in the best trials, and in those that failed."""

from __future__ import annotations

import html as escape
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from speaq.study.board import Board
from speaq.study.ledger import Entry
from speaq.study.snapshot import Snapshot
from speaq.training.metrics import read_lines

from . import html

BEST = 3  # trials shown, beside the published setting and the failed ones
LAST = 10  # logged steps that figures are averages over

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """A trial and the lines of its training, at least one."""

    entry: Entry
    lines: Sequence[Line]

    @property
    def name(self) -> str:
        """What a legend calls it."""
        return f"trial {self.entry.id}{f' ({self.entry.label})' if self.entry.label else ''}"

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of every line that has a finite one."""
        found = ((line["step"], line.get(f"train/{name}")) for line in self.lines)
        return [(step, value) for step, value in found if isinstance(value, int | float)]

    def lately(self, name: str) -> float | None:
        """Mean over the last lines; None where there is none."""
        values = [value for _, value in self.series(name)[-LAST:]]
        return statistics.fmean(values) if values else None

    def numbered(self, name: str) -> list[float | None]:
        """The same of <name>1, <name>2, … as far as they go."""
        found = itertools.takewhile(lambda n: f"train/{name}{n}" in self.lines[-1], itertools.count(1))
        return [self.lately(f"{name}{n}") for n in found]


def training_health(snapshot: Snapshot, board: Board) -> list[str]:
    """Losses, gradients, repeats and groups of the best trials, the published setting and the trials that failed."""
    found = [(entry, _lines(snapshot, entry)) for entry in _shown(board)]
    trained = [Trained(entry, lines) for entry, lines in found if lines]
    if not trained:
        return [html.text("No trial that has finished or failed has logged a step.")]
    about = (
        f"The best {BEST} trials, the published setting and those that failed; averages over the last {LAST} logged "
        "steps. k: mean repeats of a relation, by decoder layer. Matched: share of each predicate group's queries that "
        "got a target, most frequent predicates first. Overflow: share of each group's targets that other groups' "
        "queries got. A group starves where its queries got no target."
    )
    header = ["trial", "", "state", "steps", "loss, first", "last", "gradient norm", "largest"]
    header += ["k", "matched", "overflow", "without a query", "groups that starve", "why it ended"]
    plots = [_curves(trained, "gradient_norm", "gradient norm", log=True)]
    layers = max(len(t.numbered("k_log_layer")) for t in trained)
    if layers:
        plots.append(_curves(trained, f"k_log_layer{layers}", "mean k of the last decoder layer"))
    return [html.text(about), html.table(header, [_row(t) for t in trained]), html.grid(map(html.plot, plots))]


def _shown(board: Board) -> list[Entry]:
    return board.top(BEST) + [entry for entry in board.entries if entry.state == "failed"]


def _lines(snapshot: Snapshot, entry: Entry) -> list[Line]:
    lines = read_lines(snapshot.run_folder(entry) / "metrics.jsonl")
    return [line for line in lines if "train/loss" in line and type(line.get("step")) is int]


def _row(trained: Trained) -> list[Any]:
    entry, losses = trained.entry, trained.series("loss")
    norms = [value for _, value in trained.series("gradient_norm")]
    starving = trained.series("starving_groups")
    return [
        entry.id,
        entry.label or "",
        entry.state,
        trained.lines[-1]["step"],
        losses[0][1] if losses else None,
        trained.lately("loss"),
        trained.lately("gradient_norm"),
        max(norms, default=None),
        _list(trained.numbered("k_log_layer"), "{:.2f}"),
        _list(trained.numbered("matched_share_group"), "{:.1%}"),
        _list(trained.numbered("overflow_group"), "{:.1%}"),
        _list([trained.lately("unmatched_share")], "{:.1%}"),
        int(starving[-1][1]) if starving else None,
        entry.reason or "",
    ]


def _list(values: Iterable[float | None], form: str) -> str:
    return " · ".join("-" if value is None else form.format(value) for value in values)


def _curves(trained: Sequence[Trained], name: str, title: str, *, log: bool = False) -> go.Figure:
    figure = go.Figure()
    for one in trained:
        series = one.series(name)
        figure.add_scatter(
            x=[step for step, _ in series],
            y=[value for _, value in series],
            mode="lines+markers",
            name=escape.escape(one.name),
            line={"dash": "dot" if one.entry.state == "failed" else "solid"},
            marker={"size": 4},
        )
    if log:
        figure.update_yaxes(type="log")
    return figure.update_layout(title=title, xaxis_title="step", showlegend=True)
