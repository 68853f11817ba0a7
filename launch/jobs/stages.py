"""What `speaq demo` and `speaq reproduce` share: steps from nothing to a trained SpeaQ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq.config import Config
from speaq.data.toy.world import ANNOTATIONS, make_toy
from speaq.study.file import TRAIN
from speaq.training.callbacks import Callbacks, Progresses
from speaq.training.tasks import TaskName

from ..trials.memory import train_in_parts
from ..trials.place import train_where_asked

TOY_IMAGES = 6000  # of them 1,500 are the test split
SEED = 0


def for_detector(assignments: Sequence[str]) -> list[str]:
    """`key=value` of a whole way from nothing to SpeaQ, without the keys that a detector cannot have."""
    of_speaq = ("training.relation_multiplier", "training.init_heads")
    return [assignment for assignment in assignments if assignment.partition("=")[0].strip() not in of_speaq]


@dataclass(frozen=True)
class Stages:
    """Steps in one output folder. What is found finished there is not repeated, what was interrupted goes on."""

    output: Path
    progress: Progresses
    train_function: str = TRAIN  # `module:name`

    def toy_world(self, images: int = TOY_IMAGES) -> Path:
        """Draws the toy world of so many images, once, and returns its folder."""
        folder = self.output / "data"
        if not (folder / ANNOTATIONS).exists():  # written last: without, it was cut off
            with self.progress("drawing the toy world") as tell:
                make_toy(folder, images, SEED, lambda done: tell(done, images, ""))
        return folder

    def train(
        self, task: TaskName, config: Config, data: Path, name: str, title: str | None = None
    ) -> tuple[Config, dict[str, Any]]:
        """Trains in the folder `name`, or goes on; with half as many images at once where memory is too small.

        Returns the config that fitted, and the run's result.
        """

        def once(config: Config) -> dict[str, Any]:
            with self.progress(title or f"training, {name}") as tell:
                calls = Callbacks(progress=tell)
                options: dict[str, Any] = {"train": self.train_function, "task": task, "resume": True}
                return train_where_asked(config, data, self.output / name, calls, **options)

        return train_in_parts(config, once)
