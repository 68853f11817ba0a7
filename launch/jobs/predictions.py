"""`speaq tune --from-predictions RUN`: a search of the inference section over a trained run's stored raw outputs.

No network and no Ray: a trial is decoding and counting. The study folder is that of any search, so that it can be
resumed, reported on and exported; its first trial is the run as it was trained. curve.csv holds the run's best points
in the plane of recall and mean recall.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from speaq import config as configs
from speaq import space as spaces
from speaq.config import ConfigError, InferenceConfig
from speaq.files import atomic
from speaq.files.plain_yaml import several
from speaq.files.shipped import shipped
from speaq.runs.stored import StoredRun, store
from speaq.space import Space
from speaq.space.checks import check
from speaq.study import changes, creation, extent, file, results
from speaq.study.board import Board, to_csv
from speaq.study.earlier import check_followed, with_sources
from speaq.study.file import OF_PREDICTIONS, Study
from speaq.study.ledger import Entry, Ledger
from speaq.study.plan import Feasible, Listener, Plan, objectives, with_settings
from speaq.study.snapshot import Snapshot, at_work
from speaq.training import origins
from speaq.training.callbacks import Progresses
from speaq.training.environment import versions

from ..search import messages
from ..search import storage as storages
from ..search.messages import Ended, Failed, Finished
from ..search.mirror import Mirror
from ..search.searcher import Search
from . import tune as studies
from .display import Display, silent

LABEL = "as trained"
LAYER = "inference.layer"


def start(
    run: Path,
    space: Path | None,
    output: Path,
    *,
    data: Path | None,
    trials: int | None,
    objective: str | None,
    search: dict[str, object],
    progress: Progresses,
    url: str | None = None,
    display: Display = silent,
    earlier: Mapping[str, Snapshot] = MappingProxyType({}),
) -> list[Entry]:
    """Searches in `output`, which must be new or empty; `earlier` as for `creation.create`.

    Raises ConfigError, DataError.
    """
    chosen = spaces.load(shipped("search_spaces", "inference") if space is None else space).with_search(search)
    check_space(chosen)
    file.check_new(output)
    with progress("raw outputs of the validation split") as tell:
        stored = store(run, data, progress=tell)
    chosen = chosen.resolved(stored.config)
    check(chosen, stored.config, None if space is None else str(space))
    check_followed(chosen.search, earlier)
    base = chosen.base(stored.config)
    names = objectives(objective or chosen.search.objective, base)
    feasibility = creation.feasibility_on(stored.data)
    for name in names:
        feasibility.check_metric(name, stored.config, "objective: ")
    changed = {"objective": list(names), "scheduler": "none", "grace_steps": None}
    searched = with_settings(chosen, trials=trials or chosen.search.trials, **changed)
    plan = creation.with_points(Plan(base, searched, {LABEL: stored.config}), chosen)
    plan = with_sources(plan, earlier, stored.data_digest, lambda config: None)
    study = Study(
        plan,
        data=stored.data.resolve(),
        data_digest=stored.data_digest,
        start_digest=_digest(stored),
        versions=versions(),
        train=OF_PREDICTIONS + str(run.resolve()),
    )
    return studies.run(study, output, storages.choose(url, output), Decoding(stored, display), begins=True)


def resume(
    study: Study,
    output: Path,
    *,
    run: Path | None = None,
    data: Path | None,
    trials: int | None,
    progress: Progresses,
    url: str | None = None,
    force: bool = False,
    display: Display = silent,
) -> list[Entry]:
    """Finishes a search that `start` began. Raises ConfigError where run, data or code are no longer what they were.

    Args:
        run: where the run is now; default: where it was, or where it has moved to with the search.
    """
    home = output.resolve()
    with progress("raw outputs of the validation split") as tell:
        stored = store(run or _run_of(study, home), changes.found_data(study, home, data), progress=tell)
    study = changes.as_now(study, output, stored.data.resolve(), stored.data_digest, _digest(stored), force)
    study = extent.with_trials(study, trials)
    return studies.run(study, output, storages.again(study.storage, url, output), Decoding(stored, display))


def _run_of(study: Study, home: Path) -> Path:
    """The run whose outputs are searched: its best checkpoint has the digest by which the study knows it."""
    known = Path(study.train.removeprefix(OF_PREDICTIONS))
    found = origins.find(known, home, lambda run: origins.has_digest(run, study.start_digest))
    if found is None:
        raise ConfigError(f"{home}: the run that it searches is no longer at {known}; give --from-predictions")
    return found


def check_space(space: Space) -> None:
    """Raises ConfigError for keys that would have to be trained, for the layer, of which one is stored, and for
    settings of a search that have no effect on decodings.
    """
    if space.search.decoding:
        raise ConfigError("search.decoding: true has no effect with --from-predictions, whose trials are decodings")
    if "references" in space.search.model_fields_set:
        raise ConfigError(
            "search.references has no effect with --from-predictions: the run as trained is the reference"
        )
    if "scheduler" in space.search.model_fields_set and space.search.scheduler != "none":
        raise ConfigError(
            f"search.scheduler: {space.search.scheduler} has no effect with --from-predictions: a decoding has no "
            "steps to be judged at; leave it out"
        )
    if space.search.constraints:
        raise ConfigError("search.constraints: nothing is trained here, so there is no cost to constrain")
    keys = [key for key in (*space.parameters, *space.fixed) if not key.startswith("inference.") or key == LAYER]
    if keys:
        rule = f"only inference.* keys can be searched, without {LAYER}"
        raise several([f"--from-predictions: {key}: {rule}" for key in keys])


def _digest(stored: StoredRun) -> str:
    return stored.raw.stem.rpartition("-")[2]


@dataclass(frozen=True)
class Decoding:
    """Work of a study (`launch.jobs.tune.Work`) whose trials decode and count the outputs of one run."""

    stored: StoredRun
    display: Display = silent

    def write(self, output: Path, entries: Sequence[Entry], plan: Plan) -> None:
        """curve.csv, the best trials in the plane of recall and mean recall."""
        _write_curve(output / "curve.csv", entries, plan)

    def search(
        self, study: Study, output: Path, ledger: Ledger, feasible: Feasible, mirror: Mirror | None = None
    ) -> Study:
        """Decodes in this process, one trial after the other."""
        with self.display(functools.partial(at_work, output, study, ledger)) as shown:
            return self._search(study, ledger, [shown, *([] if mirror is None else [mirror])], feasible)

    def _search(self, study: Study, ledger: Ledger, listeners: list[Listener], feasible: Feasible) -> Study:
        search = Search(study.plan, ledger, listeners, feasible=feasible)
        number = 0
        while isinstance(asked := search.suggest(name := str(number)), dict):
            search.started(name)
            ended = self._evaluated(configs.from_dict(asked["config"]).inference)
            search.on_trial_complete(name, messages.final_result({}, ended))
            number += 1
        if not number:
            extent.say_nothing_is_left(study, ledger)
        return extent.as_exhausted(study, ledger) if search.exhausted else study

    def _evaluated(self, inference: InferenceConfig) -> Ended:
        begin, stored = time.monotonic(), self.stored
        try:
            metrics = stored.evaluate(inference).metrics
        except ValueError as error:
            return Failed(str(error))
        seconds = time.monotonic() - begin
        return Finished(metrics, best_step=stored.step, step=stored.step, seconds=seconds)


def _write_curve(path: Path, entries: Sequence[Entry], plan: Plan) -> None:
    """The trials that no other one beats in both recall and mean recall, in the order of recall."""
    board, k = Board(entries, plan), results.table_k(plan.objective, plan.base)
    plane = (f"R@{k}", f"mR@{k}")
    rows = [
        {
            "trial": e.id,
            "label": e.label or "",
            **{n: e.metrics[n] for n in (*plane, f"F@{k}")},
            **board.parameters[e.id],
        }
        for e in board.front(plane)
    ]
    atomic.write_text(path, to_csv(rows))
