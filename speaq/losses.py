"""Losses of SpeaQ and of the detector it starts from, over all layers and images at once (method section 7).

Letters: L layers, B images, R queries, C classes of an element, P predicates,
E elements of a query (subject, object, relation; or the box of a detector), T ground-truth rows, S matched pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from speaq.boxes import cxcywh_to_xyxy, giou
from speaq.config import LossConfig, MatchingConfig
from speaq.matching.groups import PredicateGroups
from speaq.matching.match import Pairs, match_objects, match_relations
from speaq.matching.rows import Queries, Truth, object_queries, object_truth, relation_queries, relation_truth
from speaq.structures import DetectorOutputs, IntArray, LayerOutputs, Targets

# Names of (classification, L1, GIoU) by element, as the reference logs them.
RELATION_NAMES = (
    ("loss_ce_subject", "loss_bbox_subject", "loss_giou_subject"),
    ("loss_ce_object", "loss_bbox_object", "loss_giou_object"),
    ("loss_relation", "loss_bbox_relation", "loss_giou_relation"),
)
OBJECT_NAMES = (("loss_ce", "loss_bbox", "loss_giou"),)


def predicate_weights(
    predicate_count: Tensor, oversample: float, undersample: float, no_relation_weight: float
) -> Tensor:
    """Class weights of the predicate loss: rare predicates weigh more.

    weight_p = max(1, sqrt(oversample / (share_p + 1e-5)))^undersample, share_p = count_p / Σ count.

    Args:
        predicate_count: [P] relations of every predicate in the training split; 0 gives the largest weight.
        oversample, undersample: 0 turns the weighting off.
        no_relation_weight: weight of the last class.
    Returns:
        [P+1] float32.
    """
    count = predicate_count.double()
    share = count / count.sum().clamp(min=1)
    weights = (oversample / (share + 1e-5)).sqrt().clamp(min=1) ** undersample
    return torch.cat((weights, weights.new_tensor([no_relation_weight]))).float()


def object_weights(num_classes: int, no_object_weight: float) -> Tensor:
    """[C+1] float32 class weights: 1, and that of no-object last."""
    weights = torch.ones(num_classes + 1)
    weights[-1] = no_object_weight
    return weights


class SpeaQLoss(nn.Module):
    """Matches relation queries and sums the losses of all layers. Move it to the outputs' device with `.to`.

    Args:
        config: loss weights.
        matching: scheme and costs.
        groups: predicate groups; None: no grouping.
        query_multiple: m, relation queries for each subject query.
        predicate_weights: [P+1] float32 class weights. Buffers that no checkpoint holds: the configuration decides.
        num_classes: C, object classes.
    """

    object_class_weights: Tensor
    predicate_class_weights: Tensor
    loss_weights: Tensor

    def __init__(
        self,
        config: LossConfig,
        matching: MatchingConfig,
        groups: PredicateGroups | None,
        query_multiple: int,
        predicate_weights: Tensor,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.matching = matching
        self.groups = groups
        self.query_multiple = query_multiple
        classification = (config.weight_class, config.weight_class, config.weight_predicate)
        weights = torch.tensor([[weight, config.weight_l1, config.weight_giou] for weight in classification])
        self.register_buffer("loss_weights", weights, persistent=False)
        object_class_weights = object_weights(num_classes, config.no_object_weight)
        self.register_buffer("object_class_weights", object_class_weights, persistent=False)
        self.register_buffer("predicate_class_weights", predicate_weights, persistent=False)

    def forward(self, outputs: LayerOutputs, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted total and, without gradient, its unweighted parts by name.

        Parts of layer i but the last end in `_i`; `class_error_*` (percent of matched pairs, last layer; 100 where
        nothing is matched) and `k_log_layer<i>` (mean repeats, from 1; 0 without relations) are not in the total.

        Raises:
            NonFiniteError: NaN or infinity in the outputs.
        """
        total, parts, _ = self.by_group(outputs, targets)
        return total, parts

    def by_group(self, outputs: LayerOutputs, targets: Targets) -> tuple[Tensor, dict[str, Tensor], IntArray]:
        """Returns what `forward` does, and how targets met the queries.

        The last is [G, G+1] on the host: repeated relations of each predicate group by the group of the queries that
        they were matched to (last column: to none), over all layers and images.
        """
        queries, truth = relation_queries(outputs), relation_truth(targets)
        pairs, repeats = match_relations(queries, truth, self.matching, self.groups, self.query_multiple)
        class_weights = (self.object_class_weights, self.object_class_weights, self.predicate_class_weights)
        losses = pair_losses(queries, truth, pairs, class_weights)
        parts = named_parts(RELATION_NAMES, losses)
        for element, name in enumerate(("class_error_subject", "class_error_object")):
            parts[name] = class_error(queries, truth, pairs, element)
        mean_repeats = repeats.float().sum(1) / max(repeats.shape[1], 1)
        parts.update((f"k_log_layer{i}", mean) for i, mean in enumerate(mean_repeats.unbind(), start=1))
        return (losses * self.loss_weights[:, :, None]).sum(), parts, pairs.by_group


