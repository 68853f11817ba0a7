"""How many workers a run has: `resources.num_workers`, or fewer where it is elastic and the cluster has lost some.

The batch of a step has `num_workers` parts. With fewer workers, each takes several parts, one after the other: so a
device needs no more memory than before. All workers take equally many parts, so only numbers that divide `num_workers`
are used. (Others would gain nothing: 3 workers need two rounds for 4 parts, as 2 workers do.)
"""

from __future__ import annotations

import time

from speaq import config as configs
from speaq.config import Config

from ..cluster import connection

PATIENCE = 30.0  # seconds: workers of an earlier attempt may take so long to end
LOOK = 0.5  # seconds between looks at the cluster


def numbers(config: Config) -> list[int]:
    """How many workers the run may have: the possible numbers, the largest first."""
    most = config.resources.num_workers
    return [number for number in range(most, config.resources.least_workers - 1, -1) if most % number == 0]


def number_to_start(config: Config) -> int:
    """How many workers to start now.

    Where more would fit once others have given back what they use, this waits `PATIENCE` seconds for that.
    """
    allowed = numbers(config)
    deadline = time.monotonic() + PATIENCE
    while len(allowed) > 1:
        free, whole = (_largest(allowed, connection.places(config.resources, free=free)) for free in (True, False))
        if free == whole or time.monotonic() > deadline:
            return free
        time.sleep(LOOK)
    return allowed[0]


def can_grow(config: Config, number: int) -> bool:
    """Whether there is room for more than the present `number` of workers."""
    allowed = numbers(config)
    return number < allowed[0] and _largest(allowed, number + connection.places(config.resources, free=True)) > number


def with_same_parts(config: Config, number: int) -> Config:
    """The config of a run on `number` workers: the same images at once on each device."""
    training, most = config.training, config.resources.num_workers
    if number == most or training.micro_batch_size is not None:
        return config
    return configs.apply(config, {"training.micro_batch_size": training.batch_size // most})


def _largest(allowed: list[int], places: int) -> int:
    """The largest number that fits, or the smallest allowed one, which then waits."""
    return next((number for number in allowed if number <= places), allowed[-1])
