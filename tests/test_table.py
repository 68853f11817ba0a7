"""The table of learning curves: it is made, it is read, and searches are played on it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")

from speaq import config as configs
from speaq.config import BASELINE, PUBLISHED
from speaq.space.parameters import Plain
from tests.bench.table import make, simulate, table
from tests.bench.table.play import Job, Metrics, View, Way, incumbent, play
from tests.bench.table.simulate import RULES, hypervolume
from tests.bench.table.table import Nearest, Table
from tests.bench.table.world import TABLE, settings, space
from tests.bench.world import World
from tests.helpers.shared import ROOT

TOGETHER = "ray_2"
SMALL = 24  # settings


def _curves(values: Mapping[str, Plain], seed: int, length: int) -> dict[str, list[float]]:
    """Curves that rise to what the learning rate and the number of groups allow, with noise."""
    noise = random.Random(f"{sorted(values.items())} {seed}")
    rate, groups = values["training.learning_rate"], values["matching.num_groups"]
    assert isinstance(rate, float)
    assert isinstance(groups, int)
    tops = {"R@50": 0.6 - 0.1 * abs(math.log10(rate / 3e-3)), "mR@50": 0.3 + 0.02 * groups}
    risen = [1 - math.exp(-(at + 1) / 3) for at in range(length)]
    curves = {name: [max(0.0, top * part + noise.gauss(0, 0.005)) for part in risen] for name, top in tops.items()}
    pairs = zip(curves["R@50"], curves["mR@50"], strict=True)
    return {**curves, "F@50": [2 * r * m / (r + m) if r + m else 0.0 for r, m in pairs]}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = TABLE
    base = world.base()
    points: list[tuple[str | None, dict[str, Plain] | None]] = [
        (label, space().extract(base, configs.apply(base, given)))
        for label, given in (("published", PUBLISHED), ("baseline", BASELINE))
    ]
    points += [(None, values) for values in itertools.islice(settings(base, lambda config: None), SMALL)]
    rows = [
        {"label": label, "values": values, "seed": seed, "seconds": 1.0, "metrics": _curves(values or {}, seed, 10)}
        for label, values in points
        for seed in (0, 1)
    ]
    rows = [row | {"features": True} for row in rows if row["seed"] == 0] + rows
    found = tmp_path_factory.mktemp("table") / "table.jsonl"
    about = {"world": dataclasses.asdict(world), "seeds": [0, 1], "cpu_seconds": {"full": 60.0, "features": 40.0}}
    found.write_text(table.dump(about, rows))
    return found


@pytest.fixture(scope="module")
def small(path: Path) -> Table:
    return table.load(path)


def test_settings_are_the_same_each_time_and_none_comes_twice() -> None:
    base = TABLE.base()
    first, again = (list(itertools.islice(settings(base, lambda config: None), 40)) for _ in range(2))
    assert first == again
    assert len({json.dumps(values, sort_keys=True) for values in first}) == 40
    for values in first:
        space().apply(base, values)


def test_a_setting_lies_nearest_to_itself(small: Table) -> None:
    nearest = Nearest(space(), small.settings)
    assert [nearest(setting.values) for setting in small.settings] == list(range(SMALL + 2))


def test_a_setting_without_one_of_the_seeds_is_left_out(path: Path, small: Table, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert len(table.load(cut).settings) == len(small.settings) - 1


class InTurn:
    """Trains settings 0, 1, 2 … and stops each at its second evaluation, but for the first."""

    def __init__(self, found: Table) -> None:
        self.left = [Job(str(n), str(n), setting.values) for n, setting in enumerate(found.settings[:4])]
        self.ended: list[str] = []

    def next(self) -> Job | None:
        return self.left.pop(0) if self.left else None

    def reported(self, job: Job, evaluation: int, metrics: Metrics) -> bool:
        return job.key == "0" or evaluation < 2

    def finished(self, job: Job, evaluation: int, metrics: Metrics) -> None:
        self.ended.append(job.key)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_game_costs_what_its_trials_trained(small: Table, workers: int) -> None:
    player = InTurn(small)
    game = play(player, View(small, Way(10), 0, "F@50"), Nearest(space(), small.settings), workers=workers)
    assert len(game.history) == 10 + 3 * 2
    assert player.ended == ["0"]
    assert sorted(game.at(math.inf)) == [(0, 10), (1, 2), (2, 2), (3, 2)]
    assert len(game.at(workers)) == workers  # each worker has reported once


def test_a_trial_from_features_first_costs_less_there(small: Table) -> None:
    """All its evaluations from features, then those of full training, where the game goes on with its curves."""
    view = View(small, Way(10, 3, 0.5), 0, "F@50")
    player = InTurn(small)
    game = play(player, view, Nearest(space(), small.settings))
    assert player.ended == ["0"]
    assert game.history[-1][0] == 3 * 0.5 + 10 + 3 * 2 * 0.5
    setting = small.settings[0]
    assert view.metrics(0, 3)["F@50"] == setting.features[0]["F@50"][2]
    assert view.metrics(0, 4)["F@50"] == setting.curves[0]["F@50"][0]
    assert view.metrics(0, 13)["F@50"] == setting.curves[0]["F@50"].max()
    assert View(small, Way(0, 10, 0.5), 0, "F@50").metrics(0, 10)["F@50"] == setting.features[0]["F@50"].max()


def test_a_search_hands_over_the_best_of_those_that_came_farthest() -> None:
    at = [[0.1, 0.2], [0.9, 0.8], [0.3, 0.4]]

    def value(setting: int, evaluation: int) -> float:
        return at[setting][evaluation - 1]

    assert incumbent([], value) is None
    assert incumbent([(0, 1), (1, 1), (2, 1)], value) == 1
    assert incumbent([(0, 2), (1, 1), (2, 2)], value) == 2


@pytest.mark.parametrize(
    ("points", "area"),
    [([], 0.0), ([[0.5, 0.5]], 0.25), ([[0.5, 0.2], [0.2, 0.5], [0.1, 0.1]], 0.16), ([[0.5, 0.5], [0.5, 0.5]], 0.25)],
)
def test_hypervolume(points: list[list[float]], area: float) -> None:
    assert hypervolume(np.array(points).reshape(-1, 2)) == pytest.approx(area)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_search_can_be_played(rule: simulate.Rule, path: Path) -> None:
    rows = list(simulate.simulate([rule], seeds=2, workers=3, table=path, processes=0))
    assert {row["name"] for row in rows} == {rule.name}
    values = [row["value"] for row in rows if row["what"] in ("regret", "hypervolume")]
    assert len(values) == len(simulate.COSTS)
    assert all(0 <= value <= 1 for value in values)


def test_searches_find_what_the_table_holds(path: Path) -> None:
    rule = next(rule for rule in RULES if rule.name == "random, to the end")
    rows = list(simulate.simulate([rule], seeds=4, workers=1, table=path, processes=0))
    regrets = [row["value"] for row in rows if row["what"] == "regret"]
    assert regrets[-1] < regrets[0]


TINY = World(
    images=80,
    validation=12,
    detector_steps=2,
    steps=6,
    evaluations=3,
    changes={"training.batch_size": 2, "model.hidden_dim": 16, "model.feedforward_dim": 16, "model.num_heads": 2},
)


def test_a_table_is_made_and_goes_on_from_its_file(tmp_path: Path) -> None:
    file, first_folder, folder = tmp_path / "table.jsonl", tmp_path / "first", tmp_path / "later"
    make.make(first_folder, TINY, 1, 2, file)
    first = file.read_text().splitlines()
    assert len(first) == 1 + 3 * 3
    file.unlink()
    make.make(first_folder, TINY, 1, 2, file)  # from its folder
    assert file.read_text().splitlines()[1:] == first[1:]
    make.make(folder, TINY, 2, 2, file)
    rows = file.read_text().splitlines()
    assert rows[1:10] == first[1:]
    assert sorted(path.name for path in folder.glob("*-0*-*")) == [
        "features-0-000-01",
        "seed-0-000-01",
        "seed-1-000-01",
    ]
    again = table.load(file)
    assert [setting.label for setting in again.settings] == ["published", "baseline", None, None]
    assert again.world == TINY
    for setting in again.settings:
        for curves in (*setting.curves.values(), *setting.features.values()):
            assert {len(curve) for curve in curves.values()} == {3}
    values = [setting.values for setting in again.settings if setting.label is None]
    assert values == list(itertools.islice(settings(TINY.base(), lambda config: None), 2))


def test_a_table_goes_on_only_with_trainings_like_its_own(tmp_path: Path) -> None:
    file = tmp_path / "table.jsonl"
    file.write_text(table.dump({"world": dataclasses.asdict(TINY)}, []))
    before = file.read_text()
    with pytest.raises(make.OtherTable, match=r"table\.jsonl: what: its settings were trained with .*--table FILE"):
        make.make(tmp_path / "work", TINY, 1, 2, file)
    assert file.read_text() == before


@pytest.mark.skipif(not table.FILE.exists(), reason="the table has not been made")
def test_the_shipped_table_is_small_and_says_where_it_comes_from() -> None:
    assert table.FILE.stat().st_size <= 2_000_000
    shipped = table.load()
    assert {"world", "detector", "config", "versions", "machine"} <= shipped.provenance.keys()
    for setting in shipped.settings:
        space().apply(shipped.world.base(), setting.values)
        assert {len(curve) for seed in shipped.seeds for curve in setting.curves[seed].values()} == {10}


def test_without_a_table_one_line_says_how_it_is_made(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.table", "--table", str(tmp_path / "none"), "simulate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "none: there is no table; python -m tests.bench.table make FOLDER trains one"
    )


def test_the_command_writes_rows(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.table", "--table", str(path), "simulate", "--seeds", "2"]
    command += ["--only", "random, to the end", "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert all({"name", "cost", "value", "low", "high"} <= row.keys() for row in rows)
    assert len(done.stdout.splitlines()) >= len(rows)


def test_a_cheaper_training_is_held_against_the_full_one(path: Path, tmp_path: Path) -> None:
    """Here features give the curves of the first seed: they rank as it does, and as one seed ranks another."""
    command = [sys.executable, "-m", "tests.bench.table", "--table", str(path), "tau"]
    subprocess.run([*command, "--json", str(tmp_path / "rows.json")], cwd=ROOT, capture_output=True, check=True)
    rows = json.loads((tmp_path / "rows.json").read_text())
    of_f = {(r["name"], r["share"], r.get("seed")): r for r in rows if r["what"] == "tau of F@50"}
    assert of_f["features", 1.0, 0]["value"] == pytest.approx(1.0)
    assert of_f["features", 1.0, 1]["value"] == of_f["full, another seed", 1.0, None]["value"] < 1
    beside = [of_f[f"{name}, rate taken out", 1.0, None]["value"] for name in ("features", "full, another seed")]
    assert beside[0] == beside[1] > 0.5  # by the groups, which the rate knows nothing of
    assert 0 < of_f["learning rate alone", 1.0, None]["value"] < of_f["features", 1.0, 1]["value"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
