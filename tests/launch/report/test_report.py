"""The print format of the field and the JSON report."""

from __future__ import annotations

import json

import numpy as np

from speaq.evaluation.recall import RecallResult
from speaq.evaluation.report import format_report, protocol_rows, to_json

NAMES = ("on", "has", "under")


def make_result(**changes) -> RecallResult:
    values = {"R": 0.25084, "ngR": 0.3, "zR": 0.01, "mR": 0.1011, "F": 0.14412, "head": 0.4, "body": 0.2, "tail": 0.0}
    settings = {
        "mode": "sgdet",
        "protocol": "sgdet published",
        "unconstrained_protocol": "sgdet ng",
        "recall_at": (20, 50),
        "metrics": {f"{name}@{k}": value for k in (20, 50) for name, value in values.items()},
        "averages": {
            f"{name}@{k}": 0.75
            for k in (20, 50)
            for name in ("R_dataset", "mR_present", "ngR_dataset", "ngmR", "ngmR_present")
        },
        "per_predicate": {20: np.array([0.25, 0.0, 0.0]), 50: np.array([0.5, 0.125, 0.0])},
        "predicate_images": np.array([9, 4, 0]),
        "thirds": (np.array([0]), np.array([1]), np.array([2])),
        "images_evaluated": 10,
        "images_without_predictions": 3,
        "images_skipped_without_predictions": 3,
    }
    return RecallResult(**{**settings, **changes})


def test_lines_read_as_the_reference_prints_them() -> None:
    lines = format_report(make_result()).splitlines()
    assert lines[0] == "SGG eval:     R @ 20: 0.2508;     R @ 50: 0.2508;  for mode=sgdet, type=Recall(Main)."
    assert "ngR @ 20: 0.3000" in lines[1]
    assert "type=No Graph Constraint Recall(Main)" in lines[1]
    assert "type=Zero Shot Recall" in lines[2]
    assert "type=Mean Recall." in lines[3]
    assert lines[-1] == "SGG eval: 10 images, 3 without predictions skipped; protocol: sgdet published; ngR: sgdet ng."


def test_details_show_absent_predicates_as_nan() -> None:
    text = format_report(make_result(), NAMES)
    assert "(on:0.5000) (has:0.1250) (under:nan)" in text


def test_undefined_metrics_are_nan_in_text_and_null_in_json() -> None:
    result = make_result()
    metrics = {name: value for name, value in result.metrics.items() if not name.startswith("zR")}
    result = make_result(metrics=metrics)
    assert "zR @ 20: nan" in format_report(result)
    report = json.loads(json.dumps(to_json(result, NAMES), allow_nan=False))
    assert report["metrics"]["zR@20"] is None
    assert report["metrics"]["R@20"] == 0.25084


def test_json_has_a_row_for_every_predicate() -> None:
    report = to_json(make_result(), NAMES, np.array([50, 20, 3, 0]), {"AP50": 0.5})
    json.dumps(report, allow_nan=False)
    assert report["metrics"]["AP50"] == 0.5
    assert (report["protocol"], report["unconstrained_protocol"]) == ("sgdet published", "sgdet ng")
    assert report["metrics"]["R_dataset@50"] == 0.75
    assert report["predicates"][0] == {
        "predicate": "on",
        "part": "head",
        "train_count": 50,
        "images": 9,
        "R@20": 0.25,
        "R@50": 0.5,
    }
    assert report["predicates"][2]["R@50"] is None


def test_the_strict_protocol_says_how_many_counted_as_zero() -> None:
    text = format_report(make_result(protocol="sgdet strict", images_skipped_without_predictions=0))
    assert "10 images, 3 without predictions as 0; protocol: sgdet strict" in text


def test_every_protocol_has_a_row_and_shared_lists_have_one() -> None:
    names = [("published", "ng"), ("strict", "ng-unique"), ("per-query", "ng")]
    results = [make_result(protocol=name, unconstrained_protocol=other) for name, other in names]
    rows = protocol_rows(results)
    assert [row["protocol"] for row in rows] == ["published", "strict", "per-query", "ng", "ng-unique"]
    assert rows[0] == {
        "protocol": "published",
        "images": 10,
        "images_without_predictions": 3,
        **{"R@20": 0.25084, "R_dataset@20": 0.75, "mR@20": 0.1011, "mR_present@20": 0.75},
        **{"R@50": 0.25084, "R_dataset@50": 0.75, "mR@50": 0.1011, "mR_present@50": 0.75},
    }
    assert (rows[3]["R@20"], rows[3]["mR@20"]) == (0.3, 0.75)
