"""Searches: begun, finished, judged, and looked at while they run or afterwards."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speaq import config as configs
from speaq.cli.launched import Workspace
from speaq.cli.options import AsJson, Assignments, BeginsWithData, InitFrom, StudyDir
from speaq.cli.terminal import can_print, echo, echo_lines, progress_bar
from speaq.config import ConfigError
from speaq.training.endings import DONE, FAILED

if TYPE_CHECKING:
    from speaq.cli.launched import calibrate as calibration
    from speaq.cli.launched import proxy
    from speaq.study.file import Study
    from speaq.study.ledger import Entry
    from speaq.study.snapshot import Snapshot

POLL = 0.5  # seconds between looks with `speaq logs --follow`


@dataclass(frozen=True, kw_only=True)
class Searching:
    """What the user asks of `speaq tune`; None or nothing where an option was not given."""

    assignments: Assignments
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="config: a YAML file, or the name of one that comes along [required; not with --resume]",
            metavar="CONFIG",
        ),
    ] = None
    space: Annotated[
        Path | None,
        typer.Option(
            "--space",
            help="search space: a YAML file, or the name of one that comes along [required; not with --resume]",
            metavar="SPACE",
        ),
    ] = None
    data: BeginsWithData = None
    output: Annotated[
        Path | None, typer.Option("--output", help="study to write [required; not with --resume]", metavar="STUDY")
    ] = None
    trials: Annotated[int | None, typer.Option("--trials", help="trials in all; default: the search space's")] = None
    objective: Annotated[
        str | None, typer.Option("--objective", help="one or two metrics: R@50,mR@50", metavar="METRICS")
    ] = None
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search", help="change a key of the space's `search`, as sampler=gp; may be repeated", metavar="KEY=VALUE"
        ),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="most that the search may take in all: 8h, 90m, 40gpu-h, 20cpu-h", metavar="TIME"
        ),
    ] = None
    from_predictions: Annotated[
        Path | None,
        typer.Option("--from-predictions", help="run whose decoding to search: minutes, no training", metavar="RUN"),
    ] = None
    earlier: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="earlier study, of other data too: its best settings come first; may be repeated",
            metavar="STUDY",
        ),
    ] = None
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Optuna storage that follows the search: sqlite:///FILE, postgresql://, mysql://, journal:///FILE or "
            "none; default: $SPEAQ_STORAGE (for URLs with a password), else study.db in the study",
            metavar="URL",
        ),
    ] = None
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="study to go on with; without a folder that of --output", metavar="STUDY"),
    ] = None
    init_from: InitFrom = None
    force: Annotated[
        bool, typer.Option("--force", help="with --resume: go on although data, start or code have changed")
    ] = False

    @property
    def settings(self) -> dict[str, object]:
        """What is to change in the space's `search`. Raises ConfigError."""
        return configs.parse_overrides(self.search or (), "--search")


def tune(here: Workspace, asked: Searching) -> int:
    """Search settings: many runs, with Ray Tune and Optuna.

    The published setting and the baseline are the first two trials. Ctrl-C ends a search so that --resume goes on.
    """
    from speaq import space as spaces

    spaces.check_trials(asked.trials)
    if asked.resume is not None:
        return _report(here, _resume(here, asked.resume, asked), asked.resume)
    if asked.force:
        raise ConfigError("--force has no effect without --resume")
    begin = _tune if asked.from_predictions is None else _tune_predictions
    folder, entries = begin(here, asked, _earlier(here, asked))
    return _report(here, entries, folder)


def _earlier(here: Workspace, asked: Searching) -> dict[str, Snapshot]:
    """The searches that are given by --from, by their names. Raises ConfigError."""
    from speaq.training import origins

    found: dict[str, Snapshot] = {}
    places = [here.place_of(folder) for folder in asked.earlier or ()]
    for number, (folder, place) in enumerate(zip(asked.earlier or (), places, strict=True)):
        if not (folder / "study.yaml").exists():
            near = origins.near_names(folder, "study.yaml")
            raise ConfigError(f"--from {folder}: holds no search (study.yaml){near}")
        if asked.output is not None and here.place_of(asked.output) == place:
            raise ConfigError(f"--from {folder}: is the new search itself; give another --output, or --resume")
        if place in places[:number]:
            raise ConfigError(f"--from {folder}: is given twice")
        name = place.name if place.name not in found else f"{place.parent.name}/{place.name}"
        found[name] = here.read_study(folder)
    return found


