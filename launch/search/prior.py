"""What is known before a search: a density over its space, from which fewer and fewer trials are drawn. Pure.

After PriorBand (Mallik et al. 2023) and πBO (Hvarfner et al. 2022): the sampler stays as it is, and learns from these
trials as from its own. The share of the prior falls as evidence comes, so that a bad one costs about
`strength * log(1 + trials / strength)` of the trials.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from speaq.config import Config
from speaq.space import Space, Values
from speaq.space.parameters import Choice, FloatRange, IntRange, Parameter, Plain
from speaq.space.points import published
from speaq.study.plan import Plan

# Of a range, in its logarithm where that is sampled: the standard deviation around a lone centre. With several
# parameters a wider density draws points that are hardly better than those of the whole space.
WIDTH = 0.125
KEPT = 0.7  # probability of a choice of the centre; the rest is shared by all choices


@dataclass(frozen=True)
class Prior:
    """A mixture of densities over a space: one of `sources` is as likely as another, and so are the centres of one.

    A number is normally distributed around its centre, cut at the ends of its range; a choice is mostly that of the
    centre. What a centre does not name, or has a value of that is near to none of the space, is drawn from all values.
    Around several centres the width is by Scott's rule.
    """

    space: Space
    base: Config
    sources: Sequence[Sequence[Values]]  # the centres of each

    def draw(self, generator: random.Random) -> dict[str, Plain]:
        """Values of the active parameters. Each is allowed; whether the config takes them together is not judged."""
        centres = generator.choice(self.sources)
        centre = generator.choice(centres)
        width = WIDTH * len(centres) ** (-1 / (4 + len(self.space.parameters)))

        def choose(key: str, parameter: Parameter) -> Plain:
            near = parameter.near(centre[key]) if key in centre else []
            return _around(near[0], width, parameter, generator) if near else _anywhere(parameter, generator)

        return self.space.walk(self.base, choose).values


def prior_of(plan: Plan) -> Prior | None:
    """What a plan knows: the prior that its space names, and the best of each earlier search; None without either."""
    sources = [[centre]] if (centre := _centre(plan)) is not None else []
    sources += [list(source.centres) for source in plan.sources]
    return Prior(plan.space, plan.base, sources) if sources and plan.settings.prior_strength > 0 else None


def _centre(plan: Plan) -> Values | None:
    prior = plan.settings.prior
    if prior == "none":
        return None
    if prior == "published":
        return {key: value for key, value in published(plan.base).items() if key in plan.space.parameters}
    assert isinstance(prior, dict)
    return prior


def share(strength: float, evidence: int) -> float:
    """The probability that the next trial is drawn from the prior.

    Args:
        strength: trials after which it is a half; above 0.
        evidence: trials of the space that have told something.
    """
    return strength / (strength + evidence)


def _around(centre: Plain, width: float, parameter: Parameter, generator: random.Random) -> Plain:
    """A value near the centre, which the parameter allows. `width` is a share of the range."""
    if isinstance(parameter, Choice):
        return centre if generator.random() < KEPT else generator.choice(parameter.choices)
    assert isinstance(centre, int | float)
    low, high = _ends(parameter)
    middle = _scaled(centre, parameter)
    while not low <= (drawn := generator.gauss(middle, width * (high - low))) <= high:
        pass  # the centre lies between the ends, and so does every second draw at least
    return _back(drawn, parameter)


def _anywhere(parameter: Parameter, generator: random.Random) -> Plain:
    if isinstance(parameter, Choice):
        return generator.choice(parameter.choices)
    return _back(generator.uniform(*_ends(parameter)), parameter)


def _ends(parameter: FloatRange | IntRange) -> tuple[float, float]:
    """The ends of a range as it is sampled: of a grid half a step further, so that no value of it is rarer."""
    step = 1 if isinstance(parameter, IntRange) and parameter.step is None else parameter.step or 0.0
    return _scaled(parameter.low - step / 2, parameter), _scaled(parameter.high + step / 2, parameter)


def _scaled(value: float, parameter: FloatRange | IntRange) -> float:
    return math.log(value) if parameter.log else value


def _back(value: float, parameter: FloatRange | IntRange) -> Plain:
    (allowed,) = parameter.near(math.exp(value) if parameter.log else value)
    return allowed
