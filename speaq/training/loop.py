"""One training loop, for SpeaQ and the detector, on one worker or many. It knows nothing of Ray.

A run is a folder: config.yaml, data.json, metrics.jsonl, checkpoints/{last,previous,best}.pt, result.json.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speaq.config import Config, ConfigError, TrainingConfig, dump, from_dict, read_yaml, to_dict
from speaq.data import DataError, LoaderDied
from speaq.data.dataset import RawBatch, train_loader
from speaq.data.subset import looked_at
from speaq.data.visual_genome import VisualGenome, open_data
from speaq.files import atomic, locks
from speaq.matching.match import NonFiniteOutputError
from speaq.structures import Batch
from speaq.training import checkpoint, distributed, same_data
from speaq.training.endings import DivergedError, Interrupted, OutOfMemory, StopTraining, interruptible
from speaq.training.environment import hardware, peak_memory_mib, reset_peak_memory, versions
from speaq.training.evaluate import Progress, _no_progress
from speaq.training.feasible import Feasibility, check_splits
from speaq.training.folder import alone_in_output
from speaq.training.health import Health
from speaq.training.metrics import Sink, open_sinks, read_lines
from speaq.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from speaq.training.origins import noted_start, placed, start_digest, without_start
from speaq.training.repair import best_of
from speaq.training.resume import previous_run, with_known_start
from speaq.training.state import Report as Report
from speaq.training.state import Run as _Run
from speaq.training.state import State as _State
from speaq.training.tasks import Criterion, Task, TaskName, make_task

log = logging.getLogger(__name__)


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
        LoaderDied: a process that decodes images was killed, or gave nothing for minutes. A checkpoint was written.
        Busy: another process trains in `output`.
        Gone, Taken: `output` was taken away, or taken over by another process.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint was written.
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
    run = _prepare(config, data, output, task, report, saved, where, progress, interrupted, begins=previous is None)
    if previous:
        same_data.check_annotations(output, run.vg, previous, force)
    seen = same_data.look_at_photos(output, run.vg, resumed=bool(previous), force=force, main=run.main)
    state = _restore(run, previous) if previous else _State()
    reported = previous is not None and _was_evaluated_here(run, previous)
    try:
        if run.main:
            _write_header(run, data, seen, begins=previous is None)
            run.sinks = [*open_sinks(output, config, state.step, run.task.protocol), *sinks]
            run.health.resume(read_lines(output / "metrics.jsonl"))
        with interruptible() as by_signal:
            run.interrupted = lambda: by_signal() or interrupted()
            status = _loop(run, state, again=reported)
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
    interrupted: Callable[[], bool],
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
        interrupted,
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
    best = distributed.broadcast(best_of(run.output, previous) if run.main else None)
    return _State(
        step := previous["step"],
        previous["seconds"] if began_here else 0.0,
        best=best,
        metrics=dict(previous["metrics"]),
        evaluated=previous["evaluated"],
        kept=step,
    )


def _was_evaluated_here(run: _Run, previous: Mapping[str, Any]) -> bool:
    """Whether this run has evaluated the checkpoint that it goes on from: the report may have been lost.

    The checkpoint of another run, from which a child of pbt begins, lacks the child's last change of loss weights.
    """
    same: bool = previous["config"].get("losses", {}).get("schedule") == to_dict(run.config)["losses"]["schedule"]
    return same and previous["evaluated"] == previous["step"]


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


def _loop(run: _Run, state: _State, *, again: bool) -> str:
    """Trains to the end. Where it cannot go on, what was trained is kept first.

    Args:
        again: report the last evaluation once more, before anything else.
    """
    try:
        if again and not _report(run, state):
            return "stopped"
        return _steps(run, state)
    except (Interrupted, LoaderDied, DataError, ConfigError) as error:  # of which none tears a step
        if state.kept != state.step and run.main:  # other workers are not waited for: they may not come here
            _write(run, state)
            run.saved()
        also = isinstance(error, LoaderDied) and distributed.world()[1] == 1 and run.interrupted()
        if isinstance(error, Interrupted) or also:  # the processes that decode may get the signal too
            raise Interrupted(f"interrupted at step {state.step}; {run.output} can be resumed") from error
        raise


def _steps(run: _Run, state: _State) -> str:
    config = run.config.training
    rank, size = distributed.world()
    on_device = run.device.type != "cpu"
    batches = train_loader(
        run.train_split, run.config, rank, size, state.step, enlarge_on_device=on_device, waiting=run.wait
    )
    run.model.train()
    meter = _Meter(state.step)
    turns = {state.step, *(change["step"] for change in run.config.losses.schedule)}
    unfinished = state.evaluated is not None and state.evaluated < state.step  # the evaluation was interrupted
    if unfinished and _is_due(config, state) and not _evaluate(run, state):
        return "stopped"
    while state.step < config.max_steps:
        begin = time.perf_counter()
        if state.step in turns:
            run.criterion = _criterion(run.config, run.task, state.step, run.device)
            run.health.watch(run.criterion)
        _explained_step(run, state.step, batches, meter)
        state.step += 1
        spent = time.perf_counter() - begin
        state.seconds += spent
        state.trained += spent
        state.waited = meter.waited_in_all
        if state.step % config.log_every == 0 or state.step == config.max_steps:
            _log_figures(run, state, meter)
        agree = size == 1 or state.step % config.log_every == 0
        stop = distributed.any_worker(run.interrupted()) if agree else False
        if not stop:  # a terminal that was closed cannot be written to
            run.progress(state.step, config.max_steps, meter.text)
        if _is_due(config, state) and not (stop and size == 1):
            begin = time.perf_counter()
            if not _evaluate(run, state):
                return "stopped"
            meter.begin += time.perf_counter() - begin  # the speed is that of the steps
        elif stop or (config.checkpoint_every is not None and state.step % config.checkpoint_every == 0):
            _save(run, state)
        if stop and (size == 1 or state.step < config.max_steps):
            raise Interrupted
    return "finished"


def _is_due(config: TrainingConfig, state: _State) -> bool:
    """Whether the step that was just made is one to evaluate at."""
    return state.step > 0 and (state.step % config.eval_every == 0 or state.step == config.max_steps)


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


def _explained_step(run: _Run, step: int, batches: Iterator[Batch | RawBatch], meter: _Meter) -> None:
    """A step; one that cannot be made says why. Raises DivergedError, OutOfMemory."""
    try:
        _step(run, step, batches, meter)
    except NonFiniteOutputError as error:
        raise DivergedError(run.health.explain(step + 1, str(error))) from error
    except torch.OutOfMemoryError as error:
        config = run.config.training
        share = config.micro_batch_size or config.batch_size // distributed.world()[1]
        raise OutOfMemory(
            f"training.micro_batch_size: {share} images at once do not fit into the device's memory at step "
            f"{step}; set a smaller one"
        ) from error


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
        run.wait()
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
    state.evaluated = state.step
    if run.main:  # before the checkpoint: a resumed run drops lines that come after it, and cannot make one again
        _emit(run, state.step, {**{f"val/{k}": v for k, v in metrics.items()}, "val/seconds": state.seconds})
    _save(run, state, improved=improved)
    return _report(run, state)


def _report(run: _Run, state: _State) -> bool:
    """Reports the last evaluation; False where the report asked to stop."""
    if run.report is not None:
        try:
            run.report(state.step, state.metrics, run.output / "checkpoints" / checkpoint.LAST)
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


def _save(run: _Run, state: _State, *, improved: bool = False) -> None:
    if run.main:
        _write(run, state, improved=improved)
    distributed.barrier()
    if run.main:
        run.saved()


def _write(run: _Run, state: _State, *, improved: bool = False) -> None:
    """The checkpoint; with `improved` the weights are the best so far."""
    folder = run.output / "checkpoints"
    content = checkpoint_content(run.task, run.config, run.vg, state.step)
    last = {
        **content,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "seconds": state.seconds,
        "best": state.best,
        "metrics": state.metrics,
        "evaluated": state.evaluated,
    }
    (run.output / "result.json").unlink(missing_ok=True)  # of fewer steps: it is written again at the end
    checkpoint.save_step(folder, last, {**content, "best": state.best} if improved else None)
    state.kept = state.step


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
