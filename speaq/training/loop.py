"""One training loop, for SpeaQ and the detector, on one worker or many. It knows nothing of Ray.

A run is a folder: config.yaml, data.json, metrics.jsonl, checkpoints/{last,previous,best}.pt, result.json.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speaq.config import Config, ConfigError, dump, from_dict, read_yaml, to_dict
from speaq.data.dataset import RawBatch, train_loader
from speaq.data.subset import looked_at
from speaq.data.visual_genome import Split, VisualGenome, open_data
from speaq.files import atomic, locks
from speaq.matching import NonFiniteOutputError
from speaq.structures import Batch
from speaq.training import checkpoint, distributed, same_data
from speaq.training.endings import DivergedError, Interrupted, OutOfMemory, StopTraining
from speaq.training.environment import hardware, peak_memory_mib, reset_peak_memory, versions
from speaq.training.evaluate import Progress, _no_progress
from speaq.training.feasible import Feasibility, check_splits
from speaq.training.health import Health
from speaq.training.metrics import Sink, open_sinks, read_lines
from speaq.training.moved import noted_start, placed, start_digest, without_start
from speaq.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from speaq.training.resume import previous_run, with_known_start
from speaq.training.run_folder import alone_in_output
from speaq.training.tasks import Criterion, Task, TaskName, make_task

log = logging.getLogger(__name__)

Report = Callable[[int, Mapping[str, float | None], Path], None]


@dataclass
class _State:
    """What changes while training."""

    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds, for data, since this process began
    trained: float = 0.0  # seconds in steps, since this process began
    latency_ms: float | None = None  # see `Evaluation`
    best: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)


@dataclass
class _Run:
    """What stays the same while training."""

    config: Config
    output: Path
    task: Task
    criterion: Criterion  # what holds of the schedule of loss weights
    model: nn.Module  # wrapped for several workers
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    vg: VisualGenome
    train_split: Split
    val_split: Split
    device: torch.device
    report: Report | None
    saved: Callable[[], None]
    progress: Progress
    health: Health
    sinks: list[Sink] = field(default_factory=list)

    @property
    def main(self) -> bool:
        return distributed.world()[0] == 0


@alone_in_output
def train(
    config: Config,
    data: Path,
    output: Path,
    *,
    task: TaskName = "speaq",
    report: Report | None = None,
    saved: Callable[[], None] = lambda: None,
    resume: bool = False,
    device: torch.device | None = None,
    progress: Progress = _no_progress,
    sinks: Sequence[Sink] = (),
    interrupted: Callable[[], bool] = lambda: False,
    force: bool = False,
) -> dict[str, Any]:
    """Trains to `training.max_steps` and returns what is written to result.json.

    Args:
        data: folder with the four files of the data set.
        output: run folder; with `resume` a run found there goes on exactly where its last checkpoint was.
        report: called on every worker after each evaluation with (step, metrics, path of last.pt).
        saved: called on the first worker after each checkpoint, before `report`, when the folder can be resumed from.
        device: overrides `training.device`.
        progress: called with (steps done, steps in all, text) now and then.
        sinks: get the metrics too, beside those that the config asks for.
        interrupted: asked after each step; true acts as a signal does, which reaches the main thread alone.
        force: with `resume`, go on where the data set has changed since, with a warning.

    Raises:
        ConfigError, DataError: what the user gave cannot be used.
        LoaderDied: a process that decodes images was killed.
        Busy: another process trains in `output`.
        Gone, Taken: `output` was taken away, or taken over by another process.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint was written.
        DivergedError: outputs or a loss that are not finite.
        OutOfMemory: the device's memory is too small.
    """
    output, data = output.resolve(), data.resolve()
    torch.manual_seed(config.seed)
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    torch.use_deterministic_algorithms(config.training.deterministic)
    config = placed(config, output)
    previous = previous_run(config, output, task, resume)
    if previous is not None:
        config = with_known_start(config, previous)
    where = device or pick_device(config)
    reset_peak_memory(where)
    run = _prepare(config, data, output, task, report, saved, where, progress, begins=previous is None)
    if previous:
        same_data.check_annotations(output, run.vg, previous, force)
    seen = same_data.look_at_photos(output, run.vg, resumed=bool(previous), force=force, main=run.main)
    state = _restore(run, previous) if previous else _State()
    try:
        if run.main:
            _write_header(run, data, seen, begins=previous is None)
            run.sinks = [*open_sinks(output, config, state.step, run.task.protocol), *sinks]
            run.health.resume(read_lines(output / "metrics.jsonl"))
        with _interruptible() as by_signal:
            status = _loop(run, state, lambda: by_signal() or interrupted())
    finally:
        for sink in run.sinks:
            sink.close()
    result = _result(run, state, status)
    if run.main:
        _write_json(output / "result.json", result)
    return result


def pick_device(config: Config) -> torch.device:
    """The device that `training.device` names. Raises ConfigError where it is not there."""
    wanted = config.training.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device: cuda, but PyTorch sees no CUDA device here")
    name = "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"
    if name == "cpu" and config.training.precision == "float16":
        raise ConfigError("training.precision: float16 needs a CUDA device; use bfloat16 on the CPU")
    return torch.device(name)


def _prepare(
    config: Config,
    data: Path,
    output: Path,
    task_name: TaskName,
    report: Report | None,
    saved: Callable[[], None],
    device: torch.device,
    progress: Progress,
    *,
    begins: bool,
) -> _Run:
    vg = open_data(data)
    train_split = vg.split("train", config.data)
    val_split = looked_at(vg.split("val", config.data), config.evaluation)
    if task_name == "speaq":
        Feasibility(vg).check(config)
    check_splits(vg, train_split, val_split, config)
    task = make_task(task_name, config if begins else without_start(config), vg, train_split)
    task.model.to(device).to(memory_format=torch.channels_last)
    model: nn.Module = task.model
    if distributed.world()[1] > 1:
        model = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    scaler = torch.amp.GradScaler(device.type, enabled=config.training.precision == "float16")
    optimizer = make_optimizer(task.model, config.training)
    criterion = _criterion(config, task, 0, device)
    health = Health(config, task.model, criterion, vg.vocabulary.predicates)
    return _Run(
        config,
        output,
        task,
        criterion,
        model,
        optimizer,
        scaler,
        vg,
        train_split,
        val_split,
        device,
        report,
        saved,
        progress,
        health,
    )


def _criterion(config: Config, task: Task, steps: int, device: torch.device) -> Criterion:
    """The loss of the next step when `steps` are done."""
    criterion = task.criterion_for(config.losses.after(steps))
    return criterion.to(device) if isinstance(criterion, nn.Module) else criterion


def _restore(run: _Run, previous: Mapping[str, Any]) -> _State:
    run.task.model.load_state_dict(previous["model"])
    run.optimizer.load_state_dict(previous["optimizer"])
    run.scaler.load_state_dict(previous["scaler"])
    began_here = (run.output / "config.yaml").exists()  # else it goes on from another run's checkpoint
    seconds = previous["seconds"] if began_here else 0.0
    return _State(previous["step"], seconds, best=dict(previous["best"]), metrics=dict(previous["metrics"]))


def _write_header(run: _Run, data: Path, seen: Mapping[str, Any], *, begins: bool) -> None:
    locks.check_held(run.output)  # what was taken away while the run was prepared is not made again
    start = start_digest(run.config) if begins else noted_start(run.output)
    run.output.mkdir(parents=True, exist_ok=True)
    atomic.write_text(run.output / "config.yaml", dump(run.config))
    _write_json(
        run.output / "data.json",
        {
            "directory": str(data),
            "digest": run.vg.digest,
            **seen,
            "start_digest": start,
            "train_images": len(run.train_split),
            "val_images": len(run.val_split),
            "task": run.task.name,
        },
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    atomic.write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first SIGINT or SIGTERM into a flag, so that a step is never torn; the second acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for s, handler in before.items():
            signal.signal(s, handler)

    for s in before:
        signal.signal(s, handle)
    try:
        yield lambda: bool(received)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _loop(run: _Run, state: _State, interrupted: Callable[[], bool]) -> str:
    config = run.config.training
    rank, size = distributed.world()
    on_device = run.device.type != "cpu"
    batches = train_loader(run.train_split, run.config, rank, size, state.step, enlarge_on_device=on_device)
    run.model.train()
    meter = _Meter(state.step)
    turns = {state.step, *(change["step"] for change in run.config.losses.schedule)}
    while state.step < config.max_steps:
        begin = time.perf_counter()
        if state.step in turns:
            run.criterion = _criterion(run.config, run.task, state.step, run.device)
            run.health.watch(run.criterion)
        try:
            _step(run, state.step, batches, meter)
        except NonFiniteOutputError as error:
            raise DivergedError(run.health.explain(state.step + 1, str(error))) from error
        except torch.OutOfMemoryError as error:
            share = config.micro_batch_size or config.batch_size // size
            raise OutOfMemory(
                f"training.micro_batch_size: {share} images at once do not fit into the device's memory at step "
                f"{state.step}; set a smaller one"
            ) from error
        state.step += 1
        spent = time.perf_counter() - begin
        state.seconds += spent
        state.trained += spent
        state.waited = meter.waited_in_all
        if state.step % config.log_every == 0 or state.step == config.max_steps:
            _log_figures(run, state, meter)
        run.progress(state.step, config.max_steps, meter.text)
        stop = distributed.any_worker(interrupted()) if size == 1 or state.step % config.log_every == 0 else False
        last = state.step == config.max_steps
        if state.step % config.eval_every == 0 or last:
            begin = time.perf_counter()
            if not _evaluate(run, state):
                return "stopped"
            meter.begin += time.perf_counter() - begin  # the speed is that of the steps
        elif stop or (config.checkpoint_every is not None and state.step % config.checkpoint_every == 0):
            _save(run, state)
            _keep(run)
        if stop and not last:
            raise Interrupted(f"interrupted at step {state.step}; {run.output} can be resumed")
    return "finished"


@dataclass
class _Meter:
    """Throughput and losses since the last line."""

    since: int
    begin: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    waited_in_all: float = 0.0
    text: str = ""

    def wait(self, seconds: float) -> None:
        self.waited += seconds
        self.waited_in_all += seconds

    def reset(self, step: int) -> None:
        self.since, self.begin, self.waited = step, time.perf_counter(), 0.0


def _step(run: _Run, step: int, batches: Iterator[Batch | RawBatch], meter: _Meter) -> None:
    """One optimizer step, over as many micro-batches as the effective batch needs."""
    config = run.config.training
    rank, size = distributed.world()
    share = config.batch_size // size
    micro_batches = share // (config.micro_batch_size or share)
    # Dropout is seeded by step and worker, so that a resumed run needs no stored random state.
    torch.manual_seed(hash((run.config.seed, step, rank)) % 2**63)
    set_learning_rate(run.optimizer, step, config)
    run.optimizer.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    for index in range(micro_batches):
        begin = time.perf_counter()
        batch = next(batches).to(run.device)
        meter.wait(time.perf_counter() - begin)
        for name, value in _backward(run, batch, 1 / micro_batches, last=index == micro_batches - 1).items():
            total[name] = total[name] + value / micro_batches if name in total else value / micro_batches
    run.scaler.unscale_(run.optimizer)
    total["gradient_norm"], norms = clip_gradients(run.task.model, config)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.health.add(step + 1, total, norms)


def _backward(run: _Run, batch: Batch, scale: float, *, last: bool) -> dict[str, Tensor]:
    precision = run.config.training.precision
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float16
    hold = (
        run.model.no_sync() if isinstance(run.model, DistributedDataParallel) and not last else contextlib.nullcontext()
    )
    with hold:
        with torch.autocast(run.device.type, dtype, enabled=precision != "float32"):
            outputs = run.model(batch.images, batch.sizes_hw)
        total, parts = run.criterion(outputs.float(), batch.targets)
        run.scaler.scale(total * scale).backward()  # type: ignore[no-untyped-call]
    return {"loss": total.detach(), **parts}


def _log_figures(run: _Run, state: _State, meter: _Meter) -> None:
    figures = run.health.figures()
    loss = figures["loss"]
    if loss is None:
        raise DivergedError(run.health.explain(state.step))
    elapsed = max(time.perf_counter() - meter.begin, 1e-9)
    speed = (state.step - meter.since) * run.config.training.batch_size / elapsed
    line = {f"train/{name}": value for name, value in figures.items()}
    line["train/learning_rate"] = run.optimizer.param_groups[0]["lr"]
    line["train/images_per_second"] = speed
    line["train/data_wait_share"] = meter.waited / elapsed
    line["train/seconds"] = state.seconds
    _emit(run, state.step, line)
    meter.reset(state.step)
    meter.text = f"loss {loss:.3f} · {speed:.0f} images/s"


def _emit(run: _Run, step: int, values: Mapping[str, float | None]) -> None:
    for sink in run.sinks:
        sink.write(step, values)


def _evaluate(run: _Run, state: _State) -> bool:
    """Evaluates, keeps the best, saves, reports; False where the report asked to stop."""

    def progress(done: int, total: int, text: str) -> None:
        run.progress(state.step, run.config.training.max_steps, f"{text} {done}/{total}")

    begin = time.perf_counter()
    evaluation = run.task.evaluate(run.task.model, run.val_split, run.device, progress)
    metrics, state.latency_ms = evaluation.metrics, evaluation.latency_ms
    state.seconds += time.perf_counter() - begin
    state.metrics = metrics
    name = run.task.best_metric
    value = metrics.get(name)
    if value is None:
        raise ConfigError(
            f"training.best_metric: {name} is undefined on this validation split (no rows that it counts)"
        )
    improved = not state.best or value > state.best["value"]
    if improved:
        state.best = {"metric": name, "value": value, "step": state.step, "metrics": metrics}
    _save(run, state)
    if improved and run.main:
        content = checkpoint_content(run.task, run.config, run.vg, state.step)
        checkpoint.save(run.output / "checkpoints" / checkpoint.BEST, content)
    if run.main:
        _emit(run, state.step, {**{f"val/{k}": v for k, v in metrics.items()}, "val/seconds": state.seconds})
    _keep(run)
    if run.report is not None:
        try:
            run.report(state.step, metrics, run.output / "checkpoints" / checkpoint.LAST)
        except StopTraining:
            return False
    return True


def checkpoint_content(task: Task, config: Config, vg: VisualGenome, step: int) -> dict[str, Any]:
    """What evaluation needs of a model, as plain values and tensors."""
    return {
        "task": task.name,
        "step": step,
        "model": task.model.state_dict(),
        "config": to_dict(config),
        "objects": list(vg.vocabulary.objects),
        "predicates": list(vg.vocabulary.predicates),
        "data_digest": vg.digest,
    }


def _save(run: _Run, state: _State) -> None:
    if run.main:
        content = {
            **checkpoint_content(run.task, run.config, run.vg, state.step),
            "optimizer": run.optimizer.state_dict(),
            "scaler": run.scaler.state_dict(),
            "seconds": state.seconds,
            "best": state.best,
            "metrics": state.metrics,
        }
        checkpoint.save(run.output / "checkpoints" / checkpoint.LAST, content, keep_previous=True)
    distributed.barrier()


def _keep(run: _Run) -> None:
    if run.main:
        run.saved()


def _result(run: _Run, state: _State, status: str) -> dict[str, Any]:
    return {
        "status": status,
        "step": state.step,
        "protocol": run.task.protocol,
        "metrics": state.metrics,
        "best": state.best,
        "seconds": round(state.seconds, 3),
        "cost": _cost(run, state),
        "versions": versions(),
        "hardware": hardware(run.device),
    }


def _cost(run: _Run, state: _State) -> dict[str, float | None]:
    """What the run took: seconds over all its attempts, the rest since the last one began."""
    return {
        "seconds": round(state.seconds, 3),
        "steps": state.step,
        "workers": distributed.world()[1],
        "peak_memory_mib": round(peak_memory_mib(run.device), 1),
        "data_wait_share": round(state.waited / state.trained, 4) if state.trained else None,
        "latency_ms": None if state.latency_ms is None else round(state.latency_ms, 3),
    }


def load_config(run_folder: Path) -> Config:
    """The config that a run was made with."""
    return from_dict(read_yaml(run_folder / "config.yaml"), str(run_folder / "config.yaml"))
