"""The command line: exit codes, one-line errors, JSON on stdout. From outside where the process matters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.command import command, refusal, speaq
from tests.helpers.shared import ROOT, SHARED, needs
from tests.helpers.tiny import assignments


def refused(*arguments: str | Path) -> str:
    """The one line of a usage error."""
    done = speaq(*arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_make_check_stats_and_groups(tmp_path: Path) -> None:
    data = tmp_path / "toy"
    assert command("data", "make", data, "--images", "40", "--seed", "3").exit_code == 0
    checked = command("data", "check", data)
    assert checked.exit_code == 0
    assert checked.stdout.splitlines()[-1].startswith("0 errors")
    stats = json.loads(command("data", "stats", data, "--json").stdout)
    assert stats["images"] == 40
    groups = json.loads(command("groups", "--data", data, "--num-groups", "3", "--num-queries", "30", "--json").stdout)
    assert len(groups) == 3
    assert sum(group["subject queries"] for group in groups) == 30
    assert "not empty" in refusal("data", "make", data)


def test_config_show_prints_every_key_with_its_meaning() -> None:
    shown = command("config", "show", ROOT / "configs" / "toy.yaml", "--set", "seed=7")
    assert shown.exit_code == 0
    assert "seed: 7  # int; seed of weights" in shown.stdout
    assert "matching.max_repeats: 4  # int; K, " in shown.stdout


def test_train_evaluate_and_resume(toy: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("", encoding="utf-8")
    common = ("--config", config, "--data", toy, *assignments())
    assert command("pretrain", *common, "--output", tmp_path / "detector").exit_code == 0
    run = ("train", *common, "--output", tmp_path / "run", "--set", f"training.init_from={tmp_path / 'detector'}")
    done = speaq(*run)
    assert done.returncode == 0, done.stderr
    assert "best F@50" in done.stdout
    assert "holds a run already" in refused(*run)
    assert command(*run, "--resume").exit_code == 0
    report = json.loads(command("evaluate", tmp_path / "run", "--json").stdout)
    assert report["split"] == "val"
    assert report["metrics"] == pytest.approx(
        json.loads((tmp_path / "run" / "result.json").read_text())["best"]["metrics"]
    )
    assert report["protocol"] == json.loads((tmp_path / "run" / "result.json").read_text())["protocol"]
    stored = tmp_path / "predictions.h5"
    text = command("evaluate", tmp_path / "run", "--split", "test", "--predictions", stored).stdout
    assert "R @ 20" in text
    again = command("metrics", stored, "--data", toy).stdout
    assert again.endswith(text)  # the same report, after the table
    assert "sgdet ng-unique" in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--config", "no.yaml", "--data", "x", "--output", "y"), "no.yaml: cannot be read"),
        (("config", "show", "no.yaml"), "no.yaml: cannot be read"),
        (("evaluate", "no-run"), "no-run"),
        (("data", "check", "no-data"), "no-data"),
        (("data", "stats", "no-data"), "no-data"),
        (("groups", "--data", "no-data"), "no-data"),
        (("tune",), "missing --config, --space, --data, --output"),
        (("tune", "--resume", "no-study"), "no-study"),
        (("tune", "--trials", "1000001"), "--trials 1000001: between 1 and 1000000"),
        (("tune", "--resume", "no-study", "--trials", "0"), "--trials 0: between 1 and 1000000"),
        (("calibrate", "no-study", "--trials", "1000001"), "--trials 1000001: between 1 and 1000000"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = command(*arguments)
    assert done.exit_code == 2, (done.output, done.exception)
    assert message in done.output.splitlines()[0]


def test_bad_set_arguments_are_refused(toy: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("", encoding="utf-8")
    where = ("--config", config, "--data", toy, "--output", tmp_path / "run")
    assert "nearest: training.max_steps" in refusal("train", *where, "--set", "training.maxsteps=3")
    assert "key=value" in refusal("train", *where, "--set", "training.max_steps")
    assert not (tmp_path / "run").exists()


@needs("data", "bad", "index.json")
def test_broken_data_is_refused_by_train_with_file_field_and_rule(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("data: {num_val: 1}", encoding="utf-8")
    for name in ("label-above-dict", "h5-truncated", "relation-other-image"):
        folder = SHARED / "data" / "bad" / name
        line = refusal("train", "--config", config, "--data", folder, "--output", tmp_path / name)
        assert " · " in line
        assert not (tmp_path / name).exists()


@needs("data", "vg-100")
def test_stats_of_real_annotations_without_photos() -> None:
    stats = json.loads(command("data", "stats", SHARED / "data" / "vg-100", "--json").stdout)
    expected = json.loads((SHARED / "data" / "vg-100" / "stats.json").read_text())
    assert {key: stats[key] for key in ("images", "boxes", "relations", "predicates", "splits")} == {
        key: expected[key] for key in ("images", "boxes", "relations", "predicates", "splits")
    }


def test_all_problems_of_a_search_space_are_a_list_that_names_its_file(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "search: {objective: [R@7]}\n"
        "parameters:\n"
        "  matching.num_group: {type: int, low: 1, high: 4}\n"
        "  matching.scheme: {type: categorical, choices: [static, fast]}\n"
        "  training.eval_every: {type: int, low: 10, high: 20}\n"
    )
    given = ("--config", ROOT / "configs" / "toy.yaml", "--space", space, "--data", tmp_path, "--output", tmp_path)
    done = command("tune", *given)
    assert done.exit_code == 2
    first, *lines = done.stderr.splitlines()
    assert first == "speaq: 4 problems:"
    assert all(line.startswith(f"  {space}: ") for line in lines)
    for key, line in zip(("R@7", "matching.num_group:", "'fast'", "training.eval_every"), lines, strict=True):
        assert key in line


def test_many_problems_are_a_list(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("{seed: x, training: {max_steps: 0, none: 1}, model: {num_queries: -1}, nothing: 2}")
    done = command("config", "show", config)
    assert done.exit_code == 2
    first, *lines = done.stderr.splitlines()
    assert first == "speaq: 5 problems:"
    assert all(line.startswith(f"  {config}: ") for line in lines)
    for number, key in enumerate(("seed", "model.num_queries", "training.max_steps", "training.none", "nothing")):
        assert sum(key in line for line in lines) == 1, (number, lines)
    done = command("config", "show", ROOT / "configs" / "toy.yaml", "--set", "a.b=1", "--set", "c=2", "--set", "seed=3")
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["2", "a.b:", "c:"]
