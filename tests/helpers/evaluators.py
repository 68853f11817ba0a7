"""Recall evaluators of invented images."""

from __future__ import annotations

import numpy as np

from speaq.config import EvaluationConfig
from speaq.evaluation.protocol import Protocol
from speaq.evaluation.recall import RecallEvaluator
from speaq.evaluation.table import NEVER, Rows, make_table

P = 6


def rows(generator: np.random.Generator, predicates: np.ndarray, chance: float) -> Rows:
    rank = np.where(generator.random(len(predicates)) < chance, generator.integers(0, 20, len(predicates)), NEVER)
    return Rows(predicates, np.zeros(len(predicates), dtype=bool), rank, rank, rank)


def evaluators(seed: int, images: int, chances: tuple[float, float], protocol: Protocol) -> list[RecallEvaluator]:
    """Two models on the same images, which find each row with a chance of their own."""
    generator = np.random.default_rng(seed)
    truth = [generator.integers(0, P, generator.integers(1, 6)) for _ in range(images)]
    made = []
    for chance in chances:
        evaluator = RecallEvaluator(P, EvaluationConfig(protocol=protocol), predicate_count=np.arange(P, 0, -1))
        parts = [(i, bool(generator.random() < 0.9), rows(generator, truth[i], chance)) for i in range(images)]
        evaluator.__setstate__({**evaluator.__dict__, "_images": make_table(parts)})
        made.append(evaluator)
    return made
