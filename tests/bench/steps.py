"""Training steps: of the official model, in how far they are matrix products, and how they grow with their sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from speaq.config import ModelConfig, TrainingConfig
from speaq.model.speaq import SpeaQ
from speaq.targets import join
from speaq.training.step import clip_gradients, make_optimizer
from tests.bench import workloads
from tests.bench.measure import LeftOut, Settings, Values, Work, measure

SMALL: dict[str, Any] = {
    "backbone": "resnet18",
    "hidden_dim": 64,
    "num_heads": 2,
    "feedforward_dim": 256,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_queries": 50,
}
PRODUCTS = ("mm", "bmm", "convolution", "linear", "scaled_dot_product")  # parts of names of ATen's matrix products


def training_step(settings: Settings) -> Values:
    """One optimizer step of the official model on one 600 × 800 picture (dropout on)."""
    return measure(_official(settings), settings.repeats)


def training_step_matmuls(settings: Settings) -> Values:
    """`seconds` are those of such a step's matrix products alone (convolutions and attention count as such);
    `share_of_step` is their part of the whole step's seconds.
    """
    step = _official(settings)
    whole = measure(step, settings.repeats)
    taken = []
    for _ in range(settings.repeats):
        with _Products() as products:
            step()
        taken.append(products.seconds)
    products_seconds = sorted(taken)[len(taken) // 2]
    share = products_seconds / whole["seconds"]
    return {
        "seconds": products_seconds,
        "ratio_to_calibration": whole["ratio_to_calibration"] * share,
        "share_of_step": share,
    }


def _official(settings: Settings) -> Work:
    if settings.quick:
        return step(ModelConfig(**SMALL), 1, (96, 128))
    return step(ModelConfig(), 1, (600, 800))


class _Products(TorchDispatchMode):
    """Adds up the time inside matrix products on the CPU, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        if any(part in function.name() for part in PRODUCTS):
            self.seconds += time.perf_counter() - begin
        return result


def step(
    config: ModelConfig,
    batch: int,
    size_hw: tuple[int, int],
    *,
    relations: int = 20,
    predicates: int = workloads.PREDICATES,
    precision: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Work:
    """An optimizer step on pictures and relations made from a seed; what it returns runs it once more."""
    torch.manual_seed(0)
    model = SpeaQ(config, workloads.OBJECTS, predicates).to(device).to(memory_format=torch.channels_last)
    targets = join([workloads.target(relations, predicates) for _ in range(batch)]).mapped(lambda x: x.to(device))
    loss = workloads.criterion(config, predicates).to(device)
    training = TrainingConfig()
    optimizer = make_optimizer(model, training)
    images = torch.randint(256, (batch, 3, *size_hw), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([size_hw] * batch, device=device)

    def work() -> object:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, precision, enabled=precision != torch.float32):
            outputs = model(images, sizes)
        loss(outputs.float(), targets)[0].backward()
        clip_gradients(model, training)
        return optimizer.step()

    return work


def growth(name: str, settings: Settings) -> Values:
    """How a step of a smaller model (ResNet-18, d = 64, two layers) grows; `points` holds [size, seconds, ratio to the
    smallest]. `seconds` is the largest size's.
    """
    sizes, make = GROWTH[name]
    points: list[list[float]] = []
    for size in sizes[:2] if settings.quick else sizes:
        values = measure(make(size), max(settings.repeats // 2, 1))
        points.append([size, values["seconds"], values["seconds"] / (points[0][1] if points else values["seconds"])])
    return values | {"points": points}


def _small(**changes: Any) -> ModelConfig:
    return ModelConfig(**(SMALL | changes))


GROWTH: dict[str, tuple[tuple[int, ...], Callable[[int], Work]]] = {
    "step_queries": ((100, 300, 600, 1200), lambda n: step(_small(num_queries=n), 1, (96, 128))),
    "step_relations": ((5, 20, 60, 200), lambda n: step(_small(num_queries=300), 1, (96, 128), relations=n)),
    "step_predicates": ((50, 200, 1000), lambda n: step(_small(num_queries=300), 1, (96, 128), predicates=n)),
    "step_side": ((128, 256, 512, 1024), lambda n: step(_small(), 1, (n, n))),
}


def training_step_gpu(settings: Settings) -> Values:
    """The official model at batch 20 and 600 × 800 on the GPU in bfloat16. `times_faster_than_float32` compares with
    plain float32 in the same run, `share_of_peak` the arithmetic per second with that of an 8192 × 8192 product,
    `share_matching` is the time of matching and losses, `peak_memory_mib` the device's.
    """
    require_gpu()
    batch, size = (2, (96, 128)) if settings.quick else (20, (600, 800))
    config = ModelConfig(**SMALL) if settings.quick else ModelConfig()
    torch.cuda.reset_peak_memory_stats()
    work = step(config, batch, size, precision=torch.bfloat16, device="cuda")
    taken = measure(synchronised(work), settings.repeats)
    peak_memory = torch.cuda.max_memory_allocated() / 2**20
    with FlopCounterMode(display=False) as counter:
        work()
    operations = counter.get_total_flops() / taken["seconds"]
    work = step(config, batch, size, device="cuda")
    plain = measure(synchronised(work), settings.repeats)
    del work
    torch.cuda.empty_cache()
    matching = matching_losses_gpu(settings)
    return taken | {
        "images_per_second": batch / taken["seconds"],
        "times_faster_than_float32": plain["seconds"] / taken["seconds"],
        "share_of_peak": operations / _peak(),
        "share_matching": matching["seconds"] / taken["seconds"],
        "peak_memory_mib": peak_memory,
    }


def matching_losses_gpu(settings: Settings) -> Values:
    """Matching and losses at batch 20 and 20 relations an image on the GPU, forward and backward."""
    require_gpu()
    return measure(synchronised(workloads.matching_losses(20, 20, device="cuda")), settings.repeats)


def decoding_gpu(settings: Settings) -> Values:
    require_gpu()
    return measure(synchronised(workloads.decoding(8, device="cuda")), settings.repeats)


def require_gpu() -> None:
    if not torch.cuda.is_available():
        raise LeftOut("no GPU here")


def synchronised(work: Work) -> Work:
    """Until the device has finished."""

    def wait() -> None:
        work()
        torch.cuda.synchronize()

    return wait


def _peak() -> float:
    """Operations per second of a large bfloat16 product."""
    a: Tensor = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    times = measure(synchronised(lambda: a @ a), 10)
    return 2 * 8192**3 / float(times["seconds"])
