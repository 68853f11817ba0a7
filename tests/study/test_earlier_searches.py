"""`--from STUDY`: what a new search takes from an earlier one, and what it leaves there."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError
from speaq.study import creation, file, results
from speaq.study import snapshot as snapshots
from tests.helpers.shared import EARLIER

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.jobs import tune
from launch.search.prior import prior_of
from speaq.study.file import Study
from speaq.study.ledger import Entry
from tests.helpers.command import command, refusal
from tests.helpers.searched import searched

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest

CHEAP = "tests.helpers.cheap_training:train"
LENGTH = {"training.max_steps": 90, "training.eval_every": 10, "training.decay_steps": [50]}
BASE = configs.apply(Config(), {**LENGTH, "data.num_val": 12})
RATE = {"type": "float", "low": 3e-4, "high": 1.0, "log": True}
REPEATS = {"type": "int", "low": 1, "high": 8}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search over the learning rate and the number of groups: 14 trials finished, the baseline among them."""
    return searched(tmp_path_factory.mktemp("earlier") / "coco")


def begun(data: Path, earlier: Path, parameters: dict[str, Any] | None = None, **settings: Any) -> Study:
    search = {"scheduler": "none", "trials": 9, **settings}
    space = spaces.from_dict({"search": search, "parameters": parameters or {"training.learning_rate": RATE}})
    return creation.create(BASE, space, data, train=CHEAP, earlier={"coco": snapshots.read(earlier)})


