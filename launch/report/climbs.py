"""The report's section on a ladder: what its rungs have cost, and whether they were right about the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speaq.space.ladder import Ladder
from speaq.study.board import Board
from speaq.study.climbs import FEWEST, Climbed, climbed, in_trainings

from . import html

HEADER = ("rung", "steps", "trials", "{kind} s", "of all", "tau", "low", "high", "over trials", "went on", "right")


def rungs(board: Board, ladder: Ladder) -> list[str]:
    """A table with a row for each rung, and what the search has cost in trainings."""
    found = climbed(board, ladder)
    resources = board.plan.base.resources
    kind, each = ("GPU", resources.gpus_per_worker) if resources.gpus_per_worker else ("CPU", resources.cpus_per_worker)
    total = sum(rung.seconds for rung in found)
    rows = [_row(rung, each * resources.num_workers, total) for rung in found]
    about = (
        "Trials of different rungs are never ranked together: only those at the top are ranked. tau: Kendall's, of the "
        "values at a rung with those at the top, over the trials that have both, with a 95 % interval; these are the "
        f"ones that were found worth it, so it is rather too low; none is given below {FEWEST} trials. A trial "
        "that went on from a rung was right where it came into the better half of the top."
    )
    header = [name.format(kind=kind) for name in HEADER]
    return [html.text(about), html.table(header, rows), html.text(_cost(board, ladder))]


def _row(rung: Climbed, devices: float, total: float) -> Sequence[Any]:
    share = f"{rung.seconds / total:.0%}" if total else ""
    place, tau = rung.place, rung.tau or (None, None, None)
    right = f"{rung.right} of {rung.went_on}" if rung.went_on else ""
    seconds = round(rung.seconds * devices, 1)
    return [place.kind, place.step, rung.trials, seconds, share, *tau, rung.compared, rung.went_on, right]


def _cost(board: Board, ladder: Ladder) -> str:
    trainings = in_trainings(board, ladder)
    if trainings is None:
        return "The published setting has not come to the top: what the search cost is not known in full trainings."
    return (
        f"All trials together have cost as much as {trainings:.2f} full trainings of the published setting. To make "
        "the features is not counted."
    )
