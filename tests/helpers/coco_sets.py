"""COCO-style documents with relations, whole and spoilt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from speaq.config import DataConfig
from speaq.data.visual_genome import VisualGenome
from speaq.structures import SceneGraph

ALL = DataConfig(num_val=0, filter_non_overlap=False, keep_images_without_relations=True)


def graphs(vg: VisualGenome) -> dict[str, SceneGraph]:
    splits = [vg.split(name, ALL) for name in ("train", "test")]
    return {split.image_id(i): split.scene_graph(i) for split in splits for i in range(len(split))}


def coco_of(vg: VisualGenome) -> dict[str, Any]:
    """A data set as COCO's JSON, annotations numbered from 1000."""
    content: dict[str, Any] = {"images": [], "annotations": [], "relationships": []}
    content["categories"] = [{"id": 10 + i, "name": name} for i, name in enumerate(vg.vocabulary.objects)]
    content["predicates"] = [{"id": i, "name": name} for i, name in enumerate(vg.vocabulary.predicates)]
    test = set(vg.split("test", ALL).image_ids.tolist())
    for name, graph in graphs(vg).items():
        height, width = graph.size_hw
        split = "test" if name in test else "train"
        image = {"id": int(name), "file_name": f"{name}.jpg", "width": width, "height": height, "split": split}
        content["images"].append(image)
        first = 1000 + len(content["annotations"])
        for (x0, y0, x1, y1), label in zip(graph.boxes_xyxy.astype(float).tolist(), graph.classes, strict=True):
            content["annotations"].append(
                {
                    "id": 1000 + len(content["annotations"]),
                    "image_id": int(name),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "category_id": 10 + int(label),
                }
            )
        content["relationships"] += [
            {"subject_id": first + s, "object_id": first + o, "predicate": vg.vocabulary.predicates[p]}
            for s, o, p in graph.relations.tolist()
        ]
    return content


def small() -> dict[str, Any]:
    """Four photos of 60 × 40 pixels, each with a cat on a mat; photo 2 has a crowd as well."""
    images = [{"id": i, "file_name": f"deep/{i}.png", "width": 60, "height": 40} for i in range(1, 5)]
    annotations = [
        {"id": f"{what}{i}", "image_id": i, "bbox": box, "category_id": category}
        for i in range(1, 5)
        for what, box, category in (("cat", [10, 5, 20.5, 10], 7), ("mat", [0, 10, 60, 30], 3))
    ]
    annotations.append({"id": 99, "image_id": 2, "bbox": [0, 0, 9, 9], "category_id": 7, "iscrowd": 1})
    relations = [{"subject_id": f"cat{i}", "object_id": f"mat{i}", "predicate": "on", "image_id": i} for i in (1, 2, 3)]
    relations.append({"subject_id": "mat4", "object_id": "cat4", "predicate": "below"})
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "mat"}]
    return {"images": images, "annotations": annotations, "categories": categories, "relationships": relations}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    for i in range(1, 5):
        Image.new("RGB", (60, 40), "olive").save(folder / "deep" / f"{i}.png")
    return folder


def arguments(content: Any, photos: Path, folder: Path) -> tuple[str | Path, ...]:
    (folder / "coco.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return "data", "convert", folder / "coco.json", folder / "data", "--images", photos


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets `section.row.key`; a value of None takes the key out."""

    def change(content: dict[str, Any]) -> None:
        section, row, key = path.split(".")
        content[section][int(row)][key] = value
        if value is None:
            del content[section][int(row)][key]

    return change
