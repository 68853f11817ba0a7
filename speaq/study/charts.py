"""Charts of a search: recall against mean recall, history, learning curves, importance of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from speaq.charts.chart import Bar, Bars, Chart, Line, Mark
from speaq.plain_text import shown
from speaq.study.board import REFERENCES, state_of
from speaq.study.decoding import AS_TRAINED
from speaq.study.ledger import Entry
from speaq.study.series import BoardSeries
from speaq.training.callbacks import Metrics

Link = Callable[[Entry], str]  # where a trial's mark leads; "": nowhere
NAMED = 6  # trials of the front that are named
Ends = Mapping[str, tuple[float, float]]


def charts(series: BoardSeries, link: Link) -> list[Chart]:
    """All charts that need the ledger alone, those first that say most."""
    return [plane(series, link), history(series, link), curves(series, link)]


def plane(series: BoardSeries, link: Link) -> Chart:
    """The trials over two metrics, the front that no other trial beats, and the best ones' decodings."""
    names = series.plane
    front = series.board.front(names)
    shown_trials = [entry for entry in series.comparable if entry.metrics]
    named = {entry.id for entry in front[-NAMED:]}
    marks = [
        _mark(series, entry, _values(entry.metrics, names), link, label=entry.id if entry.id in named else "")
        for entry in shown_trials
    ]
    corners = tuple(_values(entry.metrics, names) for entry in front)
    lines = [Line("front: no trial beats these", corners, "front")] if len(front) > 1 else []
    lines += [
        Line(f"decodings of {name}", tuple(points), kind_of_name(name), dots=True)
        for name, points in series.decoded.items()
    ]
    return Chart(
        f"{names[0]} and {names[1]}",
        x=names[0],
        y=names[1],
        lines=tuple(lines),
        marks=_references_last(marks),
        about="" if series.decoded else _crosses(shown_trials),
    )


def history(series: BoardSeries, link: Link) -> Chart:
    """What each trial came to, in the order of asking, and the best so far."""
    board = series.board
    places = {entry.id: place for place, entry in enumerate(board.entries)}
    shown_trials = [entry for entry in series.comparable if entry.metrics]
    marks = [_mark(series, e, (places[e.id], board.score(e.metrics)), link) for e in shown_trials]
    best = tuple((float(place), score) for place, score in enumerate(series.best_so_far))
    lines = [Line("best so far", best, "best", stairs=True)] if board.finished else []
    return Chart(
        "Trial by trial",
        x="trial",
        y=series.ranked_by,
        lines=tuple(lines),
        marks=_references_last(marks),
        about=_crosses(shown_trials),
        from_zero=True,
    )


def curves(series: BoardSeries, link: Link) -> Chart:
    """What trials are ranked by, at each evaluation; those that are marked on top."""
    board, names = series.board, {entry.id: name for name, entry in series.marked.items()}
    evaluated = sorted((e for e in board.entries if e.reports), key=lambda entry: entry.id in names)
    lines = []
    for entry in evaluated:
        steps, scores = series.curve(entry)
        points = tuple(zip(map(float, steps), scores, strict=True))
        name = names.get(entry.id, f"trial {entry.id}, {state_of(entry, board.active)}")
        lines.append(Line(name, points, _kind(series, entry), link(entry), listed=entry.id in names))
    title = "Learning curves" + (f", {AS_TRAINED}" if series.decoded else "")
    return Chart(title, x=series.step_name, y=series.ranked_by, lines=tuple(lines), from_zero=True)


def importance(series: BoardSeries, shares: Mapping[str, float], ends: Ends) -> Bars:
    """How much each parameter decides whether a trial is among the better ones, the largest share first."""
    order = sorted(shares, key=lambda key: -shares[key])
    bars = (Bar(key, shares[key], *ends.get(key, (shares[key], shares[key]))) for key in order)
    about = (
        "How much a parameter decides whether a trial is among the better ones (PED-ANOVA). Lines are 95 % intervals "
        "over the trials: where they overlap, the search does not know which matters more."
    )
    return Bars("Importance of the parameters", f"share, by {series.ranked_by}", tuple(bars), about)


def _values(metrics: Metrics, names: tuple[str, str]) -> tuple[float, float]:
    return metrics.get(names[0]) or 0.0, metrics.get(names[1]) or 0.0


def _mark(series: BoardSeries, entry: Entry, point: tuple[float, float], link: Link, label: str = "") -> Mark:
    """A trial as a point: what it is and came to, its name where it is a reference or the best."""
    state = state_of(entry, series.board.active)
    numbers = ", ".join(f"{name} {shown(entry.metrics.get(name))}" for name in _told(series))
    kind = _kind(series, entry)
    names = {other.id: name for name, other in series.marked.items()}
    return Mark(
        *point,
        about=f"trial {entry.id}{f' ({entry.label})' if entry.label else ''}, {state}: {numbers}",
        kind=kind,
        label=names.get(entry.id, label),
        link=link(entry),
        cross=entry.state != "finished",
    )


def _told(series: BoardSeries) -> list[str]:
    return list(dict.fromkeys((*series.board.plan.objective, *series.plane)))


def _kind(series: BoardSeries, entry: Entry) -> str:
    best = series.board.best
    if entry.label in REFERENCES:
        return str(entry.label)
    return "best" if best is not None and entry.id == best.id else "other"


def kind_of_name(name: str) -> str:
    """By which colour a trial is known, from the name that figures give it."""
    return name if name in REFERENCES else "best" if name.startswith("best") else "other"


def _references_last(marks: list[Mark]) -> tuple[Mark, ...]:
    """Drawn last, so that no other trial hides them."""
    return tuple(sorted(marks, key=lambda mark: mark.kind != "other"))


def _crosses(entries: list[Entry]) -> str:
    return "Crosses are trials that have not finished." if any(e.state != "finished" for e in entries) else ""
