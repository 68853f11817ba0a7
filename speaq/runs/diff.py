"""`speaq diff`: what two runs were asked for, were made from and reached, where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.evaluation.protocol import common_protocol
from speaq.runs import files
from speaq.runs.files import DATA, EVALUATION, PREDICATES, RESULT

Metrics = Mapping[str, float | None]
Pairs = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class RunRecord:
    """What the folder of a run says about it."""

    folder: Path
    config: Config
    data: Mapping[str, Any]  # data.json; empty without one (converted runs)
    result: Mapping[str, Any]  # result.json; empty where the run has not ended
    evaluation: Mapping[str, Any] | None  # EVALUATION, where it was kept

    @property
    def protocol(self) -> str | None:
        """Short name of how its metrics are counted; None where the run has not ended."""
        return self.result.get("protocol")

    @property
    def metrics(self) -> Metrics:
        """Of the kept checkpoint."""
        best: Mapping[str, Any] = self.result.get("best") or {}
        return best.get("metrics") or {}


def read(folder: Path) -> RunRecord:
    """Raises ConfigError where `folder` is no run, or a file in it cannot be read."""
    config = configs.load(folder / "config.yaml")
    data, result = (files.read(folder / name) or {} for name in (DATA, RESULT))
    return RunRecord(folder, config, data, result, stored_evaluation(folder))


def stored_evaluation(folder: Path) -> dict[str, Any] | None:
    """The kept evaluation of a run's kept checkpoint, None without one.

    Raises ConfigError where the file is something else, or of another checkpoint.
    """
    path = folder / EVALUATION
    content = files.read(path)
    if content is None:
        return None
    best = (files.read(folder / RESULT) or {}).get("best") or {}
    step, kept = content["step"], best.get("step", content["step"])
    if step != kept:
        raise ConfigError(f"{path}: is of step {step}, the kept checkpoint of step {kept}: evaluate again")
    return content


def trained_evaluation(folder: Path) -> dict[str, Any] | None:
    """What training noted of the kept checkpoint's recall by predicate, None where it did not, as older runs.

    Raises ConfigError where the file is something else.
    """
    content, best = files.read(folder / PREDICATES), (files.read(folder / RESULT) or {}).get("best") or {}
    return content if content is not None and content["step"] == best.get("step") else None


@dataclass(frozen=True)
class Difference:
    """Name → (value in one run, value in the other). `metrics` are all, the rest only what differs."""

    config: Pairs
    made_from: Pairs  # data, versions, hardware
    metrics: Pairs
    predicates: Pairs | None  # recall of each predicate; None where the evaluations are not kept
    recall: str | None  # which recall `predicates` are
    protocol: str | None


def difference(a: RunRecord, b: RunRecord) -> Difference:
    """Raises ConfigError where the protocols of the two runs' metrics differ."""
    one, other = (configs.flatten(configs.to_dict(record.config)) for record in (a, b))
    protocol = common_protocol([a.protocol, b.protocol])
    recall, predicates = _predicates(a, b)
    return Difference(
        _differing(one, other),
        _differing(_made_from(a), _made_from(b)),
        _pairs(a.metrics, b.metrics),
        predicates,
        recall,
        protocol,
    )


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> Pairs:
    return {name: (one.get(name), other.get(name)) for name in dict.fromkeys([*one, *other])}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Pairs:
    return {name: pair for name, pair in _pairs(one, other).items() if pair[0] != pair[1]}


def _made_from(record: RunRecord) -> dict[str, Any]:
    """What besides the config a result depends on."""
    versions = {f"version of {name}": value for name, value in (record.result.get("versions") or {}).items()}
    return {"data digest": record.data.get("digest"), "hardware": record.result.get("hardware"), **versions}


def _predicates(a: RunRecord, b: RunRecord) -> tuple[str | None, Pairs | None]:
    """(name of the recall, predicate → recalls) of two kept evaluations. Raises ConfigError where they do not fit."""
    if a.evaluation is None or b.evaluation is None:
        return None, None
    common_protocol([a.evaluation["protocol"], b.evaluation["protocol"]])
    if a.evaluation["split"] != b.evaluation["split"]:
        raise ConfigError(
            f"{EVALUATION}: {a.folder} was evaluated on {a.evaluation['split']}, {b.folder} on {b.evaluation['split']}"
        )
    (recall, one), (_, other) = predicate_recalls(a.evaluation), predicate_recalls(b.evaluation)
    return recall, _pairs(one, other)


def predicate_recalls(evaluation: Mapping[str, Any]) -> tuple[str, dict[str, float | None]]:
    """(name of the recall at the largest K, predicate → recall) of a kept evaluation."""
    rows = evaluation["report"]["predicates"]
    recall = max((name for name in rows[0] if name.startswith("R@")), key=lambda name: int(name[2:]))
    return recall, {row["predicate"]: row[recall] for row in rows}
