"""Endless batches to train on, and every image of a split once, from photos or from stored features.

Which images a batch holds depends on the seed and the position alone, see `speaq.data.dataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from speaq.config import Config
from speaq.data import workers
from speaq.data.dataset import RawBatch, SceneGraphDataset, collate, gather, largest_side
from speaq.data.sampling import OrientationBatchSampler
from speaq.data.stored import StoredBatch, stored_batches
from speaq.data.visual_genome import Split
from speaq.structures import Batch, Sample


def train_loader(
    split: Split,
    config: Config,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    *,
    enlarge_on_device: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[Batch | RawBatch | StoredBatch]:
    """Endless micro-batches of worker `rank`: those of optimizer step `start_step` first, as if never interrupted.

    A step takes batch_size / world_size images, in pieces of micro_batch_size. All images of a step have one
    orientation. With `enlarge_on_device` images get larger in `RawBatch.to`: there is less to send, and decoding
    workers do little but decode. `waiting` and what is raised: as in `workers.load`.
    """
    training = config.training
    sampler = OrientationBatchSampler(
        split,
        config.data,
        training.batch_size,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        start_batch=start_step,
        micro_batch_size=training.micro_batch_size,
    )
    if split.features is not None:
        return stored_batches(split, config, sampler, train=True)
    dataset = SceneGraphDataset(split, config.data, train=True, seed=config.seed, enlarge=not enlarge_on_device)
    images = training.micro_batch_size or training.batch_size // world_size
    pixels = images * largest_side(config.data, train=True) * config.data.train_max_side
    return _load(dataset, sampler, config, pixels, waiting, raw=enlarge_on_device)


def eval_loader(
    split: Split,
    config: Config,
    rank: int = 0,
    world_size: int = 1,
    *,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[Batch | StoredBatch]:
    """Batches of similar shape that hold every image of the split once over all ranks; a rank may have none.

    `waiting` and what is raised: as in `workers.load`.
    """
    training = config.training
    share = training.batch_size // world_size
    batch_size = config.evaluation.batch_size or training.micro_batch_size or max(share, 1)
    batches = eval_batches(split, batch_size, rank, world_size)
    if split.features is not None:
        yield from stored_batches(split, config, batches, train=False)
        return
    pixels = batch_size * config.data.eval_side * config.data.eval_max_side
    for batch in _load(SceneGraphDataset(split, config.data, train=False), batches, config, pixels, waiting):
        assert isinstance(batch, Batch)
        yield batch


def eval_batches(split: Split, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Rows of every batch of a rank: one orientation each, sorted by aspect ratio so that little is padded."""
    aspect = split.listed_hw[:, 1] / split.listed_hw[:, 0]
    order = np.argsort(aspect, kind="stable")[rank::world_size]
    landscape = split.landscape[order]
    batches = []
    for rows in (order[~landscape].tolist(), order[landscape].tolist()):
        batches += [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return batches


def _load(
    dataset: SceneGraphDataset,
    batches: Iterable[list[Any]],
    config: Config,
    pixels: int,
    waiting: Callable[[], None],
    *,
    raw: bool = False,
) -> Iterator[Batch | RawBatch]:
    """`pixels`: what the images of a batch have at most, all together."""
    make: Callable[[list[Sample]], Batch | RawBatch] = gather if raw else collate
    number = config.data.num_workers
    if number:
        pin_memory = config.training.device != "cpu" and torch.cuda.is_available()
        yield from workers.load(dataset, batches, make, number, 3 * pixels, pin_memory=pin_memory, waiting=waiting)
    else:
        yield from (make([dataset[draw] for draw in draws]) for draws in batches)
