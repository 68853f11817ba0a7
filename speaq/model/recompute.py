"""Activation checkpointing: time for memory, without another result (Chen et al., arXiv:1604.06174)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

Output = TypeVar("Output")


def run(layer: Callable[..., Output], *inputs: object, recompute: bool) -> Output:
    """`layer(*inputs)`; with `recompute`, the backward pass computes its activations again: they are not kept.

    Dropout draws the same numbers again, and autocast stays as it was, so gradients are the same.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)
