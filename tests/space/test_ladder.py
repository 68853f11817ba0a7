"""The ladder of a search: which one can be climbed, and where its rungs lie on the axis of steps."""

from __future__ import annotations

from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError
from speaq.space.checks import check
from speaq.space.ladder import Place

RATE = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}
CHEAP, WHOLE = {"features": True, "share": 0.33}, {"features": True, "share": 1}
SHORT, TOP = {"features": False, "share": 0.33}, {"features": False, "share": 1}
FOUR = [CHEAP, WHOLE, SHORT, TOP]


def space(**search: Any) -> spaces.Space:
    parameters = search.pop("parameters", {"training.learning_rate": RATE})
    return spaces.from_dict({"search": search, "parameters": parameters})


def test_rungs_lie_on_one_axis_at_evaluations() -> None:
    search = space(ladder=FOUR).search
    ladder = search.on_ladder(360, 20)
    assert ladder is not None
    assert ladder.places == (
        Place("features", 120, 120),
        Place("features", 360, 360),
        Place("full", 120, 480),
        Place("full", 360, 720),
    )
    assert (ladder.from_features, ladder.length, search.rungs(360, 20)) == (360, 720, [120, 360, 480])
    assert [ladder.text(at) for at in (0, 360, 380, 720)] == [
        "features 0/360",
        "features 360/360",
        "full 20/360",
        "full 360/360",
    ]
    assert [ladder.reached(at) for at in (0, 120, 479, 720)] == [0, 1, 2, 4]
    early = space(ladder=[CHEAP, TOP]).search.on_ladder(360, 20)
    assert early is not None
    assert (early.from_features, early.length) == (120, 480)
    full = space(ladder=[SHORT, TOP]).search.on_ladder(360, 20)
    assert full is not None
    assert (full.from_features, full.length, full.text(0)) == (0, 360, "full 0/360")


def test_a_rung_lies_no_further_than_training_goes() -> None:
    """At its end trials are evaluated as well; a rung beyond it would judge none of them."""
    ladder = space(ladder=[CHEAP, TOP]).search.on_ladder(1000, 5000)
    assert ladder is not None
    assert ladder.places == (Place("features", 1000, 1000), Place("full", 1000, 2000))


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"ladder": [TOP]}, "two rungs or more"),
        ({"ladder": [SHORT, WHOLE, TOP]}, "rungs from features come before those of full training"),
        ({"ladder": [WHOLE, CHEAP, TOP]}, "share 0.33 comes after 1"),
        ({"ladder": [CHEAP, WHOLE]}, "the top rung is"),
        ({"ladder": [CHEAP, SHORT]}, "the top rung is"),
        ({"ladder": [{"features": True, "share": 1.5}, TOP]}, "share"),
        ({"ladder": [{"features": True, "shares": 1.0}, TOP]}, "shares"),
        ({"ladder": FOUR, "scheduler": "hyperband"}, "scheduler: hyperband does not climb it; asha does"),
        ({"ladder": FOUR, "grace_steps": 20}, "grace_steps has no effect with a ladder"),
        ({"ladder": FOUR, "climb": "jump"}, "climb"),
        ({"ladder": [SHORT, TOP], "climb": "go on"}, "climb has no effect without"),
        ({"features": "folder"}, "features has no effect without"),
    ],
)
def test_a_ladder_that_cannot_be_climbed_is_refused(search: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        space(**search)
    assert "\n" not in str(caught.value)


def test_what_a_ladder_cannot_search_is_refused() -> None:
    config = configs.apply(Config(), {"training.max_steps": 360, "training.eval_every": 20})
    near = [CHEAP, {"features": True, "share": 0.34}, TOP]
    with pytest.raises(ConfigError, match="two rungs lie at step 120 of 360"):
        check(space(ladder=near, features="f"), config)
    steps = {"training.max_steps": {"type": "int", "low": 100, "high": 360}}
    with pytest.raises(ConfigError, match=r"training\.max_steps: the rungs of search\.ladder are shares of it"):
        check(space(ladder=[SHORT, TOP], parameters=steps), config)
    flips = {"data.flip_probability": {"type": "float", "low": 0.0, "high": 0.5}}
    with pytest.raises(ConfigError, match=r"data\.flip_probability: it acts before the encoder"):
        check(space(ladder=FOUR, features="f", parameters=flips), config)
    check(space(ladder=[SHORT, TOP], parameters=flips), config)
