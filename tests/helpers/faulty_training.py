"""Training functions that meet with something: the library's own loop where a device is small or a signal comes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from launch.trials.trial import Job, Trial
from speaq import config as configs
from speaq.config import Config
from speaq.model.speaq import SpeaQ
from speaq.training.loop import train


def one_image_at_a_time(config: Config, data: Path, output: Path, **options: Any) -> dict[str, Any]:
    """On a device that has memory for the gradients of one image."""

    def refuse(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, SpeaQ) and module.training and len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = nn.modules.module.register_module_forward_pre_hook(refuse)
    try:
        return train(config, data, output, **options)
    finally:
        hook.remove()


def slowly(config: Config, data: Path, output: Path, **options: Any) -> dict[str, Any]:
    """So that a signal comes in the middle."""
    return train(config, data, output, **{**options, "progress": lambda done, total, text: time.sleep(0.05)})


def main() -> None:
    """`python -m tests.helpers.faulty_training CONFIG DATA TRIALS`: what a process of Tune does, without Tune."""
    config, data, trials = (Path(argument) for argument in sys.argv[1:])
    trials.mkdir(exist_ok=True)
    job = Job(str(data), str(trials), "F@50", "tests.helpers.faulty_training:slowly")

    class Alone(Trial):
        def setup(self, config: dict[str, Any], job_: Job | None = None) -> None:
            super().setup(config, job)

    trial = Alone({"config": configs.to_dict(configs.load(config)), "trial": "0000"})
    while not trial.step().get("done"):
        pass


if __name__ == "__main__":
    main()
