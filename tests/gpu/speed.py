"""How fast training, evaluation and loading are, each against plain float32 in the same run."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from speaq import config as configs
from speaq.config import Config
from speaq.data.loading import train_loader
from speaq.data.toy.world import make_toy
from speaq.data.visual_genome import open_data
from speaq.training.loop import train
from speaq.training.metrics import read_lines
from tests.bench.data import make_annotations, make_photo
from tests.gpu.official import PRECISIONS, Official, batch_size, fitting, in_turn, median, peaks, sizes, wait
from tests.gpu.plan import ROOT, Settings, Tell
from tests.helpers.tiny import TINY

PHOTO = (800, 600)  # as `make_annotations` lists them
LOADER_SECONDS = 8.0


def training(settings: Settings, tell: Tell) -> None:
    """Steps of the official model: images/s, times faster than float32, share of the card's products, memory."""
    peak = peaks(settings)
    tell("products", **{f"{name}_tflops": value / 1e12 for name, value in peak.items()})
    for size_hw in sizes(settings):
        official = fitting(settings, batch_size(settings), size_hw)
        operations = official.operations()
        memory = {name: peak_mib(settings, partial(official.step, name)) for name in PRECISIONS}
        taken = in_turn(settings, {name: partial(official.step, name) for name in PRECISIONS})
        for name, seconds in taken.items():
            tell(
                f"{size_hw[0]}x{size_hw[1]} {name}",
                batch=official.batch,
                seconds=seconds,
                images_per_second=official.batch / seconds,
                times_float32=taken["float32"] / seconds,
                share_of_products=operations / seconds / peak[name],
                peak_memory_mib=memory[name],
            )
        del official
        empty(settings)


def peak_mib(settings: Settings, work: Any) -> float | None:
    """Of the device's memory, while the work is done."""
    if settings.dry:
        work()
        return None
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**20


def empty(settings: Settings) -> None:
    """Gives back what nothing holds any more."""
    if not settings.dry:
        torch.cuda.empty_cache()


def evaluation(settings: Settings, tell: Tell) -> None:
    """Forward pass and decoding."""
    for size_hw in sizes(settings):
        official = Official(settings, batch_size(settings), size_hw)
        taken = in_turn(settings, {name: partial(official.evaluate, name) for name in PRECISIONS})
        for name, seconds in taken.items():
            tell(
                f"{size_hw[0]}x{size_hw[1]} {name}",
                images_per_second=official.batch / seconds,
                times_float32=taken["float32"] / seconds,
            )
        del official
        empty(settings)


def profile(settings: Settings, tell: Tell) -> None:
    """Where a step's time goes: parts of it, each waited for, and how long the device computes nothing."""
    official = fitting(settings, batch_size(settings), sizes(settings)[0])
    for name in ("bfloat16", "float32"):
        step = median(settings, partial(official.step, name))
        phases = official.phases(name)
        together = sum(phases.values())
        tell(f"{name} phases", seconds=step, **{f"share_{key}": value / together for key, value in phases.items()})
        kernels = device_kernels(settings, partial(official.step, name))
        busy = sum(taken for taken, _ in kernels.values())
        count = sum(number for _, number in kernels.values())
        tell(f"{name} kernels", kernels=count, busy_seconds=busy, share_of_gaps=max(1 - busy / step, 0.0))
        for kernel, (taken, number) in sorted(kernels.items(), key=lambda item: -item[1][0])[:8]:
            tell(f"{name} kernel {kernel[:80]}", share=taken / max(busy, 1e-9), times=number)


