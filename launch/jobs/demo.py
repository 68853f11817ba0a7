"""`speaq demo`: the main job on a generated world, from nothing to a tuned SpeaQ, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config
from speaq.evaluation.protocol import common_protocol
from speaq.files.shipped import shipped
from speaq.runs.run import evaluate_run, evaluate_start
from speaq.study import creation, file, results, seal
from speaq.study.ledger import Entry
from speaq.study.plan import Plan
from speaq.training.evaluate import Evaluation

from . import tune as studies
from .display import Display
from .stages import Stages, for_detector


@dataclass(frozen=True)
class Searched:
    """The demo's search, ended."""

    folder: Path
    entries: list[Entry]
    plan: Plan

    @property
    def best(self) -> Entry | None:
        """The best trial; None where none has finished."""
        return results.best_entry(self.entries, self.plan.objective)


@dataclass(frozen=True)
class Comparison:
    """What the search has brought, on the test split, which nothing was selected on."""

    images: int
    protocol: str | None
    rows: list[tuple[str, Evaluation]]  # name → evaluation: untrained, baseline, published, best


def detector_config(assignments: Sequence[str]) -> Config:
    """The config of the demo's detector. Raises ConfigError where an assignment cannot be used."""
    return configs.load(shipped("configs", "toy_detector"), for_detector(assignments))


def trial_config(assignments: Sequence[str], detector: Path) -> Config:
    """The config that all trials begin from. Raises ConfigError where an assignment cannot be used."""
    return configs.load(shipped("configs", "toy"), [*assignments, f"training.init_from={detector}"])


def pretrain(stages: Stages, config: Config, data: Path) -> Path:
    """Trains the detector that SpeaQ starts from, and returns its run's folder."""
    folder = stages.output / "detector"
    if not (folder / "result.json").exists():
        stages.train("detector", config, data, folder.name, "pre-training the detector")
    return folder


def search(stages: Stages, config: Config, data: Path, assignments: Sequence[str], *, display: Display) -> Searched:
    """Searches, or goes on. `assignments` are what `config` was given: no trial changes them. Raises ConfigError."""
    folder = stages.output / "search"
    if (folder / "study.yaml").exists():
        entries = studies.resume(folder, display=display)
    else:
        space = spaces.load(shipped("search_spaces", "toy"))
        fixed = list(configs.parse_overrides(assignments))
        study = creation.create(config, space, data, overrides=fixed)
        entries = studies.start(study, folder, display=display)
    return Searched(folder, entries, file.read(folder / "study.yaml").plan)


def compare(stages: Stages, config: Config, data: Path, found: Searched) -> Comparison:
    """Evaluates the untrained model, baseline, published setting and best trial on the test split, which it unseals."""
    with stages.progress("evaluating the untrained model") as tell:
        rows = [("untrained", evaluate_start(config, data, "test", progress=tell))]
    if not seal.is_open(found.folder):
        seal.unseal(found.folder, "the demo's last table: the search is over")
    images = 0
    for label in ("baseline", "published", "best"):
        entry = found.best if label == "best" else next((e for e in found.entries if e.label == label), None)
        if entry is None or entry.state != "finished":
            continue
        with stages.progress(f"evaluating {label}") as tell:
            result = evaluate_run(found.folder / "trials" / entry.id, "test", progress=tell)
        images = result.images
        rows.append((f"{label} ({entry.id})", result.evaluation))
    return Comparison(images, common_protocol(evaluation.protocol for _, evaluation in rows), rows)
