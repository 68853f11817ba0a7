"""What is predicted for one photo: named objects and triplets, and their JSON."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speaq.data.images import Source, file_of
from speaq.files.atomic import replaced, write_text
from speaq.plain_text import visible
from speaq.prediction.scene import Scene, Thing, Triplet, distinct_names
from speaq.structures import IntArray, ScenePrediction, Vocabulary
from speaq.table import Table, needed

if TYPE_CHECKING:
    from PIL.Image import Image

    from speaq.drawing import ShownFigure as Figure

SCHEMA = "speaq-prediction/1"


@dataclass(frozen=True, repr=False)
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

    def save(self, path: Path | str, *, threshold: float | None = None, loops: bool = False) -> None:
        """Writes the JSON, or a picture where the name ends in .png or .svg.

        Args:
            path: of the file.
            threshold: least score of a triplet in a picture; None: see `speaq.prediction.choice.worth_drawing`.
            loops: whether a picture shows relations of a thing to itself.

        Raises ValueError for other names.
        """
        path = Path(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"
            write_text(path, text.encode(errors="backslashreplace").decode())  # JSON's form of a name that is no UTF-8
        elif path.suffix in (".png", ".svg"):
            from speaq.prediction.picture import draw  # matplotlib only where it is needed

            with replaced(path) as temporary:
                draw(self, temporary, threshold=threshold, loops=loops)
        else:
            raise ValueError(f"{path}: name it .json, .png or .svg")

    def figure(self, *, threshold: float | None = None, loops: bool = False) -> Figure:
        """The picture as a figure of matplotlib; arguments as of `save`."""
        from speaq.prediction.picture import figure

        return figure(self, threshold=threshold, loops=loops)

    def picture(self, *, threshold: float | None = None, loops: bool = False) -> Image:
        """The picture as one of Pillow; arguments as of `save`."""
        import PIL.Image

        drawn = self.figure(threshold=threshold, loops=loops)
        return PIL.Image.open(io.BytesIO(drawn._repr_png_())).convert("RGB")

    def table(self) -> Table:
        """A row for each triplet, the best first: names, score, the predicate's own score, boxes (x1 y1 x2 y2)."""
        names = distinct_names(self.things)
        return Table(
            tuple(
                {
                    "subject": names[triplet.subject],
                    "predicate": triplet.predicate,
                    "object": names[triplet.object],
                    "score": triplet.score,
                    "predicate_score": triplet.predicate_score,
                    "subject_box": self.things[triplet.subject].box_xyxy,
                    "object_box": self.things[triplet.object].box_xyxy,
                }
                for triplet in self.triplets
            )
        )

    def to_pandas(self) -> Any:
        """`table` as a `pandas.DataFrame`. Raises ImportError where pandas is not installed."""
        return self.table().to_pandas()

    def to_networkx(self) -> Any:
        """A `networkx.MultiDiGraph`: a node for each thing, an edge for each triplet, with the values of both.

        Raises ImportError where networkx is not installed.
        """
        graph = needed("networkx", "to_networkx()").MultiDiGraph(image=None if self.image is None else str(self.image))
        for number, (thing, name) in enumerate(zip(self.things, distinct_names(self.things), strict=True)):
            graph.add_node(number, name=name, label=thing.label, score=thing.score, box_xyxy=thing.box_xyxy)
        for triplet in self.triplets:
            graph.add_edge(triplet.subject, triplet.object, predicate=triplet.predicate, score=triplet.score)
        return graph

    def __str__(self) -> str:
        names = distinct_names(self.things)
        return "\n".join(f"{t.score:.3f}  {names[t.subject]} {t.predicate} {names[t.object]}" for t in self.triplets)

    def __repr__(self) -> str:
        height, width = self.size_hw
        image = "picture" if self.image is None else visible(self.image)
        return f"ImagePrediction({image}: {width} x {height}, {len(self.things)} things, {len(self.triplets)} triplets)"

    def _repr_png_(self) -> bytes:
        shown: bytes = self.figure()._repr_png_()
        return shown


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

    Raises ValueError for a negative number of triplets.
    """
    if top < 0:
        raise ValueError(f"top: at least 0, not {top}")
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
