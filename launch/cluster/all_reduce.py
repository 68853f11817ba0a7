"""A sum over processes, as training makes it; run as a file by `launch.cluster.probe`, so that a hang can be ended.

    python -P launch/cluster/all_reduce.py BACKEND RANK SIZE ADDRESS PORT SECONDS

Exit code 0 where the sum is right; else the last line of stderr says why.
"""

from __future__ import annotations

import datetime
import sys

import torch
import torch.distributed as dist


def main(backend: str, rank: int, size: int, address: str, port: int, seconds: float) -> None:
    """Takes part in a sum over all processes. Raises ArithmeticError for a wrong sum, and what PyTorch raises."""
    local = rank % max(torch.cuda.device_count(), 1)
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    limit = datetime.timedelta(seconds=seconds)
    rendezvous = f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
    dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=size, timeout=limit)
    value = torch.full((1024,), float(rank + 1), device=device)
    dist.all_reduce(value)
    if not torch.equal(value.cpu(), torch.full((1024,), size * (size + 1) / 2)):
        raise ArithmeticError(f"the sum over {size} processes is wrong: {value[0].item():g}")
    dist.destroy_process_group()


if __name__ == "__main__":
    backend, rank, size, address, port, seconds = sys.argv[1:]
    main(backend, int(rank), int(size), address, int(port), float(seconds))
