"""Figures as PNG files, drawn by matplotlib: search.png, and Optuna's own of the report, for papers and slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speaq.files.atomic import replaced
from speaq.files.home import keep_out_of_home
from speaq.study import charts
from speaq.study.board import Board
from speaq.study.ledger import Entry
from speaq.study.plan import Plan

from ..search.optuna_study import quiet
from .series import Series, importance

DPI = 130
LONG = 6  # letters of a choice; longer ones beside each other would overlap


def write_results(output: Path, entries: Sequence[Entry], plan: Plan) -> None:
    """All that a search leaves behind in its folder: trials.csv, best.yaml and search.png."""
    board = Board(entries, plan)
    board.write(output)
    draw_search(output / "search.png", board)


def draw_search(path: Path, board: Board) -> None:
    """Objective over trials and over steps, and the recall–mean-recall plane; references marked by colour."""
    keep_out_of_home()
    from speaq.charts import picture

    series = Series(board)
    drawn = [make(series, _nowhere) for make in (charts.history, charts.curves, charts.plane)]
    picture.write(path, drawn, path.resolve().parent.name, dpi=DPI)


def _nowhere(entry: Entry) -> str:
    """Nothing in a picture can be clicked on."""
    return ""


def draw_figures(folder: Path, series: Series) -> None:
    """Draws into a folder what a study with a finished trial has enough trials for. Raises OSError."""
    keep_out_of_home()
    import matplotlib

    matplotlib.use("Agg")  # pyplot, which Optuna draws with, would look for a screen
    from optuna.visualization import matplotlib as drawn

    from speaq.charts import picture

    folder.mkdir(parents=True, exist_ok=True)
    study, ranked, name = series.study, series.score_of(series.board.entries), series.ranked_by
    title = folder.resolve().parent.name
    picture.write(folder / "history.png", [charts.history(series, _nowhere)], title, dpi=DPI)
    if len(series.board.plan.objective) == 2:
        picture.write(folder / "front.png", [charts.plane(series, _nowhere)], title, dpi=DPI)
    if series.too_few is None and not isinstance(bars := importance(series.board), str):
        picture.write_bars(folder / "importance.png", bars, dpi=DPI)
    with quiet(), matplotlib.rc_context():  # Optuna changes the style of all that is drawn
        if series.drawn:
            drawn.plot_slice(study, params=sorted(series.drawn), target=ranked, target_name=name)
            _save(folder / "slices.png", 3.4 * len(series.drawn))
        if series.too_few is None:
            for number, pair in enumerate(series.pairs, start=1):
                drawn.plot_contour(series.study_inside, params=list(pair), target=series.score_of(series.inside))
                _save(folder / f"pair-{number}.png")


def _save(path: Path, width: float = 8) -> None:
    """Writes pyplot's figure, which Optuna has just drawn; it returns axes alone. `width` in inches."""
    from matplotlib import pyplot

    figure = pyplot.gcf()
    figure.set_size_inches(width, 5)
    for axes in figure.axes:  # as all pictures of a search
        axes.set_facecolor("white")
        axes.grid(color="#e5e7eb", linewidth=0.7)
        if any(len(label.get_text()) > LONG for label in axes.get_xticklabels()):
            axes.tick_params(axis="x", labelrotation=30)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", bbox_inches="tight")
    pyplot.close(figure)
