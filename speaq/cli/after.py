"""What comes after a search: confirmation, tables, a page, its test split, and two runs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speaq.cli import folders
from speaq.cli.launched import Workspace
from speaq.cli.options import AsJson, InitFrom, StudyDir, StudyOrRun
from speaq.cli.tables import console, fitting, print_table, show, table
from speaq.cli.terminal import echo, echo_json, echo_words, progress_bars
from speaq.training.endings import DONE, FAILED

if TYPE_CHECKING:
    from speaq.runs.diff import Pairs
    from speaq.study.snapshot import Snapshot

ENDED = "ended"  # the column that a screen may have no room for


def confirm(
    here: Workspace,
    study: StudyDir,
    seeds: Annotated[
        str, typer.Option("--seeds", help="new seeds: 3..7 (both ends included), or 3,5,9", metavar="SEEDS")
    ],
    top: Annotated[int, typer.Option("--top", help="best trials to train; the published setting comes besides")] = 5,
    data: Annotated[
        Path | None, typer.Option("--data", help="data set; default: where the study's was", metavar="DATA")
    ] = None,
    init_from: InitFrom = None,
    as_json: AsJson = False,
) -> int:
    """Train the best trials with more seeds: is the best better?

    A trial gets another seed as long as it cannot be told apart from the best one.
    """
    from speaq.cli.launched import confirm as job

    with progress_bars() as progress:
        found = job.confirm(study, seeds, top, data, progress, start=init_from, here=here)
    if as_json:
        echo_json(found)
    else:
        _print_confirmation(found)
    return DONE if found["leader"] is not None else FAILED


def _print_confirmation(content: Mapping[str, Any]) -> None:
    """The table and the verdicts."""
    from speaq.study import results

    metric = results.metric_name(content["objective"])
    _print_settings(content["settings"], content["leader"])
    if not content["images"]:
        return
    echo_words(
        f"{metric} · {content['protocol']} · validation split, {content['images']} images · "
        "95 % over seeds and images · over published in points of 100"
    )
    if any(setting["over_images_alone"] for setting in content["settings"]):
        echo_words("of one seed the interval is over the images alone: it says nothing of other seeds")
    first = next((s for s in content["settings"] if s["trial"] == content["leader"]), None)
    if first is not None and (over := first["over_published"]) is not None:
        echo_words(f"trial {first['trial']}: {results.points(over, metric)} over the published setting")
    if (optimism := content["optimism"]) is not None:
        ends = optimism["interval"]
        within = " (one seed: no interval)" if ends is None else f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
        echo_words(
            f"optimism of being the best of {content['trials']} trials: "
            f"{100 * optimism['value']:+.1f} {metric}{within} (trial {optimism['trial']}: "
            f"{optimism['search']:.4f} in the search, {optimism['confirmed']:.4f} with new seeds; "
            "what was fitted to the validation images is not in it)"
        )


def _print_settings(settings: Sequence[Mapping[str, Any]], leader: str | None) -> None:
    """The table; where a screen has no room for how trials ended, that stands below."""
    header = ("", "trial", "search", "seeds", "mean", "95 %", "over published", ENDED)
    rows = [_setting_row(setting, leader) for setting in settings]
    screen = console()
    kept, cells = fitting(header, rows, screen.width if screen.is_terminal else 1 << 16, (ENDED,))
    print_table(kept, cells)
    if ENDED not in kept:
        for setting, row in zip(settings, rows, strict=True):
            if row[-1]:
                echo_words(f"trial {setting['trial']}: {row[-1]}")


def _setting_row(setting: Mapping[str, Any], first: str | None) -> tuple[object, ...]:
    mean, over = setting["mean"], setting["over_published"]
    name = f"{setting['trial']} ({setting['label']})" if setting["label"] else setting["trial"]
    ended = setting["failure"] or (
        "" if setting["left_after_seed"] is None else f"behind after seed {setting['left_after_seed']}"
    )
    ends = (
        None
        if over is None
        else "{value:+.1f} [{low:.1f}, {high:.1f}]".format(**{key: 100 * over[key] for key in ("value", "low", "high")})
    )
    return (
        "*" if setting["trial"] == first else "",
        name,
        None if setting["search"] is None else f"{setting['search']:.4f}",
        len(setting["seeds"]),
        *((None, None) if mean is None else (f"{mean['value']:.4f}", f"[{mean['low']:.4f}, {mean['high']:.4f}]")),
        ends,
        ended,
    )


def report(
    here: Workspace,
    study: StudyOrRun,
    output: Annotated[
        Path | None, typer.Option("--output", help="page to write; default: report.html in the study or run")
    ] = None,
) -> None:
    """Write a page about a search, with plots, or about a run.

    It is one file and needs no network. Of a run, at work or not, it has the curves, which also become a picture.
    """
    if folders.kind_of(study) == "RUN":
        from speaq.runs.page import write_report

        for written in write_report(study, output):
            echo(here.name_of(written))
        return
    from speaq.cli.launched import page

    echo(here.name_of(page.write_report(here.read_study(study), output)))


def export(
    here: Workspace,
    study: StudyDir,
    output: Annotated[Path, typer.Option("--output", help="new file: .csv, .parquet, .tex or .db (Optuna)")],
) -> None:
    """Write all trials of a search as a table."""
    from speaq.study.export import check_new, write

    check_new(output)
    number = write(here.read_study(study), output, {".db": _write_database})
    echo(f"{number} trials · {output}")


def _write_database(path: Path, snapshot: Snapshot) -> None:
    from speaq.cli.launched import export as database

    database.write_database(path, snapshot)


def unseal(
    study: StudyDir, reason: Annotated[str, typer.Option("--reason", help="why; it is noted and shown in the report")]
) -> None:
    """Open the test split, once nothing will be chosen any more."""
    from speaq.study import seal

    seal.unseal(study, reason)
    echo(seal.summary(study))


def diff(
    first: Annotated[Path, typer.Argument(help="folder of a run, or of a trial", metavar="RUN")],
    second: Annotated[Path, typer.Argument(help="another one", metavar="OTHER")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs: config, data, versions, metrics."""
    from speaq.runs.diff import difference, read
    from speaq.runs.files import EVALUATION

    a, b = read(first), read(second)
    found = difference(a, b)
    if as_json:
        echo_json(vars(found))
        return
    names = _short_names(first, second)
    _print_pairs("config", names, found.config)
    _print_pairs("data, versions and hardware", names, found.made_from)
    _print_pairs(f"metrics of the kept checkpoints, {found.protocol or 'protocol not said'}", names, found.metrics)
    for record in (a, b):
        if not record.result:
            echo(f"{record.folder}: has not ended, it has no metrics")
    if found.predicates is None:
        lacking = [record.folder for record in (a, b) if record.evaluation is None]
        for folder in lacking:
            echo(f"recall by predicate: first speaq evaluate {folder} --json > {folder / EVALUATION}")
    else:
        changed = {name: pair for name, pair in found.predicates.items() if pair[0] != pair[1]}
        _print_pairs(f"{found.recall} by predicate", names, dict(sorted(changed.items(), key=_largest_first)))


def _change(pair: tuple[Any, Any]) -> float | None:
    numbers = [v for v in pair if isinstance(v, int | float) and not isinstance(v, bool)]
    return numbers[1] - numbers[0] if len(numbers) == 2 else None


def _largest_first(item: tuple[str, tuple[Any, Any]]) -> float:
    change = _change(item[1])
    return -math.inf if change is None else -abs(change)


def _print_pairs(title: str, names: tuple[str, str], pairs: Pairs) -> None:
    if not pairs:
        echo(f"{title}: no difference")
        return
    changes = [(pair, _change(pair)) for pair in pairs.values()]
    rows = [
        (name, *pair, "" if not change else f"{change:+.4g}")
        for name, (pair, change) in zip(pairs, changes, strict=True)
    ]
    echo(title)
    show(table(("", *names, "change"), rows, left=4))
    echo()


def _short_names(first: Path, second: Path) -> tuple[str, str]:
    """What tells two folders apart: their paths from where they part; the whole of equal ones."""
    one, other = first.absolute().parts, second.absolute().parts
    if one == other:
        return str(first), str(second)
    shared = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    shared = min(len(one), len(other)) - 1 if shared is None else shared  # one lies in the other
    return "/".join(one[shared:]), "/".join(other[shared:])
