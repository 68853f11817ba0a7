"""Published checkpoints become run folders: `speaq convert`, and what starts from or evaluates them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speaq import config as configs
from speaq.config import BASELINE, PUBLISHED, Config, ConfigError
from speaq.data.visual_genome import open_data
from speaq.model.detector import NEW_PARTS, Detector, replicate
from speaq.model.reference_weights import UNUSED, reference_name
from speaq.model.speaq import SpeaQ
from speaq.runs.convert import convert
from speaq.runs.run import evaluate_run
from speaq.structures import Vocabulary
from speaq.training import checkpoint
from speaq.training.tasks import initialise
from tests.helpers.command import command, refusal
from tests.helpers.reference_files import HEADS, SHAPE, C, P, assert_same_outputs, build, shape, to_reference, written
from tests.helpers.shared import GOLDEN
from tests.helpers.tiny import tiny

NAMES = Vocabulary(tuple(map(str, range(C))), tuple(map(str, range(P))))


def write(folder: Path, state: dict[str, Tensor], config: str = HEADS) -> tuple[Path, Path]:
    """A checkpoint of the reference and a config."""
    torch.save({"model": state, "iteration": 3, "__author__": "nobody"}, folder / "reference.pth")
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    return folder / "reference.pth", folder / "config.yaml"


def without(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not any(NEW_PARTS[part] in name for part in parts)}


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A folder for hundreds of megabytes, which pytest would keep for a while."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def official(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((GOLDEN / f"{name}.json").read_text())["entries"]
    return entries


def test_the_published_model_at_its_full_size(large: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for entry in official("g7_official_speaq_state_dict"):
        value = torch.randn(entry["shape"], generator=generator) * 0.03
        state[entry["name"]] = value.abs() + 0.5 if entry["name"].endswith("running_var") else value
    reference, _ = write(large, state)
    done = convert(reference, large / "ours")
    expected = configs.apply(Config(), PUBLISHED)
    assert configs.load(large / "ours" / "config.yaml") == expected
    assert (done.task, done.settings, done.used) == ("speaq", "published settings, 8 heads", 1169)
    assert sorted(done.unused) == ["criterion.empty_rel_weight", "criterion.empty_weight_obj"]
    _, model = written(large / "ours")
    back = to_reference(model.state_dict())
    assert back.keys() == state.keys() - UNUSED.keys()
    assert all(torch.equal(value, state[name]) for name, value in back.items())
    direct = SpeaQ(expected.model, 150, 50).eval()
    direct.load_state_dict({name: state[reference_name(name)] for name in direct.state_dict()})
    assert_same_outputs(model, direct)


def test_the_baseline_at_its_full_size(large: Path) -> None:
    entries = official("g7_official_baseline_state_dict")
    state = {entry["name"]: torch.rand(()).expand(entry["shape"]) for entry in entries}  # a small file
    reference, _ = write(large, state)
    assert convert(reference, large / "ours").settings == "baseline settings, 8 heads"
    content = checkpoint.load(large / "ours" / "checkpoints" / "best.pt")
    assert content["config"] == configs.to_dict(configs.apply(Config(), BASELINE))
    assert all(torch.equal(value, state[reference_name(name)]) for name, value in content["model"].items())


def test_a_narrow_backbone_is_refusal(tmp_path: Path) -> None:
    with np.load(GOLDEN / "g7_small_stored.npz", allow_pickle=False) as arrays:
        state = {name[6:]: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("state.")}
    reference, _ = write(tmp_path, state)
    with pytest.raises(ConfigError, match=r"a ResNet-50 of unusual width \(8 channels in the stem, 8 in the first"):
        convert(reference, tmp_path / "ours")


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        ({}, HEADS),
        ({"backbone": "resnet34", "query_multiple": 3}, HEADS),
        ({"backbone": "resnet50", "num_decoder_layers": 1}, HEADS),
        ({"query_multiple": 1, "num_encoder_layers": 0}, HEADS),
        ({"pre_norm": True, "num_decoder_layers": 3}, "model: {num_heads: 2, pre_norm: true}"),
        ({"multiply_queries": "all"}, "{model: {num_heads: 2, multiply_queries: all}, matching: {num_groups: 1}}"),
    ],
)
def test_there_and_back_gives_the_same_model(changes: dict[str, Any], config: str, tmp_path: Path) -> None:
    model = build(**changes)
    reference, file = write(tmp_path, to_reference(model.state_dict()), config)
    done = convert(reference, tmp_path / "ours", config=file)
    assert (done.task, done.absent, done.unused) == ("speaq", (), {})
    content, ours = written(tmp_path / "ours")
    assert (content["task"], content["step"], content["objects"], content["predicates"]) == ("speaq", 0, None, None)
    assert content["config"]["model"] == shape(**changes).model_dump(mode="json")
    assert_same_outputs(ours, model)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    model = build()
    state = {name: value.bfloat16() for name, value in to_reference(model.state_dict()).items()}
    reference, file = write(tmp_path, state)
    convert(reference, tmp_path / "ours", config=file)
    _, ours = written(tmp_path / "ours")
    for name, value in model.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value.bfloat16().float())


STATE = to_reference(build().state_dict())
ENCODER = "detr.transformer.encoder.layers.0."


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"detr.surprise": torch.ones(1)}, HEADS, r"the reference's parameter detr\.surprise is unknown here"),
        ({ENCODER + "norm1.bias": None}, HEADS, r"encoder\.layers\.0\.norm1\.bias is missing \(1 of"),
        ({ENCODER + "norm1.bias": torch.ones(3)}, HEADS, r"norm1\.bias has shape \(3,\), the model wants \(16,\)"),
        ({ENCODER + "norm1.bias": torch.full((16,), torch.nan)}, HEADS, r"norm1\.bias holds a value that is not fin"),
        ({ENCODER + "norm1.bias": torch.ones(16, dtype=torch.int32)}, HEADS, r"norm1\.bias holds torch\.int32"),
        ({ENCODER.replace("0", "3") + "norm1.bias": torch.ones(16)}, HEADS, r"layers\.3\.norm1\.bias has no place"),
        ({"detr.input_proj.weight": None}, HEADS, r"detr\.input_proj\.weight is missing; not SpeaQ"),
        ({"detr.object_query_embed.weight": None}, HEADS, r"detr\.object_query_embed\.weight is missing"),
        ({"detr.relation_query_embed.weight": torch.ones(13, 16)}, HEADS, "13 relation queries are no multiple of 6"),
        ({"detr.transformer.decoder.subject_graph_query_norm.0.bias": None}, HEADS, r"norm\.0\.bias is missing"),
        ({"detr.backbone.0.backbone.res4.1.conv1.weight": None}, HEADS, r"res4\.1\.conv1\.weight is missing"),
        (
            {n: None for n in STATE if ".res4.1." in n},
            HEADS,
            r"backbone of \(2, 2, 1, 2\) basic blocks is none of ResNet \[18, 34, 50, 101\]",
        ),
        ({}, "model: {num_heads: 3}", "hidden_dim 16 is not a multiple of num_heads 3"),
        ({}, "model: {hidden_dim: 32}", r"config\.yaml: model\.hidden_dim: 32, but .*reference\.pth has 16"),
        ({}, "model: {backbone: resnet50}", r"model\.backbone: 'resnet50', but .* has 'resnet18'"),
        ({}, "model: {query_multiple: 3}", r"model\.query_multiple: 3, but .* has 2"),
        ({}, "model: {reference_points: true}", r"model\.reference_points: True, but .* has False"),
        ({}, "model: {pre_norm: true}", r"model\.pre_norm: True, but .* has False"),
        ({}, "model: 3", "model: a section is a mapping of keys, not 3"),
        ({}, "training: {max_step: 3}", r"training\.max_step: no such key"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_nothing_is_written(
    changes: dict[str, Tensor | None], config: str, message: str, tmp_path: Path
) -> None:
    state = {name: value for name, value in {**STATE, **changes}.items() if value is not None}
    reference, file = write(tmp_path, state, config)
    with pytest.raises(ConfigError, match=message) as caught:
        convert(reference, tmp_path / "ours", config=file)
    assert "\n" not in str(caught.value)
    assert "reference.pth" in str(caught.value) or "config.yaml" in str(caught.value)
    assert not (tmp_path / "ours").exists()


def test_heads_that_the_published_setting_cannot_have_are_refused_with_the_way_out(tmp_path: Path) -> None:
    reference, _ = write(tmp_path, to_reference(build(hidden_dim=12).state_dict()))
    with pytest.raises(ConfigError, match=r"--config gives others, num_heads too.*12 is not a multiple of num_heads 8"):
        convert(reference, tmp_path / "ours")


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    reference, file = write(tmp_path, STATE)
    convert(reference, tmp_path / "ours", config=file)
    before = (tmp_path / "ours" / "checkpoints" / "best.pt").read_bytes()
    for _ in range(2):
        with pytest.raises(ConfigError, match="holds a run already"):
            convert(reference, tmp_path / "ours", config=file)
        (tmp_path / "ours" / "config.yaml").unlink(missing_ok=True)
    assert (tmp_path / "ours" / "checkpoints" / "best.pt").read_bytes() == before
    with pytest.raises(ConfigError, match="is a file"):
        convert(reference, file, config=file)


def test_a_conversion_that_was_cut_off_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    reference, file = write(tmp_path, STATE)
    ours = tmp_path / "ours"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from speaq.files import atomic; from speaq.runs.convert import convert\n"
        "atomic.write_text = lambda *_: os._exit(7)\n"  # killed when the checkpoint is there and the config is not
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), config=Path(sys.argv[3]))"
    )
    done = subprocess.run([sys.executable, "-c", code, reference, ours, file], check=False)
    assert done.returncode == 7
    assert not ours.exists()
    assert [path.name for path in tmp_path.glob(".*")] != []
    convert(reference, ours, config=file)
    assert written(ours)[0]["task"] == "speaq"
    assert list(tmp_path.glob(".*")) == []


def test_what_an_earlier_version_left_of_a_conversion_is_no_run(tmp_path: Path) -> None:
    reference, file = write(tmp_path, STATE)
    (tmp_path / "ours" / "checkpoints").mkdir(parents=True)
    (tmp_path / "ours" / "checkpoints" / ".best.pt.7.tmp").write_bytes(b"half")
    convert(reference, tmp_path / "ours", config=file)
    assert written(tmp_path / "ours")[0]["task"] == "speaq"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="notes: is not empty; give a new folder"):
        convert(reference, tmp_path / "notes", config=file)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["notes.txt"]


# The pre-trained detector, its decoder replicated already.

PARTS = ("conditioning", "refinement", "predicate head")


@pytest.mark.parametrize("parts", [PARTS, (*PARTS, "queries"), ("predicate head",)])
@pytest.mark.parametrize("multiple", [1, 2, 3])
def test_speaq_starts_from_the_replicated_detector_as_from_the_detector(
    parts: tuple[str, ...], multiple: int, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    detector = Detector(shape(), C)
    source = SpeaQ(shape(query_multiple=1), C, P)
    replicate(detector.state_dict(), source)
    reference, file = write(tmp_path, to_reference(without(source.state_dict(), *parts)))
    done = convert(reference, tmp_path / "ours", config=file)
    assert (done.task, done.absent) == ("replicated", parts)
    assert configs.load(tmp_path / "ours" / "config.yaml").model.query_multiple == 2
    torch.manual_seed(2)
    expected = SpeaQ(shape(query_multiple=multiple), C, P)
    torch.manual_seed(2)
    model = SpeaQ(shape(query_multiple=multiple), C, P)
    initialise(model, tmp_path / "ours", "speaq", NAMES)
    drawn = {name: value.clone() for name, value in expected.state_dict().items()}
    replicate(detector.state_dict(), expected)
    for name, value in model.state_dict().items():
        kept = any(NEW_PARTS[part] in name for part in parts)
        copied = source if any(NEW_PARTS[part] in name for part in ("conditioning", "refinement")) else expected
        assert torch.equal(value, drawn[name] if kept else copied.state_dict()[name]), name


def test_the_replicated_detector_has_its_place(toy: Path, tmp_path: Path) -> None:
    reference, file = write(tmp_path, to_reference(without(build(query_multiple=1).state_dict(), *PARTS)))
    convert(reference, tmp_path / "ours", config=file)
    with pytest.raises(ConfigError, match="a replicated detector is where SpeaQ starts") as caught:
        evaluate_run(tmp_path / "ours", data=toy)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="holds a replicated model; a detector cannot start from it"):
        initialise(Detector(shape(), C), tmp_path / "ours", "detector", NAMES)
    for changes in ({"num_decoder_layers": 3}, {"hidden_dim": 32}, {"backbone": "resnet34"}):
        with pytest.raises(ConfigError, match=r"^training\.init_from: .*best\.pt: "):
            initialise(SpeaQ(shape(**changes), C, P), tmp_path / "ours", "speaq", NAMES)


def test_a_speaq_with_fewer_relation_queries_is_repeated(tmp_path: Path) -> None:
    source = build(query_multiple=2)
    reference, file = write(tmp_path, to_reference(source.state_dict()))
    convert(reference, tmp_path / "ours", config=file)
    model = build(query_multiple=6)
    initialise(model, tmp_path / "ours", "speaq", NAMES)
    queries = source.transformer.relation_queries
    assert torch.equal(model.transformer.relation_queries, queries.repeat_interleave(3, dim=0))
    assert torch.equal(model.transformer.subject_queries, source.transformer.subject_queries)
    for changes in ({"query_multiple": 1}, {"query_multiple": 3}, {"num_queries": 12, "query_multiple": 1}):
        with pytest.raises(ConfigError, match=r"does not fit the model: size mismatch for transformer\..*_queries"):
            initialise(build(**changes), tmp_path / "ours", "speaq", NAMES)


# The whole way.

TOY_CONFIG = tiny(**{f"model__{key}": value for key, value in SHAPE.items()}, model__frozen_stages=5)


def test_without_names_of_classes_their_numbers_are_checked(toy: Path, tmp_path: Path) -> None:
    vocabulary = open_data(toy).vocabulary
    num_objects, num_predicates = len(vocabulary.objects), len(vocabulary.predicates)
    for name, counts, message in (
        ("right", (num_objects, num_predicates), ""),
        ("objects", (num_objects + 1, num_predicates), f"has {num_objects + 1} objects, .* has {num_objects}$"),
        ("predicates", (num_objects, 2), f"has 2 predicates, .* has {num_predicates}$"),
    ):
        reference, file = write(tmp_path, to_reference(build(*counts).state_dict()), configs.dump(TOY_CONFIG))
        convert(reference, tmp_path / name, config=file)
        if message:
            with pytest.raises(ConfigError, match=message):
                evaluate_run(tmp_path / name, data=toy)
        else:
            assert evaluate_run(tmp_path / name, data=toy).images == TOY_CONFIG.data.num_val


def test_through_the_command_line(toy: Path, tmp_path: Path) -> None:
    vocabulary = open_data(toy).vocabulary
    model = build(len(vocabulary.objects), len(vocabulary.predicates))
    weights = torch.ones(len(vocabulary.objects) + 1)
    state = {**to_reference(model.state_dict()), "criterion.empty_weight_obj": weights}
    reference, file = write(tmp_path, state, configs.dump(TOY_CONFIG))
    ours = tmp_path / "ours"
    done = command("convert", reference, ours, "--data", toy, "--config", file)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"SpeaQ · settings of {file} · {len(state) - 1} tensors used · "
        f"unused: criterion.empty_weight_obj ({UNUSED['criterion.empty_weight_obj']}) · {ours}"
    ]
    assert written(ours)[0]["objects"] == list(vocabulary.objects)
    evaluated = command("evaluate", ours, "--data", toy, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout)["step"] == 0
    started = command(
        *("train", "--config", file, "--data", toy, "--output", tmp_path / "run"),
        *("--set", f"training.init_from={ours}", "--set", "training.max_steps=1"),
    )
    assert started.exit_code == 0, started.output
    assert "holds a run already" in refusal("convert", reference, ours, "--config", file)
    assert "reference.pth: has 5 predicates, the data has" in refusal(
        *("convert", write(tmp_path, STATE | {"detr.transformer.object_embed.bias": weights})[0], tmp_path / "other"),
        *("--data", toy),
    )
    file.write_text("not a checkpoint", encoding="utf-8")
    assert refusal("convert", file, tmp_path / "other").startswith(f"speaq: {file}: not a checkpoint")
    assert refusal("convert", tmp_path / "no.pth", tmp_path / "other").endswith("no.pth: no such file")
    assert not (tmp_path / "other").exists()
