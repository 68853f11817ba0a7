"""Frozen parts are not trained; from their stored features a run comes out the same, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError
from speaq.data import DataError
from speaq.data.features import FILE, StoredSplit, read_header
from speaq.data.visual_genome import open_data
from speaq.model.speaq import SpeaQ
from speaq.runs.cache import Maker, Part, Size, asked, cache, make_here
from speaq.runs.run import evaluate_run
from speaq.space.checks import check
from speaq.study import changes as study_changes
from speaq.study import creation
from speaq.training import origins
from speaq.training.callbacks import no_progresses
from speaq.training.loop import train
from tests.helpers.same_run import assert_same_run, weights
from tests.helpers.tiny import tiny

BOTH = ["backbone", "encoder"]


PLAIN = {"data.flip_probability": 0.0, "model.dropout": 0.1}  # every picture looks the same each time
FROZEN = ("backbone.", "transformer.encoder.")


@pytest.fixture(scope="module")
def start(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of three steps."""
    folder = tmp_path_factory.mktemp("start") / "detector"
    train(tiny(training__max_steps=3, training__decay_steps=[2]), toy, folder, task="detector")
    return folder


@pytest.fixture(scope="module")
def config(start: Path) -> Config:
    return configs.apply(tiny(training__init_from=str(start)), PLAIN)


@pytest.fixture(scope="module")
def features(config: Config, start: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "features"
    cache(asked(start, config, toy, folder), no_progresses)
    return folder


@pytest.fixture
def copy(features: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(features, tmp_path / "copy"))


def test_frozen_parts_keep_their_weights_and_the_others_do_not(config: Config, toy: Path, tmp_path: Path) -> None:
    train(configs.apply(config, {"model.frozen": ["backbone"]}), toy, tmp_path / "backbone")
    train(configs.apply(config, {"model.frozen": BOTH}), toy, tmp_path / "both")
    begin = weights(Path(config.training.init_from or ""))
    for folder, frozen in (("backbone", FROZEN[:1]), ("both", FROZEN)):
        now = weights(tmp_path / folder)
        same = {name for name in begin.keys() & now.keys() if torch.equal(begin[name], now[name])}
        of_these = {name for name in begin if name.startswith(frozen) and "num_batches" not in name}
        assert of_these
        assert of_these <= same
        moved = begin.keys() & now.keys() - same
        assert any("encoder" in name for name in moved) is (folder == "backbone")
        assert any("decoder" in name or "box_head" in name for name in moved)


def test_frozen_parts_see_each_picture_by_itself() -> None:
    """What they make of it does not depend on its batch, nor on dropout."""
    torch.manual_seed(0)
    model = SpeaQ(configs.apply(tiny(), {"model.frozen": BOTH, "model.dropout": 0.5}).model, 5, 4).train()
    small, large = torch.randint(256, (3, 40, 33)), torch.randint(256, (3, 48, 64))
    batch = torch.zeros(2, 3, 48, 64, dtype=torch.int64)
    batch[0, :, :40, :33], batch[1] = small, large
    sizes = torch.tensor([[40, 33], [48, 64]])
    cells = model._apart(batch, sizes)
    assert torch.equal(cells[0, :3, :3], model.cells(small))
    assert torch.equal(cells[1], model.cells(large))
    assert not cells[0, :, 3:].any()
    torch.manual_seed(1)
    outputs = model(batch, sizes)
    torch.manual_seed(1)
    stored = model(cells, sizes, True)
    assert torch.equal(outputs.predicate_logits, stored.predicate_logits)
    outputs.predicate_logits.sum().backward()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if not name.startswith(FROZEN)
    }


def test_a_run_from_features_is_the_run_with_the_same_parts_frozen(
    config: Config, features: Path, toy: Path, tmp_path: Path
) -> None:
    """Losses, metrics, weights; and the result is a whole model that evaluates the same from the photos."""
    frozen, stored = tmp_path / "frozen", tmp_path / "stored"
    train(configs.apply(config, {"model.frozen": BOTH}), toy, frozen)
    result = train(configs.apply(config, {"training.features": str(features)}), toy, stored)
    assert_same_run(frozen, stored)
    assert evaluate_run(stored).evaluation.metrics == pytest.approx(result["best"]["metrics"], abs=0, nan_ok=True)


