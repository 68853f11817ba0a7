"""Whole trainings of a generated world, and what is done with a trained model."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from launch.trials.memory import train_in_parts
from speaq import config as configs
from speaq.config import Config
from speaq.data.features import StoredSplit, read_header
from speaq.data.toy.world import make_toy
from speaq.model.speaq import SpeaQ
from speaq.prediction.export import example_batches, export_model
from speaq.prediction.predictor import Predictor
from speaq.runs.cache import asked, cache
from speaq.training.callbacks import no_progresses
from speaq.training.loop import train
from tests.gpu.correct import tf32
from tests.gpu.plan import OPTIONAL, Settings, Skipped, Tell, missing
from tests.helpers.same_run import timeless, weights
from tests.helpers.tiny import tiny

RANKS_SECONDS = 90.0  # for the processes of a training with several workers


def world(settings: Settings) -> Path:
    """A generated world of 60 pictures, drawn once."""
    folder = settings.folder / "toy"
    if not (folder / "VG-SGG-with-attri.h5").exists():
        make_toy(folder, 60, seed=1)
    return folder


def changed(settings: Settings, **changes: Any) -> Config:
    """The smallest config on the settings' device."""
    return tiny(training__device=settings.device, **changes)


def trained(settings: Settings, name: str, config: Config, **options: Any) -> Path:
    """The folder of a run, trained once."""
    folder = settings.folder / name
    if not (folder / "result.json").exists():
        train(config, world(settings), folder, **options)
    return folder


def undisturbed(settings: Settings) -> Path:
    """A deterministic run of six steps."""
    return trained(settings, "undisturbed", changed(settings, training__deterministic=True))


def differing(a: Path, b: Path) -> dict[str, Any]:
    """How two runs differ: figures that are not equal, weights that are not equal, and by how much at most."""
    first, second = weights(a), weights(b)
    apart = {name: float((first[name].double() - second[name].double()).abs().max()) for name in first}
    lines = zip(timeless(a), timeless(b), strict=True)
    figures = sum(x.get(key) != y.get(key) for x, y in lines for key in x.keys() | y.keys())
    losses = [line["train/loss"] for line in timeless(a) if "train/loss" in line]
    others = [line["train/loss"] for line in timeless(b) if "train/loss" in line]
    loss = max(abs(x - y) / abs(x) for x, y in zip(losses, others, strict=True))
    return {
        "weights": len(first),
        "unequal_weights": sum(error != 0 for error in apart.values()),
        "largest_weight_difference": max(apart.values()),
        "unequal_figures": figures,
        "largest_relative_loss_difference": loss,
    }


def require_equal(row: dict[str, Any]) -> None:
    """Raises where two runs are not equal bit for bit."""
    if row["unequal_weights"] or row["unequal_figures"]:
        raise AssertionError(f"{row['unequal_weights']} weights and {row['unequal_figures']} figures are not equal")


def deterministic(settings: Settings, tell: Tell) -> None:
    """Two runs of one seed are equal bit for bit; so is the official backbone's stem, frozen as it is by default."""
    first = undisturbed(settings)
    again = trained(settings, "again", changed(settings, training__deterministic=True))
    tell("small backbone", **(row := differing(first, again)))
    require_equal(row)
    resnet = {"model__backbone": "resnet18", "model__frozen_stages": 2, "training__max_steps": 2}
    config = changed(settings, training__deterministic=True, training__decay_steps=[1], **resnet)
    both = [trained(settings, f"resnet-{name}", config) for name in "ab"]
    tell("resnet", **(row := differing(*both)))
    require_equal(row)


def resume(settings: Settings, tell: Tell) -> None:
    """A run that is stopped after three steps and goes on is the undisturbed one, bit for bit."""
    folder = settings.folder / "parts"
    config = changed(settings, training__deterministic=True)
    train(configs.apply(config, {"training.max_steps": 3}), world(settings), folder)
    train(config, world(settings), folder, resume=True)
    first, second = weights(undisturbed(settings)), weights(folder)
    unequal = [name for name in first if not torch.equal(first[name], second[name])]
    tell("stopped and resumed", weights=len(first), unequal_weights=len(unequal))
    if unequal:
        raise AssertionError(f"{len(unequal)} weights are not equal, first {unequal[0]}")


