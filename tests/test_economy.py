"""The bench of whole searches: it counts what they cost, cuts them off, and judges what they hand over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

from tests.bench.economy import searches
from tests.bench.economy.processor import CpuSeconds
from tests.bench.economy.searches import ECONOMY, RANDOM, REFERENCE, STOCK, TRIALS, Bench
from tests.bench.world import World

TOGETHER = "ray_2"
SMALL = {"model.num_queries": 16, "model.hidden_dim": 32, "model.feedforward_dim": 64, "training.batch_size": 4}
WORLD = World(images=80, validation=20, detector_steps=4, steps=6, evaluations=6, changes=SMALL)


@pytest.mark.usefixtures("ray_cluster")
def test_every_search_costs_something_and_hands_over_a_setting_that_is_judged(tmp_path: Path) -> None:
    bench = Bench(tmp_path, WORLD, {ECONOMY: 2, STOCK: 2})
    said = list(searches.run(bench, [0]))
    rows = {(row["kind"], row["what"]): row["value"] for row in searches.rows(bench, [0])}
    assert len(said) == 2 * len(bench.arms) + 1
    assert all(rows[arm, "cost in trainings"] > 0 for arm in bench.arms)
    assert rows[ECONOMY, "cost on Visual Genome, modelled"] < 1
    assert all(0 <= rows[arm, "F@50"] <= 1 for arm in (REFERENCE, *bench.arms))
    assert {path.name for path in (tmp_path / "judged").glob("*-0")} == {"published-0", "economy-0", "ray-tune-0"}
    again = [path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")]
    assert list(searches.run(bench, [0])) == said
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")] == again


def _ledger(folder: Path, rows: list[dict[str, object]], seconds: float) -> None:
    folder.mkdir()
    (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.with_name(f"{folder.name}.cpu.json").write_text(json.dumps(seconds))


def _trial(name: str, value: float, label: str | None = None) -> list[dict[str, object]]:
    reports = [{"event": "reported", "trial": name, "step": step, "metrics": {"F@50": value}} for step in (50, 100)]
    asked = {"event": "asked", "trial": name, "label": label, "values": {"matching.num_groups": int(name)}}
    return [asked, *reports, {"event": "finished", "trial": name, "metrics": {"F@50": value}}]


def test_a_rival_is_cut_off_where_it_has_cost_as_much_as_the_economical_search(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert set(bench.arms) == set(TRIALS)
    _ledger(bench.search(ECONOMY, 0), [*_trial("1", 0.2), *_trial("2", 0.1)], 200.0)
    _ledger(bench.search(RANDOM, 0), [*_trial("3", 0.1), *_trial("4", 0.2), *_trial("5", 0.3)], 450.0)
    (tmp_path / "features.cpu.json").write_text("50.0")
    assert searches.handed_over(bench, ECONOMY, 0) == searches.Handed({"matching.num_groups": 1}, 200, 250.0)
    random = searches.handed_over(bench, RANDOM, 0)
    assert random.values == {"matching.num_groups": 3}  # the second would have ended at 300
    assert (random.steps, random.cost) == (150, 225.0)


def test_seconds_of_a_process_that_a_child_starts_are_counted() -> None:
    spin = "import time\nwhile time.process_time() < 1.5: pass\ntime.sleep(1.5)"
    with CpuSeconds() as cpu:
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert cpu.seconds >= 1.4
