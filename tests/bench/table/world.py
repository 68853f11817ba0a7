"""What the settings of the table are trained in, and the settings."""

from __future__ import annotations

import random
from collections.abc import Iterator

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config
from speaq.space import Space
from speaq.space.parameters import FloatRange, Parameter, Plain
from speaq.study.ledger import digest
from speaq.study.plan import Feasible, Plan, applied
from tests.bench.world import NARROW, SEED
from tests.helpers.shared import ROOT

SPACE = ROOT / "search_spaces" / "speaq.yaml"
TABLE = NARROW


def space() -> Space:
    """The space that the settings are drawn from, its rates around that of the table's world."""
    return spaces.load(SPACE).resolved(TABLE.base())


def settings(base: Config, feasible: Feasible) -> Iterator[dict[str, Plain]]:
    """Points of the space at random, always the same, each once; none of them is a reference."""
    plan = Plan(base, space(), {})
    generator = random.Random(SEED)
    seen = {digest(configs.apply(plan.base, values)) for values in (configs.PUBLISHED, configs.BASELINE)}
    while True:
        values = plan.space.walk(plan.base, lambda _, parameter: _drawn(parameter, generator)).values
        config = applied(plan, values, feasible)
        if config is not None and digest(config) not in seen:
            seen.add(digest(config))
            yield values


def _drawn(parameter: Parameter, generator: random.Random) -> Plain:
    if (values := parameter.values()) is not None:
        return generator.choice(list(values))
    assert isinstance(parameter, FloatRange)
    if parameter.log:
        return float(parameter.low * (parameter.high / parameter.low) ** generator.random())
    return generator.uniform(parameter.low, parameter.high)
