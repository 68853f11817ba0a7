"""What `speaq tune` calls; `speaq.cli.main` parses the arguments and turns errors into exit codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.jobs import status
from launch.jobs import tune as studies
from speaq import config as configs
from speaq import space as spaces
from speaq.cli.terminal import echo, shown
from speaq.config import ConfigError
from speaq.study import creation, file, results
from speaq.study.ledger import Entry
from speaq.training import origins
from speaq.training.callbacks import Progresses

DONE, FAILED = 0, 1


def tune_command(
    *,
    config: Path | None,
    space: Path | None,
    data: Path | None,
    output: Path | None,
    trials: int | None,
    objective: str | None,
    assignments: Sequence[str],
    search: Sequence[str],
    budget: str | None,
    from_predictions: Path | None,
    init_from: Path | None,
    resume: Path | None,
    storage: str | None,
    force: bool,
    progress: Progresses,
) -> int:
    """Starts a search, or finishes the one in `resume`. Returns 0, or 1 where no trial of the space finished.

    Raises:
        ConfigError, DataError: what the user gave cannot be used.
    """
    spaces.check_trials(trials)
    if resume is not None:
        given = {"--config": config, "--space": space, "--objective": objective, "--output": output}
        extra = [name for name, value in given.items() if value is not None] + (["--set"] if assignments else [])
        extra += ["--search"] if search else []
        if extra:
            raise ConfigError(f"--resume {resume}: the study knows {', '.join(extra)} already; leave it out")
        if not (resume / "study.yaml").exists():
            near = origins.near_names(resume, "study.yaml")
            raise ConfigError(f"--resume {resume}: holds no search (study.yaml){near}; to begin one, give --output")
        study = file.read(resume / "study.yaml")
        if study.of_predictions:
            from launch.jobs import predictions  # with PyTorch, which takes seconds to import

            if budget is not None:
                raise ConfigError(f"--budget {budget}: a search of predictions takes minutes and knows none")
            if init_from is not None:
                raise ConfigError(
                    f"--init-from {init_from}: has no effect on a search of predictions; its run is "
                    "given by --from-predictions"
                )
            entries = predictions.resume(
                study,
                resume,
                run=from_predictions,
                data=data,
                trials=trials,
                progress=progress,
                url=storage,
                force=force,
            )
            return _report(entries, resume)
        if from_predictions is not None:
            raise ConfigError(f"--from-predictions {from_predictions}: has no effect, the trials of {resume} train")
        entries = studies.resume(
            resume, data=data, start=init_from, trials=trials, budget=budget, url=storage, force=force
        )
        return _report(entries, resume)
    if force:
        raise ConfigError("--force has no effect without --resume")
    if from_predictions is not None:
        return _tune_predictions(
            from_predictions,
            space,
            output,
            data,
            trials,
            objective,
            search,
            storage,
            progress,
            unused={"--config": config, "--budget": budget, "--set": assignments or None, "--init-from": init_from},
        )
    needed = {"--config": config, "--space": space, "--data": data, "--output": output}
    if missing := [name for name, value in needed.items() if value is None]:
        raise ConfigError(f"missing {', '.join(missing)} (or --resume DIR to finish a search)")
    assert config is not None
    assert space is not None
    assert data is not None
    assert output is not None
    asked = configs.load(config, assignments)
    study = creation.create(
        asked if init_from is None else origins.with_start(asked, init_from),
        spaces.load(space).with_search(configs.parse_overrides(search, "--search")),
        data,
        trials=trials,
        objective=objective,
        overrides=list(configs.parse_overrides(assignments)),
    )
    return _report(studies.start(study, output, budget, storage), output)


def _tune_predictions(
    run: Path,
    space: Path | None,
    output: Path | None,
    data: Path | None,
    trials: int | None,
    objective: str | None,
    search: Sequence[str],
    storage: str | None,
    progress: Progresses,
    unused: Mapping[str, object],
) -> int:
    for name, value in unused.items():
        if value is not None:
            raise ConfigError(f"{name} has no effect with --from-predictions, which takes the run as it was trained")
    if output is None:
        raise ConfigError("missing --output")
    from launch.jobs import predictions  # with PyTorch, as above

    changes = configs.parse_overrides(search, "--search")
    entries = predictions.start(
        run,
        space,
        output,
        data=data,
        trials=trials,
        objective=objective,
        search=changes,
        progress=progress,
        url=storage,
    )
    return _report(entries, output)


def _report(entries: list[Entry], output: Path) -> int:
    """Prints the table and where things are. Returns 1 where no trial finished, or none but references."""
    plan = file.read(output / "study.yaml").plan
    status.print_table(entries, plan)
    best = results.best_entry(entries, plan.objective)
    if best is None:
        echo(shown(f"no trial finished; see {output / 'trials'}"))
        return FAILED
    for entry in entries:
        if entry.label is not None and entry.state == "failed":
            echo(f"the {entry.label} setting failed: nothing is compared with it (trial {entry.id})", err=True)
    label = f" ({best.label})" if best.label else ""
    echo(shown(f"best trial {best.id}{label} · {output / 'best.yaml'} · {output / 'search.png'}"))
    searched = [entry.state for entry in entries if entry.label is None]
    if searched and set(searched) == {"failed"}:
        echo(f"all {len(searched)} trials of the space failed: only references finished", err=True)
        return FAILED
    return DONE
