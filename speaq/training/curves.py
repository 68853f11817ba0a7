"""Charts of a training, from what it has written into metrics.jsonl so far: loss, recall, k, groups, pace."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from speaq.charts.chart import Chart, Line, kind, thinned
from speaq.training.callbacks import is_number

Row = Mapping[str, Any]
Named = Iterable[tuple[str, str]]  # key of a row, and what a chart calls it

LOSSES = ("relation", "ce_subject", "ce_object", "bbox_relation", "giou_relation")  # of the last decoder layer
LOSS_NAMES = ("predicates", "subjects", "objects", "boxes, L1", "boxes, GIoU")
THIRDS = ("head", "body", "tail")


def charts(rows: Iterable[Row]) -> list[Chart]:
    """The charts for which there are numbers, those first that say most.

    Args:
        rows: lines of metrics.jsonl.
    """
    lines = [row for row in rows if type(row.get("step")) is int]
    keys = list(dict.fromkeys(key for row in lines for key in row))
    return [chart for chart in _all(lines, keys) if chart.lines]


def _all(rows: list[Row], keys: list[str]) -> Iterator[Chart]:
    ks = sorted({int(k) for key in keys for k in re.findall(r"^val/R@(\d+)$", key)})
    yield _chart(rows, "Loss", "loss", [("train/loss", "loss"), ("val/loss", "on val")])
    for name, title in (("R", "Recall on val"), ("mR", "Mean recall on val")):
        found = [(f"val/{name}@{k}", f"{name}@{k}") for k in ks]
        yield _chart(rows, title, "recall", found, dots=True, from_zero=True)
    if ks:
        thirds = [(f"val/{part}@{ks[0]}", part) for part in THIRDS]
        title = f"Frequent to rare predicates, mR@{ks[0]}"
        yield _chart(rows, title, "mean recall", thirds, dots=True, from_zero=True)
    precision = [("val/AP", "AP"), ("val/AP50", "AP50")]
    yield _chart(rows, "Boxes on val", "average precision", precision, dots=True, from_zero=True)
    yield from _matching(rows, keys)
    parts = zip((f"train/loss_{name}" for name in LOSSES), LOSS_NAMES, strict=True)
    yield _chart(rows, "Parts of the loss, last decoder layer", "loss, unweighted", parts, from_zero=True)
    norms = [("train/gradient_norm", "all"), *_numbered(keys, r"train/gradient_norm_(\w+)", str)]
    yield _chart(rows, "Gradient norm, before it is clipped", "norm", norms, from_zero=True)
    rate = [("train/learning_rate", "learning rate")]
    yield _chart(rows, "Learning rate", "learning rate", rate, from_zero=True)
    pace = [("train/images_per_second", "images/s")]
    yield _chart(rows, "Pace", "images/s", pace, from_zero=True)


def _matching(rows: list[Row], keys: list[str]) -> Iterator[Chart]:
    """How targets meet queries: repeats by layer, and each predicate group's share."""
    repeats = _numbered(keys, r"train/k_log_layer(\d+)", "layer {}".format)
    yield _chart(rows, "Repeats k, by decoder layer", "queries per target, mean", repeats)
    shares = _numbered(keys, r"train/matched_share_group(\d+)", "group {}".format)
    yield _chart(rows, "Relation queries with a target", "share of the group's", shares, from_zero=True)
    over = _numbered(keys, r"train/overflow_group(\d+)", "group {}".format)
    over = [*over, ("train/unmatched_share", "of all: no query")] if len(over) > 1 else []
    title = "Targets that other groups' queries got"
    yield _chart(rows, title, "share of the group's targets", over, from_zero=True)


def _numbered(keys: list[str], pattern: str, named: Callable[[str], str]) -> list[tuple[str, str]]:
    found = [(key, match[1]) for key in keys if (match := re.fullmatch(pattern, key))]
    return [(key, named(text)) for key, text in found]


def _chart(rows: list[Row], title: str, y: str, named: Named, *, dots: bool = False, from_zero: bool = False) -> Chart:
    lines = []
    for number, (key, name) in enumerate(named):
        points = [(float(row["step"]), _value(row[key])) for row in rows if key in row]
        if kept := thinned(points):
            lines.append(Line(name, kept, kind(number), dots=dots))
    return Chart(title, x="step", y=y, lines=tuple(lines), from_zero=from_zero)


def _value(value: object) -> float:
    return float(value) if isinstance(value, int | float) and is_number(value) else math.nan