def out_of_memory(settings: Settings, tell: Tell) -> None:
    """Where a device has no memory for a batch, half of it is trained on at once, and half of that."""
    side = 48 if settings.dry else 640
    sizes = {"data__train_sides": [side], "data__train_max_side": side, "training__max_steps": 2}
    config = changed(settings, training__batch_size=16, training__decay_steps=[1], **sizes)
    with too_small(settings, config, tell):
        fitted, result = train_in_parts(
            config, lambda config: train(config, world(settings), settings.folder / "memory", resume=True)
        )
    tell("went on", micro_batch_size=fitted.training.micro_batch_size, status=result["status"], step=result["step"])
    if fitted.training.micro_batch_size is None or result["step"] != 2:
        raise AssertionError("memory was never too small, or the training did not end")


@contextlib.contextmanager
def too_small(settings: Settings, config: Config, tell: Tell) -> Iterator[None]:
    """A device with memory for half a batch, not for the whole; without a device, one that says so."""
    if settings.dry:

        def refuse(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if isinstance(module, SpeaQ) and module.training and len(inputs[0]) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")

        hook = nn.modules.module.register_module_forward_pre_hook(refuse)
        try:
            yield
        finally:
            hook.remove()
        return
    peaks = {}
    for size in (16, 8):
        once = configs.apply(config, {"training.micro_batch_size": size})
        run = train(once, world(settings), settings.folder / f"memory-{size}")
        peaks[size] = run["cost"]["peak_memory_mib"]
        torch.cuda.empty_cache()
    limit = (peaks[16] + peaks[8]) / 2
    tell("peaks", mib_of_16=peaks[16], mib_of_8=peaks[8], limit_mib=limit)
    torch.cuda.set_per_process_memory_fraction(limit * 2**20 / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def distributed(settings: Settings, tell: Tell) -> None:
    """One worker with NCCL, and two with gloo on one card: sums, a wrapped step, and a whole training."""
    alone = undisturbed(settings)
    for backend, size in (("gloo" if settings.dry else "nccl", 1), ("gloo", 2)):
        folder = settings.folder / f"{backend}-{size}"
        start_ranks(settings, backend, size, folder)
        tell(f"{backend}, {size} of them", **differing(alone, folder))


def start_ranks(settings: Settings, backend: str, size: int, folder: Path) -> None:
    """Trains with several processes on one device. Raises where one of them fails or hangs."""
    meeting = settings.folder / f"meeting-{backend}-{size}"
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=rank_of, args=(n, size, backend, meeting, folder, settings)) for n in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(RANKS_SECONDS)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    if any(code != 0 for code in codes):
        said = [file.read_text(encoding="utf-8")[-300:] for file in sorted(settings.folder.glob(f"{meeting.name}.*"))]
        raise RuntimeError(f"{backend}, {size} workers: exit codes {codes} (None: hung) {' '.join(said)}")


def rank_of(rank: int, size: int, backend: str, meeting: Path, folder: Path, settings: Settings) -> None:
    """One worker, in a process of its own."""
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    device = torch.device(settings.device, 0) if settings.device == "cuda" else torch.device("cpu")
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        where, wait = f"file://{meeting}", timedelta(seconds=RANKS_SECONDS / 2)
        dist.init_process_group(backend, init_method=where, rank=rank, world_size=size, timeout=wait)
        ones = torch.ones(4, device=device)
        dist.all_reduce(ones)
        assert ones.tolist() == [size] * 4
        wrapped = nn.parallel.DistributedDataParallel(nn.Linear(4, 2).to(device))
        wrapped(ones[None]).sum().backward()
        several = {"resources.num_workers": size, "training.deterministic": False}
        train(configs.apply(changed(settings), several), world(settings), folder, device=device)
        dist.destroy_process_group()
    except BaseException as error:
        meeting.with_name(f"{meeting.name}.{rank}").write_text(f"rank {rank}: {error!r}", encoding="utf-8")
        os._exit(1)


def predict(settings: Settings, tell: Tell) -> None:
    """Scene graphs of four photos, on the device and on the CPU."""
    run, photos = undisturbed(settings), sorted((world(settings) / "VG_100K").glob("*.jpg"))[:4]
    with tf32(False):
        here, there = ([*Predictor.load(run, device=d).predict_all(photos)] for d in ("cpu", settings.device))
    scores = [[[t.score for t in graph.triplets] for graph in side] for side in (here, there)]  # type: ignore[union-attr]
    pairs = [(x, y) for a, b in zip(*scores, strict=True) for x, y in zip(a, b, strict=True)]
    worst = max((abs(x - y) for x, y in pairs), default=0.0)
    tell("scores", triplets=len(pairs), largest_difference=worst)
    if worst > 1e-3:
        raise AssertionError(f"scores differ by {worst:.3g}")


def export(settings: Settings, tell: Tell) -> None:
    """.pt2 and ONNX, each compared with the network on the device, and the .pt2 moved there as well."""
    run = undisturbed(settings)
    model = Predictor.load(run, device=settings.device)
    kinds = ["pt2"] if missing(OPTIONAL) else ["pt2", "onnx"]
    for kind in kinds:
        file = settings.folder / f"model.{kind}"
        export_model(run, [file])
        exported = Predictor.load(file, device="cpu", trusted=True)
        worst = 0.0
        for images, sizes_hw in example_batches(model, (), 2):
            with torch.inference_mode(), tf32(False):
                ours = model.model(images.to(model.device), sizes_hw.to(model.device))
                theirs = exported.model(images, sizes_hw)
            worst = max(worst, float((ours.predicate_logits[-1].cpu() - theirs.predicate_logits[-1]).abs().max()))
        tell(kind, bytes=file.stat().st_size, largest_difference=worst)
        if not worst < 1e-2:
            raise AssertionError(f"{kind}: logits differ by {worst:.3g}")
    moved(settings, model, tell)
    if len(kinds) == 1:
        raise Skipped(f"ONNX was left out: {', '.join(missing(OPTIONAL))}")


def moved(settings: Settings, model: Predictor, tell: Tell) -> None:
    """Runs the .pt2 itself on the device."""
    from torch.export.passes import move_to_device_pass

    program = move_to_device_pass(torch.export.load(settings.folder / "model.pt2"), settings.device)
    images, sizes_hw = (x.to(settings.device) for x in example_batches(model, (), 2)[0])
    with torch.inference_mode(), tf32(False):
        ours = model.model(images, sizes_hw).predicate_logits[-1]
    with torch.no_grad(), tf32(False):
        found = program.module()(images, sizes_hw)
    worst = min(float((x - ours).abs().max()) for x in found if x.shape == ours.shape)
    tell("pt2 on the device", largest_difference=worst)


def features(settings: Settings, tell: Tell) -> None:
    """A run from stored features is the run with the same parts frozen, within rounding; features stay on the card."""
    plain = {"data__flip_probability": 0.0, "model__dropout": 0.1}
    start = settings.folder / "detector"
    steps = {"training__max_steps": 3, "training__decay_steps": [2]}
    train(changed(settings, **steps), world(settings), start, task="detector")
    config = changed(settings, training__init_from=str(start), **plain)
    folder = settings.folder / "features"
    cache(asked(start, config, world(settings), folder), no_progresses)
    split = StoredSplit(folder, read_header(folder), "train")
    split.to(torch.device(settings.device))
    where = split.cells(0).device.type
    frozen = trained(settings, "frozen", configs.apply(config, {"model.frozen": ["backbone", "encoder"]}))
    stored = trained(settings, "stored", configs.apply(config, {"training.features": str(folder)}))
    row = differing(frozen, stored)
    tell("stored against frozen", **row, features_on=where, mib=split.nbytes / 2**20)
    worst = row["largest_relative_loss_difference"]
    if not (math.isfinite(worst) and worst < 1e-3) or where != settings.device:
        raise AssertionError(f"losses differ by {worst:.3g} of themselves; features are on {where}")
    shutil.rmtree(folder)
