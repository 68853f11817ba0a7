"""What is predicted for one photo: named objects and triplets, and their JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speaq.data.images import Source, file_of
from speaq.files.atomic import replaced, write_text
from speaq.prediction.scene import Scene, Thing, Triplet, distinct_names
from speaq.structures import IntArray, ScenePrediction, Vocabulary

SCHEMA = "speaq-prediction/1"


@dataclass(frozen=True)
class ImagePrediction(Scene):
    """A predicted scene graph, which can be written as JSON or drawn."""

    def to_json(self) -> dict[str, Any]:
        """Plain values in the documented form: see `SCHEMA` and README."""
        return {
            "schema": SCHEMA,
            "image": None if self.image is None else str(self.image),
            "width": self.size_hw[1],
            "height": self.size_hw[0],
            "objects": [
                {
                    "id": number,
                    "label": thing.label,
                    "label_index": thing.label_index,
                    "score": round(thing.score, 6),
                    "box_xyxy": [round(value, 2) for value in thing.box_xyxy],
                }
                for number, thing in enumerate(self.things)
            ],
            "triplets": [
                {
                    "subject": triplet.subject,
                    "predicate": triplet.predicate,
                    "predicate_index": triplet.predicate_index,
                    "object": triplet.object,
                    "score": round(triplet.score, 6),
                    "predicate_score": round(triplet.predicate_score, 6),
                }
                for triplet in self.triplets
            ],
        }

    def save(self, path: Path) -> None:
        """Writes the JSON, or a picture where the name ends in .png or .svg. Raises ValueError for other names."""
        path = Path(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"
            write_text(path, text.encode(errors="backslashreplace").decode())  # JSON's form of a name that is no UTF-8
        elif path.suffix in (".png", ".svg"):
            from speaq.prediction.picture import draw  # matplotlib only where it is needed

            with replaced(path) as temporary:
                draw(self, temporary)
        else:
            raise ValueError(f"{path}: name it .json, .png or .svg")

    def __str__(self) -> str:
        names = distinct_names(self.things)
        return "\n".join(f"{t.score:.3f}  {names[t.subject]} {t.predicate} {names[t.object]}" for t in self.triplets)


def image_prediction(
    image: Source,
    size_hw: tuple[int, int],
    prediction: ScenePrediction,
    vocabulary: Vocabulary,
    *,
    top: int,
    threshold: float,
) -> ImagePrediction:
    """The best triplets of a decoded photo and the objects in them.

    Args:
        prediction: boxes in pixels of the photo.
        top: triplets at most.
        threshold: least score of a triplet.
    """
    rows = _best_rows(prediction, top, threshold)
    kept = list(dict.fromkeys(int(box) for row in rows for box in prediction.pairs[row]))
    number = {box: position for position, box in enumerate(kept)}
    height, width = size_hw
    boxes = prediction.boxes_xyxy.clip(0, (width, height, width, height))
    things = tuple(
        Thing(
            vocabulary.objects[int(prediction.classes[box])],
            int(prediction.classes[box]),
            float(prediction.scores[box]),
            tuple(boxes[box].tolist()),
        )
        for box in kept
    )
    triplets = []
    for row in rows:
        subject, object_ = (number[int(box)] for box in prediction.pairs[row])
        index = int(prediction.predicates[row])
        score = float(prediction.triplet_scores[row])
        probability = float(prediction.predicate_scores[row, index])
        triplets.append(Triplet(subject, vocabulary.predicates[index], index, object_, score, probability))
    return ImagePrediction(file_of(image), size_hw, things, tuple(triplets), image)


def _best_rows(prediction: ScenePrediction, top: int, threshold: float) -> IntArray:
    """Rows of the first triplets above the threshold, each (subject, object, predicate) once."""
    triplets = np.concatenate((prediction.pairs, prediction.predicates[:, None]), axis=1)  # [T, 3]
    _, first = np.unique(triplets, axis=0, return_index=True)
    rows = np.sort(first)
    return rows[prediction.triplet_scores[rows] >= threshold][:top].astype(np.int64)
