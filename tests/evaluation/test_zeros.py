"""A run that has found nothing says why and what to try; one that has found something says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from speaq import config as configs
from speaq.evaluation.zeros import why_zero
from tests.helpers.command import command
from tests.helpers.tiny import tiny

ZERO = {"R@20": 0.0, "ngR@20": 0.0, "mR@20": 0.0, "zR@20": None, "AP50": 0.0002}


@pytest.mark.parametrize(
    ("changed", "split", "words"),
    [
        ({}, "val", ["AP50 0.0002", "--split train", "training.init_from", "training.max_steps (now 7)"]),
        ({}, "train", ["even in the photos trained on", "speaq pretrain"]),
        ({"AP50": 0.3}, "test", ["objects are found (AP50 0.300)", "raise training.max_steps"]),
        ({"AP50": None}, "val", ["no relation is found"]),
    ],
)
def test_zeros_are_explained(changed: dict[str, float | None], split: str, words: list[str]) -> None:
    line = why_zero({**ZERO, **changed}, split, 7)
    assert line is not None
    assert "\n" not in line
    assert all(word in line for word in words), line


@pytest.mark.parametrize("metrics", [{**ZERO, "ngR@20": 0.1}, {"AP50": 0.0}, {"R@20": None, "AP50": 0.0}, {}])
def test_what_found_something_or_has_no_recall_is_not_explained(metrics: dict[str, float | None]) -> None:
    assert why_zero(metrics, "val", 7) is None


def test_training_and_evaluation_say_it_beside_their_results(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(configs.dump(tiny(training__max_steps=1)))
    done = command("train", "--config", tmp_path / "config.yaml", "--data", toy, "--output", tmp_path / "run")
    assert done.exit_code == 0, done.output
    again = command("evaluate", tmp_path / "run")
    assert "all recalls are 0: " in done.stderr
    assert "all recalls are 0: " in again.stderr
    assert "all recalls are 0" not in command("evaluate", tmp_path / "run", "--json").stderr
