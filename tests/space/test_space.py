"""Search spaces: what is refused by name, what is applied, and that nothing is lost on the way to Optuna and back."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speaq import config as configs
from speaq import space as spaces
from speaq.config import BASELINE, PUBLISHED, Config, ConfigError
from speaq.space.checks import check
from tests.helpers.shared import ROOT

FILES = sorted((ROOT / "search_spaces").glob("*.yaml"))
VISUAL_GENOME = ROOT / "configs" / "speaq_vg.yaml"
RATE = {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}
SCHEME = {"type": "categorical", "choices": ["static", "dynamic"]}
QUALITY = {
    "type": "categorical",
    "choices": ["min", "max"],
    "when": {"matching.scheme": ["dynamic"]},
    "otherwise": None,
}
WEIGHT = {
    "type": "float",
    "low": -1.0,
    "high": 0.0,
    "step": 0.25,
    "when": {"matching.scheme": ["dynamic"]},
    "otherwise": 0.0,
}


def make(**parameters: Any) -> spaces.Space:
    return spaces.from_dict({"parameters": {key.replace("__", "."): value for key, value in parameters.items()}})


def test_conditions_decide_what_is_searched_and_what_is_written() -> None:
    space = make(matching__scheme=SCHEME, matching__quality=QUALITY, matching__predicate_weight=WEIGHT)
    check(space, Config())
    static = space.apply(Config(), {"matching.scheme": "static"}).matching
    assert (static.scheme, static.quality, static.predicate_weight) == ("static", None, 0.0)
    values = {"matching.scheme": "dynamic", "matching.quality": "min", "matching.predicate_weight": -0.75}
    dynamic = space.apply(Config(), values).matching
    assert (dynamic.quality, dynamic.predicate_weight) == ("min", -0.75)
    with pytest.raises(ConfigError, match=r"matching\.quality is not active"):
        space.apply(Config(), {"matching.scheme": "static", "matching.quality": "min"})
    with pytest.raises(ConfigError, match=r"matching\.quality is active and has no value"):
        space.apply(Config(), {"matching.scheme": "dynamic"})


def test_a_condition_may_name_a_key_that_is_not_searched() -> None:
    space = make(matching__quality=QUALITY)
    assert space.apply(Config(), {"matching.quality": "min"}).matching.quality == "min"
    static = configs.apply(Config(), BASELINE)
    assert space.apply(static, {}) == static


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"training.learning_rat": RATE}, r"learning_rat: no such key \(nearest: training.learning_rate\)"),
        ({"training.learning_rate": {**RATE, "low": 0.0}}, r"log needs low above 0, not 0"),
        ({"training.learning_rate": {**RATE, "low": 1e-2}}, r"range is empty: low 0.01 is not below high 0.001"),
        ({"training.learning_rate": {**RATE, "step": 1e-5}}, r"log and step exclude each other"),
        (
            {"training.learning_rate": {"type": "float", "low": -1.0, "high": 1.0}},
            r"learning_rate: -1.0 breaks .*than 0",
        ),
        ({"model.num_queries": {"type": "float", "low": 1.5, "high": 9.5}}, r"num_queries: 1.5 breaks .*integer"),
        ({"model.num_heads": {"type": "int", "low": 1, "high": 8, "step": 3}}, r"high 8 is not low 1 plus a multiple"),
        ({"model.dropout": {"type": "float", "low": 0.0, "high": 0.1, "step": 1e-320}}, r"is not low 0.0 plus a mult"),
        ({"matching.quality": {"type": "categorical", "choices": ["max", "mean"]}}, r"'mean' breaks .*be 'min', 'max'"),
        ({"matching.quality": {"type": "categorical", "choices": ["max", "max"]}}, r"choices are given twice"),
        ({"matching.quality": {"type": "categorical", "choices": ["max"]}}, r"choices: List should have at least 2"),
        ({"matching.quality": {"type": "set", "choices": []}}, r"type|tag"),
        ({"matching.quality": QUALITY, "matching.scheme": SCHEME}, r"matching.scheme must come before"),
        (
            {"matching.scheme": SCHEME, "matching.quality": {**QUALITY, "when": {"matching.scheme": ["fast"]}}},
            r"when: matching.scheme is never 'fast'",
        ),
        ({"matching.scheme": SCHEME}, r"matching.scheme: no trial can have 'static' \(trial: matching: scheme: static"),
        ({"matching.num_groups": {"type": "int", "low": 500, "high": 600}}, r"no trial is possible .*exceeds"),
        (
            {"model.activation_checkpointing": {"type": "categorical", "choices": [False, True]}},
            r"activation_checkpointing: it changes memory and time, no result",
        ),
        (
            {"evaluation.iou_threshold": {"type": "float", "low": 0.3, "high": 0.7}},
            r"evaluation.iou_threshold: the evaluation is not searched",
        ),
        ({}, r"parameters: Dictionary should have at least 1 item"),
    ],
)
def test_spaces_that_cannot_work_are_refused_in_one_line(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check(spaces.from_dict({"parameters": parameters}), Config())
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_with_a_space_is_said_at_once() -> None:
    wrong = {
        "training.learning_rat": RATE,
        "training.learning_rate": {"type": "float", "low": -1.0, "high": 0.0},
        "seed": {"type": "categorical", "choices": [1, "x"], "when": {"sed": [1], "matching.scheme": ["static"]}},
        "matching.scheme": SCHEME,
        "evaluation.iou_threshold": {"type": "float", "low": 0.3, "high": 0.7},
    }
    search = {"objective": ["R@7"], "prior": {"seed": 3, "sed": 1}}
    with pytest.raises(ConfigError) as caught:
        check(spaces.from_dict({"search": search, "fixed": {"seed": 2}, "parameters": wrong}), Config(), "my.yaml")
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == ["my.yaml"] * 10
    for said, problem in zip(
        (
            "metric 'R@7' is not one of",
            "parameters: training.learning_rat: no such key (nearest: training.learning_rate)",
            "training.learning_rate: -1.0 breaks",
            "training.learning_rate: 0.0 breaks",
            "parameters: seed: when: sed: no such key",
            "seed: when: matching.scheme must come before seed",
            "seed: 'x' breaks the rule",
            "parameters: evaluation.iou_threshold: the evaluation is not searched",
            "search.prior: seed: 3 is not in the space, which has 1 or x",
            "search.prior: sed: no such key",
        ),
        caught.value.problems,
        strict=True,
    ):
        assert said in problem


def test_all_values_that_no_trial_can_have_and_all_points_are_said_at_once() -> None:
    parameters = {
        "matching.scheme": SCHEME,
        "matching.num_groups": {"type": "categorical", "choices": [1, 400, 500]},
    }
    points = [{"matching.num_groups": 3}, {}, {"matching.num_groups": 1}]
    with pytest.raises(ConfigError) as caught:
        check(spaces.from_dict({"search": {"points": points}, "parameters": parameters}), Config())
    begins = (
        "space: matching.scheme: no trial can have 'static' (trial: matching: scheme: static has no quality",
        "space: matching.num_groups: no trial can have 400 (trial: matching.num_groups 400 exceeds model.num_queries",
        "space: matching.num_groups: no trial can have 500 (",
        "search.points: point 1: matching.num_groups: 3 is not in the space",
        "search.points: point 2: it gives no parameter a value",
    )
    for begin, problem in zip(begins, caught.value.problems, strict=True):
        assert problem.startswith(begin)


def test_search_settings_are_checked_against_the_config() -> None:
    def judge(**search: Any) -> None:
        check(spaces.from_dict({"search": search, "parameters": {"training.learning_rate": RATE}}), Config())

    with pytest.raises(ConfigError, match="metric 'R@7' is not one of"):
        judge(objective=["R@7"])
    with pytest.raises(ConfigError, match=r"grace_steps 200000 is not below training\.max_steps 150000"):
        judge(grace_steps=200_000)
    with pytest.raises(ConfigError, match="cmaes has one objective; use tpe"):
        judge(sampler="cmaes", objective=["R@50", "mR@50"])
    with pytest.raises(ConfigError, match="cmaes needs at least two parameters"):
        judge(sampler="cmaes")
    for knob, value, scheduler in (
        ("reduction_factor", 2.0, "median"),
        ("brackets", 4, "asha"),
        ("min_trials", 5, "hyperband"),
        ("grace_steps", 10, "none"),
    ):
        with pytest.raises(ConfigError, match=f"{knob} has no effect with scheduler: {scheduler}"):
            judge(scheduler=scheduler, **{knob: value})


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"prior": "publshed"}, "prior: published, none, or values of parameters by dotted key, not 'publshed'"),
        ({"prior": {}}, "prior: published, none, or values of parameters"),
        ({"prior": None}, "prior: published, none, or values of parameters"),
        ({"prior": {"training.learning_rat": 1e-4}}, r"search\.prior: training\.learning_rat: no such key"),
        (
            {"prior": {"training.learning_rate": 1.0}},
            r"search\.prior: training\.learning_rate: 1\.0 is not in the",
        ),
        ({"prior": "published", "sampler": "grid"}, "prior: sampler: grid does not follow one"),
        ({"prior": {"training.learning_rate": 1e-4}, "sampler": "qmc"}, "prior: sampler: qmc does not follow one"),
        ({"prior": "published", "prior_strength": 0.0}, "prior_strength 0 leaves prior without effect"),
        ({"prior": "published", "prior_strength": -1.0}, "prior_strength: Input should be greater than or equal to 0"),
    ],
)
def test_a_prior_without_effect_is_refused_in_one_line(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check(spaces.from_dict({"search": search, "parameters": {"training.learning_rate": RATE}}), Config())
    assert "\n" not in str(caught.value)


def test_a_prior_is_kept_as_it_was_given() -> None:
    for prior in ("none", "published", {"training.learning_rate": 1e-4}):
        space = make(training__learning_rate=RATE).with_search({"prior": prior, "prior_strength": 3.0})
        assert spaces.from_dict(spaces.to_dict(space)) == space
        assert space.search.prior == prior
        assert spaces.SearchConfig.model_validate(space.search.model_dump(mode="json")) == space.search


def test_cmaes_is_refused_what_it_would_draw_at_random() -> None:
    for parameters, reason in (
        ({"matching__scheme": SCHEME, "training__learning_rate": RATE}, "not choices"),
        ({"matching__predicate_weight": WEIGHT, "training__learning_rate": RATE}, "knows no conditions"),
    ):
        space = make(**parameters).with_search({"sampler": "cmaes"})
        with pytest.raises(ConfigError, match=rf"{reason}; use tpe"):
            check(space, Config())
    space = make(matching__predicate_weight=WEIGHT).with_search({"sampler": "gp"})
    with pytest.raises(ConfigError, match="gp knows no conditions; use tpe"):
        check(space, Config())
    with pytest.raises(ConfigError, match="cmaes does not look at them; use tpe"):
        make(training__learning_rate=RATE).with_search({"sampler": "cmaes", "constraints": {"latency_ms": 5}})
    with pytest.raises(ConfigError, match=r"brackets 9 exceeds the rungs"):
        check(make(training__learning_rate=RATE).with_search({"scheduler": "hyperband", "brackets": 9}), Config())


def test_rungs_are_evaluated_steps_below_the_full_length() -> None:
    search = spaces.SearchConfig(reduction_factor=3.0)
    assert search.rungs(1800, 200) == [200, 600]
    assert search.rungs(1800, 600) == [600]
    assert search.rungs(600, 600) == []
    assert spaces.SearchConfig(scheduler="none").rungs(1800, 600) == []
    assert spaces.SearchConfig(grace_steps=100, reduction_factor=2.0).rungs(800, 50) == [100, 200, 400]
    with pytest.raises(ConfigError, match=r"reduction_factor 1\.0000000001 makes more than 1000 rungs"):
        spaces.SearchConfig(grace_steps=1, reduction_factor=1.0000000001).rungs(800, 50)


def test_a_space_is_counted_without_its_values() -> None:
    fine = make(model__dropout={"type": "float", "low": 0.0, "high": 0.5, "step": 1e-12})
    assert fine.size() == 500_000_000_001
    assert make(seed={"type": "int", "low": 0, "high": 2**63 - 1}).size() == 2**63


def test_the_command_line_takes_keys_out_of_the_search() -> None:
    space = make(matching__scheme=SCHEME, matching__quality=QUALITY, training__learning_rate=RATE)
    assert list(space.without(["matching.scheme"]).parameters) == ["matching.quality", "training.learning_rate"]
    with pytest.raises(ConfigError, match="nothing is left to search"):
        space.without(list(space.parameters))


@pytest.mark.parametrize("config", [Config(), configs.load(VISUAL_GENOME)], ids=["default", VISUAL_GENOME.stem])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_spaces_load_say_what_they_answer_and_contain_the_published_setting(path: Path, config: Config) -> None:
    space = spaces.load(path).resolved(config)
    check(space, config)
    assert "?" in space.question
    base = space.base(config)
    published = configs.apply(base, PUBLISHED)
    values = space.extract(base, published)
    assert values is not None
    assert space.apply(base, values) == published
    configs.apply(base, BASELINE)


def test_extract_knows_what_is_outside() -> None:
    space = make(matching__num_groups={"type": "int", "low": 1, "high": 4})
    assert space.extract(Config(), configs.apply(Config(), {"matching.num_groups": 2})) == {"matching.num_groups": 2}
    assert space.extract(Config(), configs.apply(Config(), {"matching.num_groups": 5})) is None
    assert space.extract(Config(), configs.apply(Config(), {"seed": 1})) is None


def finite(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["float", "step", "log", "int", "categorical"]))
    match kind:
        case "float":
            low = draw(finite(-1e6, 1e6))
            return {"type": "float", "low": low, "high": low + draw(finite(1e-3, 1e6))}
        case "step":
            low, step = draw(st.integers(-100, 100)) / 4, draw(st.integers(1, 8)) / 4
            return {"type": "float", "low": low, "high": low + step * draw(st.integers(1, 20)), "step": step}
        case "log":
            low = draw(finite(1e-8, 1.0))
            return {"type": "float", "low": low, "high": low * draw(finite(1.5, 1e6)), "log": True}
        case "int":
            low, step = draw(st.integers(-1000, 1000)), draw(st.sampled_from([None, 2, 7]))
            high = low + (step or 1) * draw(st.integers(1, 50))
            return {"type": "int", "low": low, "high": high, "step": step}
        case _:
            plain = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4)
            unique = st.lists(plain, min_size=2, max_size=5, unique_by=lambda v: (isinstance(v, bool), v))
            return {"type": "categorical", "choices": draw(unique)}


@given(parameters(), st.integers(0, 2**31 - 1))
@settings(max_examples=150, deadline=None)
def test_a_parameter_survives_optuna_and_json_and_what_optuna_draws_is_in_it(given_: dict[str, Any], seed: int) -> None:
    pytest.importorskip("optuna")
    from optuna.samplers import RandomSampler  # noqa: TID251
    from optuna.study import create_study  # noqa: TID251

    from launch.search.optuna_study import distribution, parameter_of

    space = make(anything=given_)
    parameter = space.parameters["anything"]
    assert spaces.from_dict(json.loads(json.dumps(spaces.to_dict(space)))) == space
    optuna_side = distribution(parameter)
    back = parameter_of(optuna_side)
    assert back.model_dump() == parameter.model_dump()
    assert distribution(back) == optuna_side
    trial = create_study(sampler=RandomSampler(seed)).ask({"anything": optuna_side})
    value = json.loads(json.dumps(trial.params["anything"]))  # how values travel through Ray and the ledger
    assert parameter.allows(value)
    assert trial.params["anything"] == value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_drawn_corner_of_a_shipped_space_is_a_config_and_is_found_again(path: Path) -> None:
    space = spaces.load(path).resolved(Config())
    base = space.base(Config())
    generator = random.Random(7)
    for _ in range(50):
        values = space.draw(base, generator)
        config = space.apply(base, values)
        assert space.extract(base, config) == values


def test_a_space_extends_another_key_by_key(tmp_path: Path) -> None:
    base = "search: {trials: 5, seed: 3}\nparameters:\n  matching.num_groups: {type: int, low: 1, high: 8}\n"
    (tmp_path / "base.yaml").write_text(base + "  matching.max_repeats: {type: int, low: 1, high: 8}\n")
    groups = "parameters: {matching.num_groups: {type: categorical, choices: [1, 4]}}\n"
    (tmp_path / "space.yaml").write_text(f"# Which?\nextends: base.yaml\nsearch: {{trials: 9}}\n{groups}")
    space = spaces.load(tmp_path / "space.yaml")
    assert (space.search.trials, space.search.seed, space.question) == (9, 3, "Which?")
    assert list(space.parameters) == ["matching.num_groups", "matching.max_repeats"]
    assert space.parameters["matching.num_groups"].values() == [1, 4]


def test_a_relative_range_is_around_the_config() -> None:
    rate = {"type": "float", "low": 0.5, "high": 3.0, "log": True, "relative": True}
    parameters = {"training.learning_rate": rate, "matching.max_repeats": {"type": "int", "low": 1, "high": 8}}
    space = spaces.from_dict({"parameters": parameters})
    found = spaces.to_dict(space.resolved(Config()))
    assert found["parameters"]["training.learning_rate"] == {"type": "float", "low": 5e-5, "high": 3e-4, "log": True}
    assert found["parameters"]["matching.max_repeats"] == parameters["matching.max_repeats"]
    with pytest.raises(
        ConfigError, match=r"weight_decay: a relative range needs a number above 0 in the config, not 0"
    ):
        spaces.from_dict(
            {"parameters": {"training.weight_decay": rate}, "fixed": {"training.weight_decay": 0}}
        ).resolved(Config())


def test_a_relative_range_of_no_key_is_refused_by_name(tmp_path: Path) -> None:
    rate = {"type": "float", "low": 0.5, "high": 3.0, "relative": True}
    space = spaces.from_dict({"parameters": {"training.learning_rat": rate}}).resolved(Config())
    with pytest.raises(ConfigError, match=r"training\.learning_rat: no such key"):
        check(space, Config())


@pytest.mark.parametrize("changes", [{"low": 0.0, "log": False}, {"step": 0.5, "log": False}])
def test_a_relative_range_begins_above_zero_and_has_no_step(changes: dict[str, Any]) -> None:
    rate = {"type": "float", "low": 0.5, "high": 3.0, "log": True, "relative": True, **changes}
    with pytest.raises(ConfigError, match="relative takes a low above 0 and no step"):
        spaces.from_dict({"parameters": {"training.learning_rate": rate}})


def test_a_parameter_of_the_other_space_is_taken_away_by_null_and_only_such_a_one(tmp_path: Path) -> None:
    base = "parameters:\n  matching.num_groups: {type: int, low: 1, high: 8}\n"
    (tmp_path / "base.yaml").write_text(base + "  matching.max_repeats: {type: int, low: 1, high: 8}\n")
    (tmp_path / "space.yaml").write_text("extends: base.yaml\nparameters: {matching.num_groups: null}\n")
    assert list(spaces.load(tmp_path / "space.yaml").parameters) == ["matching.max_repeats"]
    (tmp_path / "space.yaml").write_text("extends: base.yaml\nparameters: {losses.oversample: null}\n")
    with pytest.raises(ConfigError, match=r"parameters: losses\.oversample"):
        spaces.load(tmp_path / "space.yaml")


def test_the_economical_space_searches_what_the_usual_one_does() -> None:
    usual, economical = (spaces.load(ROOT / "search_spaces" / f"{name}.yaml") for name in ("speaq", "economy"))
    assert {*economical.parameters} == {*usual.parameters} - {"training.learning_rate"}
    assert economical.parameters.items() < usual.parameters.items()
    assert economical.search.references == []
