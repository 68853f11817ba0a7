"""How early a short training tells what the full one will."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from tests.helpers.command import command, refusal

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.jobs import calibrate
from speaq.study.ranks import kendall
from tests.helpers.search_of_toy import make_space, toy  # noqa: F401
from tests.helpers.searched import Search, searched
from tests.helpers.tiny import tiny

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest

STEPS = np.array([10, 30, 60])


def test_a_search_without_stops_is_judged(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study")
    done = command("calibrate", folder)
    assert done.exit_code == 0, done.output
    found = json.loads((folder / "calibration.json").read_text())
    assert (found["metric"], found["trials"], found["left_out"]) == ("F@50", 14, 2)
    assert [budget["step"] for budget in found["budgets"]] == [10, 20, 30, 40, 50, 60, 70, 80]
    for budget in found["budgets"]:
        assert budget["share"] == pytest.approx(budget["step"] / 90)
        assert -1 <= budget["low"] <= budget["tau"] <= budget["high"] <= 1
    best = found["recommended"]  # cheap trials never cross: their ranks are right from the first evaluation on
    assert best["kept"] == 1
    assert best["lost"] == 0
    assert best["steps"] < 0.6
    assert f"--search grace_steps={best['grace_steps']} --search reduction_factor=" in done.output
    assert best["grace_steps"] == 10


def test_curves_that_cross_are_not_cut_before_they_have_crossed() -> None:
    final = np.arange(9) / 10
    curves = np.stack([final[::-1], final[::-1], final], axis=1)  # the best is last until step 60
    early = calibrate.replay(STEPS, curves, final, 90, 10, 3.0)
    late = calibrate.replay(STEPS, curves, final, 90, 60, 3.0)
    assert early.kept < 0.5
    assert early.lost > 0.3
    assert (late.kept, late.lost) == (1, 0)
    assert early.steps < late.steps < 1
    taus = [calibrate._budget(int(step), 90, curves[:, i], final).tau for i, step in enumerate(STEPS)]
    np.testing.assert_allclose(taus, [-1, -1, 1])


def test_chance_is_not_taken_for_knowledge() -> None:
    random = np.random.default_rng(0)
    final = random.random(12)
    lucky = sum(calibrate._budget(10, 90, random.random(12), final).low > 0 for _ in range(40))
    assert lucky <= 5
    still = calibrate._budget(10, 90, np.zeros(12), final)
    assert np.isnan(still.tau)
    assert np.isnan(still.low)


def test_kendall_s_tau_of_samples_is_the_library_s() -> None:
    random = np.random.default_rng(0)
    x, y = random.integers(6, size=(2, 9)).astype(float)  # with ties
    draws = random.integers(9, size=(30, 9))
    counts = np.stack([np.bincount(draw, minlength=9) for draw in draws])
    wanted = [kendalltau(x[draw], y[draw]).statistic for draw in draws]
    np.testing.assert_allclose(kendall(x, y, counts), wanted, rtol=1e-12, atol=1e-12)
    assert np.isnan(kendall(x, y, np.eye(9)[:1] * 9))


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    search = Search(tmp_path / "few", trials=6)
    for ending in ("finished", "finished", "paused", "finished"):
        search.run(ending)
    search.ledger.close()
    line = refusal("calibrate", tmp_path / "few")
    assert "few: 3 trials" in line
    assert "speaq tune --resume" in line
    assert "--data would have no effect" in refusal("calibrate", tmp_path / "few", "--data", tmp_path / "data")
    assert "give --config, --space, --data" in refusal("calibrate", tmp_path / "new")
    (tmp_path / "few" / "ledger.jsonl").write_bytes(b"")  # as of one that ended before its first trial
    assert "to run one, give --config, --space" in refusal("calibrate", tmp_path / "few", "--data", tmp_path / "data")


@pytest.mark.usefixtures("ray_cluster")
def test_one_command_trains_and_judges(toy: Path, tmp_path: Path) -> None:  # noqa: F811
    from speaq import config as configs
    from speaq import space as spaces

    (tmp_path / "config.yaml").write_text(
        configs.dump(tiny(training__max_steps=4, training__eval_every=1, training__decay_steps=[3])), encoding="utf-8"
    )
    asked = make_space(scheduler="asha", grace_steps=1, sampler="tpe")
    (tmp_path / "space.yaml").write_text("# Early?\n" + json.dumps(spaces.to_dict(asked)), encoding="utf-8")
    given = ("--config", tmp_path / "config.yaml", "--space", tmp_path / "space.yaml", "--data", toy)
    line = refusal("calibrate", tmp_path / "study", *given, "--trials", "4")
    assert "--trials 4" in line
    done = command("calibrate", tmp_path / "study", *given, "--trials", "5")
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads((tmp_path / "study" / "calibration.json").read_text())
    assert (found["trials"], found["left_out"]) == (5, 0)
    assert [budget["step"] for budget in found["budgets"]] == [1, 2, 3]
    assert "recommended: --search " in done.output
