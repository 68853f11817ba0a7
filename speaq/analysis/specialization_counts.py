"""Counts what the queries of trained runs predict, from stored outputs or by running the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speaq.analysis.specialization import Analysed, count_predictions
from speaq.config import Config, ConfigError, EvaluationConfig
from speaq.data.records import SplitName, looked_at
from speaq.data.visual_genome import Split
from speaq.inference import QueryOutputs, decode_queries
from speaq.matching.groups import groups_for
from speaq.runs.run import OpenedRun, open_run
from speaq.runs.stored import RawOutputs, is_there, network_outputs, place
from speaq.structures import IntArray, ScenePrediction
from speaq.training import checkpoint
from speaq.training.callbacks import Progress, no_progress


class Asked(NamedTuple):
    """What to count."""

    split: SplitName = "val"
    top: int = 20  # best triplets of an image
    images: int | None = None  # of the split, predicates in their shares; None: all
    every_checkpoint: bool = False  # best, last and previous, where they differ; False: the best alone
    data: Path | None = None  # default: where a run's data was


def analyse(runs: Sequence[Path], asked: Asked, progress: Progress = no_progress) -> list[Analysed]:
    """Counts of every run, in the order given, and of its checkpoints by their steps.

    Outputs on val that `speaq tune --from-predictions` has stored are used where they are of the same checkpoint.

    Raises:
        ConfigError, CheckpointError, DataError: a run or the data cannot be used, or do not belong together; runs know
            different predicates; or the test split of a search is sealed.
    """
    found: list[Analysed] = []
    for run in runs:
        for names, file in _checkpoints(run, asked.every_checkpoint):
            one = _analyse(run, names, file, asked, progress)
            try:
                found.append(one.in_order_of(found[0].predicates) if found else one)
            except ValueError as error:
                raise ConfigError(
                    f"{run}: knows other predicates than {runs[0]} ({error}); they cannot be compared"
                ) from error
    return found


def _checkpoints(run: Path, every: bool) -> list[tuple[str, Path]]:
    """(names, file) by step; checkpoints of one step are one."""
    best = checkpoint.find(run)
    if not every or not run.is_dir():
        return [(best.stem, best)]
    files = [run / "checkpoints" / name for name in (checkpoint.PREVIOUS, checkpoint.BEST, checkpoint.LAST)]
    steps: dict[int, list[Path]] = {}
    for file in files:
        if file.exists():
            steps.setdefault(int(checkpoint.load(file)["step"]), []).append(file)
    return [(", ".join(file.stem for file in same), same[0]) for _, same in sorted(steps.items())]


def _analyse(run: Path, names: str, file: Path, asked: Asked, progress: Progress) -> Analysed:
    opened = open_run(run, asked.data, file=file, split=asked.split)
    opened = replace(opened, config=opened.counted)
    config, vg = opened.config, opened.vg
    split = looked_at(opened.split(asked.split), EvaluationConfig(max_val_images=asked.images))
    counts = opened.counts
    outputs = _outputs(opened, split, asked, progress)
    predictions = _decoded(outputs, config, counts)
    num_queries = config.model.num_queries * config.model.query_multiple
    return Analysed(
        run=run.resolve().name,
        checkpoint=names,
        step=opened.step,
        split=asked.split,
        images=len(split),
        top=asked.top,
        predicates=vg.vocabulary.predicates,
        groups=groups_for(config, counts, vg.vocabulary.predicates),
        query_multiple=config.model.query_multiple,
        counts=count_predictions(predictions, num_queries, vg.num_predicates, asked.top),
    )


def _outputs(
    opened: OpenedRun, split: Split, asked: Asked, progress: Progress
) -> Iterator[tuple[IntArray, IntArray, QueryOutputs]]:
    path, header = place(opened)
    if asked.split != "val" or asked.images is not None or not is_there(path, header):
        yield from network_outputs(opened, split, progress)
        return
    with contextlib.closing(RawOutputs(path)) as raw:
        yield from raw.batches()


def _decoded(
    outputs: Iterator[tuple[IntArray, IntArray, QueryOutputs]], config: Config, counts: IntArray
) -> Iterator[ScenePrediction]:
    for _, sizes, queries in outputs:
        sizes_hw = [(int(height), int(width)) for height, width in np.asarray(sizes)]
        yield from decode_queries(queries, sizes_hw, config.inference, counts)
