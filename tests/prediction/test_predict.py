"""Scene graphs of photos that are in no data set: the same as an evaluation's, as JSON and as pictures."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from PIL import Image

from speaq.data import DataError, images
from speaq.data.visual_genome import open_data
from speaq.evaluation.predictions import PredictionFile
from speaq.plain_text import visible
from speaq.prediction.graph import ImagePrediction, image_prediction
from speaq.prediction.layout import FONT, GRAPH, LINE, label_width, layout
from speaq.prediction.predictor import Predictor, find_images
from speaq.prediction.scene import Thing, Triplet, distinct_names
from speaq.runs.run import evaluate_run
from speaq.structures import ScenePrediction, Vocabulary
from speaq.training import checkpoint
from speaq.training.loop import train
from tests.helpers.command import command, refusal
from tests.helpers.tiny import tiny


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "run"
    train(tiny(training__max_steps=3, training__decay_steps=[2]), toy, folder)
    return folder


@pytest.fixture(scope="module")
def photos(toy: Path) -> list[Path]:
    return sorted((toy / "VG_100K").glob("*.jpg"))[:5]


def test_a_photo_gets_what_evaluation_predicts_for_it(run: Path, toy: Path, tmp_path: Path) -> None:
    evaluate_run(run, "test", toy, predictions=tmp_path / "test.h5")
    predictor = Predictor.load(run)
    test = open_data(toy).split("test", predictor.config.data)
    graph = predictor.predict(test.image_path(2), top=1000)
    with PredictionFile(tmp_path / "test.h5", predictor.vocabulary) as file:
        stored = next(found.prediction for found in file if found.image_id == test.image_id(2))
    wanted = image_prediction(graph.image, graph.size_hw, stored, predictor.vocabulary, top=1000, threshold=0.0)
    assert [t.predicate for t in graph.triplets] == [t.predicate for t in wanted.triplets]
    assert [t.score for t in graph.triplets] == pytest.approx([t.score for t in wanted.triplets], rel=1e-4)
    np.testing.assert_allclose(
        [thing.box_xyxy for thing in graph.things], [thing.box_xyxy for thing in wanted.things], atol=0.01
    )


def test_photos_come_in_their_order_whatever_the_batch(run: Path, photos: list[Path]) -> None:
    predictor = Predictor.load(run)
    alone = [predictor.predict(photo) for photo in photos]
    for ours, theirs in zip(predictor.predict_all(photos, batch_size=3), alone, strict=True):
        assert isinstance(ours, ImagePrediction)
        assert (ours.image, ours.size_hw) == (theirs.image, theirs.size_hw)
        assert ours.triplets[0].score == pytest.approx(
            theirs.triplets[0].score, rel=0.05
        )  # padding reaches a few border cells


def prediction(pairs: list[list[int]], predicates: list[int], scores: list[float]) -> ScenePrediction:
    """Three boxes on a picture of 100 × 60 pixels, one of which sticks out."""
    probabilities = np.full((len(pairs), 3), 0.25, np.float32)
    return ScenePrediction(
        boxes_xyxy=np.array([[1, 2, 30, 40], [20, 20, 140, 60], [5, 5, 9, 9]], np.float32),
        classes=np.array([0, 0, 1]),
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        pairs=np.array(pairs, np.int64).reshape(-1, 2),
        predicates=np.array(predicates, np.int64),
        triplet_scores=np.array(scores, np.float32),
        predicate_scores=probabilities,
        query_index=np.arange(len(pairs)),
    )


NAMES = Vocabulary(("man", "hat"), ("on", "<script>"))


def test_triplets_are_unique_ranked_and_above_the_threshold() -> None:
    given = prediction([[1, 2], [0, 1], [1, 2], [1, 2], [2, 0]], [0, 1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.1])
    graph = image_prediction(Path("x.jpg"), (60, 100), given, NAMES, top=10, threshold=0.5)
    assert [(t.subject, t.predicate, t.object) for t in graph.triplets] == [
        (0, "on", 1),
        (2, "<script>", 0),
        (0, "<script>", 1),
    ]
    assert distinct_names(graph.things) == ["man 1", "hat", "man 2"]
    assert graph.things[0].box_xyxy == (20, 20, 100, 60)  # clipped to the photo
    assert len(image_prediction(Path("x.jpg"), (60, 100), given, NAMES, top=1, threshold=0.0).triplets) == 1
    empty = image_prediction(Path("x.jpg"), (60, 100), given, NAMES, top=9, threshold=1.0)
    assert empty.things == empty.triplets == ()


def test_the_command_writes_json_and_pictures_and_skips_what_is_broken(
    run: Path, photos: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "photos" / "deeper"
    folder.mkdir(parents=True)
    good = folder / "good.jpg"
    good.write_bytes(photos[0].read_bytes())
    (tmp_path / "photos" / "broken.jpg").write_bytes(photos[1].read_bytes()[:200])
    output = tmp_path / "out"
    options = ("--checkpoint", run, "--output", output, "--pictures", "both", "--top", "5")
    done = command("predict", tmp_path / "photos", photos[2], *options)
    assert done.exit_code == 1, (done.output, done.exception)
    assert "broken.jpg: cannot be decoded" in done.stderr
    assert "2 photos" in done.stdout
    assert "1 skipped" in done.stdout
    written = sorted(str(path.relative_to(output)) for path in output.rglob("*.*"))
    names = ("deeper/good.jpg", photos[2].name)
    assert written == sorted(f"{name}{suffix}" for name in names for suffix in (".json", ".png", ".svg"))
    check_json(json.loads((output / "deeper" / "good.jpg.json").read_text()), good)
    ElementTree.parse(output / "deeper" / "good.jpg.svg")
    (output / "new.png").write_bytes(good.read_bytes())
    assert find_images([output]) == ([(output / "new.png", Path("new.png"))], 6)  # our own pictures are no photos
    (output / "good.jpg.json").write_text("annotations of somebody")
    assert "is there, and no prediction" in refusal("predict", good, "--run", run, "--output", output)
    assert "is a file; give a folder" in refusal("predict", good, "--run", run, "--output", output / "new.png")
    with Image.open(output / "deeper" / "good.jpg.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10  # something is drawn


def check_json(content: dict[str, Any], photo: Path) -> None:
    with Image.open(photo) as image:
        assert (content["width"], content["height"]) == image.size
    assert content["schema"] == "speaq-prediction/1"
    assert content["image"] == str(photo)
    assert 1 <= len(content["triplets"]) <= 5
    assert [thing["id"] for thing in content["objects"]] == list(range(len(content["objects"])))
    scores = [triplet["score"] for triplet in content["triplets"]]
    assert scores == sorted(scores, reverse=True)
    used = {triplet[end] for triplet in content["triplets"] for end in ("subject", "object")}
    assert used == {thing["id"] for thing in content["objects"]}
    for x0, y0, x1, y1 in (thing["box_xyxy"] for thing in content["objects"]):
        assert 0 <= x0 <= x1 <= content["width"]
        assert 0 <= y0 <= y1 <= content["height"]


def test_a_folder_of_all_kinds_of_files(run: Path, photos: list[Path], tmp_path: Path) -> None:
    """What is a photo is read or named; what is none is counted."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(photos[0]) as photo:
        for name in ("a.GIF", "b.jfif", "c.WebP", "d.BMP"):
            photo.save(folder / name)
    (folder / "e.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic")  # cut off, where HEIC can be read
    (folder / "f.NEF").write_bytes(b"II*\0" + bytes(100))
    os.mkfifo(folder / "g.png")
    for name in ("notes.txt", "labels.json", "without_suffix"):
        (folder / name).write_text("no photo")
    done = command("predict", folder, "--checkpoint", run, "--output", tmp_path / "out", "--pictures", "none")
    assert done.exit_code == 1
    assert done.stdout == f"4 photos in {tmp_path / 'out'}, 3 skipped, 3 files of other kinds ignored\n"
    heic, raw, pipe = (line for line in done.stderr.splitlines() if line.startswith("skipped "))
    assert "e.heic: " in heic
    assert "f.NEF: a camera's raw file, not read here; save it as JPEG" in raw
    assert "g.png: cannot be read (a named pipe, not a file; copy it to one first)" in pipe


