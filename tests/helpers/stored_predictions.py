"""Predictions of a toy split, written as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from speaq.config import DataConfig
from speaq.data.visual_genome import Split, VisualGenome
from speaq.evaluation.predictions import PredictionWriter, Source
from speaq.structures import SceneGraph, ScenePrediction

DATA = DataConfig(num_val=6)


def predict(graph: SceneGraph, vg: VisualGenome, rng: np.random.Generator) -> ScenePrediction:
    """The ground truth's boxes with some noise, each row of it somewhere among many others."""
    num_boxes, num = len(graph.classes), 60
    pairs = rng.integers(0, num_boxes, (num, 2))
    predicates = rng.integers(0, vg.num_predicates, num)
    places = rng.choice(num, len(graph.relations), replace=False)
    pairs[places], predicates[places] = graph.relations[:, :2], graph.relations[:, 2]
    named = np.column_stack((pairs, predicates))
    rows = np.sort(np.unique(named, axis=0, return_index=True)[1])
    scores = rng.dirichlet(np.ones(vg.num_predicates + 1), num).astype(np.float32)
    return ScenePrediction(
        graph.boxes_xyxy + rng.uniform(-0.4, 0.4, (num_boxes, 4)).astype(np.float32),
        graph.classes,
        rng.uniform(0.1, 1, num_boxes).astype(np.float32),
        pairs[rows],
        predicates[rows],
        np.sort(rng.uniform(size=len(rows)).astype(np.float32))[::-1],
        scores[rows],
        rng.integers(0, 20, len(rows)),
    )


def predictions(vg: VisualGenome, split: Split) -> dict[str, ScenePrediction]:
    rng = np.random.default_rng(0)
    graphs = [split.scene_graph(index) for index in range(len(split))]
    return {graph.image_id: predict(graph, vg, rng) for graph in graphs}


def write(path: Path, vg: VisualGenome, split: Split, stored: dict[str, ScenePrediction], name: str = "test") -> Path:
    rows = {split.image_id(index): index for index in range(len(split))}
    with PredictionWriter(path, Source(vg.vocabulary, name, vg.digest, DATA, {"layer": -1})) as writer:
        for image_id, prediction in stored.items():
            writer.add(image_id, split.size_hw(rows[image_id]), prediction)
    return path
