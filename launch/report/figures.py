"""The page's figures, drawn by plotly: Optuna's own where it has them."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence

import optuna
import plotly.graph_objects as go

from speaq.charts.chart import COLOURS
from speaq.plain_text import spell
from speaq.study.charts import kind_of_name
from speaq.study.ledger import Entry
from speaq.study.results import table_k
from speaq.training.callbacks import is_number

from ..search.optuna_study import quiet
from .series import Series

BEST, OTHER, FRONT = COLOURS["best"], COLOURS["other"], COLOURS["front"]
_DASHED = {"color": COLOURS["published"], "dash": "dash"}
PARTS = ("R", "mR", "head", "body", "tail")
MOST_NAMED = 40  # trials of a timeline, one below the other


def _value(entry: Entry, name: str) -> float:
    value = entry.metrics[name]
    assert value is not None, name  # a finished trial has its objectives
    return value


def _colour(name: str | None) -> str:
    return COLOURS[kind_of_name(name or "")]


def _mark(figure: go.Figure, points: Mapping[str, tuple[float, float]]) -> go.Figure:
    for name, (x, y) in points.items():
        marker = {"color": _colour(name), "size": 11, "line": {"width": 1, "color": "white"}}
        figure.add_scatter(x=[x], y=[y], mode="markers", name=html.escape(name), marker=marker)
    return figure


def history(series: Series) -> list[go.Figure]:
    """Each objective over the trials."""
    places = {entry.id: number for number, entry in enumerate(series.board.entries)}
    figures, finished = [], {entry.id for entry in series.board.finished}
    for name in series.board.plan.objective:
        known = [entry for entry in series.comparable if is_number(entry.metrics.get(name))]
        figure = _trials(known, [(places[entry.id], _value(entry, name)) for entry in known])
        best = list(itertools.accumulate((_value(e, name) if e.id in finished else 0.0 for e in known), max))
        line = {"shape": "hv", "color": BEST, "width": 1.3}
        x = [places[entry.id] for entry in known]
        figure.add_scatter(x=x, y=best, mode="lines", line=line, name="best so far")
        figure.update_layout(title=f"{name} over trials", xaxis_title="trial")
        figures.append(_mark(figure, {label: (places[e.id], _value(e, name)) for label, e in series.marked.items()}))
    return figures


def _trials(entries: Sequence[Entry], points: Sequence[tuple[float, float]]) -> go.Figure:
    """Points of trials, crosses where they have not finished."""
    figure = go.Figure()
    for name, symbol, finished in (("trials", "circle", True), ("not finished", "x-thin", False)):
        chosen = [pair for pair in zip(entries, points, strict=True) if (pair[0].state == "finished") == finished]
        if not chosen:
            continue
        marker = {"color": OTHER, "symbol": symbol, "size": 7, "line": {"width": 1.5, "color": OTHER}}
        figure.add_scatter(
            x=[x for _, (x, _) in chosen],
            y=[y for _, (_, y) in chosen],
            mode="markers",
            text=[f"trial {entry.id}" for entry, _ in chosen],
            name=name,
            marker=marker,
        )
    return figure


def front(series: Series) -> list[go.Figure]:
    """Two objectives: the Pareto front, and the hypervolume above (0, 0) over the trials."""
    plane = decodings(series).update_layout(title="Pareto front")
    with quiet():
        volume = optuna.visualization.plot_hypervolume_history(series.study, [0.0, 0.0])
    volume.update_layout(title="Hypervolume over trials", yaxis_title=None)
    return [plane, volume]


def decodings(series: Series) -> go.Figure:
    """Trials in the plane of recall and mean recall and their front; the best ones as curves: their decodings."""
    x, y = series.plane
    known = [entry for entry in series.comparable if all(is_number(entry.metrics.get(n)) for n in (x, y))]
    figure = _trials(known, [(_value(entry, x), _value(entry, y)) for entry in known])
    named = {name: e for name, e in series.marked.items() if all(is_number(e.metrics.get(n)) for n in (x, y))}
    if corners := [(entry.metrics.get(x) or 0.0, entry.metrics.get(y) or 0.0) for entry in series.board.front((x, y))]:
        line = {"color": FRONT, "width": 1}
        across, up = zip(*corners, strict=True)
        figure.add_scatter(x=across, y=up, mode="lines", line=line, name="front: no trial beats these")
    _mark(_with_decodings(figure, series), {n: (_value(e, x), _value(e, y)) for n, e in named.items()})
    return figure.update_layout(xaxis_title=x, yaxis_title=y)


def _with_decodings(figure: go.Figure, series: Series) -> go.Figure:
    """The figure with the curves of the best trials, where trials were decoded."""
    for name, curve in series.decoded.items():
        figure.add_scatter(
            x=[x for x, _ in curve],
            y=[y for _, y in curve],
            mode="lines+markers",
            name=html.escape(f"decodings of {name}"),
            line={"color": _colour(name), "width": 1},
            marker={"size": 4},
        )
    return figure


def importance(series: Series) -> go.Figure:
    """Which parameters decide whether a trial is among the better ones, for each objective and head, body and tail.

    Lines are 95 % intervals over the trials.
    """
    plan, inside = series.board.plan, series.inside
    k = table_k(plan.objective, plan.base)
    figure = go.Figure()
    for name in dict.fromkeys([*plan.objective, *(f"{part}@{k}" for part in PARTS[2:])]):
        numbers = [value for e in inside if is_number(value := e.metrics.get(name))]
        if len(numbers) < len(inside):  # undefined on this split
            continue
        found, ends = series.shares(numbers), series.intervals(numbers)
        keys = [key for key in reversed(plan.space.parameters) if key in found]
        lines = [html.escape(key).replace(".", ".<br>") for key in keys]
        bars = {
            "symmetric": False,
            "array": [max(0.0, ends[key][1] - found[key]) for key in keys],
            "arrayminus": [max(0.0, found[key] - ends[key][0]) for key in keys],
            "thickness": 1,
            "width": 3,
        }
        figure.add_bar(x=[found[key] for key in keys], y=lines, name=name, orientation="h", error_x=bars)
    return figure.update_layout(barmode="group")


def parallel(series: Series) -> go.Figure:
    """Every finished trial as a line over its parameters; the darker, the better, of two objectives by its front."""
    name = series.board.plan.objective[0]  # not shown where there are two
    return optuna.visualization.plot_parallel_coordinate(series.study_inside, params=series.drawn, target_name=name)


def timeline(series: Series) -> go.Figure:
    """When trials were asked for, and how long each trained."""
    entries = series.board.entries
    first = min(entry.asked for entry in entries)
    figure = go.Figure()
    for state in dict.fromkeys(entry.state for entry in entries):
        shown = [entry for entry in entries if entry.state == state]
        figure.add_bar(
            base=[(entry.asked - first) / 3600 for entry in shown],
            x=[entry.seconds / 3600 for entry in shown],
            y=[f"trial {entry.id}" for entry in shown],
            name=state,
            orientation="h",
        )
    order = [f"trial {entry.id}" for entry in reversed(entries)]
    figure.update_yaxes(categoryorder="array", categoryarray=order, showticklabels=len(order) <= MOST_NAMED)
    return figure.update_layout(barmode="overlay", xaxis_title="hours since the search began", showlegend=True)


def slices(series: Series) -> list[go.Figure]:
    """What trials are ranked by, over each parameter that a finished trial has."""
    target = series.score_of(series.board.entries)
    figures = []
    for key in series.drawn:
        figure = optuna.visualization.plot_slice(series.study, params=[key], target=target, target_name="score")
        figure.update_traces(marker_showscale=False)
        figures.append(figure.update_layout(title=key, showlegend=False, xaxis_title=None, yaxis_title=None))
    return figures


def contours(series: Series) -> list[go.Figure]:
    """What trials are ranked by, over two parameters at once."""
    target = series.score_of(series.inside)
    figures = []
    for pair in series.pairs:
        figure = optuna.visualization.plot_contour(
            series.study_inside, params=list(pair), target=target, target_name=series.ranked_by
        )
        figure.update_traces(showscale=False, selector={"type": "contour"})
        figures.append(figure.update_layout(title=" and ".join(pair)))
    return figures


def cost_to_target(series: Series) -> tuple[go.Figure, str]:
    """The best value so far over the time that trials have taken, and when the published setting's was passed.

    Trials count in the order of asking, as if one ran after the other.
    """
    board, best = series.board, series.best_so_far
    hours = [spent / 3600 for spent in itertools.accumulate((e.seconds for e in board.entries), initial=0.0)]
    figure = go.Figure()
    line = {"shape": "hv", "color": BEST}
    figure.add_scatter(x=hours, y=[0.0, *best], mode="lines", line=line, name="best so far")
    published = next((entry for entry in board.finished if entry.label == "published"), None)
    if published is None:
        return figure, "The published setting has not finished: there is no target."
    target = board.score(published.metrics)
    figure.add_scatter(x=[0, hours[-1]], y=[target] * 2, mode="lines", line=_DASHED, name="published")
    passed = next((place for place, value in enumerate(best) if value > target), None)
    when = "not passed"
    if passed is not None:
        when = f"passed by trial {board.entries[passed].id} after {spell(hours[passed + 1] * 3600)}"
    return figure.update_layout(xaxis_title="hours in trials"), (
        f"The published setting's {series.ranked_by}, {target:.4f}, was {when}; "
        f"all trials took {spell(hours[-1] * 3600)}."
    )


def curves(series: Series) -> go.Figure:
    """What trials are ranked by, at each evaluation."""
    names = {entry.id: name for name, entry in series.marked.items()}
    figure = go.Figure()
    evaluated = [entry for entry in series.board.entries if entry.reports]
    for entry in sorted(evaluated, key=lambda entry: entry.id in names):  # marked ones on top
        name = names.get(entry.id)
        steps, scores = series.curve(entry)
        figure.add_scatter(
            x=steps,
            y=scores,
            mode="lines+markers",
            name=html.escape(name or f"trial {entry.id}, {entry.state}"),
            line={"color": _colour(name), "width": 3 if name else 1},
            marker={"size": 4},
            showlegend=name is not None,
        )
    return figure.update_layout(xaxis_title=series.step_name)


def parts(series: Series) -> go.Figure:
    """Recalls of the marked trials: all, mean, and of frequent, middling and rare predicates."""
    plan = series.board.plan
    columns = [f"{part}@{table_k(plan.objective, plan.base)}" for part in PARTS]
    return _bars({name: {c: entry.metrics.get(c) for c in columns} for name, entry in series.marked.items()})


def predicates(title: str, recalls: Mapping[str, Mapping[str, float | None]]) -> go.Figure:
    """Recall of each predicate. `recalls`: name of a trial → predicate → recall (None: not in the split)."""
    return _bars(recalls).update_layout(title=title)


def _bars(recalls: Mapping[str, Mapping[str, float | None]]) -> go.Figure:
    figure = go.Figure()
    for name, values in recalls.items():
        labels = [html.escape(label) for label in values]
        figure.add_bar(x=labels, y=list(values.values()), name=html.escape(name), marker_color=_colour(name))
    return figure.update_layout(barmode="group", yaxis_title="recall")
