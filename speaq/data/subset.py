"""Which images of val a run looks at while it trains, where it may not take the time for all of them."""

from __future__ import annotations

import logging

import numpy as np

from speaq.config import EvaluationConfig
from speaq.data.split import Split
from speaq.structures import IntArray

logger = logging.getLogger(__name__)

SEED = 0  # one choice for all runs, whatever their own seed: trials are compared on the same images


def looked_at(val: Split, config: EvaluationConfig) -> Split:
    """`val`, or the images of it that `max_val_images` and `val_subset` leave."""
    if config.max_val_images is None or config.max_val_images >= len(val):
        return val
    if config.val_subset == "first":
        return val.first(config.max_val_images)
    return val.select(stratified(val, config.max_val_images))


def stratified(split: Split, num_images: int) -> IntArray:
    """[num_images] rising indices of images with the predicates in their shares, each at least once.

    A predicate without a relation counts 0 in mean recall, whatever the model does; a plain small subset misses the
    rare ones. Images are taken at even distances from a list ordered by their rarest predicate, at random within one
    (systematic sampling: Cochran, "Sampling Techniques", chapter 8), so that no kind of image is preferred; predicates
    that are still missing get one image each. Where `num_images` is below their number some may be left out: a warning
    says how many.
    """
    shows = np.zeros((len(split), split.num_predicates), dtype=bool)
    shows[split.relation_image, split.relations[:, 2]] = True
    images = shows.sum(0)
    rarest_first = np.argsort(images, kind="stable")[(images == 0).sum() :]
    random = np.random.default_rng(SEED)
    shuffled = random.permutation(len(split))
    kinds = np.append(shows[:, rarest_first], np.ones((len(split), 1), dtype=bool), axis=1).argmax(1)
    ordered = shuffled[np.argsort(kinds[shuffled], kind="stable")]
    for even in range(num_images, -1, -1):
        chosen = np.zeros(len(split), dtype=bool)
        chosen[ordered[((np.arange(even) + 0.5) * len(split) / max(even, 1)).astype(int)]] = True
        for predicate in rarest_first:
            if not (chosen & shows[:, predicate]).any():
                chosen[shuffled[shows[shuffled, predicate].argmax()]] = True
        if chosen.sum() <= num_images:
            break
    surplus = int(chosen.sum()) - num_images  # above 0 where there are fewer images than predicates
    chosen[random.choice(np.flatnonzero(chosen), size=max(surplus, 0), replace=False)] = False
    chosen[random.choice(np.flatnonzero(~chosen), size=max(-surplus, 0), replace=False)] = True
    unseen = len(rarest_first) - int(shows[chosen].any(0).sum())
    if unseen:
        logger.warning(
            "evaluation.max_val_images %d: %d of the %d predicates of val are not among them and count 0",
            num_images,
            unseen,
            len(rarest_first),
        )
    return np.flatnonzero(chosen)
