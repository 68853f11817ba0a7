"""Stored predictions: what is written is read back, what is wrong is named, and one file gives every protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from speaq.config import ConfigError, DataConfig, EvaluationConfig
from speaq.data import DataError
from speaq.data.visual_genome import Split, VisualGenome, open_data
from speaq.evaluation.predictions import PredictionFile, PredictionWriter, Source
from speaq.evaluation.protocol import PROTOCOLS
from speaq.evaluation.protocols import FileMetrics, compare_files, evaluate_file
from speaq.evaluation.recall import RecallEvaluator
from speaq.structures import ScenePrediction
from tests.helpers import data_sets
from tests.helpers.command import command
from tests.helpers.stored_predictions import DATA, predict, predictions, write


@pytest.fixture(scope="module")
def vg(toy: Path) -> VisualGenome:
    return open_data(toy)


@pytest.fixture
def test_split(vg: VisualGenome) -> Split:
    return vg.split("test", DATA)


def without_triplets(prediction: ScenePrediction) -> ScenePrediction:
    names = ("pairs", "predicates", "triplet_scores", "predicate_scores", "query_index")
    return replace(prediction, **{name: getattr(prediction, name)[:0] for name in names})


def test_what_is_written_is_read_back(
    vg: VisualGenome, test_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speaq.evaluation.predictions._BLOCK", 200)  # several blocks on both ways
    stored = predictions(vg, test_split)
    empty = test_split.image_id(3)
    stored[empty] = without_triplets(stored[empty])
    nothing = test_split.image_id(4)
    whole = without_triplets(stored[nothing])
    stored[nothing] = replace(whole, **{n: getattr(whole, n)[:0] for n in ("boxes_xyxy", "classes", "scores")})
    path = write(tmp_path / "p.h5", vg, test_split, dict(reversed(stored.items())))
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]
    with PredictionFile(path, vg.vocabulary) as file:
        assert (file.split, file.data_digest) == ("test", vg.digest)
        assert file.data == DATA
        found = list(file)
    assert [image.image_id for image in found] == list(reversed(stored))
    for image in found:
        assert image.size_hw == test_split.size_hw(list(stored).index(image.image_id))
        for field in fields(ScenePrediction):
            ours, theirs = (getattr(p, field.name) for p in (stored[image.image_id], image.prediction))
            np.testing.assert_array_equal(theirs, ours, err_msg=field.name)
            assert theirs.dtype == ours.dtype


def test_nothing_at_all_is_a_file_too(vg: VisualGenome, test_split: Split, tmp_path: Path) -> None:
    path = write(tmp_path / "p.h5", vg, test_split, {})
    with PredictionFile(path, vg.vocabulary) as file:
        assert list(file) == []
    stored = predictions(vg, test_split)
    path = write(tmp_path / "q.h5", vg, test_split, {name: without_triplets(p) for name, p in stored.items()})
    with PredictionFile(path, vg.vocabulary) as file:
        assert [len(image.prediction.pairs) for image in file] == [0] * len(test_split)
    assert metrics(path, vg).results[1].metrics["R@20"] == 0


def test_an_interrupted_file_leaves_nothing_under_its_name(vg: VisualGenome, test_split: Split, tmp_path: Path) -> None:
    path = tmp_path / "p.h5"

    def interrupted() -> None:
        with PredictionWriter(path, Source(vg.vocabulary, "test")) as writer:
            writer.add("1", (5, 5), predict(test_split.scene_graph(0), vg, np.random.default_rng(0)))
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_overwritten_and_its_folder_is_there(vg: VisualGenome, tmp_path: Path) -> None:
    (tmp_path / "p.h5").write_text("mine")
    with pytest.raises(ConfigError, match=r"p\.h5: exists"):
        PredictionWriter(tmp_path / "p.h5", Source(vg.vocabulary, "test"))
    with pytest.raises(ConfigError, match=r"p\.h5: cannot be written"):
        PredictionWriter(tmp_path / "no" / "p.h5", Source(vg.vocabulary, "test"))


def metrics(path: Path, vg: VisualGenome, mode: Any = "sgdet", name: Any = "test", **changes: Any) -> FileMetrics:
    return evaluate_file(path, vg, name, mode, EvaluationConfig(**changes))


@pytest.mark.parametrize("mode", ["sgdet", "sgcls", "predcls", "phrase"])
def test_one_file_gives_what_the_evaluators_give(
    mode: Any, vg: VisualGenome, test_split: Split, tmp_path: Path
) -> None:
    stored = predictions(vg, test_split)
    absent = test_split.image_id(2)
    path = write(tmp_path / "p.h5", vg, test_split, {k: v for k, v in reversed(stored.items()) if k != absent})
    found = metrics(path, vg, mode, zero_shot="recompute")
    assert (found.images, found.images_absent) == (len(test_split), 1)
    stored[absent] = without_triplets(stored[absent])
    for protocol, result in zip(PROTOCOLS, found.results, strict=True):
        config = EvaluationConfig(protocol=protocol, zero_shot="recompute")
        evaluator = RecallEvaluator(vg.num_predicates, config, mode=mode, predicate_count=found.predicate_count)
        for index, prediction in enumerate(stored.values()):
            evaluator.add(index, test_split.scene_graph(index), prediction)
        expected = evaluator.result()
        assert expected.metrics.items() <= result.metrics.items()
        assert expected.averages == result.averages
        assert result.images_without_predictions == 1
        assert result.images_evaluated == len(test_split) - (protocol != "strict")
    values = [result.metrics["R@20"] for result in found.results]
    assert len(set(values)) == 3, "the protocols make no difference: the test says nothing"
    assert 0 < min(values) < 1
    assert (found.detection != {}) == (mode == "sgdet")


def test_json_and_table_name_every_protocol(vg: VisualGenome, test_split: Split, tmp_path: Path) -> None:
    found = metrics(write(tmp_path / "p.h5", vg, test_split, predictions(vg, test_split)), vg)
    names = ["sgdet published", "sgdet strict", "sgdet per-query", "sgdet ng", "sgdet ng-unique"]
    report = found.to_json(vg.vocabulary.predicates)
    assert [row["protocol"] for row in report["protocols"]] == names
    assert report["report"]["protocol"] == "sgdet published"
    assert len(report["report"]["predicates"]) == vg.num_predicates
    assert {"R@50", "R_dataset@50", "mR@50", "mR_present@50"} < report["protocols"][4].keys()
    assert report["protocols"][3]["R@20"] == report["report"]["metrics"]["ngR@20"]
    header, rows = found.table()
    assert {len(row) for row in rows} == {len(header)}
    assert [row[0] for row in rows[::3]] == names


def test_two_files_are_compared_with_intervals_over_the_images(
    vg: VisualGenome, toy: Path, test_split: Split, tmp_path: Path
) -> None:
    full = predictions(vg, test_split)
    less = {name: without_triplets(p) if i % 2 else p for i, (name, p) in enumerate(full.items())}
    one = write(tmp_path / "one.h5", vg, test_split, full)
    other = write(tmp_path / "other.h5", vg, test_split, less)
    done = command("metrics", one, "--data", toy, "--against", other, "--json")
    rows = {row["metric"]: row for row in json.loads(done.stdout)}
    alone = evaluate_file(one, vg, "test", "sgdet", EvaluationConfig()).results[0].metrics
    assert {f"{name}@{k}" for name in ("R", "mR", "F", "head", "body", "tail") for k in (20, 50, 100)} == rows.keys()
    for metric, row in rows.items():
        assert row["this"] == alone[metric]
        assert row["difference"] == pytest.approx(row["this"] - row["other"], abs=1e-12)
        assert row["low"] <= row["difference"] <= row["high"]
    same = json.loads(command("metrics", one, "--data", toy, "--against", one, "--json").stdout)
    assert all((row["difference"], row["low"], row["high"]) == (0, 0, 0) for row in same)
    assert "difference" in command("metrics", one, "--data", toy, "--against", other).stdout


def test_models_of_two_predicates_are_compared(tmp_path: Path) -> None:
    """Of so few the head has none."""
    vg = open_data(data_sets.write(tmp_path / "data"))
    split, data = vg.split("test", DATA), DataConfig(num_val=0)
    with PredictionWriter(tmp_path / "one.h5", Source(vg.vocabulary, "test", vg.digest, data)) as writer:
        for row, (image_id, prediction) in enumerate(predictions(vg, split).items()):
            writer.add(image_id, split.size_hw(row), prediction)
    found = evaluate_file(tmp_path / "one.h5", vg, "test", "sgdet", EvaluationConfig())
    rows = compare_files(found, found)
    assert {row.metric.partition("@")[0] for row in rows} == {"R", "mR", "F", "body", "tail"}
    assert all((row.difference, row.low, row.high) == (0, 0, 0) for row in rows)


def test_the_size_of_the_photo_wins(tmp_path: Path) -> None:
    """image_data.json lists other sizes than the photos have; the file says which pixels its boxes are in."""
    folder = data_sets.write(tmp_path / "data", sizes_hw=((64, 48),) * 6)
    (folder / "image_data.json").write_text((folder / "image_data.json").read_text().replace("64", "640"))
    vg = open_data(folder)
    split = vg.split("test", DataConfig(num_val=0))
    graph = split.scene_graph(0)
    assert graph.size_hw == (64, 48)
    scores = np.eye(3, dtype=np.float32)[graph.relations[:, 2]]
    prediction = ScenePrediction(
        graph.boxes_xyxy,
        graph.classes,
        np.ones(len(graph.classes), np.float32),
        graph.relations[:, :2],
        graph.relations[:, 2],
        np.ones(len(graph.relations), np.float32),
        scores,
        np.arange(len(graph.relations)),
    )
    with PredictionWriter(tmp_path / "p.h5", Source(vg.vocabulary, "test")) as writer:
        writer.add(graph.image_id, graph.size_hw, prediction)
    for data in (vg, open_data(folder, need_images=False)):
        for mode in ("sgdet", "sgcls", "predcls", "phrase"):
            assert metrics(tmp_path / "p.h5", data, mode).results[0].metrics["R@20"] == 1


def test_which_rows_are_val_is_kept_and_known_of_older_files(
    vg: VisualGenome, test_split: Split, tmp_path: Path
) -> None:
    own = DataConfig(val="split", num_val=0)
    graph = test_split.scene_graph(0)
    with PredictionWriter(tmp_path / "p.h5", Source(vg.vocabulary, "test", data=own)) as writer:
        writer.add(graph.image_id, graph.size_hw, predict(graph, vg, np.random.default_rng(0)))
    with PredictionFile(tmp_path / "p.h5", vg.vocabulary) as file:
        assert file.data == own
    with h5py.File(tmp_path / "p.h5", "a") as content:
        values = json.loads(content.attrs["data"])
        content.attrs["data"] = json.dumps({key: values[key] for key in values if key != "val"})
    with PredictionFile(tmp_path / "p.h5", vg.vocabulary) as file:
        assert file.data == DataConfig(num_val=0)


def tamper(key: str, change: Callable[[Any], Any]) -> Callable[[h5py.File], None]:
    def apply(file: h5py.File) -> None:
        values = file[key][()]
        del file[key]
        file[key] = change(values)

    return apply


def at(place: Any, value: Any) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[place] = value
        return values

    return change


def attribute(key: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(key, value)


BROKEN: list[tuple[Callable[[h5py.File], Any], str]] = [
    (lambda file: file.__delitem__("pairs"), "pairs · is in the file · missing"),
    (lambda file: file.__delitem__("image_id"), "image_id · is in the file · missing"),
    (lambda file: file.attrs.__delitem__("format"), "format · is 'speaq predictions' · missing"),
    (attribute("version", 2), "version · is 1 · 2"),
    (attribute("split", "dev"), "split · is train, val or test · dev"),
    (attribute("objects", ["a", "b"]), "objects · are the names of the data set · 'a', not"),
    (attribute("predicates", 7), "predicates · are the names of the data set · without"),
    (attribute("data", "{"), "data · is a JSON object with num_val"),
    (tamper("classes", lambda v: v.astype(float)), "classes · holds integers · float64"),
    (tamper("scores", lambda v: v[:, None]), "scores · has shape ["),
    (tamper("predicate_scores", lambda v: v[:, 1:]), "predicate_scores · has shape ["),
    (tamper("predicates", lambda v: v[:-1]), "predicates · has shape ["),
    (tamper("num_triplets", at(1, -1)), "image {1} · num_triplets · is at least 0 · -1"),
    (tamper("sizes_hw", at((1, 0), 0)), "image {1} · sizes_hw · is above 0 · [0, "),
    (tamper("image_id", at(1, b"twice")), "image_id · is an image of split test · 'twice'"),
    (tamper("image_id", lambda v: np.array([v[0]] * len(v), dtype=object)), "image {0} · image_id · is given once"),
    (tamper("image_id", lambda v: np.arange(len(v))), "image_id · holds one text for each image · int64"),
    (tamper("boxes_xyxy", at((0, 0), np.nan)), "image {0} · boxes_xyxy · is finite · [nan, "),
    (tamper("boxes_xyxy", at((0, 2), -9.0)), "image {0} · boxes_xyxy · has x1 <= x2"),
    (tamper("classes", at(-1, 1000)), "image {last} · classes · is 0 to"),
    (tamper("scores", at(0, np.inf)), "image {0} · scores · is a probability · inf"),
    (tamper("pairs", at((0, 1), 500)), "image {0} · pairs · are boxes of the image"),
    (tamper("predicates", at(-1, -1)), "image {last} · predicates · is 0 to"),
    (tamper("triplet_scores", at(0, np.nan)), "image {0} · triplet_scores · is finite · nan"),
    (tamper("triplet_scores", at(1, 2.0)), "image {0} · triplet_scores · descends within an image · 2.0"),
    (tamper("predicate_scores", at((0, 0), np.nan)), "image {0} · predicate_scores · is a probability · [nan"),
    (tamper("query_index", at(0, -3)), "image {0} · query_index · is at least 0 · -3"),
    (
        lambda file: [tamper(key, at(1, file[key][0]))(file) for key in ("pairs", "predicates")],
        "image {0} · pairs · with its predicate is given once in an image",
    ),
    (attribute("data_digest", "0"), "data_digest · is that of "),
    (attribute("data_digest", np.zeros((2, 2))), "data_digest · is text · [[0. 0.] [0. 0.]]"),
    (attribute("split", "val"), "split · is that asked for, test · val"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_what_is_wrong_is_named(
    damage: Callable[[h5py.File], Any], message: str, vg: VisualGenome, test_split: Split, tmp_path: Path
) -> None:
    path = write(tmp_path / "p.h5", vg, test_split, predictions(vg, test_split))
    with h5py.File(path, "r+") as file:
        damage(file)
    images = {"{0}": 0, "{1}": 1, "{last}": len(test_split) - 1}
    for place, index in images.items():
        message = message.replace(place, test_split.image_id(index))
    with pytest.raises(DataError) as refused:
        metrics(path, vg)
    assert str(refused.value).startswith(f"{path} · {message}"), refused.value
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("end", [0, 100, 0.5, 0.98])
def test_a_truncated_file_is_refused(end: float, vg: VisualGenome, test_split: Split, tmp_path: Path) -> None:
    path = write(tmp_path / "p.h5", vg, test_split, predictions(vg, test_split))
    content = path.read_bytes()
    path.write_bytes(content[: int(end if end >= 1 else end * len(content))])
    with pytest.raises(DataError, match=r"p\.h5 · is a readable HDF5 file · "):
        metrics(path, vg)


def test_a_damaged_column_is_refused(vg: VisualGenome, test_split: Split, tmp_path: Path) -> None:
    path = write(tmp_path / "p.h5", vg, test_split, predictions(vg, test_split))
    with h5py.File(path) as file:
        chunk = file["predicate_scores"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"p\.h5 · is a readable HDF5 file · "):
        metrics(path, vg)
    with pytest.raises(DataError, match=r"no\.h5 · is a readable HDF5 file · "):
        metrics(tmp_path / "no.h5", vg)


@pytest.mark.parametrize("mode", ["sgcls", "predcls"])
def test_boxes_that_are_not_the_ground_truths_are_refused_where_pairs_index_those(
    mode: Any, vg: VisualGenome, test_split: Split, tmp_path: Path
) -> None:
    stored = predictions(vg, test_split)
    name = test_split.image_id(1)
    found = stored[name]
    fewer = without_triplets(replace(found, **{n: getattr(found, n)[1:] for n in ("boxes_xyxy", "classes", "scores")}))
    swapped = replace(found, boxes_xyxy=found.boxes_xyxy[::-1])
    for number, prediction in enumerate((fewer, swapped)):
        path = write(tmp_path / f"{number}.h5", vg, test_split, {**stored, name: prediction})
        truth = len(found.classes)
        with pytest.raises(
            DataError, match=f"image {name} · boxes_xyxy · are the {truth} ground-truth boxes in {mode}"
        ):
            metrics(path, vg, mode)
        metrics(path, vg, "phrase")


def test_a_file_of_val_says_which_images_those_are(vg: VisualGenome, tmp_path: Path) -> None:
    val = vg.split("val", DATA)
    path = write(tmp_path / "p.h5", vg, val, predictions(vg, val), "val")
    assert metrics(path, vg, name="val").images == len(val) == 6
    with h5py.File(path, "r+") as file:
        del file.attrs["data"]
    with pytest.raises(DataError, match="data · says which images are val · missing"):
        metrics(path, vg, name="val")
