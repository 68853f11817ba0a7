"""The report's figures: Optuna's own, for the study rebuilt from the ledger, and plotly's where it has none."""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Mapping, Sequence

import optuna
import plotly.graph_objects as go
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from launch.report.overview import COLOURS
from launch.search.optuna_study import quiet, rebuild
from speaq.study.ledger import Entry
from speaq.study.plan import Plan
from speaq.study.results import best_entry, score, table_k
from speaq.training.callbacks import is_number

MIN_TRIALS = 10  # with fewer finished trials an importance would be made of chance
MIN_TOP = 5  # trials in the better part, as the documentation of PED-ANOVA asks for
BEST, OTHER = "#ca8a04", "#9ca3af"
CONTOURED = 3  # parameters, each with each other
_DASHED = {"color": COLOURS["published"], "dash": "dash"}
PARTS = ("R", "mR", "head", "body", "tail")


def _value(entry: Entry, name: str) -> float:
    value = entry.metrics[name]
    assert value is not None, name  # a finished trial has its objectives
    return value


def objective_name(plan: Plan) -> str:
    """What trials are ranked by."""
    return plan.objective[0] if len(plan.objective) == 1 else f"harmonic mean of {' and '.join(plan.objective)}"


def marked(entries: Sequence[Entry], plan: Plan) -> dict[str, Entry]:
    """Finished trials that every plot shows by name: the references, and the best one where it is none of them."""
    found = {entry.label: entry for entry in entries if entry.label and entry.state == "finished"}
    best = best_entry(entries, plan.objective)
    return found if best is None or best.label else {**found, f"best ({best.id})": best}


def _colour(name: str | None) -> str:
    return COLOURS.get(name or "", BEST if name and name.startswith("best") else OTHER)


def _mark(figure: go.Figure, points: Mapping[str, tuple[float, float]]) -> go.Figure:
    for name, (x, y) in points.items():
        marker = {"color": _colour(name), "size": 11, "line": {"width": 1, "color": "white"}}
        figure.add_scatter(x=[x], y=[y], mode="markers", name=html.escape(name), marker=marker)
    return figure


def history(entries: Sequence[Entry], plan: Plan) -> list[go.Figure]:
    """Each objective over the trials."""
    study = rebuild(entries, plan)
    places = {entry.id: number for number, entry in enumerate(entries)}
    figures = []
    for index, name in enumerate(plan.objective):
        target = None if len(plan.objective) == 1 else _of_values(index)
        figure = optuna.visualization.plot_optimization_history(study, target=target, target_name=name)
        figure.update_layout(title=f"{name} over trials", yaxis_title=None)
        points = {label: (places[e.id], _value(e, name)) for label, e in marked(entries, plan).items()}
        figures.append(_mark(figure, points))
    return figures


