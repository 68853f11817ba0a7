"""The density around what is known before a search: all that it draws is allowed, and it is forgotten."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speaq import space as spaces
from speaq.config import Config
from speaq.space.parameters import Plain
from speaq.study.plan import Plan

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.search.prior import Prior, prior_of, share
from tests.helpers.fake_tune import GROUPS, RATE, Fake, make_plan

WEIGHT = {"type": "float", "low": -1.0, "high": 1.0, "step": 0.25}
WEIGHT |= {"when": {"matching.scheme": ["dynamic"]}, "otherwise": 0.0}
SPACE = {
    "matching.scheme": {"type": "categorical", "choices": ["static", "dynamic"]},
    "matching.predicate_weight": WEIGHT,
    "matching.num_groups": {"type": "int", "low": 1, "high": 9, "step": 2},
    "model.query_multiple": {"type": "int", "low": 1, "high": 9, "log": True},
    "losses.oversample": {"type": "categorical", "choices": [0.0, 0.05, 0.2]},
    "training.learning_rate": RATE,
    "losses.weight_l1": {"type": "float", "low": 1.0, "high": 9.0},
}
VALUES: dict[str, st.SearchStrategy[Plain]] = {
    "matching.scheme": st.sampled_from(["static", "dynamic", "fast"]),
    "matching.predicate_weight": st.floats(-9, 9),
    "matching.num_groups": st.integers(-3, 30),
    "losses.oversample": st.none() | st.floats(0, 1),
    "training.learning_rate": st.floats(0, 1),
}


def made(*sources: list[dict[str, Plain]]) -> Prior:
    return Prior(spaces.from_dict({"parameters": SPACE}), Config(), sources)


def num_drawn(prior: Prior, key: str, number: int = 2000) -> Counter[Plain]:
    generator = random.Random(0)
    return Counter(prior.draw(generator).get(key) for _ in range(number))


@given(
    st.lists(st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(0, 2**32),
)
def test_every_value_that_is_drawn_is_allowed(sources: list[list[dict[str, Plain]]], seed: int) -> None:
    prior = made(*sources)
    values = prior.draw(random.Random(seed))
    assert all(prior.space.parameters[key].allows(value) for key, value in values.items())
    assert ("matching.predicate_weight" in values) == (values["matching.scheme"] == "dynamic")
    assert list(values) == [key for key in SPACE if key in values]
    assert values == prior.draw(random.Random(seed))


def test_values_lie_around_the_centre_on_the_grid() -> None:
    found = num_drawn(made([{"matching.num_groups": 3}]), "matching.num_groups")
    assert max(found, key=lambda value: found[value]) == 3
    assert set(found) >= {1, 3, 5, 7}
    assert found[3] > found[5] > found[7] > found[9]
    rates = num_drawn(made([{"training.learning_rate": 1e-5}]), "training.learning_rate")  # at an end of its range
    near = sum(count for value, count in rates.items() if isinstance(value, float) and value < 10**-4.625)
    assert 0.63 < near / rates.total() < 0.73  # within one standard deviation, an eighth of three decades


def test_a_choice_is_mostly_that_of_the_centre_and_a_number_beside_the_choices_is_moved() -> None:
    found = num_drawn(made([{"losses.oversample": 0.07}]), "losses.oversample")
    assert 0.75 < found[0.05] / found.total() < 0.85  # kept, or drawn among three
    assert found[0.0] > 100
    assert found[0.2] > 100


def test_what_a_centre_does_not_name_is_drawn_from_all_values() -> None:
    for key in ("matching.num_groups", "matching.scheme"):
        found = num_drawn(made([{"losses.oversample": 0.0}]), key)
        assert min(found.values()) > 0.8 * max(found.values()), found
    unknown = num_drawn(made([{"matching.scheme": "fast"}]), "matching.scheme")
    assert min(unknown.values()) > 900


def test_sources_are_as_likely_as_each_other_however_many_centres_they_have() -> None:
    many: list[dict[str, Plain]] = [{"matching.scheme": "static"}] * 9
    found = num_drawn(made(many, [{"matching.scheme": "dynamic"}]), "matching.scheme")
    assert 0.45 < found["static"] / found.total() < 0.55


@given(st.floats(0.01, 1e6), st.integers(0, 10**6))
def test_a_prior_is_forgotten(strength: float, evidence: int) -> None:
    assert share(strength, 0) == 1
    assert 0 < share(strength, evidence + 1) < share(strength, evidence)
    assert share(strength, round(1000 * strength) + 1) < 0.001


def test_the_published_setting_is_a_centre_with_what_the_config_of_the_search_says_besides() -> None:
    prior = prior_of(make_plan(prior="published"))
    assert prior is not None
    assert prior.sources == [[{"training.learning_rate": 1e-4, "matching.num_groups": 4}]]
    assert prior_of(make_plan(prior="none")) is None
    own = prior_of(make_plan(prior={"matching.num_groups": 2}))
    assert own is not None
    assert own.sources == [[{"matching.num_groups": 2}]]


def ask_all(plan: Plan, folder: Path, number: int = 99) -> list[Any]:
    """Trials that are asked for, each finished at once: at most `number` in all."""
    tune = Fake(plan, folder)
    while len(tune.ledger.entries) < number and isinstance((asked := tune.ask())[1], dict):
        tune.finish(asked[0], 0.1)
    tune.ledger.close()
    return list(tune.ledger.entries.values())


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2", "nsga3", "random"])
def test_a_search_begins_with_the_prior_and_the_sampler_learns_from_it(tmp_path: Path, sampler: str) -> None:
    parameters = {"training.learning_rate": RATE, "losses.weight_l1": SPACE["losses.weight_l1"]}
    plan = make_plan(trials=12, parameters=parameters, sampler=sampler, prior="published", prior_strength=2.0)
    tune = Fake(plan, tmp_path)
    while isinstance((asked := tune.ask())[1], dict):
        tune.finish(asked[0], 0.1)
    entries = list(tune.ledger.entries.values())
    origins = [entry.origin for entry in entries]
    assert origins[:2] == [None, None]
    assert {"prior", None} == set(origins[2:])
    told = [trial.params for trial in tune.search.proposals.sampler.study.trials if trial.state.name == "COMPLETE"]
    assert all(entry.values in told for entry in entries if entry.origin == "prior")


def test_a_search_that_goes_on_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    plan = make_plan(trials=14, prior="published", sampler="random", prior_strength=100.0)
    for folder in ("through", "in parts"):
        (tmp_path / folder).mkdir()
    through = ask_all(plan, tmp_path / "through")
    for number in (5, 6, 11, 14):
        parts = ask_all(plan, tmp_path / "in parts", number)
    drawn = [entry.values for entry in through if entry.origin == "prior"]
    assert len(drawn) > 8
    assert drawn == [entry.values for entry in parts if entry.origin == "prior"]


def test_a_prior_of_few_points_gives_way_to_the_rest_of_the_space(tmp_path: Path) -> None:
    plan = make_plan(trials=9, parameters={"matching.num_groups": GROUPS}, prior="published", prior_strength=1000.0)
    entries = ask_all(plan, tmp_path)
    assert {entry.values["matching.num_groups"] for entry in entries if entry.values} == set(range(1, 7))
