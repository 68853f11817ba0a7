"""G9: records and statistics of a data set, resampling, resizing, and the evaluation's input pipeline."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from speaq.config import DataConfig
from speaq.data.dataset import SceneGraphDataset
from speaq.data.records import Split
from speaq.data.sampling import make_resampling
from speaq.data.statistics import predicate_count
from speaq.data.transforms import resize_shape
from speaq.data.visual_genome import VisualGenome, open_data
from tests.golden.case import Case, Check, compare
from tests.golden.triplet_count import triplet_count
from tests.helpers.shared import SHARED

PREFIX = "DATASETS.VISUAL_GENOME."


def run(case: Case) -> list[Check]:
    if "in.hw" in case.arrays:
        return _resize(case)
    data = _open(case)
    checks = _digests(case, data.directory)
    if any(name.startswith("in.") for name in case.arrays):
        return checks + _mapper(case, data)
    split = data.split(case.config["split"], _data_config(case))
    if case.config.get(PREFIX + "BGNN", False):
        return checks + _resampling(case, split)
    return checks + _records(case, data, split) + _statistics(case, split)


def _open(case: Case) -> VisualGenome:
    """The data set that lies beside the golden set, or beside the checkout."""
    folders = [folder / "data" / case.config["data_set"] for folder in (case.file.parents[1], SHARED)]
    directory = next((folder for folder in folders if folder.is_dir()), folders[0])
    return open_data(
        directory,
        need_images=any(name.startswith("in.") for name in case.arrays),
        need_train=False,
        box_scale=case.config.get(PREFIX + "BOX_SCALE", 1024),
    )


def _data_config(case: Case) -> DataConfig:
    option = {key.removeprefix(PREFIX): value for key, value in case.config.items() if key.startswith(PREFIX)}
    return DataConfig(
        num_val=option.get("NUMBER_OF_VALIDATION_IMAGES", 5000),
        keep_images_without_relations=not option.get("FILTER_EMPTY_RELATIONS", True),
        filter_non_overlap=option.get("FILTER_NON_OVERLAP", False),
    )


def _digests(case: Case, directory: Path) -> list[Check]:
    """The numbers hold for exactly these files."""
    checks = []
    for name, digest in case.config.get("sha256", {}).items():
        ours = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        checks.append(Check(f"sha256 {name}", 0.0 if ours == digest else float("inf")))
    return checks


def _records(case: Case, data: VisualGenome, split: Split) -> list[Check]:
    graphs = [split.scene_graph(i) for i in range(len(split))]
    exact = {
        "image_id": np.array([int(graph.image_id) for graph in graphs]),
        "hw": np.array([graph.size_hw for graph in graphs]).reshape(-1, 2),
        "n_objects": np.array([len(graph.classes) for graph in graphs]),
        "categories": np.concatenate([np.empty(0), *(graph.classes for graph in graphs)]),
        "n_relations": np.array([len(graph.relations) for graph in graphs]),
        "relations": np.concatenate([np.empty((0, 3)), *(graph.relations for graph in graphs)]),
        "attributes": data.attributes(split),
    }
    boxes = np.concatenate([np.empty((0, 4)), *(graph.boxes_xyxy for graph in graphs)])
    return [
        *(_compare(case, name, "exact", ours) for name, ours in exact.items() if f"out.{name}" in case.arrays),
        _compare(case, "boxes", "box", boxes),
    ]


def _compare(case: Case, name: str, quantity: str, ours: object) -> Check:
    return compare(case, name, quantity, ours, case.arrays[f"out.{name}"])


def _statistics(case: Case, split: Split) -> list[Check]:
    num_classes, num_predicates = (int(size) - 1 for size in case.arrays["out.fg_matrix_shape"][1:])
    count = triplet_count(split, num_classes, num_predicates)
    foreground, background = count[:, :, :-1], count[:, :, -1]
    places = np.argwhere(foreground > 0)
    pairs = np.argwhere(background != 1)
    share = np.log(count / count.sum(axis=2, keepdims=True) + 1e-3)
    at_places = share[tuple(case.arrays["out.fg_nonzero"].T)]
    return [
        _compare(case, "fg_rel_count", "exact", predicate_count(split, num_predicates)),
        _compare(case, "fg_matrix_shape", "exact", count.shape),
        _compare(case, "fg_nonzero", "exact", places),
        _compare(case, "fg_values", "exact", foreground[foreground > 0]),
        _compare(case, "bg_nonzero", "exact", pairs),
        _compare(case, "bg_values", "exact", background[background != 1]),
        _compare(case, "pred_dist_at_fg", "ratio", at_places),
        _mean(case, share),
    ]


def _mean(case: Case, share: np.ndarray) -> Check:
    """The sum over a million float32 entries, compared as their mean."""
    return compare(case, "pred_dist_sum", "ratio", share.mean(), case.arrays["out.pred_dist_sum"] / share.size)


def _resampling(case: Case, split: Split) -> list[Check]:
    resampling = make_resampling(
        split, case.config[PREFIX + "OVERSAMPLE_PARAM"], case.config[PREFIX + "UNDERSAMPLE_PARAM"]
    )
    ids = np.array([int(split.image_id(i)) for i in range(len(split))])
    probabilities = [resampling.drop_probabilities(i)[split.scene_graph(i).relations[:, 2]] for i in range(len(split))]
    return [
        _compare(case, "distinct_image_id", "exact", ids),
        _compare(case, "image_id", "exact", np.repeat(ids, resampling.repeats)),
        _compare(case, "repeat", "exact", np.repeat(resampling.repeats, resampling.repeats)),
        _compare(case, "oversampling_ratio", "ratio", resampling.ratio),
        _compare(case, "drop_probability", "ratio", np.concatenate([np.empty(0), *probabilities])),
    ]


def _resize(case: Case) -> list[Check]:
    checks = []
    for name, theirs in case.arrays.items():
        if name.startswith("out.hw_"):
            side, longest = (int(number) for number in name.removeprefix("out.hw_").split("_"))
            ours = [resize_shape((int(h), int(w)), side, longest) for h, w in case.arrays["in.hw"]]
            checks.append(compare(case, name, "exact", ours, theirs))
    return checks


def _mapper(case: Case, data: VisualGenome) -> list[Check]:
    config = DataConfig(
        num_val=0,
        keep_images_without_relations=True,
        eval_side=case.config["INPUT.MIN_SIZE_TEST"],
        eval_max_side=case.config["INPUT.MAX_SIZE_TEST"],
    )
    split = data.split(case.config["split"], config)
    dataset = SceneGraphDataset(split, config, train=False, seed=0)
    row_of = {split.image_id(i): i for i in range(len(split))}
    numbers = sorted(name.split(".")[1] for name in case.arrays if name.startswith("in."))
    return [check for n in numbers for check in _picture(case, n, split, dataset, row_of)]


def _picture(case: Case, number: str, split: Split, dataset: SceneGraphDataset, row_of: dict[str, int]) -> list[Check]:
    row = row_of[str(int(case.arrays[f"in.{number}.image_id"]))]
    sample = dataset[row]
    image = sample.image.permute(2, 0, 1).numpy()
    rows, columns = (case.arrays[f"out.{number}.{axis}"] for axis in ("rows", "cols"))
    return [
        _compare(case, f"{number}.image_shape", "exact", image.shape),
        _compare(case, f"{number}.channel_mean", "pixel", image.mean(axis=(1, 2))),
        _compare(case, f"{number}.pixels", "pixel", image[:, rows][:, :, columns]),
        _compare(case, f"{number}.gt_boxes", "box", sample.boxes_xyxy),
        _compare(case, f"{number}.gt_classes", "exact", sample.classes),
        _compare(case, f"{number}.relations", "exact", sample.relations),
        _compare(case, f"{number}.hw", "exact", split.size_hw(row)),
    ]