def _of_values(index: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: float(trial.values[index])


def front(entries: Sequence[Entry], plan: Plan) -> list[go.Figure]:
    """Two objectives: the Pareto front, and the hypervolume above (0, 0) over the trials."""
    study = rebuild(entries, plan)
    x, y = plan.objective
    plane = optuna.visualization.plot_pareto_front(study, target_names=[x, y])
    plane.update_traces(marker_showscale=False)
    plane.update_layout(title="Pareto front (red)")
    _mark(plane, {label: (_value(e, x), _value(e, y)) for label, e in marked(entries, plan).items()})
    with quiet():
        volume = optuna.visualization.plot_hypervolume_history(study, [0.0, 0.0])
    volume.update_layout(title="Hypervolume over trials", yaxis_title=None)
    return [plane, volume]


def of_the_space(entries: Sequence[Entry]) -> list[Entry] | str:
    """Finished trials with parameters of the space; a text that says why not where there are below `MIN_TRIALS`."""
    inside = [e for e in entries if e.values is not None and e.state == "finished"]
    few = f"Needs {MIN_TRIALS} finished trials of the search space; there are {len(inside)}."
    return few if len(inside) < MIN_TRIALS else inside


def shares(inside: Sequence[Entry], plan: Plan, numbers: Sequence[float]) -> dict[str, float]:
    """Parameter → how much it decides whether a trial is among those with the larger numbers, by PED-ANOVA."""
    with quiet():
        return get_param_importances(rebuild(inside, plan), evaluator=evaluator(inside), target=_negated(numbers))


def evaluator(inside: Sequence[Entry]) -> PedAnovaImportanceEvaluator:
    """PED-ANOVA, with enough trials in the better part."""
    return PedAnovaImportanceEvaluator(target_quantile=max(0.1, MIN_TOP / len(inside)))


def importance(inside: Sequence[Entry], plan: Plan) -> go.Figure:
    """Which parameters decide whether a trial is among the better ones, for each objective and head, body and tail."""
    k = table_k(plan.objective, plan.base)
    figure = go.Figure()
    for name in dict.fromkeys([*plan.objective, *(f"{part}@{k}" for part in PARTS[2:])]):
        numbers = [value for e in inside if is_number(value := e.metrics.get(name))]
        if len(numbers) < len(inside):  # undefined on this split
            continue
        found = shares(inside, plan, numbers)
        keys = [key for key in reversed(plan.space.parameters) if key in found]
        figure.add_bar(x=[found[key] for key in keys], y=[_two_lines(key) for key in keys], name=name, orientation="h")
    return figure.update_layout(barmode="group")


def _negated(numbers: Sequence[float]) -> Callable[[FrozenTrial], float]:
    return lambda trial: -numbers[trial.number]


def _two_lines(key: str) -> str:
    return html.escape(key).replace(".", ".<br>")


def slices(entries: Sequence[Entry], plan: Plan) -> list[go.Figure]:
    """What trials are ranked by, over each parameter that a finished trial has."""
    study = rebuild(entries, plan)

    def target(trial: FrozenTrial) -> float:
        return score(entries[trial.number].metrics, plan.objective)

    seen = {key for entry in entries if entry.state == "finished" for key in entry.values or {}}
    figures = []
    for key in plan.space.parameters:
        if key in seen:
            figure = optuna.visualization.plot_slice(study, params=[key], target=target, target_name="score")
            figure.update_traces(marker_showscale=False)
            figure.update_layout(title=key, showlegend=False, xaxis_title=None, yaxis_title=None)
            figures.append(figure)
    return figures


def pairs(inside: Sequence[Entry], plan: Plan) -> list[tuple[str, str]]:
    """The parameters that decide most, two at a time; both must have been drawn together, and in different values."""
    found = shares(inside, plan, [score(e.metrics, plan.objective) for e in inside])
    most = sorted(found, key=lambda key: -found[key])[:CONTOURED]

    def together(one: str, other: str) -> bool:
        both = [e.values for e in inside if e.values and one in e.values and other in e.values]
        return all(len({str(values[key]) for values in both}) > 1 for key in (one, other))

    return [pair for pair in itertools.combinations(most, 2) if together(*pair)]


def contours(inside: Sequence[Entry], plan: Plan) -> list[go.Figure]:
    """What trials are ranked by, over two parameters at once."""
    study = rebuild(inside, plan)
    figures = []
    for pair in pairs(inside, plan):
        figure = optuna.visualization.plot_contour(
            study,
            params=list(pair),
            target=lambda t: score(inside[t.number].metrics, plan.objective),
            target_name=objective_name(plan),
        )
        figure.update_traces(showscale=False, selector={"type": "contour"})
        figures.append(figure.update_layout(title=" and ".join(pair)))
    return figures


def cost_to_target(entries: Sequence[Entry], plan: Plan) -> tuple[go.Figure, str]:
    """The best value so far over the time that trials have taken, and when the published setting's was passed.

    Trials count in the order of asking, as if one ran after the other.
    """
    spent, best = 0.0, 0.0
    hours, values, passed = [0.0], [0.0], None
    published = next((e for e in entries if e.label == "published" and e.state == "finished"), None)
    target = None if published is None else score(published.metrics, plan.objective)
    for entry in entries:
        spent += entry.seconds
        if entry.state == "finished":
            best = max(best, score(entry.metrics, plan.objective))
        hours.append(spent / 3600)
        values.append(best)
        if passed is None and target is not None and best > target:
            passed = f"passed by trial {entry.id} after {spent / 3600:.3g} h"
    figure = go.Figure()
    figure.add_scatter(x=hours, y=values, mode="lines", line={"shape": "hv", "color": BEST}, name="best so far")
    if target is None:
        return figure, "The published setting has not finished: there is no target."
    figure.add_scatter(x=[0, hours[-1]], y=[target] * 2, mode="lines", line=_DASHED, name="published")
    return figure.update_layout(xaxis_title="hours in trials"), (
        f"The published setting's {objective_name(plan)}, {target:.4f}, was {passed or 'not passed'}; "
        f"all trials took {hours[-1]:.3g} h."
    )


def curves(entries: Sequence[Entry], plan: Plan) -> go.Figure:
    """What trials are ranked by, at each evaluation."""
    names = {entry.id: name for name, entry in marked(entries, plan).items()}
    figure = go.Figure()
    for entry in sorted((e for e in entries if e.reports), key=lambda e: e.id in names):  # marked ones on top
        steps = sorted(entry.reports)
        name = names.get(entry.id)
        figure.add_scatter(
            x=steps,
            y=[score(entry.reports[step], plan.objective) for step in steps],
            mode="lines+markers",
            name=html.escape(name or f"trial {entry.id}, {entry.state}"),
            line={"color": _colour(name), "width": 3 if name else 1},
            marker={"size": 4},
            showlegend=name is not None,
        )
    return figure.update_layout(xaxis_title="step")


def parts(entries: Sequence[Entry], plan: Plan) -> go.Figure:
    """Recalls of the marked trials: all, mean, and of frequent, middling and rare predicates."""
    k = table_k(plan.objective, plan.base)
    columns = [f"{part}@{k}" for part in PARTS]
    figure = go.Figure()
    for name, entry in marked(entries, plan).items():
        values = [entry.metrics.get(column) for column in columns]
        figure.add_bar(x=columns, y=values, name=html.escape(name), marker_color=_colour(name))
    return figure.update_layout(barmode="group", yaxis_title="recall")


def predicates(title: str, recalls: Mapping[str, Mapping[str, float | None]]) -> go.Figure:
    """Recall of each predicate. `recalls`: name of a trial → predicate → recall (None: not in the split)."""
    figure = go.Figure()
    for name, values in recalls.items():
        labels = [html.escape(predicate) for predicate in values]
        figure.add_bar(x=labels, y=list(values.values()), name=html.escape(name), marker_color=_colour(name))
    return figure.update_layout(barmode="group", title=title, yaxis_title="recall")
