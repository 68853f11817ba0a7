"""What the settings of the table were trained on: data, detector, base config and space."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config
from speaq.data.toy.world import make_toy
from speaq.space import Space
from speaq.space.parameters import FloatRange, Parameter, Plain
from speaq.study.ledger import digest
from speaq.study.plan import Feasible, Plan, applied
from tests.helpers.shared import ROOT

SPACE = ROOT / "search_spaces" / "speaq.yaml"
SEED = 0  # of the world, the detector, and the draw of the settings
ANNOTATIONS = "VG-SGG-with-attri.h5"


@dataclass(frozen=True)
class World:
    """The sizes of the world of a table."""

    images: int = 6_000
    validation: int = 150  # images
    detector_steps: int = 4_000
    steps: int = 500  # of a full training
    evaluations: int = 10  # on its way
    # Keys of configs/toy.yaml and toy_detector.yaml. Of 64 queries few have a target, as in the real task.
    changes: Mapping[str, Any] = field(
        default_factory=lambda: {
            "model.num_queries": 64,
            "model.hidden_dim": 32,
            "model.feedforward_dim": 128,
        }
    )

    def base(self, detector: Path | None = None) -> Config:
        """The config that every setting changes; `detector` is what it starts from."""
        start = {} if detector is None else {"training.init_from": str(detector)}
        return self._config("toy", self.steps, self.steps // self.evaluations, start)

    def _config(self, name: str, steps: int, every: int, changes: Mapping[str, Any]) -> Config:
        length: dict[str, Any] = {
            "data.num_val": self.validation,
            "training.max_steps": steps,
            "training.eval_every": every,
            "training.decay_steps": [steps * 85 // 100],
            "training.warmup_steps": max(1, steps // 10),
            "training.num_threads": 1,
        }
        return configs.apply(configs.load(ROOT / "configs" / f"{name}.yaml"), {**length, **self.changes, **changes})

    def make(self, folder: Path) -> tuple[Path, Path]:
        """Data and detector in `folder`, made where they are not there yet."""
        from speaq.training.loop import train

        data, detector = folder / "data", folder / "detector"
        if not (data / ANNOTATIONS).exists():
            make_toy(data, self.images, SEED)
        if not (detector / "result.json").exists():
            config = self._config("toy_detector", self.detector_steps, self.detector_steps, {})
            train(config, data, detector, task="detector", resume=True)
        return data, detector


def space() -> Space:
    """The space that the settings are drawn from."""
    return spaces.load(SPACE)


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
