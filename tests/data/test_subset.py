"""The images of val that a run looks at while it trains."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speaq.config import EvaluationConfig
from speaq.data.records import Split, looked_at, stratified
from tests.helpers.subsets import made_of


def long_tail(num_images: int = 4000, num_predicates: int = 30) -> Split:
    random = np.random.default_rng(3)
    rate = 2.0 / np.arange(1, num_predicates + 1) ** 1.8
    shows = random.random((num_images, num_predicates)) < rate
    shows[: num_images // 2, -2:] = False  # the rarest two are not among the first images
    shows[-1] = True
    return made_of([np.flatnonzero(row).tolist() for row in shows], num_predicates)


def seen(split: Split) -> set[int]:
    return set(split.relations[:, 2].tolist())


@settings(deadline=None)
@given(
    predicates=st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=30),
    num_images=st.integers(1, 30),
)
def test_every_predicate_is_there_where_the_images_suffice(predicates: list[list[int]], num_images: int) -> None:
    split = made_of(predicates, 6)
    num_images = min(num_images, len(split))
    images = stratified(split, num_images)
    assert len(images) == num_images
    assert (np.diff(images) > 0).all()
    if num_images >= 6:
        assert seen(split.select(images)) == seen(split)


def test_predicates_keep_their_shares() -> None:
    split = long_tail()
    expected = np.bincount(split.relations[:, 2], minlength=30) / 10
    some = split.select(stratified(split, 400))
    shown = np.bincount(some.relations[:, 2], minlength=30)
    assert (abs(shown - expected) <= 1 + 3 * np.sqrt(expected)).all(), (shown, expected)  # a draw's spread, at most
    assert seen(split.first(400)) < seen(some)


def test_selected_images_keep_their_graphs() -> None:
    split = long_tail(50)
    images = np.array([49, 3, 20])
    some = split.select(images)
    assert len(some) == 3
    for new, old in enumerate(images):
        graph, expected = some.scene_graph(new), split.scene_graph(old)
        assert graph.image_id == expected.image_id
        assert some.rows[new] == split.rows[old]
        np.testing.assert_array_equal(graph.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(graph.classes, expected.classes)
        np.testing.assert_array_equal(graph.relations, expected.relations)


def test_all_runs_look_at_the_same_images() -> None:
    split = long_tail(200)
    config = EvaluationConfig(max_val_images=40)
    np.testing.assert_array_equal(looked_at(split, config).rows, looked_at(split, config).rows)
    first = EvaluationConfig(max_val_images=40, val_subset="first")
    np.testing.assert_array_equal(looked_at(split, first).rows, split.rows[:40])
    for enough in (None, 200, 999):
        assert looked_at(split, EvaluationConfig(max_val_images=enough)) is split


def test_too_few_images_for_the_predicates_is_said(caplog: pytest.LogCaptureFixture) -> None:
    split = made_of([[p] for p in range(6)], 6)
    with caplog.at_level(logging.WARNING):
        assert len(stratified(split, 4)) == 4
    assert "max_val_images 4: 2 of the 6 predicates" in caplog.text
