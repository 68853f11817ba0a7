"""How many trials share a GPU, which get one of their own, and what is refused: without Ray's processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq.config import Config, ConfigError, ResourcesConfig
from speaq.study.budget import device_seconds

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.cluster.connection import worker_resources
from launch.search import messages
from launch.search.messages import Crowded, Finished
from launch.search.placement import Placement, share, trials_per_gpu
from launch.search.searcher import Search
from speaq.study.ledger import Ledger
from tests.helpers.fake_tune import make_plan


def test_equal_shares_fill_a_gpu_and_never_more() -> None:
    for number in range(1, 40):
        assert number * share(number) <= 1.0
        assert (number + 1) * share(number) > 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trials_per_gpu": 2}, "trials_per_gpu 2 has no effect with gpus_per_worker 0"),
        (
            {"trials_per_gpu": "auto", "gpus_per_worker": 0.5},
            "trials_per_gpu auto has no effect with gpus_per_worker 0.5",
        ),
        ({"trials_per_gpu": 2, "gpus_per_worker": 1.0, "num_workers": 2}, "has no effect with num_workers 2"),
        ({"trials_per_gpu": 0, "gpus_per_worker": 1.0}, "a positive whole number or auto is expected, not 0"),
        ({"trials_per_gpu": "some", "gpus_per_worker": 1.0}, "a positive whole number or auto is expected, not 'some'"),
    ],
)
def test_sharing_without_effect_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configs.apply(Config(), {f"resources.{name}": value for name, value in changes.items()})


class Sharing:
    """A search that shares GPUs, played without Tune."""

    def __init__(self, folder: Path, trials_per_gpu: int | str) -> None:
        resources = ResourcesConfig.model_validate({"gpus_per_worker": 1.0, "trials_per_gpu": trials_per_gpu})
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.placement = Placement(resources, self.ledger.entries, lambda: {"node"}, worker_resources)
        self.search = Search(make_plan(trials=9), self.ledger, places=lambda: 4, placement=self.placement)

    def ask(self, name: str, *, begins: bool = True) -> Any:
        suggestion = self.search.suggest(name)
        if isinstance(suggestion, dict) and begins:
            self.search.started(name)
        return suggestion

    def end(self, name: str, ended: messages.Ended) -> None:
        self.search.on_trial_complete(name, messages.final_result({}, ended))


def finished(peak: float, device: float = 80_000.0) -> Finished:
    cost = {"peak_memory_mib": peak, "device_memory_mib": device}
    return Finished({"F@50": 0.5}, 90, 90, seconds=10.0, cost=cost)


def test_the_largest_peak_on_the_smallest_device_says_how_many_share(tmp_path: Path) -> None:
    sharing = Sharing(tmp_path, "auto")
    entries = sharing.ledger.entries

    def number() -> int:
        return trials_per_gpu(ResourcesConfig(gpus_per_worker=1.0, trials_per_gpu="auto"), entries.values())

    assert sharing.ask("a")["bundle"] == {"CPU": 1.0, "GPU": 1.0}
    assert sharing.ask("b")["nodes"] == ["node"]
    sharing.end("a", finished(10_000.0))
    assert number() == 5  # 76,000 MiB, of which each takes 12,000 + 800
    assert sharing.ask("c")["bundle"] == {"CPU": 1.0, "GPU": 0.2}
    sharing.end("b", finished(20_000.0))
    assert number() == 3
    sharing.end("c", finished(100.0, 24_000.0))
    assert number() == 1
    seconds = device_seconds(entries.values(), ResourcesConfig(gpus_per_worker=1.0), "gpu")
    assert seconds == pytest.approx(10.0 + 10.0 + 2.0)


def test_a_trial_without_memory_beside_others_waits_for_a_gpu_of_its_own_and_none_overtakes_it(tmp_path: Path) -> None:
    sharing = Sharing(tmp_path, 2)
    for name in ("a", "b", "c"):
        assert sharing.ask(name)["bundle"]["GPU"] == 0.5
    sharing.end("b", Crowded("OutOfMemory: no"))
    again = sharing.ask("d", begins=False)
    assert (again["trial"], again["bundle"]["GPU"]) == ("0001", 1.0)
    assert sharing.ask("e") is None  # else it would take the room that is waited for
    sharing.search.started("d")
    assert sharing.ask("f")["bundle"]["GPU"] == 0.5
    assert [entry.gpu_share for entry in sharing.ledger.entries.values()] == [0.5, 1.0, 0.5, 0.5]
