"""Which of a photo's triplets are worth drawing. A network gives as many as are asked for, most of them guesses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from speaq.prediction.scene import Scene

DRAWN = 10  # triplets of a picture: more make it unreadable
SHARE = 0.25  # of the best score of a photo, which a triplet must have to be drawn
SURE = 0.05  # least score of a triplet that is drawn without being asked for


@dataclass(frozen=True)
class Choice:
    """What is drawn of a photo, and why so much."""

    scene: Scene
    said: str  # in one line


def worth_drawing(scene: Scene, threshold: float | None = None, *, loops: bool = False) -> Choice:
    """The best `DRAWN` triplets of a photo above a score.

    Args:
        threshold: least score; None: a quarter of the photo's best (`SHARE`), and no less than 0.05 (`SURE`). On 60
            toy test photos, with a network whose R@20 is 0.78, half of what that draws is true (49 %), and 66 % of the
            truth is drawn; of the best ten triplets it is 20 and 70 %. Where R@20 is 0.58 it is 33 and 45 %, of the
            best ten 15 and 53 %.
        loops: whether a relation of a thing to itself counts.
    """
    triplets = [triplet for triplet in scene.triplets if loops or triplet.subject != triplet.object]
    best = max((triplet.score for triplet in triplets), default=0.0)
    least = max(SHARE * best, SURE) if threshold is None else threshold
    kept = [triplet for triplet in triplets if triplet.score >= least]
    why = f"score ≥ {least:.2g}" + (", a quarter of the best" if threshold is None and least > SURE else "")
    return Choice(replace(scene, triplets=tuple(kept)).first(DRAWN), _said(scene, len(triplets), len(kept), best, why))


def _said(scene: Scene, considered: int, kept: int, best: float, why: str) -> str:
    every = len(scene.triplets)
    if not every:
        return "no triplet"
    loops = every - considered
    own = f"; {loops} of a thing to itself left out" if loops else ""
    if not kept:
        return f"no triplet with {why}" + (f": the best has {best:.2g}" if considered else "") + own
    if kept > DRAWN:
        return f"the best {DRAWN} of {every} triplets" + own
    return f"{kept} of {every} triplets: {why}" + own
