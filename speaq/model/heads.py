"""Prediction heads (method section 2), shared by all decoder layers.

Letters: R queries, d hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speaq.model.transformer import xavier


class BoxHead(nn.Module):
    """Three-layer perceptron d → 4 and a sigmoid: boxes as cxcywh in [0, 1].

    With reference points, a linear map of the query's position to (x, y) is added to the centre before the sigmoid,
    so that a query starts where its position says (not in the method).
    """

    def __init__(self, dim: int, reference_points: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 4)])
        self.reference = nn.Linear(dim, 2) if reference_points else None
        for parameter in self.parameters():
            xavier(parameter)

    def forward(self, x: Tensor, query_positions: Tensor) -> Tensor:
        """[..., R, d] outputs of queries with [R, d] positions → [..., R, 4]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        x = self.layers[-1](x)
        if self.reference is not None:
            x = x + F.pad(self.reference(query_positions), (0, 2))
        return torch.sigmoid(x)


def class_head(dim: int, num_classes: int) -> nn.Linear:
    """d → logits of the classes and, last, of background."""
    head = nn.Linear(dim, num_classes + 1)
    xavier(head.weight)
    return head
