"""What the card is, and whether it computes what it should."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch

from speaq.config import ModelConfig
from speaq.model.speaq import SpeaQ
from speaq.structures import LayerOutputs
from speaq.targets import join
from tests.bench import workloads
from tests.bench.steps import SMALL
from tests.golden.runner import Outcome, describe, excess, read_index, run_case
from tests.gpu.plan import NEEDED, OPTIONAL, Settings, Skipped, Tell, missing
from tests.helpers.waits import CONFIGS, Waits, step

# Groups with networks, losses, matching or decoding; the others compute on the host alone.
GOLDEN_GROUPS = ("G3", "G2", "G5", "G6", "G7", "G11", "G10")


def card(settings: Settings, tell: Tell) -> None:
    """Card, driver, versions, packages that are missing."""
    tell("host", cores=len(os.sched_getaffinity(0)), load=os.getloadavg()[0])
    versions = {name: version(name) for name in (*NEEDED.values(), *OPTIONAL.values())}
    tell("packages", **{name: value for name, value in versions.items() if value})
    tell("missing", packages=missing(OPTIONAL))
    tell("torch", cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(), threads=torch.get_num_threads())
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
        tell("nvidia-smi", says=" ".join(done.stdout.split()))
    if settings.dry:
        return
    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA device here; --dry does every stage on the CPU")
    found = torch.cuda.get_device_properties(0)
    tell(
        "card",
        name=found.name,
        capability=f"{found.major}.{found.minor}",
        memory_gib=found.total_memory / 2**30,
        multiprocessors=found.multi_processor_count,
        nccl=".".join(map(str, torch.cuda.nccl.version())),
    )


def version(package: str) -> str | None:
    """Of an installed package."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Float32 products with their last bits rounded away, or without; as it was afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = on
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def golden(settings: Settings, tell: Tell) -> None:
    """The reference's numbers, in float32; a dry run takes the first case of four small groups."""
    if settings.golden is None:
        raise Skipped("no golden set is here: give --golden DIR")
    cases = read_index(settings.golden, settings.device)
    failed = 0
    with tf32(False):
        for group in ("G3", "G2", "G5", "G6") if settings.dry else GOLDEN_GROUPS:
            chosen = [case for case in cases if case.group == group][: 1 if settings.dry else None]
            outcomes = [run_case(case) for case in chosen]
            failed += sum(not outcome.ok for outcome in outcomes)
            tell(group, **figures(outcomes))
    if failed:
        raise AssertionError(f"{failed} cases are not within their tolerances")


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """How many cases passed, the largest errors, and what failed."""
    checks = [check for outcome in outcomes for check in outcome.checks]
    errors = [check.error if check.absolute is None else check.absolute for check in checks]
    bad = [" ".join(describe(outcome).split())[:400] for outcome in outcomes if not outcome.ok]
    return {
        "cases": len(outcomes),
        "passed": len(outcomes) - len(bad),
        "largest_error": max(errors, default=0.0),
        "of_tolerance": max(map(excess, checks), default=0.0),
        "failed": bad,
    }


def synchronisation(settings: Settings, tell: Tell) -> None:
    """A step waits for its device once, when the matching costs come to the host."""
    wrong = []
    for name, config in zip(("plain", "checkpointing"), CONFIGS, strict=True):
        work = step(config, settings.device)
        work()
        where = waits_on_cpu(work) if settings.dry else waits_on_cuda(work)
        tell(name, waits=len(where), where=where)
        wrong += [name] if len(where) != 1 else []
    if wrong:
        raise AssertionError(f"other than one wait a step: {', '.join(wrong)}")


def waits_on_cpu(work: Any) -> list[str]:
    """Operators that would wait, and our function that calls them."""
    with Waits() as waits:
        work()
    return [" in ".join(found) for found in waits.found]


def waits_on_cuda(work: Any) -> list[str]:
    """Lines that make the host wait."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    said = [w for w in warned if "synchronizing CUDA operation" in str(w.message)]
    return [f"{os.path.basename(w.filename)}:{w.lineno}" for w in said]


def precision(settings: Settings, tell: Tell) -> None:
    """Outputs and losses of the official model on small pictures: halves, TF32 and the CPU against float32."""
    torch.manual_seed(0)
    config = ModelConfig(**SMALL) if settings.dry else ModelConfig()
    model = SpeaQ(config, workloads.OBJECTS, workloads.PREDICATES).eval()
    size = (64, 96) if settings.dry else (192, 256)
    images, sizes = torch.randint(256, (2, 3, *size), dtype=torch.uint8), torch.tensor([size, (size[0] - 32, size[1])])
    targets, loss = join([workloads.target(10) for _ in range(2)]), workloads.criterion(config)
    results = {}
    for name in ("cpu", "float32", "tf32", "bfloat16", "float16"):
        device = "cpu" if name == "cpu" else settings.device
        dtype = getattr(torch, name, torch.float32) if name not in ("cpu", "tf32") else torch.float32
        model, loss = model.to(device), loss.to(device)
        with torch.no_grad(), tf32(name == "tf32"), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            outputs: LayerOutputs = model(images.to(device), sizes.to(device)).float()
        with torch.no_grad(), tf32(False):
            parts = loss(outputs, targets.mapped(lambda column, device=device: column.to(device)))[1]
        results[name] = (
            {f.name: getattr(outputs, f.name).double().cpu() for f in fields(outputs)},
            {key: float(value) for key, value in parts.items()},
        )
    for name in ("cpu", "tf32", "bfloat16", "float16"):
        tell(f"{name} against float32", **relative_errors(results[name], results["float32"]))


def relative_errors(found: Any, plain: Any) -> dict[str, Any]:
    """Largest errors of outputs, in parts of the largest number of each, and of losses."""
    outputs = {
        key: float((value - plain[0][key]).abs().max() / plain[0][key].abs().max()) for key, value in found[0].items()
    }
    losses = {key: abs(value - plain[1][key]) / max(abs(plain[1][key]), 1e-3) for key, value in found[1].items()}
    worst = max(losses, key=lambda key: losses[key])
    return {**outputs, "loss": losses[worst], "worst_loss": worst}
