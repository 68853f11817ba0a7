"""Recalls as text in the field's print format and as a JSON-able report. P predicates, I images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from speaq.evaluation.recall import THIRDS, RecallResult
from speaq.plain_text import visible
from speaq.structures import IntArray

# Name of a metric → what the field's print format calls its kind. A is reported in sgcls and predcls only.
KINDS: Mapping[str, str] = {
    "R": "Recall(Main)",
    "ngR": "No Graph Constraint Recall(Main)",
    "zR": "Zero Shot Recall",
    "mR": "Mean Recall",
    "A": "TopK Accuracy",
    "F": "Harmonic Mean of Recall and Mean Recall",
    "head": "Mean Recall of Head Predicates",
    "body": "Mean Recall of Body Predicates",
    "tail": "Mean Recall of Tail Predicates",
}

# Recalls of a protocol: mean over images, over all rows of the data set; mean over all predicates, over those present.
AVERAGES = ("R", "R_dataset", "mR", "mR_present")


def format_report(result: RecallResult, predicates: Sequence[str] | None = None) -> str:
    """One line for each kind of recall, as the reference prints it, without a line feed at the end.

    With `predicates` [P] names, the mean recall is followed by the recall of every predicate at the largest K, `nan`
    for one that no evaluated image has. A metric that no image defines prints `nan`. The last line says the protocol.
    """
    lines = [
        _line(result, name, kind) + (_details(result, predicates) if name == "mR" and predicates else "")
        for name, kind in KINDS.items()
        if name == "zR" or any(f"{name}@{k}" in result.metrics for k in result.recall_at)
    ]
    return "\n".join([*lines, _counts(result)])


def _line(result: RecallResult, name: str, kind: str) -> str:
    values = "".join(f"{name:>5s} @ {k}: {result.metrics.get(f'{name}@{k}', math.nan):.4f}; " for k in result.recall_at)
    return f"SGG eval: {values} for mode={result.mode}, type={kind}."


def _details(result: RecallResult, predicates: Sequence[str]) -> str:
    recalls = _recall_or_none(result, result.recall_at[-1])
    cells = (
        f"({visible(name)}:{math.nan if recall is None else recall:.4f})"
        for name, recall in zip(predicates, recalls, strict=True)
    )
    return f"\n{' Details '.center(56, '-')}\n{' '.join(cells)}\n{'-' * 56}"


def _counts(result: RecallResult) -> str:
    skipped = result.images_skipped_without_predictions
    counted = result.images_without_predictions - skipped
    empty = (
        f"{skipped} without predictions skipped" if skipped or not counted else f"{counted} without predictions as 0"
    )
    protocols = f"{result.protocol}; ngR: {result.unconstrained_protocol}"
    return f"SGG eval: {result.images_evaluated} images, {empty}; protocol: {protocols}."


def _recall_or_none(result: RecallResult, k: int) -> list[float | None]:
    """[P] recalls of the predicates, None for one that no evaluated image has."""
    pairs = zip(result.per_predicate[k].tolist(), result.predicate_images.tolist(), strict=True)
    return [recall if images else None for recall, images in pairs]


def to_json(
    result: RecallResult,
    predicates: Sequence[str],
    predicate_count: IntArray | None = None,
    detection: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Everything a result says, for `json.dumps(..., allow_nan=False)`: what is undefined is null.

    `predicates` [P] names, `predicate_count` [P] or [P+1] rows of the training split, `detection` box AP by name.
    """
    return {
        "mode": result.mode,
        "protocol": result.protocol,
        "unconstrained_protocol": result.unconstrained_protocol,
        "images_evaluated": result.images_evaluated,
        "images_without_predictions": result.images_without_predictions,
        "images_skipped_without_predictions": result.images_skipped_without_predictions,
        "metrics": all_metrics(result) | result.averages | dict(detection or {}),
        "predicates": predicate_table(result, predicates, predicate_count),
    }


def all_metrics(result: RecallResult) -> dict[str, float | None]:
    """The metrics of a result, and None for zero-shot recalls where no image defines them."""
    undefined = {f"zR@{k}": None for k in result.recall_at if f"zR@{k}" not in result.metrics}
    return {**result.metrics, **undefined}


def protocol_rows(results: Sequence[RecallResult]) -> list[dict[str, Any]]:
    """One row for every protocol of `results`, and one for each of their lists without constraint, by short name."""
    rows = {result.protocol: _protocol_row(result, result.protocol, "") for result in results}
    for result in results:
        name = result.unconstrained_protocol
        rows.setdefault(name, _protocol_row(result, name, "ng"))
    return list(rows.values())


def _protocol_row(result: RecallResult, protocol: str, prefix: str) -> dict[str, Any]:
    values = result.metrics | result.averages
    return {
        "protocol": protocol,
        "images": result.images_evaluated,
        "images_without_predictions": result.images_without_predictions,
    } | {f"{name}@{k}": values[f"{prefix}{name}@{k}"] for k in result.recall_at for name in AVERAGES}


def predicate_table(
    result: RecallResult, predicates: Sequence[str], predicate_count: IntArray | None = None
) -> list[dict[str, Any]]:
    """One row a predicate: its recalls (None where no evaluated image has it), its images, its third.

    Args:
        predicates: [P] names.
        predicate_count: [P] or [P+1] rows of the training split, where they are known.
    """
    third = {int(p): name for name, part in zip(THIRDS, result.thirds or (), strict=False) for p in part}
    recalls = {f"R@{k}": _recall_or_none(result, k) for k in result.recall_at}
    return [
        {
            "predicate": name,
            "part": third.get(p),
            "train_count": None if predicate_count is None else int(predicate_count[p]),
            "images": int(result.predicate_images[p]),
        }
        | {metric: values[p] for metric, values in recalls.items()}
        for p, name in enumerate(predicates)
    ]
