"""NePS's PriorBand as a player, where NePS is installed: from the published setting, on successive halving."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from speaq.config import Config
from speaq.space import Space
from speaq.space.parameters import Choice, FloatRange, IntRange, Plain
from tests.bench.table.play import Job, Metrics

FIDELITY = "evaluations"


def is_installed() -> bool:
    """Whether NePS can be imported."""
    return importlib.util.find_spec("neps") is not None


def _parameter(parameter: FloatRange | IntRange | Choice, prior: Plain) -> Any:
    """As NePS has it; a choice, and a range on a grid, by the place of its value."""
    import neps

    if (values := parameter.values()) is not None:
        place = list(values).index(prior) if prior in values else None
        known = {} if place is None else {"prior": place, "prior_confidence": "medium"}
        if isinstance(parameter, Choice):
            return neps.HPOCategorical(list(range(len(values))), **known)
        return neps.HPOInteger(0, len(values) - 1, **known)
    assert isinstance(parameter, FloatRange)
    inside = isinstance(prior, int | float) and parameter.low <= prior <= parameter.high
    known = {"prior": prior, "prior_confidence": "medium"} if inside else {}
    return neps.HPOFloat(parameter.low, parameter.high, log=parameter.log, **known)


class PriorBand:
    """PriorBand on asynchronous successive halving, by ask and tell."""

    def __init__(
        self,
        space: Space,
        base: Config,
        metric: str,
        prior: Mapping[str, Plain],
        *,
        length: int,
        trials: int,
        seed: int,
    ) -> None:
        """
        Args:
            metric: that is maximised.
            prior: the values that it begins from.
            length: evaluations of a full training.
            trials: most settings that are asked for.
        """
        import neps
        import torch
        from neps.optimizers.algorithms import priorband

        for seeded in (random.seed, np.random.seed, torch.manual_seed):  # NePS draws from these
            seeded(seed)
        parameters = {key: _parameter(parameter, prior.get(key)) for key, parameter in space.parameters.items()}
        searched = neps.SearchSpace({**parameters, FIDELITY: neps.HPOInteger(1, length, is_fidelity=True)})
        self._loop = neps.AskAndTell(priorband(searched, base="asha"))
        self._space, self._base, self._metric, self._most = space, base, metric, trials
        self._asked: dict[str, tuple[Any, int]] = {}  # job → NePS's trial, the evaluation at which it waits

    def next(self) -> Job | None:
        """A new setting, or one that goes on."""
        asked = self._loop.ask()
        trial = str(asked.metadata.id).partition("_")[0]
        if int(trial) >= self._most:
            return None
        key = str(asked.metadata.id)
        self._asked[key] = asked, int(asked.config[FIDELITY])

        def chosen(name: str, parameter: FloatRange | IntRange | Choice) -> Plain:
            value: Plain = asked.config[name]
            values = parameter.values()
            return value if values is None else values[int(value)]  # type: ignore[arg-type]

        return Job(key, trial, self._space.walk(self._base, chosen).values)

    def reported(self, job: Job, evaluation: int, metrics: Metrics) -> bool:
        """It waits where NePS wanted it to."""
        asked, until = self._asked[job.key]
        if evaluation < until:
            return True
        self._loop.tell(asked, -metrics[self._metric])
        return False

    def finished(self, job: Job, evaluation: int, metrics: Metrics) -> None:
        """NePS learns the final value."""
        self._loop.tell(self._asked[job.key][0], -metrics[self._metric])