def _tune(here: Workspace, asked: Searching, earlier: dict[str, Snapshot]) -> tuple[Path, list[Entry]]:
    """Runs a new search of trainings; returns its folder and trials."""
    match asked:
        case Searching(config=Path() as config, space=Path() as space, data=Path() as data, output=Path() as output):
            pass
        case _:
            needed = ("config", "space", "data", "output")
            missing = ", ".join(f"--{name}" for name in needed if getattr(asked, name) is None)
            raise ConfigError(f"missing {missing} (or --resume DIR to finish a search)")
    from speaq import space as spaces
    from speaq.cli.launched import tune as job
    from speaq.cli.trials import watched
    from speaq.study import creation
    from speaq.training import origins

    base = configs.load(config, asked.assignments)
    study = creation.create(
        base if asked.init_from is None else origins.with_start(base, asked.init_from),
        spaces.load(space).with_search(asked.settings),
        data,
        trials=asked.trials,
        objective=asked.objective,
        overrides=list(configs.parse_overrides(asked.assignments)),
        space_file=" ".join([str(space), *(f"--search {words}" for words in asked.search or ())]),
        earlier=earlier,
    )
    return output, job.start(study, output, asked.budget, asked.storage, display=watched, here=here)


def _tune_predictions(here: Workspace, asked: Searching, earlier: dict[str, Snapshot]) -> tuple[Path, list[Entry]]:
    """Runs a new search of the decoding of a trained run; returns its folder and trials."""
    unused = {"--config": asked.config, "--budget": asked.budget, "--set": asked.assignments or None}
    for name, value in {**unused, "--init-from": asked.init_from}.items():
        if value is not None:
            raise ConfigError(f"{name} has no effect with --from-predictions, which takes the run as it was trained")
    if asked.output is None:
        raise ConfigError("missing --output")
    assert asked.from_predictions is not None
    from speaq.cli.launched import predictions
    from speaq.cli.trials import told

    entries = predictions.start(
        asked.from_predictions,
        asked.space,
        asked.output,
        data=asked.data,
        trials=asked.trials,
        objective=asked.objective,
        search=asked.settings,
        progress=progress_bar,
        url=asked.storage,
        display=told,
        earlier=earlier,
    )
    return asked.output, entries


def _resume(here: Workspace, folder: Path, asked: Searching) -> list[Entry]:
    """Finishes the search in `folder`, whatever it is of."""
    from speaq.study import file
    from speaq.training import origins

    known = {
        "--config": asked.config,
        "--space": asked.space,
        "--objective": asked.objective,
        "--output": asked.output,
        "--set": asked.assignments or None,
        "--search": asked.search or None,
        "--from": asked.earlier or None,
    }
    if extra := [name for name, value in known.items() if value is not None]:
        raise ConfigError(f"--resume {folder}: the study knows {', '.join(extra)} already; leave it out")
    if not (folder / "study.yaml").exists():
        near = origins.near_names(folder, "study.yaml")
        raise ConfigError(f"--resume {folder}: holds no search (study.yaml){near}; to begin one, give --output")
    study = file.read(folder / "study.yaml")
    if study.of_predictions:
        return _resume_predictions(study, folder, asked)
    if (run := asked.from_predictions) is not None:
        raise ConfigError(f"--from-predictions {run}: has no effect, the trials of {folder} train")
    from speaq.cli.launched import tune as job
    from speaq.cli.trials import watched

    return job.resume(
        folder,
        data=asked.data,
        start=asked.init_from,
        trials=asked.trials,
        budget=asked.budget,
        url=asked.storage,
        force=asked.force,
        display=watched,
        here=here,
    )


def _resume_predictions(study: Study, folder: Path, asked: Searching) -> list[Entry]:
    if asked.budget is not None:
        raise ConfigError(f"--budget {asked.budget}: a search of predictions takes minutes and knows none")
    if asked.init_from is not None:
        raise ConfigError(
            f"--init-from {asked.init_from}: has no effect on a search of predictions; its run is "
            "given by --from-predictions"
        )
    from speaq.cli.launched import predictions
    from speaq.cli.trials import told

    return predictions.resume(
        study,
        folder,
        run=asked.from_predictions,
        data=asked.data,
        trials=asked.trials,
        progress=progress_bar,
        url=asked.storage,
        force=asked.force,
        display=told,
    )


def _report(here: Workspace, entries: list[Entry], folder: Path) -> int:
    """Prints the table and where things are. 1: none finished, none but references, or not all of those."""
    from speaq.cli.trials import print_trials
    from speaq.study import file, results

    plan = file.read(folder / "study.yaml").plan
    print_trials(entries, plan, here.name_of(folder))
    best = results.best_entry(entries, plan.objective)
    if best is None:
        echo(f"no trial finished; see {here.name_of(folder / 'trials')}")
        return FAILED
    broken = [entry for entry in entries if entry.label is not None and entry.state == "failed"]
    for entry in broken:
        echo(f"the {entry.label} setting failed: nothing is compared with it (trial {entry.id})", err=True)
    label = f" ({best.label})" if best.label else ""
    echo(f"best trial {best.id}{label} · {here.name_of(folder / 'best.yaml')} · {here.name_of(folder / 'search.png')}")
    searched = [entry.state for entry in entries if entry.label is None]
    if searched and set(searched) == {"failed"}:
        echo(f"all {len(searched)} trials of the space failed: only references finished", err=True)
        return FAILED
    return FAILED if broken else DONE


