"""`speaq report`: a study on one page that needs no network: what was asked, found, spent, and what to do next."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from speaq.config import ConfigError
from speaq.files import atomic
from speaq.files.atomic import check_links
from speaq.plain_text import spell
from speaq.runs import diff, files
from speaq.study import changes, seal
from speaq.study.board import Board, TrialStatus, totals, trial_statuses
from speaq.study.budget import Kind, device_seconds
from speaq.study.decoding import AS_TRAINED
from speaq.study.plan import Plan
from speaq.study.snapshot import Snapshot

from . import climbs, examples, figures, health, html, leaders, png, tables
from .series import Series

MORE_TRIALS = 20  # that the report proposes to add to a search that is complete


def write_report(snapshot: Snapshot, output: Path | None = None) -> Path:
    """Writes the page of a study, over an older one, and PNGs into the folder beside it that has its name.

    Returns the page's path, by default `report.html` in the study.

    Raises:
        ConfigError: trials of different protocols, or a file that cannot be written.
    """
    if output is None:
        check_links(snapshot.folder)
        output = snapshot.folder / "report.html"
    with contextlib.suppress(ConfigError, OSError):  # sections that need the data say that they are gone
        where = changes.found_data(snapshot.study, snapshot.folder, None)
        snapshot = replace(snapshot, study=replace(snapshot.study, data=where))
    series = Series(Board.of(snapshot))
    name = f"Search {snapshot.folder.resolve().name}"
    heading = re.split(r"(?<=[.?!])\s", snapshot.plan.space.question or name)[0]  # all of it stands below
    content = html.page(name, heading, _lead(snapshot, series.board), _sections(snapshot, series, output.parent))
    try:
        atomic.write_text(output, content)
        if series.board.finished:
            png.draw_figures(output.with_suffix(""), series)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror or error})") from error
    return output


def _lead(snapshot: Snapshot, board: Board) -> str:
    """What was searched, how far it has come, and what it has found so far."""
    plan, states = snapshot.plan, Counter[str](entry.state for entry in board.entries)
    ended = ", ".join(f"{states[state]} {state}" for state in leaders.ORDER if states[state])
    found = "; ".join(board.best_lines())
    asked = f"{' and '.join(plan.objective)} over {', '.join(plan.space.parameters)}"
    trials = f"{len(board.entries)} trials{f': {ended}' if ended else ''}"
    return f"{snapshot.folder.resolve().name}: {asked}. {trials}.{f' Found: {found}.' if found else ''}"


def _sections(snapshot: Snapshot, series: Series, home: Path) -> Iterator[html.Section]:
    """The page's parts; links lead from `home`, its folder."""
    trials, board = trial_statuses(snapshot), series.board
    yield html.section("What was asked", *_asked(snapshot))
    if not board.finished:
        yield html.section("Result", html.text("No trial has finished yet: there is nothing to rank or to draw."))
    yield html.section("Leader board", *leaders.leader_board(snapshot, board, trials, home))
    if board.ladder is not None:
        yield html.section("Rungs", *climbs.rungs(board, board.ladder))
    yield html.section("Confirmed with other seeds", *tables.confirmed(snapshot))
    if board.finished:
        yield from _figures(snapshot, series)
    yield html.section("Cost", *_cost(snapshot, trials))
    if trials:
        about = (
            "Each trial from when it was asked for, as long as it trained; one that went on after a pause is one bar."
        )
        plot = html.plot(figures.timeline(series), height=120 + 14 * len(trials))
        yield html.section("Timeline", html.text(about), plot)
    yield html.section("Training health", *health.training_health(snapshot, board))
    yield html.section("Failures", _failures(trials))
    yield html.section("What to run next", *_next(snapshot.folder, board))


def _asked(snapshot: Snapshot) -> list[str]:
    study, plan = snapshot.study, snapshot.plan
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    values = {
        "objective": " and ".join(plan.objective),
        "protocol": snapshot.protocol or "not said",
        "trials": str(max(plan.trials, len(snapshot.entries))),
        "sampler": plan.settings.sampler,
        "scheduler": plan.settings.scheduler,
        "training": _training(plan),
        "data": f"{study.data}, digest {study.data_digest}",
        "start": f"digest {study.start_digest}" if study.start_digest else "random weights",
        "versions": versions,
    }
    for forced in study.forced:
        values[f"resumed with --force, {forced['at']}"] = "; ".join(forced["changes"])
    return [html.text(plan.space.question), html.facts(values)]


def _training(plan: Plan) -> str:
    """How trials trained: in full, from stored features alone, or first so and then so."""
    if plan.settings.ladder:
        return f"on a ladder of {len(plan.settings.ladder)} rungs"
    features = plan.base.training.features
    return (
        "in full" if features is None else f"from the stored features {features}: the best is yet to be trained in full"
    )


def _figures(snapshot: Snapshot, series: Series) -> Iterator[html.Section]:
    yield html.section("History", *map(html.plot, figures.history(series)))
    if len(series.board.plan.objective) == 2:
        yield html.section("Pareto front", html.grid(map(html.plot, figures.front(series))))
    if series.decoded:
        yield html.section("Training and decoding", *tables.decodings(series.board), *_decodings(series))
    yield from _parameters(series)
    as_it_was = f", decoded {AS_TRAINED}" if series.decoded else ""
    about = html.text(f"{series.ranked_by} at each evaluation{as_it_was}.")
    yield html.section("Learning curves", about, html.plot(figures.curves(series)))
    cost, passed = figures.cost_to_target(series)
    yield html.section("Cost to target", html.text(passed), html.plot(cost))
    yield html.section("Predicate groups", *tables.groups(snapshot, series.board))
    yield html.section("Frequent and rare predicates", html.plot(figures.parts(series)))
    yield html.section("Every predicate", *_predicates(snapshot, series))
    yield html.section("Examples", *examples.examples(snapshot, series))


