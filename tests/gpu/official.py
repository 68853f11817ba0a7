"""The official model at work on the device, and how its work is timed."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from speaq.config import InferenceConfig, ModelConfig, TrainingConfig
from speaq.inference import decode
from speaq.model.speaq import SpeaQ
from speaq.targets import join
from speaq.training.step import clip_gradients, make_optimizer
from tests.bench import workloads
from tests.gpu.correct import tf32
from tests.gpu.plan import Settings

Size = tuple[int, int]
LEAST: dict[str, Any] = {
    "backbone": "small",
    "frozen_stages": 0,
    "hidden_dim": 32,
    "num_heads": 2,
    "feedforward_dim": 64,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "num_queries": 40,
}  # of a dry run
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")  # float32 is the plain one
PHASES = ("forward", "matching and losses", "backward", "optimizer")


def sizes(settings: Settings) -> tuple[Size, ...]:
    """Heights and widths of the pictures."""
    return ((64, 96), (80, 128)) if settings.dry else ((600, 800), (800, 1333))


def batch_size(settings: Settings) -> int:
    """Pictures at once; the published number."""
    return 1 if settings.dry else 20


def wait(settings: Settings) -> None:
    """Until the device has finished."""
    if not settings.dry:
        torch.cuda.synchronize()


def seconds(settings: Settings, work: Callable[[], object]) -> float:
    """Of one run of the work, on the device."""
    wait(settings)
    begin = time.perf_counter()
    work()
    wait(settings)
    return time.perf_counter() - begin


def median(settings: Settings, work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of a run, after two that do not count."""
    for _ in range(1 if settings.dry else 2):
        work()
    return statistics.median(seconds(settings, work) for _ in range(1 if settings.dry else repeats))


def in_turn(settings: Settings, works: dict[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Median seconds of several works, run in turn, so that all see the same card."""
    for work in works.values():
        for _ in range(1 if settings.dry else 2):
            work()
    rounds = [
        {name: seconds(settings, work) for name, work in works.items()} for _ in range(1 if settings.dry else repeats)
    ]
    return {name: statistics.median(times[name] for times in rounds) for name in works}


def peaks(settings: Settings) -> dict[str, float]:
    """Operations per second of a large square product in every precision."""
    side = 256 if settings.dry else 8192
    found = {}
    for name in PRECISIONS:
        dtype = torch.float32 if name == "tf32" else getattr(torch, name)
        a = torch.randn(side, side, device=settings.device).to(dtype)
        with tf32(name == "tf32"):
            found[name] = 2 * side**3 / median(settings, lambda a=a: a @ a)
    return found


@dataclass
class Official:
    """A model, its loss and optimizer, and a batch of pictures made from a seed, on the device."""

    settings: Settings
    batch: int
    size_hw: Size
    frozen: bool = False  # backbone and encoder: the step then begins from their stored outputs

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        device, frozen = self.settings.device, ("backbone", "encoder") if self.frozen else ()
        config = ModelConfig(**(LEAST if self.settings.dry else {}), frozen=frozen)
        self.model = SpeaQ(config, workloads.OBJECTS, workloads.PREDICATES).to(device)
        self.model = self.model.to(memory_format=torch.channels_last)
        self.loss = workloads.criterion(config).to(device)
        self.training = TrainingConfig()
        self.optimizer = make_optimizer(self.model, self.training)
        self.targets = join([workloads.target(20) for _ in range(self.batch)]).mapped(lambda x: x.to(device))
        self.sizes = torch.tensor([self.size_hw] * self.batch, device=device)
        if self.frozen:
            cells = (-(-self.size_hw[0] // 32), -(-self.size_hw[1] // 32), config.hidden_dim)
            self.images = torch.randn(self.batch, *cells, device=device)
        else:
            images = torch.randint(256, (self.batch, 3, *self.size_hw), dtype=torch.uint8, device=device)
            self.images = images.contiguous(memory_format=torch.channels_last)

    def step(self, precision: str, phase: Callable[[str], None] = lambda name: None) -> None:
        """An optimizer step; `phase` hears the name of every part that has been put to the device."""
        self.optimizer.zero_grad(set_to_none=True)
        with tf32(precision == "tf32"):
            with self._autocast(precision):
                outputs = self.model(self.images, self.sizes, self.frozen)
            phase("forward")
            total = self.loss(outputs.float(), self.targets)[0]
            phase("matching and losses")
            total.backward()
            phase("backward")
            clip_gradients(self.model, self.training)
            self.optimizer.step()
            phase("optimizer")

    @torch.inference_mode()
    def evaluate(self, precision: str) -> None:
        """Forward pass and decoding."""
        self.model.eval()
        with tf32(precision == "tf32"), self._autocast(precision):
            outputs = self.model(self.images, self.sizes)
        decode(outputs, [self.size_hw] * self.batch, InferenceConfig())
        self.model.train()

    def _autocast(self, precision: str) -> Any:
        if precision in ("float32", "tf32"):
            return contextlib.nullcontext()
        return torch.autocast(self.settings.device, getattr(torch, precision))

    def phases(self, precision: str, repeats: int = 5) -> dict[str, float]:
        """Median seconds of every phase, each waited for."""
        taken: dict[str, list[float]] = {name: [] for name in PHASES}
        for _ in range(1 if self.settings.dry else repeats):
            wait(self.settings)
            last = time.perf_counter()

            def note(name: str) -> None:
                nonlocal last
                wait(self.settings)
                now = time.perf_counter()
                taken[name].append(now - last)
                last = now

            self.step(precision, note)
        return {name: statistics.median(times) for name, times in taken.items()}

    def operations(self) -> int:
        """Floating point operations of a step's products."""
        with FlopCounterMode(display=False) as counter:
            self.step("float32")
        return int(counter.get_total_flops())


def fitting(settings: Settings, batch: int, size_hw: Size) -> Official:
    """The largest of batch, batch / 2, … that a float32 step has memory for."""
    while True:
        try:
            official = Official(settings, batch, size_hw)
            official.step("float32")
            return official
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        official = None  # type: ignore[assignment]
        torch.cuda.empty_cache()
        batch //= 2