def test_its_best_settings_are_mapped_by_name_and_its_results_stay_there(
    earlier: Path, toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parameters = {"matching.max_repeats": REPEATS, "training.learning_rate": RATE}
    with caplog.at_level(logging.INFO):
        study = begun(toy, earlier, parameters)
    (source,) = study.plan.sources
    assert (source.name, source.objective, source.trials) == ("coco", ("F@50",), 13)
    assert source.data == "0123456789abcdef"
    assert source.left_out == {"no point of its own space": 1, "not finished": 2}
    assert source.dropped == ("matching.num_groups",)
    finished = [e for e in snapshots.read(earlier).entries if e.state == "finished" and e.values is not None]
    best = sorted(finished, key=lambda entry: -(entry.metrics["F@50"] or 0.0))
    low = sum(entry.values["training.learning_rate"] < 3e-4 for entry in finished if entry.values)  # type: ignore[operator]
    assert source.moved == {"training.learning_rate": low}
    assert len(source.points) == len(source.centres) == 3
    assert source.points[0].trial == best[0].id
    for point, entry in zip(source.centres, best, strict=False):
        assert entry.values is not None
        assert point["matching.max_repeats"] == 4  # of its config, which the new search does not share
        assert point["training.learning_rate"] == max(3e-4, entry.values["training.learning_rate"])  # type: ignore[type-var]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "speaq.study.earlier"]
    assert line == (
        "from coco: 13 trials by F@50 on other data, 3 settings are tried first; left out: no point of its own space "
        f"(1), not finished (2); moved into the space: training.learning_rate ({low}); not searched here: "
        "matching.num_groups"
    )
    text = study.dump()
    assert not any(str(value) in text for entry in finished for value in entry.metrics.values() if value)
    (tmp_path / "study.yaml").write_text(text)
    assert file.read(tmp_path / "study.yaml").plan == study.plan


def test_its_prior_stands_beside_the_one_of_the_space(earlier: Path, toy: Path) -> None:
    study = begun(toy, earlier, prior="published")
    prior = prior_of(study.plan)
    assert prior is not None
    assert prior.sources == [[{"training.learning_rate": 1e-4}], list(study.plan.sources[0].centres)]
    without = prior_of(begun(toy, earlier, prior_strength=0.0).plan)
    assert without is None


def test_two_objectives_are_ranked_front_by_front() -> None:
    values = [(0.9, 0.1), (0.5, 0.5), (0.1, 0.8), (0.4, 0.4), (0.3, 0.5), (0.6, 0.3)]
    entries = [
        Entry(f"{number:04}", "", None, {}, {}, state="finished", metrics={"R@50": recall, "mR@50": mean})
        for number, (recall, mean) in enumerate(values)
    ]
    stopped = Entry("0006", "", None, {}, {}, state="pruned", metrics={"R@50": 1.0, "mR@50": 1.0})
    order = [entry.id for entry in results.ranked([*entries, stopped], ("R@50", "mR@50"))]
    assert order == ["0001", "0000", "0002", "0005", "0003", "0004"]
    assert [entry.id for entry in results.ranked([*entries, stopped], ("mR@50",))][:3] == ["0002", "0001", "0004"]


def test_an_objective_that_it_did_not_measure_is_replaced_by_its_own(
    earlier: Path, toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = spaces.from_dict({"search": {"objective": ["zR@50"]}, "parameters": {"training.learning_rate": RATE}})
    with caplog.at_level(logging.INFO):
        study = creation.create(BASE, space, toy, train=CHEAP, earlier={"coco": snapshots.read(earlier)})
    assert study.plan.sources[0].objective == ("F@50",)
    assert "13 trials by F@50, its own objective, on other data" in caplog.text


def test_trials_that_are_impossible_here_are_left_out_and_counted(earlier: Path, toy: Path) -> None:
    quality = {"type": "categorical", "choices": ["min", "geometric"]}
    with pytest.raises(
        ConfigError, match=r"coco: none of its trials says anything here \(.*13 with a choice that is none"
    ):
        begun(toy, earlier, {"matching.quality": quality, "training.learning_rate": RATE})
    queries = {"type": "categorical", "choices": [2, 8]}
    groups = {"type": "int", "low": 1, "high": 6}
    study = begun(toy, earlier, {"model.num_queries": queries, "matching.num_groups": groups})
    assert study.plan.sources[0].moved == {"model.num_queries": 13}  # 300 there
    assert all(point.values["model.num_queries"] == 8 for point in study.plan.sources[0].points)


@pytest.mark.parametrize(
    ("settings", "parameters", "message"),
    [
        (
            {},
            {"matching.max_repeats": REPEATS},
            "coco: it searched training.learning_rate, matching.num_groups, of which",
        ),
        ({"sampler": "qmc"}, None, "--from coco: sampler: qmc follows no prior; --search prior_strength=0 takes"),
    ],
)
def test_what_has_nothing_to_say_is_refused(
    earlier: Path, toy: Path, settings: dict[str, Any], parameters: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        begun(toy, earlier, parameters, **settings)


def test_the_command_refuses_by_name(earlier: Path, toy: Path, tmp_path: Path) -> None:
    config, space, output = tmp_path / "config.yaml", tmp_path / "space.yaml", tmp_path / "study"
    config.write_text(configs.dump(BASE))
    space.write_text(json.dumps({"search": {"scheduler": "none"}, "parameters": {"training.learning_rate": RATE}}))
    given = ("tune", "--config", config, "--space", space, "--data", toy, "--output")
    near = refusal(*given, output, "--from", earlier.with_name("cocoo"))
    assert near == f"speaq: --from {earlier.with_name('cocoo')}: holds no search (study.yaml) (nearest: {earlier})"
    assert "is given twice" in refusal(*given, output, "--from", earlier, "--from", earlier)
    assert "is the new search itself" in refusal(*given, earlier, "--from", earlier)
    assert "knows --from already" in refusal("tune", "--resume", earlier, "--from", earlier)
    nothing = tmp_path / "nothing"
    shutil.copytree(earlier, nothing)
    (nothing / "ledger.jsonl").write_text("")
    assert f"--from {nothing}: none of its trials says anything here (there are none)" in refusal(
        *given, output, "--from", nothing
    )
    assert not output.exists()


def test_a_study_of_an_earlier_version_is_a_source(toy: Path) -> None:
    space = spaces.from_dict({"parameters": {"training.learning_rate": RATE, "matching.max_repeats": REPEATS}})
    found = {"study": snapshots.read(EARLIER / "study")}
    (source,) = creation.create(BASE, space, toy, train=CHEAP, earlier=found).plan.sources
    assert (source.trials, source.left_out) == (2, {"no point of its own space": 2})


def test_a_search_goes_on_when_what_it_came_from_is_gone(
    earlier: Path, toy: Path, tmp_path: Path, ray_cluster: None
) -> None:
    copy, output = tmp_path / "coco", tmp_path / "study"
    shutil.copytree(earlier, copy)
    parameters = {"training.learning_rate": RATE, "matching.num_groups": {"type": "int", "low": 1, "high": 6}}
    settings = {"prior": "published", "prior_strength": 50.0, "points": [{"matching.num_groups": 5}]}
    study = begun(toy, copy, parameters, trials=7, sampler="random", **settings)
    entries = tune.start(study, output)
    shutil.rmtree(copy)
    entries = tune.resume(output, trials=9)
    points = [f"coco:{point.trial}" for point in study.plan.sources[0].points]
    assert [entry.remark for entry in entries][:6] == ["published", "baseline", "point 1", *points]
    assert {entry.remark for entry in entries[6:]} <= {"prior", ""}
    assert "prior" in {entry.remark for entry in entries}
    assert all(entry.state == "finished" for entry in entries)
    assert len(entries) == 9
    shown = json.loads(command("status", output, "--json").stdout)["trials"]
    assert [row["label"] for row in shown][2:6] == ["point 1", *points]
    best = (output / "best.yaml").read_text().splitlines()[0]
    assert "Best of 9 trials" in best