def _decodings(series: Series) -> list[str]:
    """The plane with the best trials' curves, where no other section has it."""
    return [] if len(series.board.plan.objective) == 2 else [html.plot(figures.decodings(series))]


def _parameters(series: Series) -> Iterator[html.Section]:
    """What the parameters of the space do, each by itself and two at a time."""
    if (few := series.too_few) is not None:
        importance = pairs = html.text(few)
    else:
        importance = html.plot(figures.importance(series), height=_height(series.board.plan))
        pairs = html.grid(map(html.plot, figures.contours(series)))
        lines = "A line for each trial, over its parameters; the darker, the better (of two objectives: by its front)."
        yield html.section("All parameters at once", html.text(lines), html.plot(figures.parallel(series), height=420))
    shares = (
        "Shares by PED-ANOVA: how much a parameter decides whether a trial is among the better ones. Lines are 95 % "
    )
    shares += "intervals over the trials: where they overlap, the search does not know which parameter matters more."
    yield html.section("Importance of the parameters", html.text(shares), importance)
    over = html.text(f"{series.ranked_by} over each parameter; later trials are darker.")
    yield html.section("Slices", over, html.grid(map(html.plot, figures.slices(series))))
    most = html.text(f"{series.ranked_by} over the parameters that decide most, two at a time.")
    yield html.section("Pairs", most, pairs)


def _height(plan: Plan) -> int:
    return 120 + 60 * len(plan.space.parameters)


def _predicates(snapshot: Snapshot, series: Series) -> list[str]:
    """Recall by predicate of the marked trials, as evaluated or else as training noted it; how to get it for others."""
    kept: dict[str, dict[str, dict[str, float | None]]] = {}  # recall, split, images → trial → predicate → recall
    lacking, broken = [], []
    for name, entry in series.marked.items():
        folder = snapshot.trial_folder(entry)
        try:
            evaluation = diff.stored_evaluation(folder) or diff.trained_evaluation(folder)
        except ConfigError as error:  # of one trial: the page is about all
            broken.append(f"Left out, {error}")
            continue
        if evaluation is None:
            lacking.append(f"speaq evaluate {_quoted(folder)} --json > {_quoted(folder / files.EVALUATION)}")
            continue
        recall, recalls = diff.predicate_recalls(evaluation)
        images = "" if evaluation.get("images") is None else f", {evaluation['images']} images"
        kept.setdefault(f"{recall}, {evaluation['split']}{images}", {})[name] = recalls
    parts = [html.plot(figures.predicates(title, recalls)) for title, recalls in kept.items()]
    parts += map(html.text, broken)
    if lacking:
        parts += [html.text("Drawn for trials whose evaluation is kept; to keep it:"), html.commands(lacking)]
    return parts


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _cost(snapshot: Snapshot, trials: Sequence[TrialStatus]) -> list[str]:
    sums = totals(trials, snapshot)
    resources, entries = snapshot.plan.base.resources, {entry.id: entry for entry in snapshot.entries}
    kind: Kind = "gpu" if resources.gpus_per_worker else "cpu"
    held = {trial: device_seconds([entry], resources, kind) / 3600 for trial, entry in entries.items()}
    projected = "unknown" if sums.projected_seconds is None else spell(sums.projected_seconds)
    values = {
        "looks at the test data": seal.summary(snapshot.folder).removeprefix("test split: "),
        "by the clock": spell(sums.wall_seconds),
        "spent in trials": f"{spell(sums.seconds)}, {sum(held.values()):.3g} {sums.device} hours, {sums.steps} steps",
        "saved by early stopping": f"{sums.saved_steps} steps, {sums.saved_share:.0%}",
        "went on after a pause": ", ".join(sums.promoted) or "none",
        "trials still to come": projected,
    }
    header = ["trial", "", "state", "steps", "of", "s", f"{sums.device} h", "peak MiB", "waiting for data"]
    rows = []
    for t in trials:
        cost = entries[t.trial].cost
        peak, waiting = cost.get("peak_memory_mib"), cost.get("data_wait_share")
        steps = (t.rung or t.step, t.max_steps)
        rows.append([t.trial, t.label or "", t.state, *steps, t.seconds, held[t.trial], peak, waiting])
    return [html.facts(values), html.table(header, rows)]


def _failures(trials: Sequence[TrialStatus]) -> str:
    lines = [f"trial {trial.trial}: {trial.reason}" for trial in trials if trial.state in ("failed", "infeasible")]
    return html.listing(lines) if lines else html.text("None.")


def _next(folder: Path, board: Board) -> list[str]:
    """The command that goes on with the search, and the one that trains the best with other seeds."""
    wanted = max(board.plan.trials, len(board.entries))
    open_ = wanted - sum(entry.ended for entry in board.entries)
    resume = f"speaq tune --resume {_quoted(folder)}"
    lines = [resume if open_ else f"{resume} --trials {wanted + MORE_TRIALS}"]
    why = f"{open_} trials are left." if open_ else "All trials have ended; the search can go on with more."
    if (best := board.best) is not None:
        lines.append(f"speaq confirm {_quoted(folder)} --top 5 --seeds {best.seed + 1}..{best.seed + 5}")
        why += " The best of many trials owes some of its rank to chance: confirm the best with other seeds."
    return [html.text(why), html.commands(lines)]
