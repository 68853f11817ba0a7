"""What trainings from stored features begin with: a start, its config, and the features."""

from __future__ import annotations

from pathlib import Path

from speaq.config import Config
from speaq.runs.cache import asked, cache
from speaq.training.callbacks import no_progresses
from speaq.training.loop import train
from tests.helpers.tiny import tiny


def start(toy: Path, folder: Path) -> Config:
    """A config that starts from a detector of three steps, which is trained in `folder`."""
    train(tiny(training__max_steps=3, training__decay_steps=[2]), toy, folder, task="detector")
    return tiny(training__init_from=str(folder), training__max_steps=6, data__flip_probability=0.0)


def features(config: Config, toy: Path, folder: Path) -> Path:
    """What the start of a config makes of the pictures, in `folder`."""
    cache(asked(Path(config.training.init_from or ""), config, toy, folder), no_progresses)
    return folder
