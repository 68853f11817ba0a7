"""One training loop, for SpeaQ and the detector, on one worker or many. It knows nothing of Ray.

A run is a folder: config.yaml, data.json, metrics.jsonl, predicates.json, checkpoints/{last,previous,best}.pt,
result.json.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from speaq.config import Config, ConfigError, TrainingConfig, to_dict
from speaq.data import DataError, LoaderDied
from speaq.data.loading import train_loader
from speaq.data.records import looked_at
from speaq.data.visual_genome import open_data
from speaq.training import checkpoint, distributed
from speaq.training.callbacks import Callbacks, Progress, Report, Sink, never, no_progress, nothing
from speaq.training.device import pick_device, reset_peak_memory
from speaq.training.endings import DivergedError, Interrupted, StopTraining, interruptible
from speaq.training.feasible import Feasibility
from speaq.training.folder import own_folder
from speaq.training.health import Health
from speaq.training.metrics import open_sinks, read_lines
from speaq.training.origins import check_frozen, placed, without_start
from speaq.training.picture import Picture
from speaq.training.record import save, write_checkpoint, write_header, write_predicates, write_result
from speaq.training.resume import best_of, look_at_data, previous_run, with_known_start
from speaq.training.step import Meter, Run, State, criterion_after, make_optimizer, take_step
from speaq.training.stored_features import with_features
from speaq.training.tasks import TaskName, make_task


def train(
    config: Config,
    data: Path,
    output: Path,
    *,
    task: TaskName = "speaq",
    report: Report | None = None,
    saved: Callable[[], None] = nothing,
    resume: bool = False,
    device: torch.device | None = None,
    progress: Progress = no_progress,
    sinks: Sequence[Sink] = (),
    interrupted: Callable[[], bool] = never,
    force: bool = False,
) -> dict[str, Any]:
    """Trains to `training.max_steps` and returns what is written to result.json.

    Args:
        data: folder with the four files of the data set.
        output: run folder; with `resume` a run found there goes on exactly where its last checkpoint was.
        report, saved, progress, sinks, interrupted: see `Callbacks`.
        device: overrides `training.device`.
        force: with `resume`, go on where the data set has changed since, with a warning.

    Raises:
        ConfigError, DataError: what the user gave cannot be used.
        LoaderDied: a process that decodes images was killed, or gave nothing for minutes. A checkpoint was written.
        Busy, Gone, Taken: another process trains in `output`; `output` was taken away, or taken over.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint was written.
        DivergedError, OutOfMemory: outputs or a loss are not finite; the device's memory is too small.
    """
    output, data = output.resolve(), data.resolve()
    with own_folder(output) if distributed.world()[0] == 0 else contextlib.nullcontext():
        _set_up_torch(config)
        config = placed(config, output)
        if (previous := previous_run(config, output, task, resume)) is not None:
            config = with_known_start(config, previous)
        calls = Callbacks(report, saved, progress, sinks, interrupted)
        run = _prepare(config, data, output, task, device or pick_device(config), calls, begins=previous is None)
        seen = look_at_data(output, run.vg, previous, force=force, main=run.main)
        state = State() if previous is None else _restored(run, previous)
        if config.training.features is not None:
            run.train_split, run.val_split = with_features(run)
        return write_result(run, state, _recorded(run, state, seen, begins=previous is None))


def _set_up_torch(config: Config) -> None:
    torch.manual_seed(config.seed)
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    if config.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else PyTorch refuses products on CUDA
    torch.use_deterministic_algorithms(config.training.deterministic)


def _prepare(
    config: Config, data: Path, output: Path, name: TaskName, device: torch.device, calls: Callbacks, *, begins: bool
) -> Run:
    """Opens the data, checks that it can carry the config, and makes what is trained, on the device."""
    reset_peak_memory(device)
    if begins:
        check_frozen(config)
    vg = open_data(data)
    train_split = vg.split("train", config.data)
    val_split = looked_at(vg.split("val", config.data), config.evaluation)
    feasibility = Feasibility(vg)
    (feasibility.check if name == "speaq" else feasibility.check_splits)(config)
    task = make_task(name, config if begins else without_start(config), vg, train_split)
    task.model.to(device).to(memory_format=torch.channels_last)
    model: nn.Module = task.model
    if distributed.world()[1] > 1:
        model = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    criterion = criterion_after(config, task, 0, device)
    return Run(
        config=config,
        output=output,
        task=task,
        criterion=criterion,
        model=model,
        optimizer=make_optimizer(task.model, config.training),
        scaler=torch.amp.GradScaler(device.type, enabled=config.training.precision == "float16"),
        vg=vg,
        train_split=train_split,
        val_split=val_split,
        device=device,
        health=Health(config, task.model, getattr(criterion, "groups", None), vg.vocabulary.predicates),
        calls=calls,
    )


def _restored(run: Run, previous: Mapping[str, Any]) -> State:
    """Loads a checkpoint into the run; returns the state to go on from."""
    run.task.model.load_state_dict(previous["model"])
    run.optimizer.load_state_dict(previous["optimizer"])
    run.scaler.load_state_dict(previous["scaler"])
    began_here = (run.output / "config.yaml").exists()  # else it goes on from another run's checkpoint
    best = distributed.broadcast(best_of(run.output, previous) if run.main else None)
    return State(
        step=previous["step"],
        seconds=previous["seconds"] if began_here else 0.0,
        best=best,
        metrics=dict(previous["metrics"]),
        evaluated=previous["evaluated"],
        kept=previous["step"],
        told=not _was_evaluated_here(run, previous),
    )


def _was_evaluated_here(run: Run, previous: Mapping[str, Any]) -> bool:
    """Whether this run has evaluated the checkpoint that it goes on from: the report may have been lost.

    The checkpoint of another run, from which a child of pbt begins, lacks the child's last change of loss weights.
    """
    same: bool = previous["config"].get("losses", {}).get("schedule") == to_dict(run.config)["losses"]["schedule"]
    return same and previous["evaluated"] == previous["step"]


def _recorded(run: Run, state: State, seen: Mapping[str, Any], *, begins: bool) -> str:
    """Trains to the end with sinks for the metrics and an ear for signals; returns how it ended.

    `seen` and `begins` as in `write_header`.
    """
    try:
        if run.main:
            write_header(run, seen, begins=begins)
            opened = open_sinks(run.output, run.config, state.step, run.task.protocol)
            pictures = [Picture(run.output)] if run.config.sinks.picture else []
            run.sinks = [*opened, *pictures, *run.calls.sinks]
            run.health.resume(read_lines(run.output / "metrics.jsonl"))
        with interruptible() as by_signal:
            run.interrupted = lambda: by_signal() or run.calls.interrupted()
            return _loop(run, state)
    finally:
        for sink in run.sinks:
            sink.close()


def _loop(run: Run, state: State) -> str:
    """Trains to the end. Where it cannot go on, what was trained is kept first."""
    try:
        if not state.told and not _report(run, state):
            return "stopped"
        return _steps(run, state)
    except (Interrupted, LoaderDied, DataError, ConfigError) as error:  # of which none tears a step
        if state.kept != state.step and run.main:  # other workers are not waited for: they may not come here
            write_checkpoint(run, state)
            run.calls.saved()
        also = isinstance(error, LoaderDied) and distributed.world()[1] == 1 and run.interrupted()
        if isinstance(error, Interrupted) or also:  # the processes that decode may get the signal too
            raise Interrupted(f"interrupted at step {state.step}; {run.output} can be resumed") from error
        raise


def _steps(run: Run, state: State) -> str:
    """Trains step by step, and logs, evaluates and saves where it is due. Raises Interrupted when it is asked to."""
    config = run.config.training
    rank, size = distributed.world()
    on_device = run.device.type != "cpu"
    batches = train_loader(
        run.train_split, run.config, rank, size, state.step, enlarge_on_device=on_device, waiting=run.wait
    )
    run.model.train()
    meter = Meter(state.step)
    turns = {state.step, *(change["step"] for change in run.config.losses.schedule)}
    unfinished = state.evaluated is not None and state.evaluated < state.step  # the evaluation was interrupted
    if unfinished and _is_due(config, state) and not _evaluate(run, state):
        return "stopped"
    while state.step < config.max_steps:
        begin = time.perf_counter()
        if state.step in turns:
            run.criterion = criterion_after(run.config, run.task, state.step, run.device)
        take_step(run, state.step, batches, meter)
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
            run.calls.progress(state.step, config.max_steps, meter.text)
        if _is_due(config, state) and not (stop and size == 1):
            begin = time.perf_counter()
            if not _evaluate(run, state):
                return "stopped"
            meter.begin += time.perf_counter() - begin  # the speed is that of the steps
        elif stop or (config.checkpoint_every is not None and state.step % config.checkpoint_every == 0):
            save(run, state)
        if stop and (size == 1 or state.step < config.max_steps):
            raise Interrupted
    return "finished"


def _is_due(config: TrainingConfig, state: State) -> bool:
    """Whether the step that was just made is one to evaluate at."""
    return state.step > 0 and (state.step % config.eval_every == 0 or state.step == config.max_steps)


def _log_figures(run: Run, state: State, meter: Meter) -> None:
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


def _emit(run: Run, step: int, values: Mapping[str, float | None]) -> None:
    for sink in run.sinks:
        sink.write(step, values)


def _evaluate(run: Run, state: State) -> bool:
    """Evaluates, keeps the best, saves, reports; False where the report asked to stop."""

    def progress(done: int, total: int, text: str) -> None:
        run.wait()
        run.calls.progress(state.step, run.config.training.max_steps, f"{text} {done}/{total}")

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
    improved = not state.best or value > state.best["value"]  # of equal ones the first is kept, as runs on disk have it
    if improved:
        state.best = {"metric": name, "value": value, "step": state.step, "metrics": metrics}
    state.evaluated = state.step
    if run.main:  # before the checkpoint: a resumed run drops lines that come after it, and cannot make one again
        _emit(run, state.step, {**{f"val/{k}": v for k, v in metrics.items()}, "val/seconds": state.seconds})
        if improved and evaluation.recall is not None:
            write_predicates(run, state, evaluation.recall)
    save(run, state, improved=improved)
    return _report(run, state)


def _report(run: Run, state: State) -> bool:
    """Reports the last evaluation; False where the report asked to stop."""
    if run.calls.report is not None:
        try:
            run.calls.report(state.step, state.metrics, run.output / "checkpoints" / checkpoint.LAST)
        except StopTraining:
            return False
    return True
