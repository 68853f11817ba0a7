"""G5: raw outputs of one image to kept boxes, pairs and final boxes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from speaq.config import InferenceConfig
from speaq.inference import KeptBoxes, RankedTriplets, decode, query_outputs, rank_triplets
from speaq.structures import LayerOutputs
from tests.golden.case import OUTPUTS, Case, Check, compare


def run(case: Case) -> list[Check]:
    config = InferenceConfig(
        nms_threshold=case.config.get("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5),
        predictions_per_query=case.config.get("TEST.NUM_REL", 1),
        layer=case.config.get("MODEL.DETR.TEST_INDEX", -1),
    )
    outputs = LayerOutputs(**{ours: _layers(case, theirs) for ours, theirs in OUTPUTS.items()})
    kept, triplets = rank_triplets(query_outputs(outputs, config.layer), config)
    # The reference returns one image of a batch.
    kept, triplets = kept.select(kept.image == 0), triplets.select(triplets.image == 0)
    return [*_ranked(case, config.predictions_per_query, kept, triplets), *_final(case, outputs, config)]


def _layers(case: Case, name: str) -> Tensor:
    last = case.on_device(f"in.outputs.{name}").unsqueeze(0)
    earlier = f"in.outputs.aux.{name}"
    return torch.cat((case.on_device(earlier), last)) if earlier in case.arrays else last


def _ranked(case: Case, per_query: int, kept: KeptBoxes, triplets: RankedTriplets) -> list[Check]:
    """Before clipping. The reference repeats all queries M times in place, so its indices count M-fold.

    Its boxes of this stage are said to be at network resolution; the numbers are at the original one (the final step
    scales them in place), not clipped.
    """
    height, width = case.config["original_hw"]
    pixels = kept.boxes * kept.boxes.new_tensor((width, height, width, height))
    theirs = case.arrays
    return [
        compare(case, "keep", "exact", kept.source, theirs["out.keep"] // per_query),
        compare(case, "pred_boxes", "box", pixels, theirs["out.pred_boxes"]),
        compare(case, "scores", "score", kept.scores, theirs["out.scores"]),
        compare(case, "pred_classes", "exact", kept.classes, theirs["out.pred_classes"]),
        compare(case, "rel_pair_idxs", "exact", triplets.pairs, theirs["out.rel_pair_idxs"]),
        compare(case, "pred_rel_scores", "score", triplets.predicate_scores, theirs["out.pred_rel_scores"]),
        compare(case, "pred_rel_labels", "exact", triplets.predicates, theirs["out.pred_rel_labels"]),
        compare(case, "query_index", "exact", triplets.query, theirs["out.query_index"] // per_query),
    ]


def _final(case: Case, outputs: LayerOutputs, config: InferenceConfig) -> list[Check]:
    """In the original image: the reference's boxes as they are, its pairs re-indexed, for it leaves that out."""
    num_images = outputs.predicate_logits.shape[1]
    height, width = case.config["original_hw"]
    scene = decode(outputs, [(height, width)] * num_images, config)[0]
    theirs = case.arrays
    pairs, used = _reindexed(case)
    rows = {name: theirs[f"out.{name}"][used] for name in ("pred_rel_labels", "query_index", "pred_rel_scores")}
    return [
        compare(case, "final_boxes", "box", scene.boxes_xyxy, theirs["out.final_boxes"]),
        compare(case, "final_scores", "score", scene.scores, theirs["out.final_scores"]),
        compare(case, "final_classes", "exact", scene.classes, theirs["out.final_classes"]),
        compare(case, "final pairs", "exact", scene.pairs, pairs),
        compare(case, "final predicates", "exact", scene.predicates, rows["pred_rel_labels"]),
        compare(case, "final predicate scores", "score", scene.predicate_scores, rows["pred_rel_scores"]),
        compare(case, "final queries", "exact", scene.query_index, rows["query_index"] // config.predictions_per_query),
    ]


def _reindexed(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The reference's pairs into its final boxes, and the rows both of whose boxes are left."""
    boxes = case.arrays["out.pred_boxes"].astype(np.float64)
    limit = np.tile(np.array(case.config["original_hw"][::-1], dtype=np.float64), 2)
    clipped = np.clip(boxes, 0, limit)
    filled = (clipped[:, 2:] > clipped[:, :2]).all(-1)
    pairs = case.arrays["out.rel_pair_idxs"]
    used = filled[pairs].all(-1)
    return (filled.cumsum() - 1)[pairs[used]], used
