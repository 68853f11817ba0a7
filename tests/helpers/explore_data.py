"""Runs, predictions and searches for the tests of `speaq explore`, made without training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from speaq import config as configs
from speaq import space as spaces
from speaq.config import DataConfig
from speaq.data.records import SplitName, VisualGenome
from speaq.data.visual_genome import open_data
from speaq.evaluation.predictions import PredictionWriter, Source
from speaq.structures import SceneGraph, ScenePrediction
from speaq.study import creation
from speaq.study.ledger import Ledger
from tests.helpers import data_sets
from tests.helpers.tiny import tiny

FIND, NAME = 0.75, 0.6  # shares of the ground-truth rows whose pair is found, and of those whose predicate is right


def imitate(graph: SceneGraph, num_predicates: int, rng: np.random.Generator) -> ScenePrediction:
    """A model that misses some pairs, confuses predicates, and says something of pairs that have no relation."""
    rows = graph.relations[rng.random(len(graph.relations)) < FIND]
    predicates = np.where(rng.random(len(rows)) < NAME, rows[:, 2], rng.integers(0, 3, len(rows)))
    others = rng.integers(0, len(graph.classes), (4, 2))
    named = np.concatenate(
        (
            np.column_stack((rows[:, :2], predicates)),
            np.column_stack((others, rng.integers(0, num_predicates, len(others)))),
        )
    )
    named = named[np.sort(np.unique(named, axis=0, return_index=True)[1])]
    scores = rng.dirichlet(np.ones(num_predicates + 1), len(named)).astype(np.float32)
    return ScenePrediction(
        graph.boxes_xyxy,
        graph.classes,
        rng.uniform(0.3, 1, len(graph.classes)).astype(np.float32),
        named[:, :2],
        named[:, 2],
        np.sort(rng.uniform(size=len(named)).astype(np.float32))[::-1],
        scores,
        np.arange(len(named)),
    )


def write_predictions(path: Path, vg: VisualGenome, split_name: SplitName, data: DataConfig) -> Path:
    """Predictions of `imitate` for a split."""
    rng = np.random.default_rng(0)
    split = vg.split(split_name, data)
    with PredictionWriter(path, Source(vg.vocabulary, split_name, vg.digest, data)) as writer:
        for row in range(len(split)):
            graph = split.scene_graph(row)
            writer.add(graph.image_id, graph.size_hw, imitate(graph, vg.num_predicates, rng))
    return path


def write_run(folder: Path, directory: Path, *, predictions: bool = True, num_val: int = 6) -> Path:
    """A run folder without its checkpoint, as training leaves it, with predictions for val."""
    vg = open_data(directory, need_images=(directory / "VG_100K").is_dir())
    config = tiny(data__num_val=num_val)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(configs.dump(config), encoding="utf-8")
    (folder / "data.json").write_text(json.dumps({"directory": str(directory), "digest": vg.digest}))
    if predictions:
        write_predictions(folder / "predictions.h5", vg, "val", config.data)
    return folder


def write_metrics(folder: Path, steps: int, *, groups: int = 2, ended: bool = True) -> None:
    """What training logs every ten steps, evaluated every thirty; with `ended` also how the run came out."""
    lines: list[dict[str, object]] = []
    for step in range(10, steps + 1, 10):
        shares = {f"train/matched_share_group{g + 1}": 0.1 * (g + 1) for g in range(groups)}
        overflows = {f"train/overflow_group{g + 1}": None if g else 0.5 for g in range(groups)}
        numbers = {"train/loss": 100 / step, "train/k_log_layer1": 1 + step / 90, "train/seconds": step / 10}
        lines.append({"step": step, **numbers, **shares, **overflows})
        if step % 30 == 0:
            names = ("R", "mR", "F", "head", "body", "tail")
            recalls = {f"val/{name}@{k}": step / 100 for name in names for k in (20, 50)}
            lines.append({"step": step, "protocol": "sgdet published", **recalls, "val/seconds": step / 10 + 1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if ended:
        best = {"step": steps, "metrics": {"R@50": 0.5, "F@50": 0.25}}
        result = {"status": "finished", "step": steps, "protocol": "sgdet published", "best": best}
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def write_study(folder: Path, directory: Path, reason: str) -> Path:
    """A search whose last trial has no folder yet: two finished, one stopped early, one failed, one begun."""
    space = spaces.from_dict({"parameters": {"matching.num_groups": {"type": "int", "low": 1, "high": 4}}})
    base = tiny(data__num_val=6)
    study = creation.create(base, space, directory, trials=5, objective="F@20", train="none:train")
    (folder / "trials").mkdir(parents=True)
    (folder / "study.yaml").write_text(study.dump(), encoding="utf-8")
    ledger = Ledger(folder / "ledger.jsonl")
    for trial, label in (("0000", "published"), ("0001", "baseline"), ("0002", None), ("0003", None), ("0004", None)):
        ledger.append("asked", trial, digest=trial, label=label, values=None, overrides={}, seed=0)
    for trial, state, value, step in (
        ("0000", "finished", 0.25, 90),
        ("0001", "finished", 0.5, 90),
        ("0002", "pruned", 0.125, 30),
    ):
        metrics = {"F@20": value, "R@20": 2 * value, "mR@20": value / 2}
        for at in (30, 90)[: step // 30]:
            ledger.append(
                "reported", trial, metrics={name: number * at / 90 for name, number in metrics.items()}, step=at
            )
        ledger.append(state, trial, metrics=metrics, step=step)
    ledger.append("failed", "0003", reason=reason)
    ledger.append("running", "0004", attempt=1)
    ledger.close()
    return folder


def write_many(folder: Path, num: int) -> Path:
    """A data set of many images: two boxes and a relation each, one photo under many names."""
    rows = np.arange(num, dtype=np.int32)
    width, height = 64, 48
    data_sets.write(
        folder,
        photos=False,
        ids=list(range(1, num + 1)),
        sizes_hw=((height, width),) * num,
        split=np.where(rows % 10 == 9, 2, 0).astype(np.int32),
        img_to_first_box=2 * rows,
        img_to_last_box=2 * rows + 1,
        img_to_first_rel=rows,
        img_to_last_rel=rows,
        boxes_1024=np.tile(np.array([[300, 300, 201, 101], [330, 310, 200, 100]], np.int32), (num, 1)),
        labels=np.tile(np.array([[1], [2]]), (num, 1)),
        relationships=np.column_stack((2 * rows, 2 * rows + 1)),
        predicates=(rows % 2 + 1)[:, None],
    )
    photos = folder / "VG_100K"
    photos.mkdir()
    Image.new("RGB", (width, height), "olive").save(photos / "1.jpg")
    for number in range(2, num + 1):
        os.link(photos / "1.jpg", photos / f"{number}.jpg")
    return folder
