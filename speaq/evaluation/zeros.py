"""What a user can do with a run whose recalls are all 0: the same words after training and after an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

RECALLS = ("R", "ngR", "mR")
FOUND = 0.05  # AP50 from which boxes are found at all: relations need two of them, and their classes, right


def why_zero(metrics: Mapping[str, float | None], split: str, steps: int) -> str | None:
    """Why all recalls are 0 and what to try, in one line; None where one is above 0, or none has a value.

    Args:
        metrics: by name, such as R@50; with AP50 of the boxes, where they are predicted.
        split: of the images that were looked at.
        steps: that the model was trained.
    """
    recalls = [value for name, value in metrics.items() if name.partition("@")[0] in RECALLS and value is not None]
    if not recalls or any(recalls):
        return None
    boxes = metrics.get("AP50")
    if boxes is not None and boxes >= FOUND:
        return (
            f"all recalls are 0: objects are found (AP50 {boxes:.3f}), their relations are not yet, after {steps} "
            "steps: raise training.max_steps"
        )
    found = "no relation is found" if boxes is None else f"hardly an object is found (AP50 {boxes:.4f})"
    longer = f"raise training.max_steps (now {steps}), or start from a detector (`speaq pretrain`, training.init_from)"
    if split == "train":
        return f"all recalls are 0: {found} even in the photos trained on: {longer}"
    return (
        f"all recalls are 0: {found}. `speaq evaluate RUN/checkpoints/last.pt --data DATA --split train` says whether "
        f"the photos trained on are learnt. If not, {longer}; if they are, unseen ones need more photos or a start "
        "from trained weights (training.init_from, training.backbone_from)"
    )
