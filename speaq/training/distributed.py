"""The little that training needs of torch.distributed; every function works without a process group as one worker."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def world() -> tuple[int, int]:
    """(rank, number of workers)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: Any) -> list[Any]:
    """`value` of every worker, in rank order, on every worker (our own processes' objects only)."""
    _, size = world()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Rank 0's `value` on every worker."""
    return gather(value)[0]


def barrier() -> None:
    """Waits until every worker is here."""
    if world()[1] > 1:
        dist.barrier()


def any_worker(flag: bool) -> bool:
    """True on every worker where it is true on one."""
    _, size = world()
    if size == 1:
        return flag
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    value = torch.tensor([float(flag)], device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())
