"""The same scenes in every format that `data convert --from` reads, written after its public description."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speaq.data.formats import Source

WIDTH, HEIGHT = 60, 40
SPLITS = {"1": "train", "2": "train", "3": "train", "4": "val", "5": "test", "6": "test"}
CLASSES = ("cat", "mat", "tree")
PREDICATES = ("below", "behind", "on")
Scene = dict[str, Any]  # things: (class, left, top, width, height); relations: (subject, object, predicate)


def scenes() -> dict[str, Scene]:
    """Six photos with a cat on a mat; every other one has a tree behind the cat."""
    found: dict[str, Scene] = {}
    for number, name in enumerate(SPLITS):
        things = [("cat", 6 + number, 5, 21, 12), ("mat", 0, 10, 60, 30)]
        relations = [(0, 1, "on"), (1, 0, "below")]
        if number % 2 == 0:
            things.append(("tree", 30, 1, 12, 36))
            relations.append((2, 0, "behind"))
        found[name] = {"things": things, "relations": relations}
    return found


def write(path: Path, content: Any) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def coco(split: str, first: int = 1) -> dict[str, Any]:
    """COCO's lists of a split, ids of annotations from `first` on."""
    content: dict[str, Any] = {"images": [], "annotations": [], "relationships": []}
    content["categories"] = [{"id": 1 + i, "name": name} for i, name in enumerate(CLASSES)]
    content["predicates"] = [{"id": i, "name": name} for i, name in enumerate(PREDICATES)]
    for name, scene in scenes().items():
        if SPLITS[name] != split:
            continue
        content["images"].append({"id": int(name), "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
        ids = list(range(first, first + len(scene["things"])))
        first += len(ids)
        content["annotations"] += [
            {
                "id": i,
                "image_id": int(name),
                "category_id": 1 + CLASSES.index(label),
                "bbox": box,
                "area": 1,
                "iscrowd": 0,
            }
            for i, (label, *box) in zip(ids, scene["things"], strict=True)
        ]
        content["relationships"] += [
            {"subject_id": ids[s], "object_id": ids[o], "predicate": predicate}
            for s, o, predicate in scene["relations"]
        ]
    return content


def as_coco(folder: Path) -> Path:
    for split in ("train", "val", "test"):  # ids of annotations begin at 1 in every file, as exporters write them
        write(folder / f"instances_{split}.json", coco(split))
    return folder


def as_reltr(folder: Path) -> Path:
    places: dict[str, Any] = {"rel_categories": ["__background__", *PREDICATES]}
    for split in ("train", "val", "test"):
        content = coco(split)
        del content["relationships"], content["predicates"]
        crowd = {"id": 99, "image_id": content["images"][0]["id"], "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
        content["annotations"].insert(0, crowd)  # RelTR leaves crowds out before it counts
        write(folder / f"{split}.json", content)
        places[split] = {
            name: [(s, o, 1 + PREDICATES.index(predicate)) for s, o, predicate in scene["relations"]]
            for name, scene in scenes().items()
            if SPLITS[name] == split
        }
    write(folder / "rel.json", places)
    return folder


def as_psg(folder: Path) -> Path:
    content = {
        "data": [
            {
                "image_id": name,
                "file_name": f"{name}.jpg",
                "width": WIDTH,
                "height": HEIGHT,
                "pan_seg_file_name": f"panoptic/{name}.png",
                "segments_info": [
                    {"id": 7 + i, "category_id": CLASSES.index(thing[0]), "iscrowd": 0, "isthing": 1, "area": 9}
                    for i, thing in enumerate(scene["things"])
                ],
                "annotations": [
                    {"bbox": [x, y, x + w, y + h], "bbox_mode": 0, "category_id": CLASSES.index(label)}
                    for label, x, y, w, h in scene["things"]
                ],
                "relations": [(s, o, PREDICATES.index(predicate)) for s, o, predicate in scene["relations"]],
            }
            for name, scene in scenes().items()
        ],
        "thing_classes": CLASSES[:2],
        "stuff_classes": CLASSES[2:],
        "predicate_classes": PREDICATES,
        "test_image_ids": [name for name, split in SPLITS.items() if split == "test"],
    }
    write(folder / "psg.json", content)
    return folder / "psg.json"


def as_gqa(folder: Path) -> Path:
    for split in ("train", "val"):
        content = {
            name: {
                "width": WIDTH,
                "height": HEIGHT,
                "location": "room",
                "objects": {
                    f"{name}0{i}": {
                        "name": label,
                        **dict(zip("xywh", box, strict=True)),
                        "attributes": ["soft"],
                        "relations": [
                            {"name": predicate, "object": f"{name}0{o}"}
                            for s, o, predicate in scene["relations"]
                            if s == i
                        ],
                    }
                    for i, (label, *box) in enumerate(scene["things"])
                },
            }
            for name, scene in scenes().items()
            if (SPLITS[name] == "train") == (split == "train")
        }
        write(folder / f"{split}_sceneGraphs.json", content)
    return folder


def as_open_images(folder: Path) -> Path:
    codes = {label: f"/m/0{i}" for i, label in enumerate(CLASSES)}
    header = "ImageID,LabelName1,LabelName2,XMin1,XMax1,YMin1,YMax1,XMin2,XMax2,YMin2,YMax2,RelationshipLabel"
    files = {"train": "oidv6-train-", "val": "validation-", "test": "test-"}

    def corners(box: tuple[int, int, int, int]) -> str:
        x, y, w, h = box
        return ",".join(f"{number:.9f}" for number in (x / WIDTH, (x + w) / WIDTH, y / HEIGHT, (y + h) / HEIGHT))

    for split, prefix in files.items():
        lines = [header]
        for name, scene in scenes().items():
            if SPLITS[name] != split:
                continue
            things = scene["things"]
            for s, o, predicate in scene["relations"]:
                (one, *box), (two, *other) = things[s], things[o]
                pair = f"{corners(tuple(box))},{corners(tuple(other))}"
                lines.append(f"{name},{codes[one]},{codes[two]},{pair},{predicate}")
            box = things[0][1:]
            lines.append(f"{name},{codes['cat']},/m/0soft,{corners(tuple(box))},{corners(tuple(box))},is")
        write(folder / f"{prefix}annotations-vrd.csv", "\n".join(lines) + "\n")
    write(folder / "class-descriptions-boxable.csv", "".join(f"{code},{label}\n" for label, code in codes.items()))
    return folder


def as_visual_genome(folder: Path) -> Path:
    objects, relationships = [], []
    for name, scene in scenes().items():
        things = [
            {"object_id": int(name) * 100 + i, **dict(zip("xywh", box, strict=True)), "synsets": []}
            for i, (_, *box) in enumerate(scene["things"])
        ]
        labels = [thing[0] for thing in scene["things"]]
        kept = [{**thing, "names": [f" {label.upper()} "]} for thing, label in zip(things, labels, strict=True)][:2]
        objects.append({"image_id": int(name), "objects": kept})  # the tree is named by its relation alone
        relationships.append(
            {
                "image_id": int(name),
                "relationships": [
                    {
                        "relationship_id": 1,
                        "predicate": {"on": "ON", "below": "underneath"}.get(predicate, predicate),
                        "subject": {**things[s], "name": labels[s]},
                        "object": {**things[o], "names": [labels[o]]},
                    }
                    for s, o, predicate in scene["relations"]
                ],
            }
        )
    write(folder / "objects.json", objects)
    write(folder / "relationships.json", relationships)
    write(folder / "relationship_alias.txt", "below,underneath,beneath\n")
    return folder


WRITERS: dict[Source, Callable[[Path], Path]] = {
    "coco": as_coco,
    "reltr": as_reltr,
    "psg": as_psg,
    "gqa": as_gqa,
    "open-images": as_open_images,
    "visual-genome": as_visual_genome,
}
