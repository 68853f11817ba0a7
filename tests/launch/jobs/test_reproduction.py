"""One-command reproduction: the whole way on a generated world, through the script that people call."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from speaq import config as configs
from speaq.config import BASELINE, Config, ConfigError, DataConfig, ModelConfig
from speaq.data.visual_genome import open_data
from speaq.model.speaq import SpeaQ
from tests.helpers.command import command, refusal
from tests.helpers.reference_files import to_reference
from tests.helpers.shared import ROOT, SHARED, needs
from tests.helpers.tiny import assignments, tiny

pytest.importorskip("ray")

from launch.jobs import published
from launch.jobs.record import Record
from launch.jobs.reproduce import Reproduction, Request, _configs, spread
from launch.jobs.stages import Stages
from launch.trials.memory import smaller_micro_batch
from launch.trials.worker import train_distributed

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest

CHEAP = "tests.helpers.cheap_training:train"
FIGURES = {f"{name}@{k}": 0.5 for name in ("R", "ngR", "zR", "mR") for k in (20, 50, 100)}


def script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [str(ROOT / "launch" / "reproduce"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=1500)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def request(**changes: Any) -> Request:
    plain = {"scale": "toy", "baseline": False, "data": None, "detector": None, "backbone": None, "checkpoint": None}
    return Request(**{**plain, "assignments": (), **changes})


@pytest.mark.slow
def test_the_whole_way_tests_once_and_records_what_it_did(toy: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ("--scale", "toy", "--data", toy, "--output", output, *assignments())
    done = script(*arguments)
    assert done.returncode == 0, done.stderr
    for checkpoint in ("best", "last"):
        assert f"test split, {checkpoint} checkpoint" in done.stdout
    assert "SGG eval:     R @ 20: " in done.stdout
    assert "published     R @ 20: 0.2508;     R @ 50: 0.3206;     R @ 100: 0.3554; " in done.stdout
    record = read(output / "reproduction.json")
    assert list(record["stages"]) == ["data", "detector", "run", "test_best", "test_last"]
    assert {"python", "torch", "speaq"} <= set(record["versions"])
    assert len(record["stages"]["data"]["sha256"]) >= 3
    assert record["stages"]["run"]["hardware"].endswith("CPU cores")
    assert record["stages"]["run"]["seed"] == 0
    assert record["gpu_hours"] == 0
    assert record["seconds"] > 0
    validated = [line for line in map(json.loads, (output / "run" / "metrics.jsonl").open()) if "val/R@20" in line]
    assert [line["step"] for line in validated] == [3, 6]
    before = {path.name: path.read_bytes() for path in output.glob("*.json")}
    again = command("reproduce", *arguments)
    assert again.exit_code == 0, again.output
    assert "SGG eval" in again.stdout
    assert {path.name: path.read_bytes() for path in output.glob("*.json")} == before
    assert "holds another reproduction (baseline: False then, True now)" in refusal(
        "reproduce", *arguments, "--baseline"
    )

    given = tmp_path / "given"
    only = ("--scale", "toy", "--data", toy, "--output", given, "--checkpoint", output / "run")
    assert command("reproduce", *only).exit_code == 0
    assert read(given / "test_given.json")["report"] == read(output / "test_best.json")["report"]


@pytest.mark.slow
def test_a_checkpoint_of_the_reference_is_evaluated_only(toy: Path, tmp_path: Path) -> None:
    vocabulary = read(toy / "VG-SGG-dicts-with-attri.json")
    counts = (len(vocabulary["label_to_idx"]), len(vocabulary["predicate_to_idx"]))
    small = ModelConfig(
        backbone="resnet18",
        hidden_dim=32,
        feedforward_dim=24,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_queries=6,
    )
    torch.save({"model": to_reference(SpeaQ(small, *counts).state_dict())}, tmp_path / "reference.pth")
    output = tmp_path / "out"
    done = command("reproduce", "--data", toy, "--output", output, "--checkpoint", tmp_path / "reference.pth")
    assert done.exit_code == 0, done.output
    assert "test split, given checkpoint" in done.stdout
    assert "on another data set the difference says nothing" in done.stdout
    assert list(read(output / "reproduction.json")["stages"]) == ["data", "test_given"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ray_workers_train_and_test(toy: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    sets = assignments(resources__num_workers=2, resources__cpus_per_worker=0.5)
    done = command("reproduce", "--scale", "toy", "--baseline", "--data", toy, "--output", output, *sets)
    assert done.exit_code == 0, done.output
    record = read(output / "reproduction.json")
    assert record["stages"]["run"]["workers"] == 2
    assert "published" not in done.stdout.replace("no figures are published", "").replace("sgdet published", "")
    config = configs.load(output / "run" / "config.yaml")
    assert configs.flatten(configs.to_dict(config)).items() >= BASELINE.items()


@pytest.mark.parametrize("left", [(), (".best.pt.7.tmp",)])
def test_a_conversion_that_was_cut_off_is_made_again(left: tuple[str, ...], toy: Path, tmp_path: Path) -> None:
    names = open_data(toy).vocabulary
    small = ModelConfig(backbone="resnet18", hidden_dim=32, feedforward_dim=24, num_decoder_layers=1, num_queries=6)
    model = SpeaQ(small, len(names.objects), len(names.predicates))
    torch.save({"model": to_reference(model.state_dict())}, tmp_path / "reference.pth")
    checkpoints = tmp_path / "out" / "detector" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in left:
        (checkpoints / name).write_bytes(b"half")
    record = Record(tmp_path / "out" / "reproduction.json", {})
    way = Reproduction(Stages(tmp_path / "out", quiet), toy, record, ignore)
    for _ in range(2):
        assert way.ours(tmp_path / "reference.pth", "detector") == tmp_path / "out" / "detector"
        assert [path.name for path in checkpoints.iterdir()] == ["best.pt"]


def test_a_world_that_was_cut_off_is_drawn_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "VG_100K").mkdir(parents=True)
    (folder / "image_data.json").write_text("[]", encoding="utf-8")
    assert Stages(tmp_path, quiet).toy_world(20) == folder
    assert (
        sum(
            len(open_data(folder).split(name, DataConfig(num_val=0, keep_images_without_relations=True)))
            for name in ("train", "test")
        )
        >= 18
    )
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert Stages(tmp_path, quiet).toy_world(20) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@needs("data", "bad")
def test_bad_data_are_refused_before_anything_starts(tmp_path: Path) -> None:
    data = SHARED / "data" / "bad" / "label-zero"
    output = tmp_path / "out"
    line = refusal("reproduce", "--scale", "toy", "--data", data, "--output", output)
    assert "VG-SGG-with-attri.h5" in line
    assert "labels" in line
    assert not (output / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--detector .* or --backbone"),
        (["--backbone", "R-101.pkl"], "--data"),
        (["--scale", "toy", "--set", "evaluation.protocol=strict"], "evaluation.protocol: strict, but"),
        (["--scale", "toy", "--set", "evaluation.recall_at=[20]"], "evaluation.recall_at"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    parsed = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assignments = (parsed["--set"],) if "--set" in parsed else ()
    backbone = Path(parsed["--backbone"]) if "--backbone" in parsed else None
    wanted = request(scale=parsed.get("--scale", "full"), backbone=backbone, assignments=assignments)
    from launch.jobs.reproduce import reproduce

    with pytest.raises(ConfigError, match=message):
        reproduce(wanted, tmp_path / "out", quiet, ignore)
    assert not (tmp_path / "out" / "run").exists()


@contextlib.contextmanager
def quiet(title: str) -> Iterator[Any]:
    yield lambda done, total, text: None


def ignore(text: str) -> None:
    pass


def test_without_ray_what_needs_no_worker_is_done_and_workers_are_refused(toy: Path, tmp_path: Path) -> None:
    """A toy run trains here; several workers are refused in one line before anything has trained."""
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'ray':\n"
        "            raise ModuleNotFoundError(f'{name} is blocked', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from speaq.cli.main import main\n"
        "main()\n"
    )
    line = [sys.executable, "-c", code, "reproduce", "--scale", "toy", "--data", str(toy), *assignments()]
    for name, more, exit_code in (("here", [], 0), ("there", ["--set", "resources.num_workers=2"], 2)):
        output = ["--output", str(tmp_path / name)]
        done = subprocess.run([*line, *more, *output], capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == exit_code, done.stderr
    assert done.stderr.splitlines()[-1] == 'speaq: ray is not installed: pip install -e ".[ray]"'
    assert not (tmp_path / "there" / "detector").exists()


def test_the_full_scale_has_the_published_settings() -> None:
    detector, config = _configs(request(scale="full", backbone=Path("R-101.pkl")))
    flat = configs.flatten(configs.to_dict(config))
    assert flat.items() >= configs.PUBLISHED.items()
    assert (config.training.max_steps, config.training.batch_size, config.training.eval_every) == (150_000, 20, 6_000)
    assert config.training.best_metric == "mR@100"
    assert (detector.training.backbone_from or "").endswith("R-101.pkl")
    _, baseline = _configs(request(scale="full", baseline=True, backbone=Path("R-101.pkl")))
    assert configs.flatten(configs.to_dict(baseline)).items() >= BASELINE.items()


@pytest.mark.parametrize(("gpus", "workers"), [(1, 1), (3, 2), (4, 4), (8, 5), (40, 20)])
def test_as_many_gpus_work_as_divide_the_batch(gpus: int, workers: int) -> None:
    config = configs.apply(Config(), {"resources.gpus_per_worker": 1.0, "resources.cpus_per_worker": 8.0})
    placed = spread(config, gpus, cpus=16.0).resources
    assert placed.num_workers == workers
    assert placed.cpus_per_worker == max(1, min(8, 16 // workers))


def test_no_gpu_is_said() -> None:
    with pytest.raises(ConfigError, match="Ray finds no GPU"):
        spread(Config(), 0, cpus=2.0)


@pytest.mark.parametrize(
    ("batch", "micro", "smaller"), [(20, None, 10), (20, 5, 2), (20, 2, 1), (20, 1, None), (9, None, 3)]
)
def test_the_next_smaller_part_divides_the_batch(batch: int, micro: int | None, smaller: int | None) -> None:
    config = configs.apply(Config(), {"training.batch_size": batch, "training.micro_batch_size": micro})
    assert smaller_micro_batch(config) == smaller


def test_too_little_memory_means_smaller_parts_of_the_same_batch(toy: Path, tmp_path: Path) -> None:
    config = tiny(training__weight_decay=0.125)
    record = Record(tmp_path / "reproduction.json", {})
    Reproduction(Stages(tmp_path, quiet, CHEAP), toy, record, ignore).train("speaq", config, "run")
    assert read(tmp_path / "reproduction.json")["stages"]["run"]["micro_batch_size"] == 2
    assert configs.load(tmp_path / "run" / "config.yaml").training.batch_size == 4


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_workers_say_that_the_memory_is_too_small(toy: Path, tmp_path: Path) -> None:
    from speaq.training.endings import OutOfMemory

    config = tiny(training__weight_decay=0.125, resources__num_workers=2, resources__cpus_per_worker=0.5)
    with pytest.raises(OutOfMemory, match="micro_batch_size"):
        train_distributed(config, toy, tmp_path / "run", train=CHEAP)


def test_the_difference_is_printed_in_the_reference_s_format() -> None:
    report = {"mode": "sgdet", "protocol": "sgdet published", "metrics": {**FIGURES, "zR@20": None}}
    lines = published.comparison(report, published.SPEAQ).splitlines()
    assert lines[:3] == [
        "SGG eval:     R @ 20: 0.5000;     R @ 50: 0.5000;     R @ 100: 0.5000;  for mode=sgdet, type=Recall(Main).",
        "published     R @ 20: 0.2508;     R @ 50: 0.3206;     R @ 100: 0.3554; ",
        "difference    R @ 20: +0.2492;     R @ 50: +0.1794;     R @ 100: +0.1446; ",
    ]
    assert len(lines) == 12
    assert "zR @ 20: nan" in lines[6]


def test_another_protocol_is_not_compared() -> None:
    report = {"mode": "sgdet", "protocol": "sgdet strict", "metrics": FIGURES}
    with pytest.raises(ValueError, match="sgdet strict"):
        published.comparison(report, published.SPEAQ)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "reproduction.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"reproduction\.json"):
        Record(tmp_path / "reproduction.json", {})