def test_a_run_from_features_is_resumed(config: Config, features: Path, toy: Path, tmp_path: Path) -> None:
    stored = configs.apply(config, {"training.features": str(features), "training.log_every": 1})
    train(stored, toy, tmp_path / "at_once")
    train(configs.apply(stored, {"training.max_steps": 3}), toy, tmp_path / "parts")
    train(stored, toy, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "at_once", tmp_path / "parts")


def test_features_that_moved_with_their_project_are_found(
    config: Config, copy: Path, toy: Path, tmp_path: Path
) -> None:
    stored = configs.apply(config, {"training.features": str(copy)})
    space = {"parameters": {"training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2}}}
    study = creation.create(stored, spaces.from_dict(space), toy, trials=3)
    then, now = tmp_path / "then", tmp_path / "now"
    train(configs.apply(stored, {"training.max_steps": 3}), toy, then / "run")
    copy.rename(then / copy.name)
    then.rename(now)
    there = str(now / copy.name)
    assert origins.placed(stored, now / "run").training.features == there
    train(stored, toy, now / "run", resume=True)
    plan = study_changes.with_features(study, now / "study").plan
    assert plan.placed(plan.base).training.features == there
    assert plan.base == study.plan.base  # by which trials are known


def test_views_are_augmented_and_drawn_by_the_draw(config: Config, start: Path, toy: Path, tmp_path: Path) -> None:
    changed = configs.apply(config, {"data.flip_probability": 0.5, "data.train_sides": [32, 48]})
    header = cache(asked(start, changed, toy, tmp_path / "views", views=4), no_progresses)
    assert header.entries["train"] == 4 * len(open_data(toy).split("train", changed.data))
    stored = StoredSplit(tmp_path / "views", header, "train")
    image = str(open_data(toy).split("train", changed.data).image_ids[0])
    sizes = {stored.size_hw(stored.entry(image, view)) for view in range(4)}
    boxes = {stored.boxes_xyxy(stored.entry(image, view)).tobytes() for view in range(4)}
    assert len(boxes) > 1 or len(sizes) > 1
    result = train(configs.apply(changed, {"training.features": str(tmp_path / "views")}), toy, tmp_path / "run")
    assert result["step"] == 6


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 2e-2), ("int8", 3e-2)])
def test_smaller_numbers_are_near(
    precision: str, error: float, config: Config, start: Path, features: Path, toy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    header = cache(asked(start, config, toy, folder, precision=precision), no_progresses)  # type: ignore[arg-type]
    exact, near = StoredSplit(features, read_header(features), "val"), StoredSplit(folder, header, "val")
    scale = exact.cells(0).abs().max()
    difference = (exact.cells(0) - near.cells(0)).abs().max() / scale
    assert 0 < difference < error
    assert near.nbytes < exact.nbytes
    result = train(configs.apply(config, {"training.features": str(folder)}), toy, tmp_path / "run")
    assert result["status"] == "finished"


class _Killed(Exception):
    pass


def test_an_unfinished_cache_goes_on_where_it_was(
    config: Config, start: Path, features: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speaq.data.features.PICTURES", 16)
    monkeypatch.setattr("speaq.runs.cache.PICTURES", 16)
    wanted, made = asked(start, config, toy, tmp_path / "features"), list[Part]()

    def two_files(maker: Maker, parts: list[Part], tell: object) -> None:
        for part in parts[:2]:
            maker.make(part, lambda number: None)
            made.append(part)
        raise _Killed

    with pytest.raises(_Killed):
        cache(wanted, no_progresses, two_files)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not finished"):
        train(configs.apply(config, {"training.features": str(wanted.output)}), toy, tmp_path / "run")

    def the_rest(maker: Maker, parts: list[Part], tell: object) -> None:
        assert not set(parts) & set(made)
        make_here(maker, parts, lambda number: None)

    cache(wanted, no_progresses, the_rest)  # type: ignore[arg-type]
    header = read_header(wanted.output)
    for name in ("train", "val"):
        one = StoredSplit(wanted.output, header, name)
        monkeypatch.undo()
        other = StoredSplit(features, read_header(features), name)
        assert all(torch.equal(one.cells(entry), other.cells(entry)) for entry in range(header.entries[name]))
        monkeypatch.setattr("speaq.data.features.PICTURES", 16)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2000])


