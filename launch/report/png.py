"""The report's figures as PNG files, for papers and slides: Optuna's own, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from launch.report import figures, overview
from launch.search.optuna_study import quiet, rebuild
from speaq.files.atomic import replaced
from speaq.study import results
from speaq.study.ledger import Entry
from speaq.study.plan import Plan

Target = Callable[[FrozenTrial], float]


def write(entries: Sequence[Entry], plan: Plan, folder: Path) -> list[Path]:
    """Draws what a study with a finished trial has enough trials for. Raises OSError."""
    overview.keep_out_of_home()
    import matplotlib

    matplotlib.use("Agg")  # pyplot, which Optuna draws with, would look for a screen
    from optuna.visualization import matplotlib as drawn

    folder.mkdir(parents=True, exist_ok=True)
    study, name, ranked = rebuild(entries, plan), figures.objective_name(plan), _of(entries, plan)
    files: list[Path] = []

    def save(title: str, _: Any, width: float = 8) -> None:
        files.append(_save(folder / f"{title}.png", width))

    with quiet():
        save("history", drawn.plot_optimization_history(study, target=ranked, target_name=name))
        if len(plan.objective) == 2:
            save("front", drawn.plot_pareto_front(study, target_names=list(plan.objective)))
        seen = {key for entry in entries if entry.state == "finished" for key in entry.values or {}}
        if seen:
            save(
                "slices", drawn.plot_slice(study, params=sorted(seen), target=ranked, target_name=name), 3.4 * len(seen)
            )
        inside = figures.of_the_space(entries)
        if not isinstance(inside, str):
            some, evaluator = rebuild(inside, plan), figures.evaluator(inside)
            axes = drawn.plot_param_importances(
                some, evaluator=evaluator, target=_of(inside, plan, -1), target_name=name
            )
            save("importance", axes)
            for number, pair in enumerate(figures.pairs(inside, plan), start=1):
                save(f"pair-{number}", drawn.plot_contour(some, params=list(pair), target=_of(inside, plan)))
    return files


def _of(entries: Sequence[Entry], plan: Plan, sign: int = 1) -> Target:
    """What trials are ranked by; PED-ANOVA looks for the smallest, so it is given the negative."""
    return lambda trial: sign * results.score(entries[trial.number].metrics, plan.objective)


def _save(path: Path, width: float) -> Path:
    """pyplot's figure, which Optuna has just drawn; it returns axes alone. `width` in inches."""
    from matplotlib import pyplot

    figure = pyplot.gcf()
    figure.set_size_inches(width, 5)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", bbox_inches="tight")
    pyplot.close(figure)
    return path
