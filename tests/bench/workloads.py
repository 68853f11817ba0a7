"""What is timed, on inputs of the published shapes made from a seed. A function prepares and returns the timed part."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from speaq.config import EvaluationConfig, InferenceConfig, LossConfig, MatchingConfig, ModelConfig
from speaq.evaluation.recall import RecallEvaluator
from speaq.inference import decode
from speaq.losses import SpeaQLoss, predicate_weights
from speaq.matching.groups import VISUAL_GENOME_COUNTS, make_groups
from speaq.structures import LayerOutputs, SceneGraph, ScenePrediction, Target
from speaq.targets import join
from tests.bench.measure import Settings, Values, Work, apart, beside, memory_now_mib, peak_growth_mib, seconds

OBJECTS, PREDICATES, LAYERS, QUERIES, MULTIPLE = 150, 50, 6, 300, 2
POOL = 500  # scenes, some 60 MB


def outputs(batch: int, layers: int = LAYERS, device: str = "cpu") -> LayerOutputs:
    shape = (layers, batch, QUERIES * MULTIPLE)
    logits = [torch.randn(*shape, n + 1) for n in (OBJECTS, OBJECTS, PREDICATES)]
    boxes = [torch.cat((torch.rand(*shape, 2), 0.05 + 0.4 * torch.rand(*shape, 2)), dim=-1) for _ in range(3)]
    return LayerOutputs(*(x.to(device) for x in (*logits, *boxes)))


def target(relations: int, predicates: int = PREDICATES, num_boxes: int = 25) -> Target:
    def boxes(n: int) -> torch.Tensor:
        return torch.cat((torch.rand(n, 2), 0.05 + 0.4 * torch.rand(n, 2)), dim=-1)

    pairs = torch.randint(num_boxes, (relations, 2))
    drawn = torch.multinomial(predicate_counts(predicates).double(), relations, replacement=True)
    rows = torch.cat((pairs, drawn[:, None]), dim=1)
    return Target(torch.randint(OBJECTS, (num_boxes,)), boxes(num_boxes), rows, boxes(relations))


def predicate_counts(predicates: int) -> torch.Tensor:
    """[P] relations of every predicate: Visual Genome's table, or as many numbers that fall as 1 / rank."""
    if predicates == PREDICATES:
        return torch.tensor(VISUAL_GENOME_COUNTS)
    return (1e6 / torch.arange(1, predicates + 1)).long()


def criterion(config: ModelConfig, predicates: int = PREDICATES) -> SpeaQLoss:
    """The published losses."""
    counts = predicate_counts(predicates)
    groups = make_groups(counts.tolist(), 4, config.num_queries)
    weights = predicate_weights(counts, 0.07, 1.5, 0.1)
    return SpeaQLoss(LossConfig(), MatchingConfig(), groups, config.query_multiple, weights, OBJECTS)


def matching_losses(batch: int, relations: int, device: str = "cpu") -> Work:
    """Matching and losses of all layers, forward and backward."""
    torch.manual_seed(0)
    given, loss = outputs(batch, device=device), criterion(ModelConfig()).to(device)
    targets = join([target(relations) for _ in range(batch)]).mapped(lambda column: column.to(device))
    for field in fields(given):
        getattr(given, field.name).requires_grad_()
    return lambda: loss(given, targets)[0].backward()


def decoding(batch: int, device: str = "cpu") -> Work:
    """From raw outputs of the last layer to ranked triplets."""
    torch.manual_seed(0)
    given, sizes = outputs(batch, layers=1, device=device), [(600, 800)] * batch
    config = InferenceConfig()
    return lambda: decode(given, sizes, config)


def evaluation(images: int, different: int = POOL) -> Work:
    """All recalls of images with 25 boxes, 12 relations, 150 kept boxes and 500 predictions each.

    Only so many of them are `different`: the pool stays small, so what grows in memory is the evaluation.
    """
    rng = np.random.default_rng(0)
    scenes = [(_graph(rng, i), _prediction(rng)) for i in range(min(images, different))]

    def work() -> object:
        evaluator = RecallEvaluator(PREDICATES, EvaluationConfig())
        for index in range(images):
            evaluator.add(index, *scenes[index % len(scenes)])
        return evaluator.result()

    return work


def evaluation_test_split(settings: Settings) -> Values:
    """The same of Visual Genome's test split, in a process of its own on one core."""
    images = 500 if settings.quick else 26_446
    return apart(evaluate_once, 1, images) | {"images": images}


def evaluate_once(images: int) -> Values:
    work = evaluation(images)
    before = memory_now_mib()
    taken = seconds(work)
    growth = peak_growth_mib(before)
    return beside(lambda: taken, 3) | {"peak_memory_growth_mib": growth}


def _boxes(rng: np.random.Generator, n: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    corner = rng.uniform(0, 500, (n, 2))
    return np.concatenate((corner, corner + rng.uniform(20, 300, (n, 2))), axis=1).astype(np.float32)


def _graph(rng: np.random.Generator, index: int) -> SceneGraph:
    columns = [rng.integers(n, size=12) for n in (25, 25, PREDICATES)]
    relations = np.stack(columns, axis=1)
    return SceneGraph(str(index), (600, 800), _boxes(rng, 25), rng.integers(OBJECTS, size=25), relations)


def _prediction(rng: np.random.Generator) -> ScenePrediction:
    scores = rng.dirichlet(np.ones(PREDICATES + 1), size=500).astype(np.float32)
    return ScenePrediction(
        _boxes(rng, 150),
        rng.integers(OBJECTS, size=150),
        rng.uniform(size=150).astype(np.float32),
        rng.integers(150, size=(500, 2)),
        scores[:, :-1].argmax(1),
        np.sort(rng.uniform(size=500).astype(np.float32))[::-1].copy(),
        scores,
        rng.integers(QUERIES * MULTIPLE, size=500),
    )