def device_kernels(settings: Settings, work: Any) -> dict[str, tuple[float, int]]:
    """{kernel: seconds, times} of one run; of a CPU, its operators."""
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU] if settings.dry else [kinds.CPU, kinds.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        work()
        wait(settings)
    found: dict[str, tuple[float, int]] = {}
    for entry in profiler.key_averages():
        if settings.dry:
            found[entry.key] = entry.self_cpu_time_total / 1e6, entry.count
        elif "CUDA" in str(entry.device_type) and not getattr(entry, "is_user_annotation", False):
            found[entry.key] = entry.self_device_time_total / 1e6, entry.count
    return found


def largest_batch(settings: Settings, tell: Tell) -> None:
    """By doubling, in bfloat16; what is measured last is the largest that fits."""
    batch, most = (1, 2) if settings.dry else (20, 1280)
    while batch <= most:
        try:
            official = Official(settings, batch, sizes(settings)[0])
            memory = peak_mib(settings, partial(official.step, "bfloat16"))
            seconds = median(settings, partial(official.step, "bfloat16"), 2)
        except torch.OutOfMemoryError:
            tell("too large", batch=batch)
            return
        tell(f"batch {batch}", images_per_second=batch / seconds, peak_memory_mib=memory)
        del official
        empty(settings)
        batch *= 2


def loader(settings: Settings, tell: Tell) -> None:
    """From photos on disk to the device with all cores, beside what a step takes in."""
    cores = 1 if settings.dry else len(os.sched_getaffinity(0))
    folder = photos(settings, 4096)
    changes: dict[str, Any] = {key: value for key, value in TINY.items() if key.startswith("data.")}
    changes = changes if settings.dry else {"data.num_val": 100}
    batch = batch_size(settings)
    config = configs.apply(
        Config(),
        {
            **changes,
            "data.num_workers": cores,
            "data.cache_images": False,
            "training.batch_size": batch,
            "training.device": settings.device,
        },
    )
    split = open_data(folder).split("train", config.data)
    batches = cast("Generator[Any]", train_loader(split, config, enlarge_on_device=not settings.dry))
    taken, number = drained(settings, batches, 1.0 if settings.dry else LOADER_SECONDS)
    loaded = number * batch / taken
    tell("loaded", cores=cores, images_per_second=loaded, batches=number, photo=f"{PHOTO[0]}x{PHOTO[1]}")
    official = Official(settings, batch, sizes(settings)[0])
    step = batch / median(settings, partial(official.step, "bfloat16"))
    tell("step in bfloat16", images_per_second=step, loader_can_feed=loaded / step)


def photos(settings: Settings, number: int) -> Path:
    """A data set of that many photos, 20 of them different."""
    folder = settings.folder / "photos"
    folder.mkdir()
    make_annotations(folder, number)
    for index in range(1, number + 1):
        path = folder / "VG_100K" / f"{index}.jpg"
        if index <= 20:
            make_photo(path, PHOTO)
        else:
            os.link(folder / "VG_100K" / f"{(index - 1) % 20 + 1}.jpg", path)
    return folder


def drained(settings: Settings, batches: Generator[Any], most: float) -> tuple[float, int]:
    """Seconds and number of batches on the device after the first few, which the workers' start delays."""
    device = torch.device(settings.device)
    try:
        for _ in range(2 if settings.dry else 10):
            next(batches).to(device)
        wait(settings)
        begin, number = time.perf_counter(), 0
        while number == 0 or time.perf_counter() - begin < most:
            next(batches).to(device)
            number += 1
        wait(settings)
        return time.perf_counter() - begin, number
    finally:
        batches.close()


def toy_step(settings: Settings, tell: Tell) -> None:
    """The training that a search of the generated world makes, loop and loader included."""
    folder = settings.folder / "toy-search"
    make_toy(folder, 60 if settings.dry else 400, seed=2)
    last = 2 if settings.dry else 100
    changes = {
        "training.max_steps": 2 * last,
        "training.decay_steps": [2 * last - 1],
        "training.warmup_steps": 1,
        "training.log_every": last,
        "training.eval_every": 2 * last,
        "training.device": settings.device,
        "data.num_val": 6 if settings.dry else 32,
    }
    base = configs.load(ROOT / "configs" / "toy.yaml")
    found = {}
    for name in ("float32", "bfloat16"):
        output = settings.folder / f"toy-{name}"
        train(configs.apply(base, {**changes, "training.precision": name}), folder, output)
        lines = [line for line in read_lines(output / "metrics.jsonl") if "train/images_per_second" in line]
        found[name] = lines[-1]
    for name, line in found.items():
        speed = line["train/images_per_second"]
        tell(
            name,
            images_per_second=speed,
            milliseconds_a_step=1000 * base.training.batch_size / speed,
            waits_for_data=line["train/data_wait_share"],
            times_float32=speed / found["float32"]["train/images_per_second"],
        )


def from_features(settings: Settings, tell: Tell) -> None:
    """A step of the official model from stored outputs of backbone and encoder, against a whole step."""
    batch, size_hw = batch_size(settings), sizes(settings)[0]
    stored, whole = Official(settings, batch, size_hw, frozen=True), fitting(settings, batch, size_hw)
    works = {name: partial(stored.step, name) for name in ("float32", "bfloat16")}
    taken = in_turn(settings, {**works, "whole": partial(whole.step, "bfloat16")})
    for name in works:
        tell(
            name,
            images_per_second=batch / taken[name],
            times_float32=taken["float32"] / taken[name],
            times_whole_bfloat16=taken["whole"] / taken[name] * batch / whole.batch,
        )
