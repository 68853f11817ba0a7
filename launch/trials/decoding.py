"""The best decoding of a trial that has ended (`search.decoding`): found on one half of val, judged on the other.

The network runs once more over the validation images; then decodings of its outputs are tried, as `speaq tune
--from-predictions` does. TRIAL/decoding.json holds what was found: a trial that is started again takes it from there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speaq.config import Config, ConfigError, ResourcesConfig
from speaq.files import atomic
from speaq.runs import files
from speaq.space import Space
from speaq.study import results
from speaq.study.decoding import AS_TRAINED, Decoding
from speaq.study.errors import Halted, last_line
from speaq.study.ledger import checked
from speaq.study.plan import Plan, difference
from speaq.training.callbacks import Metrics, Progress, is_number, no_progress, plain

if TYPE_CHECKING:
    from speaq.runs.decoding import Images
    from speaq.runs.run import OpenedRun

log = logging.getLogger(__name__)

FILE = "decoding.json"
POLL = 1.0  # seconds between looks at a worker
TRIED = 40  # decodings of a trial, the trained one included
CURVE = 12  # of its front, beside the best one


@dataclass(frozen=True)
class Decoded:
    """A trial at its best decoding."""

    metrics: Metrics  # on the half to judge
    decoding: Decoding
    made_of: Mapping[str, Any]  # what it was found from: of anything else it would be another one


@dataclass(frozen=True)
class Decodings:
    """What is tried: a space of inference.* keys, whose settings name objective, number and seed."""

    space: Space

    def of(self, run: Path, data: Path, progress: Progress) -> Decoded:
        """The best decoding of a run's kept checkpoint, from its folder where it has been found before.

        Raises:
            ConfigError, CheckpointError, DataError: run or data cannot be read, or the objective has no value.
            OSError: decoding.json cannot be written.
        """
        from speaq.runs.run import open_run

        opened = open_run(run, data)
        made_of = self._made_of(opened)
        found = read(run / FILE, made_of)
        if found is None:
            found = self._found(opened, made_of, progress)
            content = {**asdict(found), "decoding": found.decoding.model_dump()}
            atomic.write_text(run / FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")
        return found

    def _made_of(self, opened: OpenedRun) -> dict[str, Any]:
        from speaq.runs.stored import place

        search = self.space.search
        asked = {"objective": list(search.objective), "tried": search.trials, "seed": search.seed}
        return {**place(opened)[1], **asked, "keys": list(self.space.parameters)}

    def _found(self, opened: OpenedRun, made_of: Mapping[str, Any], progress: Progress) -> Decoded:
        from speaq.runs.decoding import halved

        begin = time.monotonic()
        metrics, decoding = self.chosen(opened.config, *halved(opened, progress), progress)
        seconds = round(time.monotonic() - begin, 3)
        return Decoded(metrics, decoding.model_copy(update={"seconds": seconds}), made_of)

    def chosen(
        self, trained: Config, searched: Images, judged: Images, progress: Progress = no_progress
    ) -> tuple[Metrics, Decoding]:
        """Tries decodings on some images; says what the best, the trained and the front come to on others.

        Raises ConfigError where the objective has no value.
        """
        objective = self.space.search.objective
        plane = results.plane(objective, trained)
        tried = _Search(Plan(trained, self.space, {}), searched, progress).run()
        best = max(tried, key=lambda one: results.score(one.metrics, objective)).config  # the first of equals
        metrics = plain(judged.metrics(best.inference, boxes=True))
        others = (config for config in _front(tried, plane) if config != best)
        points = [metrics, *(judged.metrics(config.inference) for config in others)]
        curve = [{name: point.get(name) for name in plane} for point in points]
        decoding = Decoding(
            found=difference(trained, best),
            trained=plain(judged.metrics(trained.inference, boxes=True)),
            curve=sorted(curve, key=lambda point: [point[name] or 0.0 for name in plane]),
            tried=len(tried),
            searched=len(searched),
            judged=len(judged),
            seconds=0.0,
        )
        return metrics, decoding


def _front(tried: Sequence[_Tried], plane: Sequence[str]) -> list[Config]:
    """The decodings that no other one beats in both metrics, the first of equals; of many, CURVE at even distances."""
    points = [tuple(one.metrics.get(name) or 0.0 for name in plane) for one in tried]
    (first, *_) = results.fronts(points)
    distinct = {points[at]: tried[at].config for at in sorted(first, reverse=True)}
    front = [distinct[point] for point in sorted(distinct)]
    if len(front) <= CURVE:
        return front
    return [front[round(place * (len(front) - 1) / (CURVE - 1))] for place in range(CURVE)]


def on_a_worker(decodings: Decodings, run: Path, data: Path, resources: ResourcesConfig, progress: Progress) -> Decoded:
    """What `Decodings.of` finds, on a worker with the resources of one of the trial's own, which may have the GPUs.

    Raises Halted where the workers are lost again and again, and what `Decodings.of` raises.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    task: Any = ray.remote(
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker,
        # The trial's own group has no room.
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),  # type: ignore[arg-type]
    )(_of)
    promised = task.remote(decodings, run, data)
    tried = decodings.space.search.trials
    while not ray.wait([promised], timeout=POLL)[0]:
        progress(0, tried, "decoding on a worker")
    try:
        found: Decoded = ray.get(promised)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise Halted(f"the worker that decoded was lost: {last_line(error)}") from error
    return found


