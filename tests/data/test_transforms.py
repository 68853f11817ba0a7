"""Pictures and their boxes move together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speaq.config import DataConfig
from speaq.data.images import read_image
from speaq.data.transforms import (
    Picture,
    clip_boxes,
    drop_empty_boxes,
    eval_transform,
    finish,
    flip,
    random_crop,
    resize,
    resize_shape,
    train_transform,
)
from speaq.data.visual_genome import open_data
from speaq.structures import Resize, Window
from tests.helpers.shared import GOLDEN, SHARED, needs

SMALL = DataConfig(
    train_sides=(40, 48),
    train_max_side=96,
    crop_sides=(40, 60),
    crop_window=(20, 50),
    eval_side=48,
    eval_max_side=64,
    crop_probability=0.5,
)


def make_picture(
    size_hw: tuple[int, int], boxes: Sequence[Sequence[float]], relations: Sequence[Sequence[int]] | None = None
) -> Picture:
    """Each box is painted in a colour of its own on black; relations default to a chain."""
    image = np.zeros((*size_hw, 3), np.uint8)
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        image[int(y0) : int(y1), int(x0) : int(x1)] = (250, 50 + 40 * row, 0)
    chain = [[row, row + 1, row] for row in range(len(boxes) - 1)]
    return Picture(
        image,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(len(boxes)),
        np.array(chain if relations is None else relations, np.int64).reshape(-1, 3),
    )


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    boxes = []
    for _ in range(draw(st.integers(0, 5))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append([x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))])
    last = len(boxes) - 1
    place = st.integers(0, max(last, 0))
    relations = draw(st.lists(st.tuples(place, place, st.integers(0, 7)), max_size=6)) if boxes else []
    return make_picture((height, width), boxes, [list(row) for row in relations])


@pytest.mark.parametrize(
    ("size_hw", "side", "max_side", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((300, 900), 800, 1333, (444, 1333)),
        ((96, 80), 96, 96, (96, 80)),
        ((96, 96), 96, 96, (96, 96)),
        ((100, 100), 50, None, (50, 50)),
        ((1, 5000), 800, 1333, (1, 1333)),
    ],
)
def test_resize_shape(size_hw: tuple[int, int], side: int, max_side: int | None, expected: tuple[int, int]) -> None:
    assert resize_shape(size_hw, side, max_side) == expected


def test_resize_shape_equals_the_reference() -> None:
    with np.load(GOLDEN / "g9_resize_shapes.npz", allow_pickle=False) as golden:
        for name in (name for name in golden.files if name.startswith("out.")):
            side, max_side = (int(part) for part in name.split("_")[1:])
            ours = [resize_shape((int(h), int(w)), side, max_side) for h, w in golden["in.hw"]]
            assert (np.array(ours) == golden[name]).all(), name


@needs("data", "coco128-vg")
@needs("golden", "g9_test_mapper.npz")
def test_evaluation_pictures_equal_the_reference() -> None:
    split = open_data(SHARED / "data" / "coco128-vg").split("test", DataConfig(keep_images_without_relations=True))
    row_of = {split.image_id(row): row for row in range(len(split))}
    with np.load(SHARED / "golden" / "g9_test_mapper.npz", allow_pickle=False) as golden:
        for name in (name for name in golden.files if name.endswith("image_id")):
            index, number = row_of[str(golden[name])], name.split(".")[1]
            graph = split.scene_graph(index)
            ours = eval_transform(
                Picture(read_image(split.image_path(index)), graph.boxes_xyxy, graph.classes, graph.relations),
                DataConfig(),
            )
            want = {key.split(".")[2]: golden[key] for key in golden.files if key.startswith(f"out.{number}.")}
            assert (3, *ours.size_hw) == tuple(want["image_shape"])
            pixels = ours.image[want["rows"]][:, want["cols"]].transpose(2, 0, 1)
            assert np.abs(pixels.astype(int) - want["pixels"]).max() <= 1
            assert np.abs(ours.boxes_xyxy - want["gt_boxes"]).max() <= 1e-3
            assert (ours.classes == want["gt_classes"]).all()
            assert (ours.relations == want["relations"]).all()


@given(picture=pictures())
def test_flipping_twice_changes_nothing(picture: Picture) -> None:
    twice = flip(flip(picture))
    assert (twice.image == picture.image).all()
    np.testing.assert_allclose(twice.boxes_xyxy, picture.boxes_xyxy, atol=1e-4)
    assert twice.relations is picture.relations


def test_a_flip_moves_pixels_and_boxes_together() -> None:
    flipped = flip(make_picture((10, 20), [[2, 3, 7, 9]]))
    np.testing.assert_array_equal(flipped.boxes_xyxy, [[13, 3, 18, 9]])
    rows, columns = np.nonzero(flipped.image[..., 0])
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (13, 3, 18, 9)


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    picture = make_picture((96, 80), [[1, 2, 30, 40]])
    assert resize(picture, (96, 80)) is picture


@given(picture=pictures(), height=st.integers(1, 120), width=st.integers(1, 120))
def test_resizing_there_and_back_restores_the_boxes(picture: Picture, height: int, width: int) -> None:
    back = resize(resize(picture, (height, width)), picture.size_hw)
    np.testing.assert_allclose(back.boxes_xyxy, picture.boxes_xyxy, rtol=1e-5, atol=1e-4)
    assert back.size_hw == picture.size_hw


@given(picture=pictures(), seed=st.integers(0, 10_000))
@settings(max_examples=200)
def test_augmented_boxes_lie_in_the_picture_and_relations_index_them(picture: Picture, seed: int) -> None:
    result = train_transform(picture, SMALL, np.random.default_rng(seed))
    height, width = result.size_hw
    assert max(height, width) <= SMALL.train_max_side
    assert len(result.boxes_xyxy) == len(result.classes) <= len(picture.boxes_xyxy)
    assert (result.boxes_xyxy >= 0).all()
    assert (result.boxes_xyxy <= (width, height, width, height)).all()
    assert (result.boxes_xyxy[:, 2:] - result.boxes_xyxy[:, :2] > 1e-5).all()
    assert result.relations[:, :2].max(initial=-1) < len(result.boxes_xyxy)
    # Classes number the boxes of the original, so a relation can be followed back to where it came from.
    named = {(int(result.classes[s]), int(result.classes[o]), int(p)) for s, o, p in result.relations}
    assert named <= {(int(s), int(o), int(p)) for s, o, p in picture.relations}
    kept = set(result.classes.tolist())
    assert named == {(s, o, p) for s, o, p in picture.relations.tolist() if s in kept and o in kept}


@given(picture=pictures(), seed=st.integers(0, 10_000))
def test_inputs_are_left_alone_and_equal_generators_give_equal_pictures(picture: Picture, seed: int) -> None:
    before = picture.image.copy(), picture.boxes_xyxy.copy(), picture.relations.copy()
    a, b = (train_transform(picture, SMALL, np.random.default_rng(seed)) for _ in "ab")
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
    for now, then in zip((picture.image, picture.boxes_xyxy, picture.relations), before, strict=True):
        np.testing.assert_array_equal(now, then)


@given(picture=pictures(), seed=st.integers(0, 10_000))
@settings(max_examples=200)
def test_pixels_that_wait_for_the_device_become_the_same(picture: Picture, seed: int) -> None:
    now, later = (
        train_transform(picture, SMALL, np.random.default_rng(seed), enlarge=enlarge) for enlarge in (True, False)
    )
    assert later.size_hw == now.size_hw
    np.testing.assert_array_equal(finish(torch.from_numpy(later.image), later.pending).numpy(), now.image)
    for name in ("boxes_xyxy", "classes", "relations"):
        np.testing.assert_array_equal(getattr(later, name), getattr(now, name))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_enlarges_to_within_a_grey_level() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    steps = (Resize((100, 133)), Window(3, 5, (70, 90)), Resize((120, 154)))
    there = finish(noise.cuda(), steps).cpu()
    assert (there.int() - finish(noise, steps).int()).abs().max() <= 2  # rounded twice


def test_what_gets_smaller_is_resized_at_once() -> None:
    large = make_picture((300, 200), [[2, 3, 70, 90]])
    config = SMALL.model_copy(update={"crop_probability": 0.0})
    smaller = train_transform(large, config, np.random.default_rng(0), enlarge=False)
    assert smaller.pending == ()
    assert max(smaller.image.shape) <= SMALL.train_max_side


@pytest.mark.parametrize("size_hw", [(300, 200), (150, 420)])
def test_a_crop_is_a_window_of_the_resized_picture(size_hw: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    picture = Picture(
        noise, np.array([[20, 30, 90, 120]], np.float32), np.zeros(1, np.int64), np.zeros((0, 3), np.int64)
    )
    config = DataConfig(crop_sides=(100,), crop_window=(40, 80))
    full = resize(picture, resize_shape(size_hw, 100, None))
    for seed in range(10):
        crop = random_crop(picture, config, np.random.default_rng(seed))
        height, width = crop.size_hw
        assert 40 <= height <= 80
        assert 40 <= width <= 80
        left, top = np.round(full.boxes_xyxy - crop.boxes_xyxy)[0, :2].astype(int)
        np.testing.assert_allclose(full.boxes_xyxy - crop.boxes_xyxy, [[left, top, left, top]], atol=1e-4)
        window = full.image[top : top + height, left : left + width]
        assert np.abs(window.astype(int) - crop.image).max() <= 1


def test_a_crop_is_bounded_by_the_picture() -> None:
    crop = random_crop(make_picture((30, 30), []), DataConfig(crop_sides=(30,)), np.random.default_rng(0))
    assert crop.size_hw == (30, 30)


def test_empty_boxes_go_with_their_relations_and_the_others_are_renumbered() -> None:
    picture = make_picture((10, 10), [[-5, 0, 0, 5], [1, 1, 5, 5], [2, 9, 8, 20], [3, 12, 5, 15]])
    result = drop_empty_boxes(clip_boxes(picture))
    np.testing.assert_array_equal(result.boxes_xyxy, [[1, 1, 5, 5], [2, 9, 8, 10]])
    np.testing.assert_array_equal(result.classes, [1, 2])
    np.testing.assert_array_equal(result.relations, [[0, 1, 1]])


def test_evaluation_keeps_empty_boxes() -> None:
    result = eval_transform(make_picture((48, 48), [[-5, 0, 0, 5], [1, 1, 5, 5]]), SMALL)
    assert len(result.boxes_xyxy) == 2
    assert len(result.relations) == 1


def test_without_chance_training_and_evaluation_see_the_same() -> None:
    picture = make_picture((60, 90), [[3, 4, 50, 40], [10, 20, 30, 60]])
    config = SMALL.model_copy(
        update={"flip_probability": 0.0, "crop_probability": 0.0, "train_sides": (48,), "train_max_side": 64}
    )
    a, b = train_transform(picture, config, np.random.default_rng(0)), eval_transform(picture, config)
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
