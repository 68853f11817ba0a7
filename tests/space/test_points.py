"""Settings of a user's own: refused by name, or completed from the published setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError
from speaq.space.checks import check
from speaq.space.parameters import Choice, FloatRange, IntRange, Parameter, Plain, identity
from speaq.space.points import completed, published
from tests.helpers.shared import ROOT

SPACE: dict[str, Any] = {
    "matching.scheme": {"type": "categorical", "choices": ["static", "dynamic"]},
    "matching.quality": {
        "type": "categorical",
        "choices": ["min", "geometric"],
        "when": {"matching.scheme": ["dynamic"]},
        "otherwise": None,
    },
    "matching.max_repeats": {"type": "int", "low": 1, "high": 3},
    "matching.num_groups": {"type": "int", "low": 2, "high": 6, "step": 2},
    "matching.independent": {
        "type": "categorical",
        "choices": [True, False],
        "when": {"matching.scheme": ["static"]},
        "otherwise": True,
    },
    "matching.predicate_weight": {
        "type": "float",
        "low": -1.0,
        "high": 1.0,
        "step": 0.25,
        "when": {"matching.scheme": ["dynamic"]},
        "otherwise": 0.0,
    },
    "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
}


def space(*points: dict[str, Plain], **parameters: Any) -> spaces.Space:
    more = {key.replace("__", "."): value for key, value in parameters.items()}
    return spaces.from_dict({"search": {"points": list(points)}, "parameters": {**SPACE, **more}})


def test_what_a_point_leaves_out_is_as_published_or_near_to_it() -> None:
    found = completed(space(), Config(), {"training.learning_rate": 1e-5})
    assert found.values == {
        "matching.scheme": "dynamic",
        "matching.quality": "min",
        "matching.max_repeats": 3,
        "matching.num_groups": 4,
        "matching.predicate_weight": -0.5,
        "training.learning_rate": 1e-5,
    }
    assert found.moved == {"matching.quality": ("max", "min"), "matching.max_repeats": (4, 3)}


def test_what_the_published_setting_does_not_name_is_as_in_the_config_of_the_search() -> None:
    base = configs.apply(Config(), {"training.learning_rate": 3e-4})
    found = completed(space(), base, {"matching.scheme": "static", "matching.independent": False})
    assert found.values["training.learning_rate"] == 3e-4
    assert "matching.quality" not in found.values  # not active
    assert list(found.values) == [key for key in SPACE if key in found.values]
    assert found.values == completed(space(), base, found.values).values


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({}, "it gives no parameter a value"),
        ({"matching.num_group": 2}, r"matching.num_group: no such key \(nearest: matching.num_groups\)"),
        ({"training.batch_size": 2}, "training.batch_size: is no parameter of this search, which has matching.scheme,"),
        ({"matching.num_groups": 3}, "num_groups: 3 is not in the space, which has whole numbers from 2 to 6 in steps"),
        ({"matching.num_groups": True}, "num_groups: True is not in the space"),
        ({"training.learning_rate": 0.1}, "learning_rate: 0.1 is not in the space, which has numbers from 1e-05 to"),
        ({"matching.scheme": "fast"}, "scheme: 'fast' is not in the space, which has static or dynamic"),
        (
            {"matching.scheme": "static", "matching.quality": "min"},
            "matching.quality: is not active here, it needs matching.scheme dynamic",
        ),
        ({"model.num_queries": 2}, "impossible: .*num_groups 4 exceeds model.num_queries 2"),
    ],
)
def test_points_that_cannot_be_tried_are_refused_by_number_and_name(point: dict[str, Plain], message: str) -> None:
    queries = {"type": "categorical", "choices": [2, 300]}
    asked = space({"matching.num_groups": 2}, point, model__num_queries=queries)
    with pytest.raises(ConfigError, match=rf"^search\.points: point 2: .*{message}") as caught:
        check(asked, Config())
    assert "\n" not in str(caught.value)


def test_points_of_a_file_are_read_with_their_groups() -> None:
    with pytest.raises(ConfigError, match=r"^here: search: points: 1: matching\.groups: .*none\.yaml"):
        spaces.from_dict({"search": {"points": [{"matching.groups": "none.yaml"}]}, "parameters": SPACE}, "here")
    for wrong in ("all", [3], [{"matching.num_groups": [2]}]):
        with pytest.raises(ConfigError, match=r"^here: search: points"):
            spaces.from_dict({"search": {"points": wrong}, "parameters": SPACE}, "here")


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_space_has_a_point_near_the_published_setting(path: Path) -> None:
    config = configs.load(ROOT / "configs" / "speaq_vg.yaml")
    asked = spaces.load(path).resolved(config)
    base = asked.base(config)
    key, parameter = next(iter(asked.parameters.items()))
    found = completed(asked, base, {key: next(iter(parameter.near(published(base)[key]) or parameter.extremes()))})
    asked.apply(base, found.values)


PARAMETERS: list[Parameter] = [
    FloatRange(type="float", low=-0.3, high=0.9, step=0.1),
    FloatRange(type="float", low=1e-5, high=1e-2, log=True),
    IntRange(type="int", low=-3, high=7, step=5),
    IntRange(type="int", low=1, high=9, log=True),
    Choice(type="categorical", choices=[0.0, 0.07, "max", None, True]),
]


@given(st.sampled_from(PARAMETERS), st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_what_is_near_is_allowed_and_what_is_allowed_is_nearest_to_itself(parameter: Parameter, value: Plain) -> None:
    near = parameter.near(value)
    assert all(parameter.allows(one) for one in near)
    if parameter.allows(value):
        (one,) = near
        assert identity(one) == identity(value) or abs(one - value) < 1e-5  # type: ignore[operator]


def test_the_nearest_value_is_the_nearest() -> None:
    grid, log, whole, _, choice = PARAMETERS
    assert grid.near(0.27) == [pytest.approx(0.3)]
    assert log.near(1) == [1e-2]
    assert [whole.near(value) for value in (-9, 1, 4.6, 99)] == [[-3], [2], [7], [7]]
    assert [choice.near(value) for value in (0.02, 5, "max", "min", None, False)] == [
        [0.0],
        [0.07],
        ["max"],
        [],
        [None],
        [],
    ]
