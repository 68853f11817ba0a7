"""Queues, `speaq confirm` and a search on a cluster whose head has no GPU, and one node two invented ones.

`python -m tests.helpers.invented_gpus STUDY DATA` is a process of its own, because Ray keeps the first token that it
sees. STUDY/said.json tells what happened: Ray prints on both streams. PyTorch finds no such GPU, so the training
function of `confirm` computes on the CPU.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from speaq.config import Config
from speaq.training.callbacks import Progress, no_progresses
from speaq.training.endings import OutOfMemory

PATIENCE = 120.0  # seconds that those wait for each other that are to be at work at the same time
TOGETHER = 2


def train(config: Config, data: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Trains on the CPU, beside another run; that of seed 3 in trial 0000 is killed once, at its first evaluation."""
    import torch

    from speaq.training.loop import train as real

    note(output.parent.parent / "places.jsonl", f"{output.parent.name} {output.name}")
    (output / "begun").touch()
    wait_for_others(output.parent.parent, f"*/{output.name}/begun")
    report = options.pop("report")

    def dying(step: int, metrics: Any, checkpoint: Path) -> None:
        report(step, metrics, checkpoint)
        died = output / "died"
        if (output.parent.name, output.name) == ("0000", "seed-3") and not died.exists():
            died.touch()
            os._exit(1)

    return real(config, data, output, report=dying, device=torch.device("cpu"), **options)


def note(path: Path, name: str) -> None:
    """Adds a line about where this process is."""
    import ray  # noqa: TID251

    context = ray.get_runtime_context()
    row = {
        "name": name,
        "share": context.get_assigned_resources(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "node": context.get_node_id(),
    }
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def wait_for_others(folder: Path, pattern: str) -> None:
    """Until as many are here as are to be at work at the same time."""
    deadline = time.monotonic() + PATIENCE
    while len(list(folder.glob(pattern))) < TOGETHER:
        if time.monotonic() > deadline:
            raise TimeoutError("the other run has not begun")
        time.sleep(0.1)


def job(folder: Path, name: str, tell: Progress) -> str:
    """What a queue does: some fail, some die."""
    tell(1, 2, name)
    note(folder / "jobs.jsonl", name)
    if name.startswith("together"):
        (folder / name).touch()
        wait_for_others(folder, "together*")
    if name == "fails":
        raise ArithmeticError("made to fail")
    died = folder / f"{name}-died"
    if name == "dies" or (name == "dies once" and not died.exists()):
        died.touch()
        os._exit(1)
    return f"{name} done"


def cheap(config: Config, data: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Costs nothing, and has a device of which two such trials fill half; the fifth finds it full beside another."""
    import ray  # noqa: TID251

    from tests.helpers import cheap_training

    study = output.parent.parent
    note(study / "places.jsonl", output.name)
    shared = not (own := ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0) == 1.0)
    if output.name == "0004" and shared:
        raise OutOfMemory("the others take it")
    if shared:
        (output / "shared").touch()
        wait_for_others(study / "trials", "*/shared")
    result = cheap_training.train(config, data, output, **options)
    result["cost"] |= {"device_memory_mib": 2 * (1.2 * 100.0 + 800.0) / 0.95 + 1.0, "own": float(own)}
    return result


def main() -> None:
    import ray  # noqa: TID251
    from ray.cluster_utils import Cluster  # noqa: TID251

    study, data = Path(sys.argv[1]), Path(sys.argv[2])
    head = {"num_cpus": 2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=2, num_gpus=2)
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        said = {
            "head": ray.get_runtime_context().get_node_id(),
            "queue": queue(study),
            "confirm": confirm(study, data),
            "search": search(study.parent / "search", data),
            "lost": lost_node(cluster, study),
        }
        (study / "said.json").write_text(json.dumps(said))
    finally:
        ray.shutdown()
        cluster.shutdown()


def queue(folder: Path) -> dict[str, str]:
    """How each job of a queue ended."""
    from launch.jobs.queue import Job, Queue
    from speaq.config import ResourcesConfig

    found: dict[str, str] = {}

    def ended(job: Job, outcome: Any) -> None:
        found[job.name] = f"{type(outcome).__name__}: {outcome}"

    names = ("together 1", "together 2", "fails", "dies", "dies once")
    jobs = [Job(name, job, (folder, name)) for name in names]
    Queue(ResourcesConfig(gpus_per_worker=1.0), no_progresses).run(jobs, ended)
    return found


def confirm(study: Path, data: Path) -> dict[str, Any]:
    from launch.jobs.confirm import confirm

    return confirm(study, "3..4", 1, None, no_progresses)


def search(output: Path, data: Path) -> dict[str, list[Any]]:
    """Attempts of each trial, and whether it ended on a GPU of its own."""
    from launch.jobs import tune as studies
    from speaq import config as configs
    from speaq import space as spaces
    from speaq.study import creation
    from tests.helpers.tiny import tiny

    rate = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}
    asked = {"search": {"objective": ["R@50"], "scheduler": "none"}, "parameters": {"training.learning_rate": rate}}
    config = configs.apply(tiny(), {"resources.gpus_per_worker": 1.0, "resources.trials_per_gpu": "auto"})
    space = spaces.from_dict(asked)
    made = creation.create(config, space, data, trials=7, train="tests.helpers.invented_gpus:cheap")
    entries = studies.start(made, output)
    return {entry.id: [entry.state, entry.attempts, entry.cost.get("own")] for entry in entries}


def lost_node(cluster: Any, folder: Path) -> str:
    """How a job ends whose node is lost, of two with GPUs."""
    from launch.jobs.queue import Job, Queue
    from speaq.config import ResourcesConfig

    found: list[str] = []

    def lose() -> None:
        while not (folder / "stays").exists():
            time.sleep(0.05)
        place = json.loads((folder / "stays").read_text())
        (node,) = (node for node in cluster.worker_nodes if node.node_id == place)
        cluster.remove_node(node, allow_graceful=False)

    cluster.add_node(num_cpus=2, num_gpus=2)
    thread = threading.Thread(target=lose)
    thread.start()
    job = Job("stays", stay, (folder,))
    Queue(ResourcesConfig(gpus_per_worker=1.0), no_progresses).run(
        [job], lambda job, outcome: found.append(str(outcome))
    )
    thread.join()
    return found[0]


def stay(folder: Path, tell: Progress) -> str:
    """Ends when it is tried again."""
    import ray  # noqa: TID251

    again = (folder / "stays").exists()
    place = folder / "stays.tmp"
    place.write_text(json.dumps(ray.get_runtime_context().get_node_id()))
    place.replace(folder / "stays")
    note(folder / "jobs.jsonl", "stays")
    time.sleep(0.0 if again else PATIENCE)
    return "done"


if __name__ == "__main__":
    main()