def test_photos_in_linked_folders_are_found_once(photos: list[Path], tmp_path: Path) -> None:
    for name in ("given/a", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.jpg").write_bytes(photos[0].read_bytes())
    for name, target in (("0", "a"), ("b", "../elsewhere"), ("loop", ".")):
        (tmp_path / "given" / name).symlink_to(target)
    found, _ = find_images([tmp_path / "given"])
    assert [str(name) for _, name in found] == ["a/x.jpg", "b/x.jpg"]


def test_photos_above_the_limit_are_skipped(run: Path, photos: list[Path], tmp_path: Path) -> None:
    target = ("--checkpoint", run, "--output", tmp_path / "out", "--pictures", "none", "--max-megapixels", "0.01")
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    Image.new("RGB", (100, 101)).save(tmp_path / "large.png")
    done = command("predict", tmp_path / "small.png", tmp_path / "large.png", *target)
    assert done.exit_code == 1
    assert "large.png: 100 x 101 pixels, at most 10,000 are decoded; make it smaller" in done.stderr
    assert "1 photos" in done.stdout


def test_images_and_arrays_get_what_their_file_gets(run: Path, photos: list[Path], tmp_path: Path) -> None:
    predictor = Predictor.load(run)
    wanted = predictor.predict(photos[0])
    assert predictor.predict(str(photos[0])) == wanted
    with Image.open(photos[0]) as image:
        assert predictor.predict(image) == wanted  # it knows its file
        pixels = np.asarray(image.convert("RGB"))
    for source in (pixels, pixels.astype(np.float32) / 255, Image.fromarray(pixels)):
        found = predictor.predict(source)
        assert replace(found, image=photos[0]) == wanted
        assert found.to_json()["image"] is None
        found.save(tmp_path / "picture.png")
        wanted.save(tmp_path / "wanted.png")
        assert (tmp_path / "picture.png").read_bytes() == (tmp_path / "wanted.png").read_bytes()
    grey = pixels[..., 0]
    assert predictor.predict(grey) == predictor.predict(np.stack((grey, grey, grey), axis=-1))
    errors = list(predictor.predict_all([pixels, np.zeros((3, 9, 9)), photos[0]]))
    assert [isinstance(error, DataError) for error in errors] == [False, True, False]


def test_a_large_photo_is_predicted_and_drawn_in_its_own_pixels(
    run: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    with Image.open(photos[0]) as photo:
        photo.resize((8 * photo.width, 8 * photo.height), Image.Resampling.NEAREST).save(path)
        size = (8 * photo.height, 8 * photo.width)
    predictor = Predictor.load(run)
    whole = predictor.predict(path)
    monkeypatch.setattr(images, "LARGE", 1000)
    reduced = predictor.predict(path)
    assert reduced.size_hw == whole.size_hw == size
    assert max(x1 for thing in reduced.things for x1 in thing.box_xyxy[2:]) > size[0] / 4
    assert reduced.triplets[0].score == pytest.approx(whole.triplets[0].score, rel=0.05)
    reduced.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize("name", ["photo\udcff.jpg", "[red] \x1b[31m.jpg"])
def test_odd_names_of_files_are_kept(name: str, run: Path, photos: list[Path], tmp_path: Path) -> None:
    """A name that is no UTF-8, and one that a terminal would obey."""
    path = tmp_path / name
    path.write_bytes(photos[0].read_bytes())
    (tmp_path / f"broken {name}").write_text("no")
    done = command("predict", tmp_path, "--checkpoint", run, "--output", tmp_path / "out", "--pictures", "svg")
    assert done.exit_code == 1
    assert f"broken {visible(name)}: not an image" in done.stderr
    assert json.loads((tmp_path / "out" / f"{name}.json").read_text())["image"] == str(path)
    assert (tmp_path / "out" / f"{name}.svg").exists()


@pytest.mark.parametrize("size", [(400, 60), (60, 400), (100, 100)])
def test_crowded_pictures_of_every_shape_are_drawn_the_same_way_each_time(
    size: tuple[int, int], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", size, "grey").save(photo)
    things = tuple(Thing("a person with $\\frac$ as a name", 0, 0.5, (5.0, 5.0, 50.0, 50.0)) for _ in range(9))
    triplets = tuple(Triplet(i, "<b>$next$ to</b>", 1, (i * 3 + 1) % 9, 0.5, 0.5) for i in range(9))
    loop = Triplet(4, "on", 0, 4, 0.4, 0.4)
    graph = ImagePrediction(photo, (size[1], size[0]), things, (*triplets, loop))
    graph.save(tmp_path / "a.svg")
    graph.save(tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    ImagePrediction(photo, (size[1], size[0]), (), ()).save(tmp_path / "empty.png")
    with pytest.raises(ValueError, match=r"name it \.json, \.png or \.svg"):
        graph.save(tmp_path / "a.gif")


@pytest.mark.parametrize("seed", [4, 9])
def test_related_labels_leave_room_for_the_words_between_them(seed: int) -> None:
    """Three trees of twelve things that a layout without room for words puts too close in five places."""
    rng, words, name = np.random.default_rng(seed), ["sitting on", "near"], "person 10"
    pairs = [(int(rng.integers(0, end)), end) for end in range(1, 12) if end not in (5, 9)]
    graph = networkx.MultiDiGraph()
    graph.add_edges_from((*pair, {"words": words}) for pair in pairs)
    size = np.array((GRAPH[0], 420.0))
    spots = layout(graph, [name] * 12, size)
    margin = np.array((label_width(name) / 2, 1.2 * FONT))
    assert ((spots >= margin) & (spots <= size - margin)).all()
    for start, end in pairs:
        beside, above = np.abs(spots[start] - spots[end]) - 2 * margin
        assert beside > 0.6 * FONT * len(words[0]) or above > LINE * len(words)


def test_what_cannot_be_used_is_refused_in_one_line(run: Path, photos: list[Path], toy: Path, tmp_path: Path) -> None:
    target = ("--output", tmp_path / "out")
    assert "no such file or folder" in refusal("predict", tmp_path / "no.jpg", "--checkpoint", run, *target)
    (tmp_path / "empty").mkdir()
    assert "no photo in this folder" in refusal("predict", tmp_path / "empty", "--checkpoint", run, *target)
    assert "no checkpoint" in refusal("predict", photos[0], "--checkpoint", tmp_path / "empty", *target)
    (tmp_path / "empty" / photos[0].name).write_bytes(photos[0].read_bytes())
    assert "same name" in refusal("predict", photos[0], tmp_path / "empty", "--checkpoint", run, *target)
    train(tiny(training__max_steps=1, training__decay_steps=[1]), toy, tmp_path / "detector", task="detector")
    assert "predicts no triplet" in refusal("predict", photos[0], "--checkpoint", tmp_path / "detector", *target)
    assert not (tmp_path / "out").exists()
    (tmp_path / "text.jpg").write_text("no")
    predictor = Predictor.load(run)
    with pytest.raises(DataError, match="not an image"):
        predictor.predict(tmp_path / "text.jpg")


@pytest.mark.parametrize("key", ["feedforward_dim", "num_queries", "query_multiple", "num_encoder_layers"])
def test_a_checkpoint_gets_no_network_larger_than_its_weights(
    run: Path, photos: list[Path], toy: Path, tmp_path: Path, key: str
) -> None:
    content = checkpoint.load(checkpoint.find(run))
    content["config"]["model"][key] = 2**40
    large = tmp_path / "large.pt"
    checkpoint.save(large, content)
    reason = "its weights do not fit its config"
    assert reason in refusal("predict", photos[0], "--output", tmp_path / "out", "--checkpoint", large)
    assert reason in refusal("evaluate", large, "--data", toy)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_predicts_the_same(run: Path, photos: list[Path]) -> None:
    here, there = (Predictor.load(run, device=device).predict(photos[0]) for device in ("cpu", "cuda"))
    assert [t.score for t in here.triplets] == pytest.approx([t.score for t in there.triplets], abs=1e-3)
