"""Whether stored features rank settings as full training does, on a real local Ray cluster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from speaq import config as configs
from speaq.config import Config
from speaq.space import SearchConfig
from speaq.study import snapshot
from tests.helpers import features_of_toy
from tests.helpers.command import command, refusal

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.jobs import proxy
from tests.helpers.searched import searched

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return features_of_toy.start(toy, tmp_path_factory.mktemp("start") / "detector")


@pytest.mark.usefixtures("ray_cluster")
def test_the_settings_of_a_calibration_train_from_features_as_well(config: Config, toy: Path, tmp_path: Path) -> None:
    features = features_of_toy.features(config, toy, tmp_path / "features")
    folder = tmp_path / "study"
    (tmp_path / "config.yaml").write_text(
        configs.dump(configs.apply(config, {"training.eval_every": 3})), encoding="utf-8"
    )
    rates = {"training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}}
    early = {"data.flip_probability": {"type": "categorical", "choices": [0.0, 0.5]}}
    for name, parameters in (("space", rates), ("early", rates | early)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"parameters": parameters}), encoding="utf-8")
    new = ("--config", tmp_path / "config.yaml", "--data", toy, "--trials", "6", "--features")
    line = refusal("calibrate", folder, "--space", tmp_path / "early.yaml", *new, features)
    assert "data.flip_probability" in line
    assert not folder.exists()  # refused before anything was trained
    done = command("calibrate", folder, "--space", tmp_path / "space.yaml", *new, features)
    assert done.exit_code == 0, (done.output, done.exception)
    proxy = json.loads((folder / "calibration.json").read_text())["features"]
    assert proxy["trials"] == 6
    assert [rung["step"] for rung in proxy["rungs"]] == [3, 6]
    last = proxy["rungs"][-1]
    assert proxy["tells"] == ((last["tau"] or 0.0) >= 0.5 and last["low"] > 0)
    assert ("do not use features here" in done.output) is not proxy["tells"]
    inside, outside = (snapshot.read(at) for at in (folder / "features", folder))
    assert inside.plan.base.training.features == str(features)
    assert [e.values for e in inside.entries] == [e.values for e in outside.entries]
    whole = (folder / "features" / "ledger.jsonl").read_text().splitlines(keepends=True)
    ends = [at for at, line in enumerate(whole) if '"event": "finished"' in line]
    (folder / "features" / "ledger.jsonl").write_text("".join(whole[: ends[2] + 1]))  # it was killed there
    assert "trains what is left" in refusal("calibrate", folder)
    again = command("calibrate", folder, "--features", features)
    assert again.exit_code == 0, again.output
    assert json.loads((folder / "calibration.json").read_text())["features"]["trials"] == 6
    ledger = (folder / "features" / "ledger.jsonl").read_bytes()
    again = command("calibrate", folder, "--features", features)
    assert again.exit_code == 0, again.output
    assert (folder / "features" / "ledger.jsonl").read_bytes() == ledger  # nothing is trained twice
    assert "remove it" in refusal("calibrate", folder, "--features", tmp_path)


@pytest.mark.parametrize(("sign", "tells"), [(1.0, True), (-1.0, False)], ids=["as in full", "the other way round"])
def test_features_tell_where_they_rank_settings_as_full_training_does(tmp_path: Path, sign: float, tells: bool) -> None:
    folder = searched(tmp_path / "study")
    shutil.copytree(folder, folder / "features")
    ledger = folder / "features" / "ledger.jsonl"
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    for row in rows:
        if "metrics" in row:
            row["metrics"] = {n: v if v is None else 0.5 + sign * v / 2 for n, v in row["metrics"].items()}
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = proxy.judge(folder)
    assert found is not None
    assert (found.trials, found.tells, found.rungs[-1].tau) == (14, tells, pytest.approx(sign))
    assert ("do not use features here" in command("calibrate", folder).output) is not tells


def test_a_search_that_judges_others_trains_their_references() -> None:
    asked = SearchConfig(references=["published"], objective=["R@50", "mR@50"], seed=7)
    made = proxy.to_the_end(asked, 3, [{"matching.num_groups": 2}])
    assert (made.references, made.objective, made.seed, made.trials) == (["published"], ["R@50", "mR@50"], 7, 3)
