"""One run of `speaq confirm`: trained to its end, and its recalls by image beside it; here or on a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speaq.config import Config
from speaq.evaluation.bootstrap import ImageRecord, save_record
from speaq.runs import files
from speaq.study.file import TRAIN
from speaq.training.callbacks import Callbacks, Metrics, Progress, nothing

from ..trials.code import check_code
from ..trials.logs import LOG, log_to
from ..trials.memory import train_in_parts
from ..trials.place import train_trial

if TYPE_CHECKING:
    from speaq.runs.run import RunEvaluation

IMAGES = "images.npz"


@dataclass(frozen=True)
class ConfirmedRun:
    """What has to be known to train it."""

    config: Config
    folder: Path
    data: Path
    data_digest: str
    metric: str  # shown
    train: str = TRAIN  # import path of the training function

    @property
    def name(self) -> str:
        """As the user knows it."""
        return f"trial {self.folder.parent.name} {self.folder.name.replace('-', ' ')}"

    @property
    def is_trained(self) -> bool:
        """Whether it has come to its end."""
        return (self.folder / files.RESULT).exists()

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.is_trained and (self.folder / IMAGES).exists()

    def train_to_end(self, tell: Progress, saved: Callable[[], None] = nothing, *, placed: bool = False) -> None:
        """Trains, or goes on; with half as many images at once where memory is too small.

        Args:
            saved: called when the run can be resumed.
            placed: as `train_trial` takes it.
        """
        steps = self.config.training.max_steps

        def report(step: int, metrics: Metrics, checkpoint: Path) -> None:
            tell(step, steps, f"{self.metric} {metrics.get(self.metric) or 0.0:.4f}")

        calls = Callbacks(report, saved)

        def train(config: Config) -> dict[str, Any]:
            return train_trial(config, self.data, self.folder, calls, train=self.train, placed=placed)

        train_in_parts(self.config, train)

    def keep_images(self, evaluate: Callable[[], RunEvaluation]) -> None:
        """Writes the recalls by image on the validation split, which `evaluate` finds, beside the run."""
        done = evaluate()
        result, table = done.evaluation.recall, done.evaluation.table
        assert result is not None
        assert table is not None
        save_record(ImageRecord.made(table, result, self.data_digest), self.folder / IMAGES)


def do_on_worker(run: ConfirmedRun, source: str, tell: Progress) -> None:
    """What is left to do of a run, by a job of a queue that holds what one worker takes, or drives several.

    Args:
        source: digest of the code of whoever queued it.
    """
    check_code(source, "confirmation")
    run.folder.parent.mkdir(exist_ok=True)
    with log_to(run.folder / LOG):
        if not run.is_trained:
            run.train_to_end(tell, placed=True)
        if not run.is_done:
            run.keep_images(lambda: _evaluate(run, tell))


def _evaluate(run: ConfirmedRun, tell: Progress) -> RunEvaluation:
    resources = run.config.resources
    if resources.num_workers > 1:
        from .remote_evaluation import evaluate_remotely

        return evaluate_remotely(run.folder, "val", run.data, resources)
    from speaq.runs.run import evaluate_run

    return evaluate_run(run.folder, "val", run.data, progress=lambda done, total, text: tell(done, total, "by image"))
