"""A trained network as ONNX and .pt2: the same outputs, the same scene graphs, and how long they take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from speaq.config import ConfigError
from speaq.prediction.export import accept, compare, example_batches
from speaq.prediction.predictor import Predictor
from speaq.training.loop import train
from tests.helpers.command import command, refusal
from tests.helpers.shared import SHARED, needs
from tests.helpers.tiny import tiny


@pytest.fixture(scope="module")
def folder(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and both kinds of file made from it by the command, compared on photos of the toy world."""
    folder = tmp_path_factory.mktemp("export")
    small = {
        "training__max_steps": 2,
        "training__eval_every": 2,
        "training__decay_steps": [1],
        "model__num_decoder_layers": 1,
    }
    train(tiny(**small), toy, folder / "run")
    some = folder / "photos"
    some.mkdir()
    for photo in sorted((toy / "VG_100K").glob("*.jpg"))[:5]:
        (some / photo.name).symlink_to(photo)
    done = command(
        "export-model", folder / "run", folder / "model.onnx", folder / "model.pt2", "--check", some, "--json"
    )
    assert done.exit_code == 0, (done.output, done.exception)
    (folder / "said.json").write_text(done.stdout)
    return folder


def test_the_files_say_how_far_they_are_from_pytorch(folder: Path) -> None:
    said = json.loads((folder / "said.json").read_text())
    assert [Path(export["file"]).name for export in said] == ["model.onnx", "model.pt2"]
    for export in said:
        assert export["size"] == Path(export["file"]).stat().st_size
        assert export["batches"] == 5  # one photo alone, then two, two and one, and two generated pictures
        assert max(export["difference"].values()) < 1e-4


def test_a_file_predicts_what_its_run_predicts(folder: Path) -> None:
    name = "model.onnx"
    photos = sorted((folder / "photos").iterdir())
    ours, theirs = (list(Predictor.load(folder / source).predict_all(photos, batch_size=3)) for source in ("run", name))
    for wanted, got in zip(ours, theirs, strict=True):
        wanted_scores, got_scores = ([t.score for t in graph.triplets] for graph in (wanted, got))  # type: ignore[union-attr]
        assert got_scores == pytest.approx(wanted_scores, abs=1e-4)
        assert len(got_scores) > 0
    output = folder / f"predicted-{name}"
    done = command("predict", photos[0], "--checkpoint", folder / name, "--output", output, "--pictures", "none")
    assert done.exit_code == 0, (done.output, done.exception)


def test_onnx_needs_nothing_of_ours(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    content = json.loads(session.get_modelmeta().custom_metadata_map["speaq"])
    assert content["schema"] == "speaq-model/1"
    assert (content["image"]["shortest_side"], content["image"]["longest_side"]) == (48, 48)
    assert content["image"]["mean"] == [123.675, 116.28, 103.53]
    pixels = np.zeros((3, 3, 40, 70), np.uint8)
    sizes_hw = np.array([[40, 70], [40, 50], [20, 70]], np.int64)
    logits, boxes = session.run(["predicate_logits", "subject_boxes"], {"images": pixels, "sizes_hw": sizes_hw})
    assert logits.shape == (3, 16, len(content["predicates"]) + 1)
    assert boxes.shape == (3, 16, 4)


def test_older_runtimes_read_the_file(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    release, ir_version, opset = next(row for row in onnx.helper.VERSION_TABLE if row[0] == "1.13.0")[:3]
    assert model.ir_version == ir_version, release  # onnxruntime 1.14 has this release of ONNX, 1.17 has 1.15
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]
    assert not model.functions
    onnx.checker.check_model(model, full_check=True)
    parts = [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]
    assert not [part.name for part in parts if part.metadata_props]  # came with IR version 10


def test_a_file_that_differs_is_not_accepted(folder: Path, tmp_path: Path) -> None:
    ours = Predictor.load(folder / "run")
    batches = example_batches(ours, (), batch_size=2)
    assert batches[0][0].shape[0] == 2
    (tmp_path / "written.pt2").write_bytes((folder / "model.pt2").read_bytes())
    assert isinstance(ours.model, torch.nn.Module)
    with torch.no_grad():
        next(ours.model.parameters()).mul_(1.5)
    with pytest.raises(ConfigError, match=r"differs by .* the tolerance is 0\.001; nothing was written"):
        accept(ours, tmp_path / "written.pt2", tmp_path / "out.pt2", batches, 1e-3)
    assert not (tmp_path / "out.pt2").exists()
    export = accept(Predictor.load(folder / "run"), tmp_path / "written.pt2", tmp_path / "out.pt2", batches, 1e-3)
    assert (export.file.name, max(export.difference.values()) < 1e-4) == ("out.pt2", True)
    assert export.file.is_file()


def test_latencies_of_a_run_and_its_files_stand_side_by_side(folder: Path) -> None:
    models = [folder / "run", folder / "model.onnx"]
    settings = ("--photos", folder / "photos", "--batch-size", "2", "--rounds", "2", "--warmup", "1", "--threads", "1")
    before = torch.get_num_threads()
    done = command("benchmark", *models, *settings, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    assert torch.get_num_threads() == before
    rows = json.loads(done.stdout)
    assert [row["model"] for row in rows] == [str(model) for model in models]
    for row in rows:
        assert (row["threads"], row["calls"], row["images"], row["device"]) == (1, 6, 10, "cpu")
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["images_per_second"] == pytest.approx(10 / (6 * row["mean_ms"] / 1e3))
    shown = command("benchmark", folder / "model.onnx", "--rounds", "1", "--threads", "1")
    assert "1 threads, 1 photos a call" in shown.output


def test_what_cannot_be_exported_or_opened_is_refused(folder: Path, tmp_path: Path) -> None:
    assert "ends in .onnx or .pt2" in refusal("export-model", folder / "run", tmp_path / "model.pth")
    assert "exists already" in refusal("export-model", folder / "run", folder / "model.onnx")
    assert "is exported already" in refusal("export-model", folder / "model.onnx", tmp_path / "a.onnx")
    assert "runs on the CPU" in refusal("benchmark", folder / "model.onnx", "--device", "cuda")
    assert "no such file" in refusal("benchmark", tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    assert "a.onnx: not a readable" in refusal("benchmark", tmp_path / "a.onnx")
    for command_ in (("benchmark",), ("predict", folder / "photos", "--output", tmp_path / "out", "--checkpoint")):
        assert "can run code when it is opened" in refusal(*command_, folder / "model.pt2")
    (tmp_path / "a.pt2").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"a\.pt2: not a readable program"):
        Predictor.load(tmp_path / "a.pt2", trusted=True)
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = onnx.helper.make_graph([node], "foreign", ends[:1], ends[1:])
    foreign = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(foreign, tmp_path / "foreign.onnx")
    assert "schema is 'speaq-model/1'" in refusal("benchmark", tmp_path / "foreign.onnx")


@needs("data", "coco128-vg")
def test_real_photos_get_the_same_outputs(folder: Path) -> None:
    photos = sorted((SHARED / "data" / "coco128-vg" / "VG_100K").glob("*.jpg"))[:8]
    ours, file = Predictor.load(folder / "run"), Predictor.load(folder / "model.onnx")
    assert max(compare(ours, file, example_batches(ours, photos, batch_size=3)).values()) < 1e-4
