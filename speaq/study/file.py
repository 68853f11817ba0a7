"""study.yaml: all that was asked of a search, written once, and what has changed since."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from speaq import config as configs
from speaq import space as spaces
from speaq.config import ConfigError
from speaq.data import photo_digest
from speaq.files import atomic, locks
from speaq.study import form
from speaq.study import plan as plans
from speaq.study.plan import Plan
from speaq.study.source import source_of

TRAIN = "speaq.training.loop:train"
STORAGE = "study.db"  # in the study's folder: its Optuna storage, unless the user names another
OF_PREDICTIONS = "predictions:"  # how the training function of a search of predictions begins


@dataclass(frozen=True)
class Address:
    """A study in an Optuna storage. File paths are absolute, or relative to the study's folder."""

    url: str = field(repr=False)  # may hold a password: `launch.search.storage.masked` shows it without
    study: str


@dataclass(frozen=True)
class Study:
    """What study.yaml holds."""

    plan: Plan
    data: Path
    data_digest: str
    start_digest: str | None  # of the checkpoint that trials start from
    versions: Mapping[str, str]
    train: str = TRAIN
    storage: Address | None = None  # what is kept of it: no password, paths seen from the folder
    forced: tuple[Mapping[str, Any], ...] = ()  # resumed in spite of changes: {at, changes}
    seen: Mapping[str, Any] = field(default_factory=dict)  # of photos and zero-shot list: photo_digest

    @property
    def of_predictions(self) -> bool:
        """Whether its trials train nothing: launch/jobs/predictions.py."""
        return self.train.startswith(OF_PREDICTIONS)

    @property
    def data_record(self) -> dict[str, Any]:
        """What study.yaml says of the data set."""
        return {"directory": str(self.data), "digest": self.data_digest, **self.seen}

    def dump(self) -> str:
        """study.yaml's text."""
        plan = self.plan
        content = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "question": plan.space.question,
            "objective": list(plan.objective),
            "trials": plan.trials,
            "data": self.data_record,
            "start": None if plan.start is None else str(plan.start),
            "start_digest": self.start_digest,
            "versions": dict(self.versions),
            "train": self.train,
            "storage": None if self.storage is None else dataclasses.asdict(self.storage),
            "forced": list(self.forced),
            "sources": [source.record() for source in plan.sources],
            "space": spaces.to_dict(plan.space),
            "search": plan.settings.model_dump(mode="json"),
            "references": {label: plans.difference(plan.base, c) for label, c in plan.references.items()},
            "config": configs.to_dict(plan.base),
        }
        return configs.dump_yaml(content)


def read(path: Path) -> Study:
    """study.yaml as it was written. Raises ConfigError."""
    content = configs.read_yaml(path)
    form.check(content, path)
    try:
        base = configs.from_dict(content["config"], str(path))
        for name in content["objective"]:
            configs.check_metric(name, base, f"{path}: objective: ")
        settings = spaces.SearchConfig.model_validate({"prior": "none", **content["search"]})  # there once was none
        settings = settings.model_copy(update={"trials": content["trials"], "objective": content["objective"]})
        references = {label: configs.apply(base, values, str(path)) for label, values in content["references"].items()}
        space = spaces.from_dict(content["space"], str(path))
        begins = content.get("start")  # where it has moved to
        plan = Plan(
            base,
            space.model_copy(update={"search": settings}),
            references,
            sources=tuple(source_of(record) for record in content.get("sources", ())),
            start=None if begins is None else Path(begins),
        )
        data = content["data"]
        kept = content.get("storage")  # a study from before there was one has none
        known = None if kept is None else Address(**kept)
        return Study(
            plan,
            data=Path(data["directory"]),
            data_digest=data["digest"],
            start_digest=content["start_digest"],
            versions=content["versions"],
            train=content["train"],
            storage=known,
            forced=tuple(content.get("forced", ())),
            seen=photo_digest.noted(data),
        )
    except ValidationError as error:
        raise ConfigError(f"{path}: search: {configs.first_reason(error)}") from error


def check_new(output: Path) -> None:
    """Raises ConfigError unless `output` is a new or empty folder, or that of a search that never began."""
    if output.exists() and (not output.is_dir() or has_begun(output) or _is_of_others(output)):
        raise ConfigError(f"{output}: is not empty; give another --output, or --resume {output}")


def has_begun(output: Path) -> bool:
    """Whether a folder holds a search that has asked for a trial."""
    ledger = output / "ledger.jsonl"
    return ledger.exists() and ledger.stat().st_size > 0


def _is_of_others(output: Path) -> bool:
    """Whether a folder holds what no driver of a search leaves there that ends before its first trial."""
    if (output / "study.yaml").exists():
        return False
    left = {path.name for path in output.iterdir()} - {"ledger.jsonl", locks.NAME}
    return any(not name.startswith(STORAGE) and atomic.MARK not in name for name in left)


def keep(study: Study, output: Path) -> None:
    """Brings study.yaml up to date: number of trials, where the data are, changes in spite of which the search goes on.

    The caller has locked the ledger.
    """
    file = output / "study.yaml"
    content = configs.read_yaml(file)
    now: dict[str, Any] = {"trials": study.plan.trials, "data": study.data_record}
    if study.plan.start is not None:
        now["start"] = str(study.plan.start)
    if content.get("forced", []) != list(study.forced):
        changed = {"start_digest": study.start_digest, "versions": dict(study.versions), "forced": list(study.forced)}
        now |= changed
    if content == content | now:
        return
    atomic.write_text(file, configs.dump_yaml(content | now))
