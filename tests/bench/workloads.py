"""What is timed, on inputs of the published shapes made from a seed. A function prepares and returns the timed part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch

from speaq.config import EvaluationConfig, InferenceConfig, LossConfig, MatchingConfig, ModelConfig, TrainingConfig
from speaq.evaluation.recall import RecallEvaluator
from speaq.inference import decode
from speaq.losses import SpeaQLoss, predicate_weights
from speaq.matching.groups import VISUAL_GENOME_COUNTS, make_groups
from speaq.model.speaq import SpeaQ
from speaq.structures import LayerOutputs, SceneGraph, ScenePrediction, Target
from speaq.training.optimizer import clip_gradients, make_optimizer

OBJECTS, PREDICATES, LAYERS, QUERIES, MULTIPLE = 150, 50, 6, 300, 2
Work = Callable[[], object]


def calibration() -> Work:
    """A 2048 × 2048 float32 product on two threads."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return lambda: a @ b


def outputs(batch: int, layers: int = LAYERS) -> LayerOutputs:
    shape = (layers, batch, QUERIES * MULTIPLE)
    logits = [torch.randn(*shape, n + 1) for n in (OBJECTS, OBJECTS, PREDICATES)]
    boxes = [torch.cat((torch.rand(*shape, 2), 0.05 + 0.4 * torch.rand(*shape, 2)), dim=-1) for _ in range(3)]
    return LayerOutputs(*logits, *boxes)


def target(relations: int, num_boxes: int = 25) -> Target:
    def boxes(n: int) -> torch.Tensor:
        return torch.cat((torch.rand(n, 2), 0.05 + 0.4 * torch.rand(n, 2)), dim=-1)

    pairs = torch.randint(num_boxes, (relations, 2))
    predicates = torch.multinomial(torch.tensor(VISUAL_GENOME_COUNTS).double(), relations, replacement=True)
    rows = torch.cat((pairs, predicates[:, None]), dim=1)
    return Target(torch.randint(OBJECTS, (num_boxes,)), boxes(num_boxes), rows, boxes(relations))


def criterion() -> SpeaQLoss:
    counts = torch.tensor(VISUAL_GENOME_COUNTS)
    groups = make_groups(VISUAL_GENOME_COUNTS, 4, QUERIES)
    weights = predicate_weights(counts, 0.07, 1.5, 0.1)
    return SpeaQLoss(LossConfig(), MatchingConfig(), groups, MULTIPLE, weights, OBJECTS)


def matching_losses(batch: int, relations: int = 20) -> Work:
    """Matching and losses of all layers, forward and backward."""
    torch.manual_seed(0)
    given, targets, loss = outputs(batch), [target(relations) for _ in range(batch)], criterion()
    for field in fields(given):
        getattr(given, field.name).requires_grad_()
    return lambda: loss(given, targets)[0].backward()


def decoding(batch: int) -> Work:
    """From raw outputs of the last layer to ranked triplets."""
    torch.manual_seed(0)
    given, sizes = outputs(batch, layers=1), [(600, 800)] * batch
    config = InferenceConfig()
    return lambda: decode(given, sizes, config)


def evaluation(images: int) -> Work:
    """All recalls of images with 25 boxes, 12 relations, 150 kept boxes and 500 predictions each."""
    rng = np.random.default_rng(0)
    scenes = [(_graph(rng, i), _prediction(rng)) for i in range(images)]

    def work() -> object:
        evaluator = RecallEvaluator(PREDICATES, EvaluationConfig())
        for index, (graph, prediction) in enumerate(scenes):
            evaluator.add(index, graph, prediction)
        return evaluator.result()

    return work


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


def training_step() -> Work:
    """One optimizer step of the official model on one 600 × 800 picture (dropout on)."""
    torch.manual_seed(0)
    model = SpeaQ(ModelConfig(), OBJECTS, PREDICATES).to(memory_format=torch.channels_last)
    config, loss, targets = TrainingConfig(), criterion(), [target(20)]
    optimizer = make_optimizer(model, config)
    images, sizes = torch.randint(256, (1, 3, 600, 800), dtype=torch.uint8), torch.tensor([[600, 800]])

    def work() -> object:
        optimizer.zero_grad(set_to_none=True)
        loss(model(images, sizes), targets)[0].backward()
        clip_gradients(model, config)
        return optimizer.step()

    return work
