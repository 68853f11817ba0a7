"""A new study with settings of the user's own: what is refused, what is said, what study.yaml keeps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError
from speaq.study import creation, file

LENGTH = {"training.max_steps": 90, "training.eval_every": 10, "training.decay_steps": [50]}
BASE = configs.apply(Config(), {**LENGTH, "data.num_val": 12})
GROUPS = {"type": "int", "low": 1, "high": 8}
RATE = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}


def make_study(data: Path, points: list[dict[str, Any]], groups: dict[str, Any], **options: Any) -> file.Study:
    parameters = {"training.learning_rate": RATE, "matching.num_groups": groups}
    return creation.create(
        BASE, spaces.from_dict({"search": {"points": points}, "parameters": parameters}), data, **options
    )


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            [{"matching.num_groups": 2}, {"matching.num_groups": 9}],
            "point 2: matching.num_groups: 9 is not in the space",
        ),
        (
            [{"training.learning_rate": 1e-3}, {"training.learning_rate": 1e-3, "matching.num_groups": 4}],
            "point 2: is point 1 again",
        ),
        ([{"matching.num_groups": 4}], "point 1: is the published setting, which is tried anyway"),
    ],
)
def test_points_are_refused_before_anything_starts(points: list[dict[str, Any]], message: str, toy: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^search\.points: {message}"):
        make_study(toy, points, GROUPS)


def test_a_point_of_a_key_that_the_command_line_fixes_is_refused(toy: Path) -> None:
    with pytest.raises(ConfigError, match=r"point 1: matching\.num_groups: is no parameter of this search"):
        make_study(toy, [{"matching.num_groups": 2}], GROUPS, overrides=["matching.num_groups"])


def test_points_that_the_data_cannot_carry_are_said_and_left_out(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = [{"matching.num_groups": 50}, {"matching.num_groups": 2}, {"training.learning_rate": 1e-3}]
    with caplog.at_level(logging.WARNING):
        study = make_study(toy, points, {"type": "categorical", "choices": [1, 2, 50]}, trials=3)
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("point 1 is left out, it cannot be trained on this data set: ") for line in said)
    assert "point 3: matching.num_groups: 4, as published, is not in the space; 2 is taken" in said
    assert "3 trials are fewer than the references and points, 4: --trials 4" in said
    kept = [
        {"training.learning_rate": 1e-4, "matching.num_groups": 2},
        {"training.learning_rate": 1e-3, "matching.num_groups": 2},
    ]
    (tmp_path / "study.yaml").write_text(study.dump())
    assert file.read(tmp_path / "study.yaml").plan == study.plan
    assert study.plan.settings.points == kept


def test_a_point_keeps_its_values_where_the_data_leave_one_number_of_groups(toy: Path) -> None:
    study = make_study(toy, [{"matching.num_groups": 1}], {"type": "categorical", "choices": [1, 50]}, trials=3)
    assert study.plan.base.matching.num_groups == 1
    assert study.plan.settings.points == [{"training.learning_rate": 1e-4}]


def test_the_strength_of_a_prior_that_there_is_not_is_refused(toy: Path) -> None:
    space = spaces.from_dict({"search": {"prior_strength": 3.0}, "parameters": {"training.learning_rate": RATE}})
    with pytest.raises(ConfigError, match=r"^search\.prior_strength 3 has no effect with prior: none"):
        creation.create(BASE, space, toy)


@pytest.mark.parametrize("asked", [["published"], ["baseline"], []])
def test_a_search_trains_the_references_that_it_names(asked: list[str], toy: Path, tmp_path: Path) -> None:
    search = {"references": asked, "points": [{"matching.num_groups": 2}]}
    space = spaces.from_dict({"search": search, "parameters": {"matching.num_groups": GROUPS}})
    study = creation.create(BASE, space, toy)
    (tmp_path / "study.yaml").write_text(study.dump())
    assert list(file.read(tmp_path / "study.yaml").plan.references) == asked


def test_the_published_setting_may_be_a_point_where_it_is_no_reference(toy: Path) -> None:
    search = {"references": [], "points": [{"matching.num_groups": 4}]}
    space = spaces.from_dict({"search": search, "parameters": {"matching.num_groups": GROUPS}})
    assert creation.create(BASE, space, toy).plan.settings.points == search["points"]


def test_a_reference_is_named_once() -> None:
    with pytest.raises(ConfigError, match="references names a setting twice"):
        spaces.from_dict(
            {"search": {"references": ["published", "published"]}, "parameters": {"matching.num_groups": GROUPS}}
        )


@pytest.mark.parametrize(
    ("low", "high", "log", "said"),
    [
        (1e-5, 1e-4, True, ["the config has 0.0001, the search takes 1e-05 to 0.0001: nearly all trials get less"]),
        (1e-3, 1e-2, True, ["the config has 0.0001, the search takes 0.001 to 0.01: nearly all trials get more"]),
        (1e-5, 1e-3, True, []),
        (1e-5, 1e-4, False, []),
    ],
)
def test_a_range_over_magnitudes_that_ends_where_the_config_is_is_said(
    low: float, high: float, log: bool, said: list[str], toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rate = {"type": "float", "low": low, "high": high, "log": log}
    with caplog.at_level(logging.WARNING):
        creation.create(BASE, spaces.from_dict({"parameters": {"training.learning_rate": rate}}), toy)
    lines = [record.getMessage().partition(";")[0] for record in caplog.records if "learning_rate" in record.message]
    assert lines == [f"training.learning_rate: {text}" for text in said]


def test_a_study_keeps_a_relative_range_as_it_was_at_its_start(toy: Path, tmp_path: Path) -> None:
    rate = {"type": "float", "low": 0.3, "high": 3.0, "log": True, "relative": True}
    space = spaces.from_dict({"parameters": {"training.learning_rate": rate}, "search": {"references": []}})
    study = creation.create(configs.apply(BASE, {"training.learning_rate": 1e-3}), space, toy)
    (tmp_path / "study.yaml").write_text(study.dump())
    kept = spaces.to_dict(file.read(tmp_path / "study.yaml").plan.space)["parameters"]["training.learning_rate"]
    assert kept == {"type": "float", "low": 3e-4, "high": 3e-3, "log": True}
