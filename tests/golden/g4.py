"""G4: given predictions and ground truth to matches and recalls."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from speaq.config import EvaluationConfig
from speaq.evaluation.recall import RecallEvaluator, RecallResult
from speaq.evaluation.table import RecallTable
from speaq.evaluation.triplets import apply_mode, match, unconstrained
from speaq.structures import SceneGraph, ScenePrediction
from tests.golden.case import Case, Check, compare


@dataclass(frozen=True)
class Images:
    graphs: list[SceneGraph]
    predictions: list[ScenePrediction]

    def counted(self) -> list[int]:
        pairs = enumerate(zip(self.graphs, self.predictions, strict=True))
        return [i for i, (graph, prediction) in pairs if len(graph.relations) and len(prediction.pairs)]


def run(case: Case) -> list[Check]:
    images = _read(case)
    mode = case.config["mode"]
    num_predicates = case.arrays["in.pred_rel_scores"].shape[1] - 1
    ks = tuple(sorted({int(name.split("@")[1]) for name in case.arrays if name.startswith("out.R@")}))
    config = EvaluationConfig(recall_at=ks, iou_threshold=case.config.get("iou_threshold", 0.5))
    evaluator = RecallEvaluator(num_predicates, config, case.arrays["in.zero_shot_triplets"], mode=mode)
    for index, (graph, prediction) in enumerate(zip(images.graphs, images.predictions, strict=True)):
        evaluator.add(index, graph, prediction)
    result = evaluator.result()
    table = evaluator.table()
    table = table.select(table.predicted)
    checks = _inputs(case, images) + _matches(case, images, config, mode)
    checks += [compare(case, "images_counted", "exact", table.index, case.arrays["out.images_counted"])]
    checks += [compare(case, "count", "exact", _dense(table, 1, num_predicates, images)[1], case.arrays["out.count"])]
    for k in ks:
        checks += _at(case, k, result, table, images)
    return checks


def _read(case: Case) -> Images:
    arrays = case.arrays
    via_network = "in.gt_boxes_network" in arrays

    def split(name: str, counts: str) -> list[np.ndarray]:
        return np.split(arrays[f"in.{name}"], np.cumsum(arrays[f"in.{counts}"])[:-1])

    sizes = [(int(h), int(w)) for h, w in arrays["in.network_hw" if via_network else "in.output_hw"]]
    boxes = split("gt_boxes_network" if via_network else "gt_boxes", "n_gt")
    truth = zip(sizes, boxes, split("gt_labels", "n_gt"), split("gt_relations", "n_gt_rel"), strict=True)
    graphs = [SceneGraph(str(i), *columns) for i, columns in enumerate(truth)]
    if via_network:
        output = [(int(h), int(w)) for h, w in arrays["in.output_hw"]]
        graphs = [rescale(graph, size) for graph, size in zip(graphs, output, strict=True)]
    per_box = [split(name, "n_det") for name in ("pred_boxes", "pred_classes", "pred_scores")]
    names = ("pred_rel_pairs", "pred_rel_labels", "pred_rel_scores", "query_index")
    pairs, labels, scores, query = (split(name, "n_pred_rel") for name in names)
    ranked = [np.zeros(len(rows), dtype=np.float32) for rows in pairs]  # the order is given, its scores are not
    return Images(
        graphs, [ScenePrediction(*c) for c in zip(*per_box, pairs, labels, ranked, scores, query, strict=True)]
    )


def _inputs(case: Case, images: Images) -> list[Check]:
    if "out.gt_boxes" not in case.arrays:
        return []
    boxes = np.concatenate([graph.boxes_xyxy for graph in images.graphs])
    return [compare(case, "gt_boxes", "box", boxes, case.arrays["out.gt_boxes"])]


def _matches(case: Case, images: Images, config: EvaluationConfig, mode) -> list[Check]:
    """All matches, and what the reference counts from them about the queries."""
    rows: list[np.ndarray] = []
    rows_nogc: list[np.ndarray] = []
    num_predicates = case.arrays["in.pred_rel_scores"].shape[1] - 1
    counts: dict[int, np.ndarray] = {k: np.zeros_like(a) for k, a in _at_k(case, "query_count_per_predicate")}
    sums: dict[int, np.ndarray] = {k: np.zeros(num_predicates + 1) for k, _ in _at_k(case, "query_logit_sum")}
    for i in images.counted():
        graph = images.graphs[i]
        prediction = apply_mode(graph, images.predictions[i], mode)
        position, row = match(graph, prediction, prediction.pairs, prediction.predicates, config.iou_threshold)
        rows.append(_with_image(i, position, row))
        for k, count in counts.items():
            first = position < k
            np.add.at(count, (graph.relations[row[first], 2], prediction.query_index[position[first]]), 1)
        for k, total in sums.items():
            total += prediction.predicate_scores[position[position < k]].sum(axis=0, dtype=np.float64)
        best, predicate = unconstrained(prediction, 100)
        rows_nogc.append(
            _with_image(i, *match(graph, prediction, prediction.pairs[best], predicate, config.iou_threshold))
        )
    checks = [
        compare(case, "matches", "exact", np.concatenate(rows), case.arrays["out.matches"]),
        compare(case, "matches_nogc", "exact", np.concatenate(rows_nogc), case.arrays["out.matches_nogc"]),
    ]
    for name, ours in (("query_count_per_predicate", counts), ("query_logit_sum", sums)):
        quantity = "exact" if name.startswith("query_count") else "float32_sum"
        checks += [compare(case, f"{name}@{k}", quantity, ours[k], theirs) for k, theirs in _at_k(case, name)]
    return checks


def _with_image(image: int, position: np.ndarray, row: np.ndarray) -> np.ndarray:
    return np.stack((np.full_like(row, image), position, row), axis=1)


def _at_k(case: Case, name: str) -> list[tuple[int, np.ndarray]]:
    found = [(key, key.rpartition("@")) for key in case.arrays]
    return [(int(k), case.arrays[key]) for key, (head, _, k) in found if head == f"out.{name}"]


def _dense(table: RecallTable, k: int, num_predicates: int, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """[P, I] found and present rows."""
    hits, rows = np.zeros((2, num_predicates, len(images.graphs)), dtype=np.int64)
    cells = table.cells(k)
    place = (cells.predicate, table.index[cells.image])
    hits[place], rows[place] = cells.hits, cells.rows
    return hits, rows


def _at(case: Case, k: int, result: RecallResult, table: RecallTable, images: Images) -> list[Check]:
    zero_shot = table.recall_per_image(table.rows.rank, k, among=table.rows.zero_shot)
    present = ~np.isnan(zero_shot)
    ours = {
        "R_per_image": table.recall_per_image(table.rows.rank, k),
        "ngR_per_image": table.recall_per_image(table.rows.unconstrained_rank, k),
        "zR_per_image": zero_shot[present],
        "zs_image_ids": table.index[present],
        "recall_per_predicate": result.per_predicate[k],
        "hits": _dense(table, k, len(result.predicate_images), images)[0],
        "pair_hits": np.bincount(table.image_of_row, weights=table.rows.pair_rank < k, minlength=len(table.index)),
        "pair_count": table.num_rows,
    }
    ours |= {name: np.array(result.metrics.get(f"{name}@{k}", np.nan)) for name in ("R", "ngR", "zR", "mR", "A")}
    exact = ("zs_image_ids", "hits", "pair_hits", "pair_count")
    undefined = -1.0  # a metric that no image defines is so on both sides
    return [
        compare(
            case,
            f"{name}@{k}",
            "exact" if name in exact else "metric",
            np.nan_to_num(value, nan=undefined),
            np.nan_to_num(case.arrays[f"out.{name}@{k}"], nan=undefined),
        )
        for name, value in ours.items()
        if f"out.{name}@{k}" in case.arrays
    ]


def rescale(graph: SceneGraph, size_hw: tuple[int, int]) -> SceneGraph:
    """The same graph in an image of another size; boxes are scaled and clipped, empty ones stay and match nothing."""
    height, width = size_hw
    scale = (width / graph.size_hw[1], height / graph.size_hw[0]) * 2
    limit = np.array((width, height) * 2, dtype=np.float32)
    boxes = np.clip(graph.boxes_xyxy * np.array(scale, dtype=np.float32), 0, limit)
    return replace(graph, size_hw=size_hw, boxes_xyxy=boxes.astype(np.float32))
