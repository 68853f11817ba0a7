"""Which samples and batches a worker sees: complete, reproducible, resumable."""

from __future__ import annotations

import itertools
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from speaq.config import Config, apply
from speaq.data import DataError
from speaq.data.dataset import RawBatch, SceneGraphDataset, collate
from speaq.data.loading import eval_loader, train_loader
from speaq.data.records import Split
from speaq.data.toy.world import make_toy
from speaq.data.visual_genome import open_data
from speaq.structures import Batch, Sample
from speaq.targets import make_target
from tests.helpers import data_sets

TOY = apply(
    Config(),
    {
        "data.num_val": 20,
        "data.train_sides": [96],
        "data.train_max_side": 96,
        "data.crop_probability": 0.3,
        "data.crop_sides": [100],
        "data.crop_window": [60, 90],
        "data.eval_side": 96,
        "data.eval_max_side": 96,
        "data.num_workers": 0,
        "training.batch_size": 12,
        "training.device": "cpu",
    },
)
NO_CROP = {"data.crop_probability": 0.0, "data.crop_sides": [400, 500, 600], "data.crop_window": [384, 600]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    make_toy(directory, 200, seed=0)
    return directory


@pytest.fixture(scope="module")
def train(folder: Path) -> Split:
    return open_data(folder).split("train", TOY.data)


@pytest.fixture(scope="module")
def test(folder: Path) -> Split:
    return open_data(folder).split("test", TOY.data)


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.indices == b.indices
    assert a.original_hw == b.original_hw
    torch.testing.assert_close(a.images, b.images, rtol=0, atol=0)
    torch.testing.assert_close(a.sizes_hw, b.sizes_hw, rtol=0, atol=0)
    for ours, theirs in zip(a.targets.images(), b.targets.images(), strict=True):
        for name in ("classes", "boxes", "relations", "relation_boxes"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=0)


def take(
    split: Split, config: Config, num: int, rank: int = 0, world_size: int = 1, start_step: int = 0
) -> list[Batch]:
    loader = train_loader(split, config, rank, world_size, start_step)
    return [batch.to(torch.device("cpu")) for batch in itertools.islice(loader, num)]


def test_a_sample_carries_the_picture_and_its_annotations(test: Split) -> None:
    sample = SceneGraphDataset(test, TOY.data, train=False)[3]
    graph = test.scene_graph(3)
    assert sample.image.dtype == torch.uint8
    assert tuple(sample.image.shape) == (*graph.size_hw, 3)
    assert sample.original_hw == graph.size_hw
    np.testing.assert_allclose(sample.boxes_xyxy, graph.boxes_xyxy, atol=1e-4)
    np.testing.assert_array_equal(sample.relations, graph.relations)  # every row, duplicates included


def test_collate_pads_with_zero_at_the_lower_right(test: Split) -> None:
    dataset = SceneGraphDataset(test, TOY.data, train=False)
    samples = [dataset[row] for row in range(8)]
    batch = collate(samples)
    assert batch.images.shape == (8, 3, 96, 96)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for sample, image, (h, w) in zip(samples, batch.images, batch.sizes_hw.tolist(), strict=True):
        assert torch.equal(image[:, :h, :w], sample.image.permute(2, 0, 1))
        assert image.sum() == sample.image.sum()
    for sample, target in zip(samples, batch.targets.images(), strict=True):
        assert torch.equal(target.boxes, make_target(sample).boxes)


def test_a_draw_is_a_function_of_seed_and_number(train: Split) -> None:
    dataset, other = (SceneGraphDataset(train, TOY.data, train=True, seed=seed) for seed in (1, 2))

    def key(sample: Sample) -> bytes:
        return sample.image.contiguous().numpy().tobytes()

    draws = [key(dataset[0, number]) for number in range(20)]
    assert draws == [key(dataset[0, number]) for number in range(20)]
    assert len(set(draws)) > 5
    assert draws != [key(other[0, number]) for number in range(20)]
    assert key(dataset[3]) == key(dataset[3, 3])


def test_training_keeps_one_predicate_of_each_pair_and_any_of_them(train: Split) -> None:
    dataset = SceneGraphDataset(train, TOY.data.model_copy(update={"crop_probability": 0.0}), train=True)
    graphs = [train.scene_graph(row) for row in range(len(train))]
    row = next(i for i, g in enumerate(graphs) if len(np.unique(g.relations[:, :2], axis=0)) < len(g.relations))
    seen = set()
    for number in range(60):
        relations = dataset[row, number].relations.tolist()
        pairs = [(s, o) for s, o, _ in relations]
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == {(int(s), int(o)) for s, o, _ in graphs[row].relations}
        seen |= {tuple(relation) for relation in relations}
    assert seen == {tuple(relation) for relation in graphs[row].relations.tolist()}


@pytest.mark.parametrize("mode", ["bilevel", "class_balanced"])
def test_resampling_shows_rare_predicates_more_often_and_drops_frequent_ones(train: Split, mode: str) -> None:
    overrides = {"data.resampling": mode, "data.oversample": 0.2, "data.undersample": 0.9}
    count = {}
    fast = apply(TOY, {"data.cache_images": True, **NO_CROP})
    for name, config in (("plain", fast), ("resampled", apply(fast, overrides))):
        batches = take(train, config, 40)
        predicates = [p for b in batches for p in b.targets.relations[:, 2].tolist()]
        count[name] = np.bincount(predicates, minlength=train.num_predicates) / len(predicates)
    frequent, rare = count["plain"].argmax(), np.argsort(count["plain"])[:6]
    assert count["resampled"][frequent] < 0.8 * count["plain"][frequent]
    assert count["resampled"][rare].sum() > 1.2 * count["plain"][rare].sum()


def test_batches_do_not_depend_on_the_number_of_decoding_workers(train: Split) -> None:
    alone = take(train, TOY, 6)
    for num_workers in (1, 2):
        for ours, theirs in zip(take(train, apply(TOY, {"data.num_workers": num_workers}), 6), alone, strict=True):
            assert_equal(ours, theirs)


def test_batches_do_not_depend_on_the_cache(train: Split) -> None:
    cached = apply(TOY, {"data.cache_images": True})
    num = 2 * len(train) // 12  # every picture twice
    for ours, theirs in zip(take(train, cached, num), take(train, TOY, num), strict=True):
        assert_equal(ours, theirs)
    for _ in range(2):
        for ours, theirs in zip(eval_loader(train, cached), eval_loader(train, TOY), strict=True):
            assert_equal(ours, theirs)


@pytest.mark.parametrize("start_step", [1, 7, 20])
def test_a_resumed_loader_goes_on_with_the_same_batches(train: Split, start_step: int) -> None:
    config = apply(TOY, {"training.micro_batch_size": 4})  # three micro-batches a step
    whole = take(train, config, 3 * start_step + 6)
    for ours, theirs in zip(take(train, config, 6, start_step=start_step), whole[3 * start_step :], strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_that_the_device_enlarges_are_the_same(train: Split, num_workers: int) -> None:
    larger = {"data.train_sides": [120, 160], "data.train_max_side": 200, "data.num_workers": num_workers}
    config = apply(TOY, larger)
    raw = list(itertools.islice(train_loader(train, config, enlarge_on_device=True), 4))
    assert all(isinstance(batch, RawBatch) and any(batch.pending) for batch in raw)
    for ours, theirs in zip(raw, take(train, config, 4), strict=True):
        assert_equal(ours.to(torch.device("cpu")), theirs)


def test_workers_share_the_images_of_a_step(train: Split) -> None:
    alone = take(train, TOY, 5)
    shares = [take(train, TOY, 5, rank, 3) for rank in range(3)]
    for step, batch in enumerate(alone):
        parts = [share[step].indices for share in shares]
        assert [len(part) for part in parts] == [4, 4, 4]
        assert sorted(itertools.chain.from_iterable(parts)) == sorted(batch.indices)


def test_a_batch_has_one_orientation(train: Split) -> None:
    for batch in take(train, TOY, 20):
        assert len({bool(train.landscape[index]) for index in batch.indices}) == 1


def test_an_epoch_draws_every_image_about_once(train: Split) -> None:
    config = apply(TOY, {"data.cache_images": True, **NO_CROP})
    drawn = Counter(index for batch in take(train, config, 5 * len(train) // 12) for index in batch.indices)
    assert set(drawn) == set(range(len(train)))
    assert max(drawn.values()) <= 6


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_image_is_evaluated_once_over_all_ranks(test: Split, world_size: int, num_workers: int) -> None:
    config = apply(TOY, {"data.num_workers": num_workers, "evaluation.batch_size": 5})
    seen: list[int] = []
    for rank in range(world_size):
        for batch in eval_loader(test, config, rank, world_size):
            assert len(batch.indices) <= 5
            assert len({bool(test.landscape[index]) for index in batch.indices}) == 1
            seen += batch.indices
    assert sorted(seen) == list(range(len(test)))


def test_evaluation_is_the_same_every_time(test: Split) -> None:
    for a, b in zip(eval_loader(test, TOY), eval_loader(test, TOY), strict=True):
        assert_equal(a, b)


def test_more_ranks_than_images(test: Split) -> None:
    num = len(test) + 2
    seen = [i for rank in range(num) for batch in eval_loader(test, TOY, rank, num) for i in batch.indices]
    assert sorted(seen) == list(range(len(test)))


def test_a_data_set_can_be_sent_to_another_process(train: Split) -> None:
    dataset = SceneGraphDataset(train, TOY.data, train=True, seed=3)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[5].image, dataset[5].image)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_photo_is_named_in_one_line(folder: Path, tmp_path: Path, num_workers: int) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    split = open_data(broken).split("test", TOY.data)
    path = split.image_path(4)
    path.write_bytes(path.read_bytes()[:300])
    config = apply(TOY, {"data.num_workers": num_workers})
    with pytest.raises(DataError) as caught:
        list(eval_loader(split, config))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("train_mode", [True, False])
def test_reduced_decoding_keeps_boxes_where_they_are(tmp_path: Path, train_mode: bool) -> None:
    vg = open_data(data_sets.write(tmp_path, sizes_hw=((400, 520),) * 6))
    config = apply(TOY, {"data.num_val": 1, **NO_CROP}).data
    reduced = config.model_copy(update={"reduced_decoding": True})
    split = vg.split("train", config)
    plain, quick = (SceneGraphDataset(split, c, train_mode)[0] for c in (config, reduced))
    assert plain.original_hw == quick.original_hw == (400, 520)
    assert quick.image.shape == plain.image.shape
    torch.testing.assert_close(make_target(quick).boxes, make_target(plain).boxes, atol=1e-5, rtol=0)


def test_the_cache_keeps_reduced_pictures_apart(tmp_path: Path) -> None:
    split = open_data(data_sets.write(tmp_path, sizes_hw=((400, 520),) * 6)).split("test", TOY.data)
    shown = []
    for changes in ({"data.reduced_decoding": True}, {}):
        config = apply(TOY, {"data.cache_images": True, "data.eval_side": 800, "data.eval_max_side": 90, **changes})
        shown.append(SceneGraphDataset(split, config.data, train=True).picture(0).size_hw)
    assert shown == [(100, 130), (400, 520)]