def _of(decodings: Decodings, run: Path, data: Path) -> Decoded:
    return decodings.of(run, data, no_progress)


@dataclass(frozen=True)
class _Tried:
    config: Config
    metrics: Metrics  # on the half to search on


@dataclass(frozen=True)
class _Search:
    """Asks Optuna for decodings and tries them; the same seed and outputs give the same ones."""

    plan: Plan  # of decodings: its base is the trial's config
    images: Images
    progress: Progress

    def run(self) -> list[_Tried]:
        """What was tried, the trained decoding first. Raises ConfigError where an objective has no value."""
        from ..search.sampler import Sampler

        plan, sampler = self.plan, Sampler(self.plan)
        trained = plan.space.extract(plan.base, plan.base)
        tried = {_key(plan.base): _Tried(plan.base, self.images.metrics(plan.base.inference))}
        if trained is not None:
            sampler.study.tell(sampler.adopt(trained)[0], self._values(tried[_key(plan.base)]))
        for number in range(1, plan.trials):
            self.progress(number, plan.trials, "decoding")
            asked = sampler.ask()
            assert asked is not None, "TPE always has another point"
            try:
                one = self._tried(plan.space.apply(plan.base, asked[1]), tried)
            except ValueError as error:
                log.debug("%s", error)
                sampler.reject(asked[0])
                continue
            sampler.study.tell(asked[0], self._values(one))
        self.progress(plan.trials, plan.trials, "decoding")
        return list(tried.values())

    def _tried(self, config: Config, before: dict[str, _Tried]) -> _Tried:
        """A decoding's metrics, those from before where it has been tried."""
        if (key := _key(config)) not in before:
            before[key] = _Tried(config, self.images.metrics(config.inference))
        return before[key]

    def _values(self, one: _Tried) -> list[float]:
        objective = self.plan.objective
        found = [value for name in objective if is_number(value := one.metrics.get(name))]
        if len(found) < len(objective):
            raise ConfigError(f"search.decoding: {', '.join(objective)} has no value on half of the validation images")
        return found


def _key(config: Config) -> str:
    return config.inference.model_dump_json()


def read(path: Path, made_of: Mapping[str, Any]) -> Decoded | None:
    """What was found before from the same; None where there is nothing, or something else, which is said."""
    try:
        content = files.read_object(path)
        if content is None or content.get("made_of") != made_of:
            return None
        row = checked({"metrics": content["metrics"], "decoding": content["decoding"]})
        decoding = Decoding.model_validate(row["decoding"])
    except (ValueError, KeyError) as error:
        log.warning("%s: is not taken, and made again (%s)", path, error)
        return None
    return Decoded(row["metrics"], decoding, made_of)


def gain_text(found: Decoded, objective: Sequence[str]) -> str:
    """What training gave and what decoding gave, in one line."""
    both = ((name, found.decoding.trained.get(name), found.metrics.get(name)) for name in objective)
    numbers = (f"{name} {then or 0.0:.4f} {AS_TRAINED}, {now or 0.0:.4f} decoded" for name, then, now in both)
    return " · ".join([*numbers, found.decoding.text])
