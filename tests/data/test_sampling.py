"""Resampling, and batches of one orientation."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speaq.config import DataConfig
from speaq.data import DataError
from speaq.data.records import Split
from speaq.data.sampling import (
    DrawOrder,
    OrientationBatchSampler,
    drop_relations,
    make_resampling,
    one_predicate_per_pair,
)
from speaq.data.visual_genome import open_data
from tests.helpers.data_sets import write

Batch = list[tuple[int, int]]
PLAIN = DataConfig(num_val=0)
BILEVEL = DataConfig(num_val=0, resampling="bilevel", oversample=2.0, undersample=0.7)
BALANCED = DataConfig(num_val=0, resampling="class_balanced", oversample=2.0, undersample=0.7)


def make_split(num_images: int, num_portrait: int) -> Split:
    """Image i has one box and one relation to itself, with predicate 0 except in every fourth image."""
    images = np.arange(num_images)
    sizes = np.full((num_images, 2), (40, 60), np.int32)
    sizes[:num_portrait] = (60, 40)
    return Split(
        rows=images,
        image_ids=images.astype(np.str_),
        listed_hw=sizes,
        boxes=np.full((num_images, 4), 100, np.int32),
        classes=np.zeros(num_images, np.int32),
        box_offsets=np.arange(num_images + 1),
        relations=np.stack((images * 0, images * 0, images % 4 == 3), axis=1).astype(np.int32),
        relation_offsets=np.arange(num_images + 1),
        num_predicates=3,
        box_scale=1024,
        folder=None,
    )


def take(split: Split, config: DataConfig, batch_size: int, num: int, **place: int) -> list[Batch]:
    sampler = OrientationBatchSampler(split, config, batch_size, seed=place.pop("seed", 0), **place)
    return list(islice(sampler, num))


shapes = st.tuples(st.integers(1, 30), st.integers(0, 30), st.integers(1, 6)).map(lambda s: (s[0], min(s[:2]), s[2]))


@settings(deadline=None, max_examples=40)
@given(shapes, st.sampled_from([PLAIN, BILEVEL, BALANCED]), st.integers(0, 9))
def test_batches_are_full_of_one_orientation_and_draws_are_unique(
    shape: tuple[int, int, int], config: DataConfig, seed: int
) -> None:
    num_images, num_portrait, batch_size = shape
    split = make_split(num_images, num_portrait)
    batches = take(split, config, batch_size, 12, seed=seed)
    for batch in batches:
        assert len(batch) == batch_size
        assert len({bool(split.landscape[row]) for row, _ in batch}) == 1
    draws = [draw for batch in batches for _, draw in batch]
    assert len(set(draws)) == len(draws)


@settings(deadline=None, max_examples=40)
@given(shapes, st.sampled_from([PLAIN, BILEVEL, BALANCED]), st.integers(1, 4), st.integers(0, 15))
def test_order_depends_neither_on_workers_nor_on_interruption(
    shape: tuple[int, int, int], config: DataConfig, world_size: int, start: int
) -> None:
    num_images, num_portrait, share = shape
    split, batch_size = make_split(num_images, num_portrait), share * world_size
    whole = take(split, config, batch_size, start + 4)
    parts = [
        take(split, config, batch_size, 4, rank=rank, world_size=world_size, start_batch=start)
        for rank in range(world_size)
    ]
    for i, batch in enumerate(whole[start:]):
        assert all(len(part[i]) == share for part in parts)
        assert sorted(draw for part in parts for draw in part[i]) == sorted(batch)


def test_an_epoch_draws_every_image_once() -> None:
    split = make_split(12, 0)
    first, second = (take(split, PLAIN, 4, 3, start_batch=start) for start in (0, 3))
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row, _ in batch) == list(range(12))
    assert [row for batch in first for row, _ in batch] != [row for batch in second for row, _ in batch]
    assert take(split, PLAIN, 4, 3, seed=1) != first


def test_images_wait_for_their_orientation_over_epochs() -> None:
    batches = take(make_split(5, 1), PLAIN, 4, 40)
    lone = [batch for batch in batches if batch[0][0] == 0]
    assert lone
    assert all(row == 0 for batch in lone for row, _ in batch)
    counts = np.bincount([row for batch in batches for row, _ in batch])
    assert counts.max() - counts.min() <= 4


def test_micro_batches_are_pieces_of_the_share() -> None:
    split = make_split(30, 10)
    whole = take(split, PLAIN, 12, 5, rank=1, world_size=2)
    pieces = take(split, PLAIN, 12, 15, rank=1, world_size=2, micro_batch_size=2)
    assert [draw for piece in pieces for draw in piece] == [draw for batch in whole for draw in batch]
    assert take(split, PLAIN, 12, 3, rank=1, world_size=2, micro_batch_size=2, start_batch=4) == pieces[12:]


def test_bilevel_repeats_images_with_rare_predicates() -> None:
    split = make_split(40, 0)
    resampling = make_resampling(split, oversample=2.0, undersample=0.7)
    frequency = np.array([0.75, 0.25, 0.0])
    ratio = np.sqrt(2.0 / (frequency + 1e-5))
    np.testing.assert_allclose(resampling.ratio, ratio)
    assert resampling.repeats[:4].tolist() == [2, 2, 2, 3]
    expected = np.clip((3 - ratio) / 3 * 0.7, 0, 1)
    np.testing.assert_allclose(resampling.drop_probabilities(3), expected)
    drawn = np.bincount(DrawOrder(split, BILEVEL, 0).epoch(0))
    assert drawn.tolist() == resampling.repeats.tolist()


def test_resampling_never_drops_below_the_frequent_share() -> None:
    resampling = make_resampling(make_split(8, 0), oversample=0.0, undersample=1.0)
    assert resampling.repeats.tolist() == [1] * 8
    assert resampling.drop_probabilities(0).tolist() == [0, 0, 0]


def test_class_balanced_draws_predicates_evenly() -> None:
    split = make_split(400, 0)
    rows = np.concatenate([DrawOrder(split, BALANCED, 0).epoch(epoch) for epoch in range(10)])
    assert len(rows) == 4000
    assert abs((rows % 4 == 3).mean() - 0.5) < 0.03
    assert len(np.unique(rows)) > 390


def test_class_balanced_needs_relations(tmp_path: Path) -> None:
    nothing = np.full(6, -1)
    write(tmp_path, img_to_first_rel=nothing, img_to_last_rel=nothing)
    config = BALANCED.model_copy(update={"keep_images_without_relations": True})
    split = open_data(tmp_path, need_train=False).split("train", config)
    with pytest.raises(DataError, match="class_balanced: no train image has a relation"):
        DrawOrder(split, config, 0)
    assert make_resampling(split, 1.0, 1.0).repeats.tolist() == [1] * 4


relations = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), max_size=30).map(
    lambda rows: np.array(rows, np.int64).reshape(-1, 3)
)


@given(relations, st.integers(0, 9))
def test_one_row_of_each_pair_stays(rows: np.ndarray, seed: int) -> None:
    kept = one_predicate_per_pair(rows, np.random.default_rng(seed))
    pairs = [tuple(pair) for pair in kept[:, :2].tolist()]
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == {tuple(pair) for pair in rows[:, :2].tolist()}
    assert {tuple(row) for row in kept.tolist()} <= {tuple(row) for row in rows.tolist()}


def test_every_predicate_of_a_pair_has_its_chance() -> None:
    rows = np.array([[0, 1, 0], [0, 1, 1], [0, 1, 1]])
    rng = np.random.default_rng(0)
    drawn = np.bincount([one_predicate_per_pair(rows, rng)[0, 2] for _ in range(3000)])
    assert abs(drawn[1] / 3000 - 2 / 3) < 0.03  # a row listed twice counts twice


@given(relations, st.integers(0, 9))
def test_relations_are_dropped_by_their_predicate(rows: np.ndarray, seed: int) -> None:
    kept = drop_relations(rows, np.array([0.0, 1.0, 0.0, 1.0]), np.random.default_rng(seed))
    np.testing.assert_array_equal(kept, rows[np.isin(rows[:, 2], (0, 2))])


def test_dropout_has_its_probability() -> None:
    rows = np.tile([[0, 1, 0], [0, 1, 1]], (5000, 1))
    kept = drop_relations(rows, np.array([0.2, 0.7]), np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(kept[:, 2]) / 5000, [0.8, 0.3], atol=0.03)