def _not_a_number(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened["cells"][...] = np.nan


def _gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("harm", [_cut, _not_a_number, _gone])
def test_damaged_features_are_named(harm: object, config: Config, copy: Path, toy: Path, tmp_path: Path) -> None:
    harm(copy / "train-00000.h5")  # type: ignore[operator]
    with pytest.raises(DataError, match=r"train-00000\.h5 · c.*speaq cache again"):
        train(configs.apply(config, {"training.features": str(copy)}), toy, tmp_path / "run")


def test_other_features_are_refused_by_what_differs(
    config: Config, features: Path, start: Path, toy: Path, tmp_path: Path
) -> None:
    train(configs.apply(config, {"seed": 5, "training.init_from": None}), toy, tmp_path / "other")
    stored = {"training.features": str(features)}
    for changes, said in (
        ({"training.init_from": str(tmp_path / "other")}, "other weights"),
        ({"data.flip_probability": 0.5}, "data.flip_probability"),
        ({"data.eval_side": 40}, "data.eval_side"),
        ({"data.num_val": 7}, "lacks 1 of the 7 val images"),
    ):
        with pytest.raises(ConfigError, match=said):
            train(configs.apply(config, {**stored, **changes}), toy, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="precision"):
        cache(asked(start, config, toy, features, precision="int8"), no_progresses)
    with pytest.raises(ConfigError, match="all would be the same"):
        asked(start, config, toy, tmp_path / "views", views=2)
    with pytest.raises(ConfigError, match=r"model\.frozen"):
        configs.apply(config, {**stored, "model.frozen": ["backbone"]})
    with pytest.raises(DataError, match="holds no features"):
        train(configs.apply(config, {"training.features": str(tmp_path)}), toy, tmp_path / "run")
    (tmp_path / "features.json").write_text('{"format": "speaq-features/0"}')
    with pytest.raises(DataError, match=r"features\.json · format · is speaq-features/1 · 'speaq-features/0'; make"):
        train(configs.apply(config, {"training.features": str(tmp_path)}), toy, tmp_path / "run")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    config: Config, start: Path, features: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[Size]()
    wanted = asked(start, config, toy, tmp_path / "features")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(10_000))
    with pytest.raises(ConfigError, match=r"features take about 0\.00 GiB more.*--precision bfloat16"):
        cache(wanted, no_progresses, said=said.append)
    assert not wanted.output.exists()
    cells = sum(file.stat().st_size for file in features.glob("*.h5"))
    assert 0.6 * cells < said[0].bytes < cells


def test_what_a_cache_left_that_was_killed_at_once_is_in_nobody_s_way(
    config: Config, start: Path, toy: Path, tmp_path: Path
) -> None:
    wanted = asked(start, config, toy, tmp_path / "features")
    wanted.output.mkdir()
    for name in (".claim", f".0123456789ab.tmp.{FILE}"):
        (wanted.output / name).touch()
    assert cache(wanted, no_progresses).complete
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="is not empty, and holds no features"):
        cache(asked(start, config, toy, tmp_path / "other"), no_progresses)


def test_parts_that_would_stay_random_are_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backbone would stay at random weights"):
        train(tiny(model__frozen=["backbone"]), toy, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"frozen is \[\], \[backbone\] or"):
        tiny(model__frozen=["encoder"])


def test_the_header_says_what_was_made(features: Path, config: Config) -> None:
    content = json.loads((features / FILE).read_text())
    assert content["complete"] is True
    assert content["keys"]["data.train_sides"] == [48]
    assert content["entries"]["val"] == 6


@pytest.mark.parametrize("key", ["data.crop_probability", "model.num_encoder_layers", "training.backbone_multiplier"])
def test_a_space_cannot_vary_what_acts_before_stored_features(key: str, config: Config, features: Path) -> None:
    base = configs.apply(config, {"training.features": str(features)})
    values = {"data.crop_probability": [0.0, 0.5], "model.num_encoder_layers": [1, 2]}.get(key, [0.1, 1.0])
    space = spaces.from_dict({"parameters": {key: {"type": "categorical", "choices": values}}, "search": {}})
    check(space, config)
    with pytest.raises(ConfigError, match=f"space: parameters: {key}: it acts (before|on)"):
        check(space, base)