def status(
    here: Workspace,
    study: StudyDir,
    wide: Annotated[bool, typer.Option("--wide", help="all trials and columns, however many there are")] = False,
    watch: Annotated[
        float | None,
        typer.Option(
            "--watch",
            min=0.5,
            max=3600,
            metavar="[SECONDS]",
            help="show it again, every 2 s or as given, until the search ends or Ctrl-C",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a search has done, is doing and costs.

    From another terminal while it runs, or afterwards.
    """
    from speaq.cli.trials import print_status

    if watch is not None:
        if as_json or wide:
            other = "--json, which is one value" if as_json else "--wide, which no screen has room for"
            raise ConfigError(f"--watch {watch:g}: cannot be had with {other}; leave one of them out")
        from speaq.cli.watch import watch as watched

        watched(lambda: here.read_study(study), here.name_of(study), watch)
        return
    print_status(here.read_study(study), here.name_of(study), as_json=as_json, wide=wide)


def logs(
    here: Workspace,
    study: StudyDir,
    trial: Annotated[str, typer.Argument(help="its number, as `speaq status` shows it: 0003", metavar="TRIAL")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the trial ends")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a trial has logged, and why it failed."""
    from speaq.study import logs as rows

    snapshot = here.read_study(study)
    entries = {entry.id: entry for entry in snapshot.entries}
    if trial not in entries:
        known = ", ".join(entries) or "none yet"
        raise ConfigError(f"{study}: trial {trial}: no such trial (there are {known})")
    folder = snapshot.trial_folder(entries[trial])
    seen: Counter[str] = Counter()
    while True:
        working = follow and _works(here, study, trial)  # asked first: what is written until then is read below
        for row in rows.read(folder, seen):
            echo_lines(json.dumps(row) if as_json else rows.line(row))
        if not working or not can_print():
            break
        time.sleep(POLL)
    if not seen.total():
        echo(f"trial {trial} ({entries[trial].state}) has logged nothing yet", err=True)


def _works(here: Workspace, study: Path, trial: str) -> bool:
    snapshot = here.read_study(study)
    entry = next(entry for entry in snapshot.entries if entry.id == trial)
    return snapshot.active and not entry.ended


def calibrate(
    here: Workspace,
    output: Annotated[Path, typer.Argument(help="study that stopped nothing early, or a new one", metavar="STUDY")],
    assignments: Assignments,
    config: Annotated[
        Path | None, typer.Option("--config", help="config; only for a new study", metavar="CONFIG")
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="search space; only for a new study", metavar="SPACE")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="data set; only for a new study", metavar="DATA")] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="settings to train in full; default: 8")] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features", help="folder of speaq cache: train the settings from there as well", metavar="FEATURES"
        ),
    ] = None,
) -> int:
    """Find out how early trials may be stopped.

    Compares the ranks of trials at smaller budgets, and from stored features, with those of full training.
    """
    from speaq.cli.launched import calibrate as job
    from speaq.cli.trials import watched

    found = job.calibrate(
        output,
        config=config,
        space=space,
        data=data,
        trials=trials,
        assignments=assignments,
        features=features,
        display=watched,
        here=here,
    )
    _print_calibration(found, job.ORDERS)
    return DONE


def _print_ranks(budgets: Sequence[proxy.Rung]) -> None:
    echo("  step  share     tau  95 % interval")
    for budget in budgets:
        echo(f"{budget.step:>6} {budget.share:>5.0%} {budget.tau:>8.2f}  [{budget.low:.2f}, {budget.high:.2f}]")


def _print_calibration(found: calibration.Calibration, orders: int) -> None:
    echo(f"{found.metric} · {found.trials} trials in full, {found.left_out} left out")
    _print_ranks(found.budgets)
    if found.features is not None:
        echo(f"from stored features · {found.features.trials} settings trained both ways")
        _print_ranks(found.features.rungs)
        last = found.features.rungs[-1]
        advice = "they rank settings as full training does" if found.features.tells else "do not use features here"
        echo(f"features: {advice} (tau {last.tau:.2f} [{last.low:.2f}, {last.high:.2f}] at their end)")
    best = found.recommended
    if best is None:
        echo("recommended: --search scheduler=none (no budget tells the best trial early enough)")
        return
    echo(
        f"recommended: --search grace_steps={best.grace_steps} --search reduction_factor={best.reduction_factor:g} "
        f"({best.steps:.0%} of the steps; the best trial kept in {best.kept:.0%} of {orders} orders, "
        f"{found.metric} lost {best.lost:.4f})"
    )