class DetectorLoss(nn.Module):
    """The same losses for a detector: every layer's queries are matched one to one with the boxes (DETR)."""

    class_weights: Tensor
    loss_weights: Tensor

    def __init__(self, config: LossConfig, matching: MatchingConfig, num_classes: int) -> None:
        super().__init__()
        self.matching = matching
        weights = torch.tensor([[config.weight_class, config.weight_l1, config.weight_giou]])
        self.register_buffer("loss_weights", weights, persistent=False)
        self.register_buffer("class_weights", object_weights(num_classes, config.no_object_weight), persistent=False)

    def forward(self, outputs: DetectorOutputs, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted total and its unweighted parts `loss_ce`, `loss_bbox`, `loss_giou`, `class_error`.

        Raises:
            NonFiniteError: NaN or infinity in the outputs.
        """
        queries, truth = object_queries(outputs.logits, outputs.boxes), object_truth(targets)
        pairs = match_objects(queries, truth, self.matching)
        losses = pair_losses(queries, truth, pairs, (self.class_weights,))
        parts = named_parts(OBJECT_NAMES, losses)
        parts["class_error"] = class_error(queries, truth, pairs, 0)
        return (losses * self.loss_weights[:, :, None]).sum(), parts


def pair_losses(queries: Queries, truth: Truth, pairs: Pairs, class_weights: Sequence[Tensor]) -> Tensor:
    """[E, 3, L] classification, L1 and GIoU loss of every element and layer, unweighted."""
    classification = [
        _cross_entropy(logits, log_probabilities, truth.classes[element], pairs, class_weights[element])
        for element, (logits, log_probabilities) in enumerate(
            zip(queries.logits, queries.log_probabilities, strict=True)
        )
    ]
    box_losses = _box_losses(queries, truth, pairs)  # [2, E, L]
    return torch.stack((torch.stack(classification), box_losses[0], box_losses[1]), dim=1)


def _cross_entropy(
    logits: Tensor, log_probabilities: Tensor, classes: Tensor, pairs: Pairs, class_weights: Tensor
) -> Tensor:
    """[L] weighted mean over all queries of a layer; those without a pair are background."""
    num_layers, *shape, num_logits = logits.shape
    labels = classes.new_full((num_layers, *shape), num_logits - 1)
    labels.view(-1)[pairs.query] = classes[pairs.row]
    weights = class_weights[labels]  # [L, B, R]
    summed: Tensor = _WeightedCrossEntropy.apply(logits, log_probabilities, labels, weights)
    return summed / weights.flatten(1).sum(1)


class _WeightedCrossEntropy(torch.autograd.Function):
    """[L] weighted sums of -log p, whose gradient is written to the logits at once.

    The gradient of `nll_loss` is a tensor of zeros as large as the logits, but for one number in each row: writing it
    and reading it again took a third of the time of matching and losses on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_probabilities: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(log_probabilities, labels, weights)
        return (log_probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1) * -weights).flatten(1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        log_probabilities, labels, weights = ctx.saved_tensors
        scale = (weights * gradient[:, None, None]).unsqueeze(-1)  # [L, B, R, 1]
        of_logits = log_probabilities.exp().mul_(scale)
        return of_logits.scatter_add_(-1, labels.unsqueeze(-1), -scale), None, None, None


def _box_losses(queries: Queries, truth: Truth, pairs: Pairs) -> Tensor:
    """[2, E, L] L1 and 1 - GIoU over matched pairs, divided by their number; 0, with gradient, where there are none."""
    predicted = torch.stack([boxes.flatten(0, 2).index_select(0, pairs.query) for boxes in queries.boxes])
    wanted = truth.boxes[:, pairs.row]  # [E, S, 4]
    distance = (predicted - wanted).abs().sum(-1)
    overlap = giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    values = torch.stack((distance, 1 - overlap))  # [2, E, S]
    sums = values.new_zeros(*values.shape[:2], len(pairs.num_pairs)).index_add(2, pairs.layer, values)
    return sums / _divisors(pairs.num_pairs)


def _divisors(num_pairs: Tensor) -> Tensor:
    """[L] matched pairs of every layer, averaged over the workers in one all-reduce, at least 1."""
    mean = num_pairs.float()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(mean)
        mean = mean / dist.get_world_size()
    return mean.clamp(min=1)


def class_error(queries: Queries, truth: Truth, pairs: Pairs, element: int) -> Tensor:
    """0-d, percent of the last layer's matched pairs whose best class is wrong; 100 where there are none."""
    count = pairs.num_pairs_last
    if count == 0:
        return truth.boxes.new_full((), 100.0)
    flat = queries.log_probabilities[element].flatten(0, 2)
    best = flat.index_select(0, pairs.query[-count:]).argmax(-1)
    return (best != truth.classes[element, pairs.row[-count:]]).float().mean() * 100


def named_parts(names: Sequence[Sequence[str]], losses: Tensor) -> dict[str, Tensor]:
    """[E, 3, L] → {name: 0-d value}; names of all layers but the last end in `_<layer>`."""
    num_layers = losses.shape[-1]
    values = iter(losses.detach().permute(2, 0, 1).flatten().unbind())
    return {
        name + (f"_{layer}" if layer < num_layers - 1 else ""): next(values)
        for layer in range(num_layers)
        for element in names
        for name in element
    }
