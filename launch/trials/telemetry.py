"""Metrics for Prometheus: Ray's agent on every node exports them, with those of its own, under the prefix `ray_`.

`launch/files/observability/` has a Prometheus configuration and a Grafana dashboard that know these names.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.util import metrics

from speaq.config import Config
from speaq.study.ledger import Entry

if TYPE_CHECKING:
    from speaq.study.plan import Plan  # with Optuna, which no trial needs

RUN = ("study", "trial")
# Name → (what it is, tags besides those of Ray). Of a run, until it ends:
OF_RUNS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "speaq_step_seconds": ("seconds of a training step, mean since the last log line; 0 after the end", RUN),
    "speaq_images_per_second": ("images trained on in a second, over all workers; 0 after the end", RUN),
    "speaq_data_wait_share": ("share of the time in steps that was spent waiting for data", RUN),
    "speaq_loss": ("training loss", RUN),
    "speaq_step": ("training steps done", RUN),
    "speaq_recall": ("recall on the validation split at the last evaluation", (*RUN, "metric")),
}
# Of a search, while its driver runs:
TRIALS, RESTARTS, PROMOTIONS = "speaq_trials", "speaq_trial_restarts", "speaq_trial_promotions"
OF_SEARCHES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    TRIALS: ("trials by state: waiting, running, finished, paused, pruned, infeasible, failed", ("study", "state")),
    RESTARTS: ("times that a trial was started again: its process had died, or the search was resumed", ("study",)),
    PROMOTIONS: ("times that a paused trial went on: it had come to deserve it", ("study",)),
}
STATES = ("waiting", "running", "finished", "paused", "pruned", "infeasible", "failed")
RECALLS = ("R", "mR", "F", "zR", "ngR", "head", "body", "tail")


@functools.cache
def _gauge(name: str) -> Any:
    description, tags = {**OF_RUNS, **OF_SEARCHES}[name]
    return metrics.Gauge(name, description, tag_keys=tags)


class RunMetrics:
    """A sink of the training loop, see `speaq.training.callbacks.Sink`."""

    def __init__(self, run: Path, config: Config) -> None:
        """`run` is a folder STUDY/trials/NNNN, or of that trial's run from features, or of a run that is no trial."""
        run = run.parent if run.parent.parent.name == "trials" else run
        of_study = run.parent.name == "trials"
        self._tags = {"study": run.parent.parent.name if of_study else "", "trial": run.name}
        self._batch_size = config.training.batch_size

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Sets the gauges of the run to what a line of metrics.jsonl says."""
        self._set("speaq_step", step)
        self._set("speaq_loss", values.get("train/loss"))
        self._set("speaq_data_wait_share", values.get("train/data_wait_share"))
        speed = values.get("train/images_per_second")
        self._set("speaq_images_per_second", speed)
        if speed:
            self._set("speaq_step_seconds", self._batch_size / speed)
        for name, value in values.items():
            metric = name.removeprefix("val/")
            if metric.partition("@")[0] in RECALLS:
                self._set("speaq_recall", value, metric=metric)

    def close(self) -> None:
        """A run that has ended trains no images: a gauge keeps its value as long as the process lives."""
        for name in ("speaq_step_seconds", "speaq_images_per_second"):
            self._set(name, 0.0)

    def _set(self, name: str, value: float | None, **tags: str) -> None:
        if value is not None:
            _gauge(name).set(value, {**self._tags, **tags})


class SearchMetrics:
    """Listens to a search."""

    def __init__(self, study: str, plan: Plan, entries: Mapping[str, Entry]) -> None:
        self._tags, self._plan, self._entries = {"study": study}, plan, entries
        self._count()

    def __call__(self, entry: Entry, event: str) -> None:
        if event != "reported":
            self._count()

    def _count(self) -> None:
        entries = self._entries.values()
        for state, number in trials_by_state(entries, self._plan.trials).items():
            _gauge(TRIALS).set(number, {**self._tags, "state": state})
        _gauge(RESTARTS).set(sum(max(entry.attempts - 1 - entry.promotions, 0) for entry in entries), self._tags)
        _gauge(PROMOTIONS).set(sum(entry.promotions for entry in entries), self._tags)


def trials_by_state(entries: Iterable[Entry], wanted: int) -> dict[str, int]:
    """How many trials of a search are in each of STATES; those not yet asked for are waiting."""
    counts = Counter(entry.state for entry in entries)
    found = {state: counts[state] for state in STATES if state != "waiting"}  # type: ignore[index]
    return {"waiting": max(wanted, sum(counts.values())) - sum(found.values()), **found}
