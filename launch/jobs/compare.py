"""`speaq diff`: what two runs were asked for, were made from and reached, where they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.evaluation.protocol import common_protocol
from speaq.terminal import echo, echo_json, show, table
from speaq.training import run_files
from speaq.training.run_files import DATA, EVALUATION, RESULT

Metrics = Mapping[str, float | None]
Pairs = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Record:
    """What the folder of a run says about it."""

    folder: Path
    config: Config
    data: Mapping[str, Any]  # data.json; empty without one (converted runs)
    result: Mapping[str, Any]  # result.json; empty where the run has not ended
    evaluation: Mapping[str, Any] | None  # EVALUATION, where it was kept

    @property
    def protocol(self) -> str | None:
        return self.result.get("protocol")

    @property
    def metrics(self) -> Metrics:
        """Of the kept checkpoint."""
        best: Mapping[str, Any] = self.result.get("best") or {}
        return best.get("metrics") or {}


def read(folder: Path) -> Record:
    """Raises ConfigError where `folder` is no run, or a file in it cannot be read."""
    config = configs.load(folder / "config.yaml")
    data, result = (run_files.read(folder / name) or {} for name in (DATA, RESULT))
    return Record(folder, config, data, result, stored_evaluation(folder))


def stored_evaluation(folder: Path) -> dict[str, Any] | None:
    """The kept evaluation of a run's kept checkpoint, None without one.

    Raises ConfigError where the file is something else, or of another checkpoint.
    """
    path = folder / EVALUATION
    content = run_files.read(path)
    if content is None:
        return None
    best = (run_files.read(folder / RESULT) or {}).get("best") or {}
    step, kept = content["step"], best.get("step", content["step"])
    if step != kept:
        raise ConfigError(f"{path}: is of step {step}, the kept checkpoint of step {kept}: evaluate again")
    return content


@dataclass(frozen=True)
class Difference:
    """Name → (value in one run, value in the other). `metrics` are all, the rest only what differs."""

    config: Pairs
    made_from: Pairs  # data, versions, hardware
    metrics: Pairs
    predicates: Pairs | None  # recall of each predicate; None where the evaluations are not kept
    recall: str | None  # which recall `predicates` are
    protocol: str | None


def difference(a: Record, b: Record) -> Difference:
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


def _made_from(record: Record) -> dict[str, Any]:
    """What besides the config a result depends on."""
    versions = {f"version of {name}": value for name, value in (record.result.get("versions") or {}).items()}
    return {"data digest": record.data.get("digest"), "hardware": record.result.get("hardware"), **versions}


def _predicates(a: Record, b: Record) -> tuple[str | None, Pairs | None]:
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


def diff(first: Path, second: Path, *, as_json: bool = False) -> None:
    """Prints how two runs differ. Raises as `read` and `difference`."""
    a, b = read(first), read(second)
    found = difference(a, b)
    if as_json:
        echo_json(vars(found))
        return
    names = (str(first), str(second))
    _print("config", names, found.config)
    _print("data, versions and hardware", names, found.made_from)
    _print(f"metrics of the kept checkpoints, {found.protocol or 'protocol not said'}", names, found.metrics)
    for record in (a, b):
        if not record.result:
            echo(f"{record.folder}: has not ended, it has no metrics")
    if found.predicates is None:
        lacking = [record.folder for record in (a, b) if record.evaluation is None]
        for folder in lacking:
            echo(f"recall by predicate: first speaq evaluate {folder} --json > {folder / EVALUATION}")
    else:
        changed = {name: pair for name, pair in found.predicates.items() if pair[0] != pair[1]}
        _print(f"{found.recall} by predicate", names, dict(sorted(changed.items(), key=_largest_first)))


def _change(pair: tuple[Any, Any]) -> float | None:
    numbers = [v for v in pair if isinstance(v, int | float) and not isinstance(v, bool)]
    return numbers[1] - numbers[0] if len(numbers) == 2 else None


def _largest_first(item: tuple[str, tuple[Any, Any]]) -> float:
    change = _change(item[1])
    return -math.inf if change is None else -abs(change)


def _print(title: str, names: tuple[str, str], pairs: Pairs) -> None:
    if not pairs:
        echo(f"{title}: no difference")
        return
    changes = [(pair, _change(pair)) for pair in pairs.values()]
    rows = [
        (name, *map(_text, pair), "" if not change else f"{change:+.4g}")
        for name, (pair, change) in zip(pairs, changes, strict=True)
    ]
    show(table((title, *names, "change"), rows, left=4))
    echo()


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
