"""A search: its charts, its leader board, and the way to each trial's training and images."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from urllib.parse import quote

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from speaq.charts.chart import Bars
from speaq.charts.svg import draw
from speaq.config import ConfigError
from speaq.explore.context import Context, NotFound, Page, Routes
from speaq.explore.study import ExploredStudy
from speaq.explore.tables import Column, in_order, read_order
from speaq.study.board import Board, totals, totals_line, trial_statuses
from speaq.study.charts import charts
from speaq.study.series import BoardSeries
from speaq.study.snapshot import Snapshot

UNKNOWN = 'To say which parameters matter needs Optuna: pip install -e ".[ray]"'


def routes(context: Context) -> Routes:
    """The charts with the table of trials, and the importance of the parameters, which takes seconds."""

    def board(request: Request) -> Response:
        study = _study(context)
        now = study.read()
        trials = study.trials(now, context.main.split_name)
        columns = [Column("trial", "trial", numeric=False), Column("label", "label", numeric=False)]
        columns += [Column("status", "status", numeric=False)]
        columns += [Column(name, name, numeric=True) for name in study.columns(trials)]
        usual = next((name for name in study.objective if any(c.key == name for c in columns)), "trial")
        order = read_order(request.query_params, columns, usual)
        values = {"columns": columns, "order": order, "rows": in_order(trials, order), **_charted(study, now)}
        return context.render(request, "study.html", values)

    return {"/study": board, "/study/importance": _importance(context)}


def _study(context: Context) -> ExploredStudy:
    if context.study is None:
        raise NotFound("No search is open: speaq explore --study STUDY")
    return context.study


def _charted(study: ExploredStudy, now: Snapshot) -> dict[str, object]:
    """What the page says above its table. Charts come with the first evaluation."""
    series = BoardSeries(Board.of(now))
    begun = study.begun()
    any_evaluated = any(entry.reports or entry.metrics for entry in now.entries)
    found: dict[str, object] = {
        "best": [],
        "totals": totals_line(totals(trial_statuses(now), now), now.active),
        "works": now.active,
        "charts": [],
        "why": "",
    }
    try:
        drawn = charts(series, lambda entry: f"/trial/{quote(entry.id)}/training" if entry.id in begun else "")
        found["best"] = series.board.best_lines()
        found["charts"] = [Markup(draw(chart)) for chart in drawn] if any_evaluated else []
    except ConfigError as error:  # trials of different protocols: their table is shown all the same
        found["why"] = str(error)
    return found


def _importance(context: Context) -> Callable[[Request], Response]:
    @lru_cache(maxsize=1)
    def found(finished: tuple[str, ...]) -> Bars | str:
        if context.importance is None:
            return UNKNOWN
        study = _study(context)
        return context.importance(Board.of(study.read()))

    def answer(request: Request) -> Response:
        finished = (entry.id for entry in _study(context).read().entries if entry.state == "finished")
        bars = found(tuple(finished))
        chart = Markup(draw(bars)) if isinstance(bars, Bars) else None
        return context.render(request, "importance.html", {"chart": chart, "reason": bars})

    return answer


PAGE = Page("Trials", "/study", routes, "study")
