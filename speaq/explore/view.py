"""What is looked at: a split of a data set, the run, and what the run predicts for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from speaq.config import DataConfig, EvaluationConfig
from speaq.data.records import SplitName, VisualGenome
from speaq.data.split import Split
from speaq.data.statistics import predicate_count
from speaq.evaluation.predictions import PredictionFile
from speaq.structures import IntArray


@dataclass(frozen=True, eq=False)
class View:
    """A split and, where there are some, a run and predictions for it."""

    data: VisualGenome
    split_name: SplitName
    config: DataConfig  # which images the split has
    evaluation: EvaluationConfig
    title: str  # what the reader looks at: the folder of the data set or of the run
    run: Path | None = None
    predictions: PredictionFile | None = None
    hint: str = ""  # how predictions can be made, where there are none

    @cached_property
    def split(self) -> Split:
        return self.data.split(self.split_name, self.config)

    @cached_property
    def predicate_count(self) -> IntArray:
        """[P + 1] relations of the train split, behind head, body and tail."""
        return predicate_count(self.data.split("train", self.config), self.data.num_predicates)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row in the split of every image id."""
        return {image_id: row for row, image_id in enumerate(self.split.image_ids.tolist())}
