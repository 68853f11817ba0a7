"""The config is strict, knows its keys, and refuses what has no effect."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speaq import config as configs
from speaq.config import BASELINE, PUBLISHED, Config, ConfigError
from tests.helpers.shared import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_round_trips_and_explains_itself(path: Path, tmp_path: Path) -> None:
    config = configs.load(path)
    assert configs.load(write(tmp_path, configs.dump(config))) == config
    header = path.read_text(encoding="utf-8")
    assert header.startswith("# ")
    assert "# Command:" in header


def test_all_rules_between_keys_that_are_broken_are_said_at_once() -> None:
    values = {
        "data": {"oversample": 0.1, "train_sides": [4], "cache_images": True},
        "training": {"warmup_steps": 0, "warmup_factor": 0.5, "decay_steps": [3, 2]},
    }
    with pytest.raises(ConfigError) as caught:
        configs.from_dict(values, "my.yaml")
    assert caught.value.problems == (
        "my.yaml: data: oversample and undersample have no effect with resampling: none (bilevel or class_balanced)",
        "my.yaml: data: train_sides: every side is at least 8 pixels",
        "my.yaml: data: cache_images keeps images in the training process and needs num_workers: 0",
        "my.yaml: training: warmup_factor has no effect with warmup_steps 0",
        "my.yaml: training: decay_steps are rising step numbers of at least 1",
    )
    with pytest.raises(ConfigError) as caught:
        configs.from_dict({"model": {"num_queries": 2}, "training": {"batch_size": 7}, "resources": {"num_workers": 2}})
    assert caught.value.problems == (
        "config: matching.num_groups 4 exceeds model.num_queries 2",
        "config: training.batch_size 7 is not a multiple of resources.num_workers 2",
    )


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 5


@pytest.mark.parametrize("preset", [PUBLISHED, BASELINE])
def test_presets_apply_to_every_shipped_speaq_config(preset: dict[str, object]) -> None:
    for path in CONFIGS:
        config = configs.load(path)
        flat = configs.flatten(configs.to_dict(configs.apply(config, preset)))
        assert {key: flat[key] for key in preset} == dict(preset)


def test_defaults_are_the_published_setting() -> None:
    flat = configs.defaults()
    assert {key: flat[key] for key in PUBLISHED} == dict(PUBLISHED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", "sed: no such key (nearest: seed)"),
        ('"a\\nb\\u0085c": 1', "a b c: no such key"),
        ("data: {num_vall: 3}", "data.num_vall: no such key (nearest: data.num_val)"),
        ("training: {max_steps: '10'}", "training.max_steps: Input should be a valid integer, not '10'"),
        ("training: {max_steps: 0}", "training.max_steps: Input should be greater than or equal to 1, not 0"),
        ("training: {learning_rate: .nan}", "training.learning_rate: Input should be a valid number, not '.nan'"),
        ("matching: {scheme: static}", "scheme: static has no quality"),
        ("matching: {independent: false}", "needs independent: true"),
        ("data: {oversample: 0.1}", "no effect with resampling: none"),
        ("losses: {oversample: 0.0}", "both 0"),
        ("matching: {num_groups: 400}", "exceeds model.num_queries 300"),
        ("model: {multiply_queries: all}", "needs model.multiply_queries: relation"),
        ("training: {best_metric: recall}", "metric 'recall' is not one of R@K"),
        ("training: {best_metric: R@7}", "with K in [20, 50, 100]"),
        ("training: {batch_size: 20, micro_batch_size: 3}", "not a multiple of micro_batch_size 3"),
        ("data: {crop_probability: 0.0, crop_sides: [300]}", "no effect with crop_probability 0"),
        ("matching: {cost_class: 0.0, cost_l1: 0.0, cost_giou: 0.0}", "nothing is left to match by"),
        ("sinks: {wandb_project: mine}", "no effect with wandb: off"),
        ("evaluation: {val_subset: first}", "no effect without max_val_images"),
        ("training: {init_from: a, backbone_from: b}", "backbone_from has no effect with init_from"),
        ("model: {backbone: small, frozen_stages: 0}\ntraining: {backbone_from: b}", "needs a ResNet"),
        ("evaluation: {protocol: per_query}", "no effect with inference.predictions_per_query 1"),
        ("evaluation: {protocol: loose}", "evaluation.protocol: Input should be 'published', 'strict' or 'per_query'"),
        ("seed: 1\nseed: 2", "line 2: key 'seed' is given twice"),
        ("seed: [1", "line 1"),
        ("- 1", "the top level is a mapping of keys, not list"),
        ("seed: 012", "seed: Input should be a valid integer, not '012'"),
    ],
)
def test_bad_files_are_refused_in_one_line_that_names_file_and_rule(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        configs.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        configs.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        configs.load(tmp_path / "binary.yaml")


def test_yaml_traps_are_closed() -> None:
    parsed = configs.parse_yaml("rate: 1e-4\nname: on\nflag: true\ncode: 012\nnothing: null", "text")
    assert parsed == {"rate": 1e-4, "name": "on", "flag": True, "code": "012", "nothing": None}


def test_assignments_change_dependent_keys_together(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 3")
    config = configs.load(path, ["matching.scheme=static", "matching.quality=null", "matching.predicate_weight=0"])
    assert (config.seed, config.matching.scheme, config.matching.quality) == (3, "static", None)


@pytest.mark.parametrize("assignment", ["seed", "=3", "sead=3", "data=3", "training.max_steps=abc"])
def test_bad_assignments_are_refused(assignment: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        configs.load(write(tmp_path, ""), [assignment])


def test_every_key_is_described_with_its_meaning() -> None:
    described = {key: meaning for key, _, meaning in configs.describe()}
    assert list(described) == list(configs.defaults())
    assert all(len(meaning) > 10 for meaning in described.values())


@given(
    seed=st.integers(0, 2**31 - 1),
    rate=st.floats(1e-8, 10, allow_subnormal=False),
    sides=st.lists(st.integers(8, 2000), min_size=1, max_size=5),
)
def test_config_survives_yaml(seed: int, rate: float, sides: list[int]) -> None:
    config = configs.apply(Config(), {"seed": seed, "training.learning_rate": rate, "data.train_sides": sides})
    text = configs.dump(config)
    assert configs.from_dict(configs.parse_yaml(text, "dump")) == config


@given(
    st.text("0123456789abcdef", min_size=1) | st.from_regex(r"[-+]?[0-9_]+[eE.][-+]?[0-9]+", fullmatch=True) | st.text()
)
@example("613e45678901")  # a digest
@example("1_0e5")
@example("yes")
def test_text_stays_text_in_yaml(text: str) -> None:
    assert configs.parse_yaml(configs.dump_yaml({"text": text, text: [text]}), "dump") == {"text": text, text: [text]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.learning_rate=1e400", "training.learning_rate: inf is no number that float32 holds; at most 3e+38"),
        ("training.learning_rate=1.0e+39", "training.learning_rate: 1e+39 is no number that float32 holds"),
        ("losses.schedule=[{step: -1e400}]", "losses.schedule.step: -inf is no number"),
        ("training.max_steps=" + "9" * 30, "training.max_steps: 0xc9f2c9cd04674edea3fffffff is no whole number of 64"),
        ("matching.predicate_weight=-1.0e+9", "matching.predicate_weight: Input should be greater than or equal to -1"),
        ("data.train_sides=" + "[" * 600, "data.train_sides=["),
        ("training.max_steps=" + "x" * 5000, "training.max_steps: Input should be a valid integer"),
    ],
)
def test_numbers_that_cannot_be_are_refused_in_a_short_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("")
    with pytest.raises(ConfigError) as refused:
        configs.load(file, [text])
    assert said in str(refused.value)
    assert len(str(refused.value)) < 400 + len(str(file))


def files(tmp_path: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "config.yaml"


def test_a_config_extends_another_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    files(
        tmp_path / "below",
        middle="extends: ../base.yaml\nmodel: {num_queries: 20}\ntraining: {decay_steps: [5]}\n",
    )
    base = "seed: 4\nmodel: {num_queries: 9, num_heads: 2}\ntraining: {decay_steps: [1, 2], max_steps: 8}\n"
    path = files(tmp_path, base=base, config="extends: below/middle.yaml\nmodel: {dropout: 0.0}\n")
    config = configs.load(path, ["training.max_steps=9"])
    assert (config.seed, config.model.num_queries, config.model.num_heads, config.model.dropout) == (4, 20, 2, 0.0)
    assert (config.training.decay_steps, config.training.max_steps) == ((5,), 9)
    assert "extends" not in configs.dump(config)


def test_groups_of_ones_own_are_not_mixed_with_those_that_are_extended(tmp_path: Path) -> None:
    base = "matching: {groups: {a: [on], b: [by]}, max_repeats: 3}\n"
    path = files(tmp_path, base=base, config="extends: base.yaml\nmatching: {groups: {c: [on, by], d: [near]}}\n")
    config = configs.load(path)
    assert [group.name for group in config.matching.user_groups] == ["c", "d"]
    assert config.matching.max_repeats == 3


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ({"config": "extends: none.yaml"}, "config.yaml: extends: {folder}/none.yaml: cannot be read"),
        ({"config": "extends: config.yaml"}, "no file extends itself: config.yaml extends config.yaml"),
        (
            {"config": "extends: a.yaml", "a": "extends: b.yaml", "b": "extends: a.yaml"},
            "b.yaml: extends: no file extends itself: a.yaml extends b.yaml extends a.yaml",
        ),
        ({"config": "extends: [a.yaml]"}, "the path of one file is expected, not ['a.yaml']"),
        ({"config": "extends: a.yaml", "a": "seed: [1"}, "config.yaml: extends: {folder}/a.yaml"),
        ({"config": "extends: a.yaml", "a": "sede: 1"}, "sede: no such key (nearest: seed)"),
    ],
)
def test_what_cannot_be_extended_is_named_in_one_line(texts: dict[str, str], line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configs.load(files(tmp_path, **texts))
    assert line.format(folder=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
