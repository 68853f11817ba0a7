"""The decoding of a trial that has ended: found on one half of val, judged on the other, once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from launch.jobs.on_ray import decodings_of
from launch.trials import decoding
from launch.trials.decoding import FILE, Decodings
from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError, InferenceConfig
from speaq.data import DataError
from speaq.data.statistics import predicate_count
from speaq.data.visual_genome import VisualGenome, open_data
from speaq.files.atomic import write_text
from speaq.inference import QueryOutputs
from speaq.runs.cache import asked, cache
from speaq.runs.decoding import Images, halved
from speaq.runs.run import evaluate_run, open_run
from speaq.space.checks import check, decoded_keys
from speaq.structures import IntArray, SceneGraph
from speaq.study import creation
from speaq.study.halves import LEAST, check_halves, halves
from speaq.study.plan import Plan, with_settings
from speaq.training.callbacks import no_progress, no_progresses
from speaq.training.loop import train
from tests.helpers.command import refusal
from tests.helpers.shared import ROOT
from tests.helpers.tiny import tiny

RATE = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}
VAL = 24


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoding") / "run"
    train(tiny(training__max_steps=30, training__eval_every=30, data__num_val=VAL), toy, folder)
    return folder


@pytest.fixture(scope="module")
def images(run: Path) -> tuple[Images, Images]:
    return halved(open_run(run), no_progress)


def make_plan(fixed: dict[str, object] | None = None, **search: object) -> Plan:
    content = {"search": {"decoding": True, **search}, "fixed": fixed or {}}
    return Plan(tiny(), spaces.from_dict({**content, "parameters": {"training.learning_rate": RATE}}), {})


def of_few(number: int = 6, **search: object) -> Decodings:
    found = decodings_of(make_plan(**search))
    assert found is not None
    return Decodings(with_settings(found.space, trials=number))


def test_no_image_is_in_both_halves_and_all_trials_have_the_same(toy: Path) -> None:
    split = open_data(toy).split("val", tiny(data__num_val=VAL).data)
    searched, judged = halves(split)
    assert sorted([*searched.tolist(), *judged.tolist()]) == list(range(len(split)))
    counted = np.unique(split.relation_image)
    assert np.isin(searched, counted).sum() == len(counted) // 2
    order = np.random.default_rng(0).permutation(len(split))
    again, others = halves(split.select(order))
    assert {split.image_id(row) for row in searched} == {split.image_id(order[row]) for row in again}
    assert {split.image_id(row) for row in judged} == {split.image_id(order[row]) for row in others}


def test_both_halves_together_are_the_evaluation_of_the_network(run: Path, images: tuple[Images, Images]) -> None:
    searched, judged = images
    together = dataclasses.replace(searched, batches=[*searched.batches, *judged.batches])
    wanted = evaluate_run(run, overrides={"inference.nms_threshold": 0.7}).evaluation.metrics
    found = together.metrics(InferenceConfig(nms_threshold=0.7), boxes=True)
    assert found == pytest.approx({name: wanted[name] for name in found}, abs=1e-9)
    assert {"AP", "R@20", "mR@20", "tail@20"} <= found.keys()


def test_a_run_from_features_is_decoded_from_them(toy: Path, tmp_path: Path) -> None:
    start, features, run = tmp_path / "start", tmp_path / "features", tmp_path / "run"
    train(tiny(data__num_val=VAL, training__max_steps=3, training__decay_steps=[2]), toy, start, task="detector")
    config = tiny(data__num_val=VAL, training__init_from=str(start), data__flip_probability=0.0)
    cache(asked(start, config, toy, features, precision="int8"), no_progresses)
    result = train(configs.apply(config, {"training.features": str(features)}), toy, run)
    searched, judged = halved(open_run(run), no_progress)
    together = dataclasses.replace(searched, batches=[*searched.batches, *judged.batches])
    found, best = together.metrics(config.inference, boxes=True), result["best"]["metrics"]
    assert found == pytest.approx({name: best[name] for name in found}, abs=1e-9)
    shutil.rmtree(features)
    with pytest.raises((DataError, ConfigError), match="features"):
        halved(open_run(run), no_progress)


def test_a_decoding_is_chosen_on_one_half_and_judged_on_the_other(
    run: Path, toy: Path, images: tuple[Images, Images], tmp_path: Path
) -> None:
    told: list[tuple[int, int, str]] = []
    found = of_few(objective=["F@20"]).of(run, toy, lambda *how_far: told.append(how_far))
    trained = tiny(training__max_steps=30, training__eval_every=30, data__num_val=VAL)
    best = configs.apply(trained, found.decoding.found).inference
    searched, judged = images
    assert found.metrics == pytest.approx(judged.metrics(best, boxes=True), abs=1e-12)
    assert found.decoding.trained == pytest.approx(judged.metrics(trained.inference, boxes=True), abs=1e-12)
    better, before = (searched.metrics(one)["F@20"] or 0.0 for one in (best, trained.inference))
    assert better >= before
    assert (found.decoding.searched, found.decoding.judged) == (len(searched), len(judged))
    assert {"R@20": found.metrics["R@20"], "mR@20": found.metrics["mR@20"]} in found.decoding.curve
    recalls = [point["R@20"] or 0.0 for point in found.decoding.curve]
    assert recalls == sorted(recalls)
    assert told[-1] == (6, 6, "decoding")


def planted(vg: VisualGenome, config: Config, wanted: slice) -> Images:
    """Outputs that know boxes and classes; their predicates lean to the frequent ones, as a trained network's do."""
    split, random = vg.split("val", config.data), np.random.default_rng(0)
    counts = predicate_count(vg.split("train", config.data), vg.num_predicates)
    lean = np.log((counts + 1) / (counts + 1).sum())
    made = Images(split, config, counts, None)
    for row in range(*wanted.indices(len(split))):
        graph = split.scene_graph(row)
        ends = np.resize(graph.relations, (8, 3))  # of eight queries
        noise = random.normal(0, 1.0, (8, vg.num_predicates + 1))
        noise[np.arange(8), ends[:, 2]] += 1.5
        pairs = np.concatenate((ends[:, 0], ends[:, 1]))
        boxes = graph.boxes_xyxy[pairs] / np.resize(graph.size_hw[::-1], 4)
        queries = QueryOutputs(
            scores=torch.from_numpy(random.uniform(0.3, 1, (1, 16)).astype(np.float32)),
            classes=torch.from_numpy(graph.classes[pairs][None]),
            boxes=torch.from_numpy(boxes.astype(np.float32)[None]),
            predicate_logits=torch.from_numpy((noise + lean).astype(np.float32)[None]),
        )
        made.add((np.array([row]), np.array([graph.size_hw]), queries), np.array([row]))
    return made


def test_a_better_decoding_is_found_without_a_look_at_the_other_half(toy: Path) -> None:
    vg, config = open_data(toy), tiny(data__num_val=VAL, evaluation__recall_at=(3, 20, 50))
    searched, judged, others = (planted(vg, config, slice(a, b)) for a, b in ((0, 12), (12, 24), (14, 20)))
    decodings = of_few(40, objective=["F@3"])
    metrics, found = decodings.chosen(config, searched, judged)
    best = configs.apply(config, found.found).inference
    gained = (searched.metrics(best)["F@3"] or 0.0) - (searched.metrics(config.inference)["F@3"] or 0.0)
    assert gained > 0.05
    assert found.found
    assert found.tried > 20
    assert metrics["F@3"] == judged.metrics(best)["F@3"] != found.trained["F@3"]
    assert len(found.curve) > 1
    assert len({tuple(point.values()) for point in found.curve}) > 1
    assert decodings.chosen(config, searched, others)[1].found == found.found
    assert decodings.chosen(config, searched, judged) == (metrics, found)
    assert decodings.chosen(config, others, judged)[1].found != found.found


def test_what_was_found_is_kept_and_not_searched_again(run: Path, toy: Path) -> None:
    decodings = of_few(objective=["F@20"])
    first, text = decodings.of(run, toy, no_progress), (run / FILE).read_text()

    def never(done: int, total: int, text: str) -> None:
        raise AssertionError(text)

    assert decodings.of(run, toy, never) == first
    (run / FILE).unlink()
    again = decodings.of(run, toy, no_progress)
    clock = {"seconds": 0.0}
    assert again.metrics == first.metrics
    assert again.decoding.model_copy(update=clock) == first.decoding.model_copy(update=clock)
    with pytest.raises(AssertionError):  # by another seed
        of_few(objective=["F@20"], seed=1).of(run, toy, never)
    write_text(run / FILE, text.replace('"curve"', '"curv').replace("0.", "0"))
    with pytest.raises(AssertionError):
        decodings.of(run, toy, never)
    content = json.loads(text)
    content["decoding"]["found"] = {"training.max_steps": 1}
    write_text(run / FILE, json.dumps(content))
    assert decoding.read(run / FILE, content["made_of"]) is None


def test_two_objectives_take_the_knee(run: Path, toy: Path, tmp_path: Path) -> None:
    found = of_few(objective=["R@20", "tail@50"]).of(run, toy, no_progress)
    assert all(point.keys() == {"R@20", "tail@50"} for point in found.decoding.curve)


def test_the_space_of_decodings_has_every_key_and_leaves_fixed_ones_alone() -> None:
    shipped = spaces.load(ROOT / "search_spaces" / "inference.yaml")
    assert sorted(shipped.parameters) == sorted(decoded_keys(make_plan().space))
    assert decodings_of(make_plan(decoding=False)) is None
    left = decodings_of(make_plan({"inference.nms_threshold": 0.45}))
    assert left is not None
    assert "inference.nms_threshold" not in left.space.parameters
    assert "inference.logit_adjustment" in left.space.parameters


def test_what_decoding_cannot_do_is_refused_by_name(run: Path, toy: Path, tmp_path: Path) -> None:
    def judge(parameters: dict[str, object], fixed: dict[str, object] | None = None) -> None:
        content = {"search": {"decoding": True}, "fixed": fixed or {}, "parameters": parameters}
        check(spaces.from_dict(content), Config())

    with pytest.raises(ConfigError, match=r"^space: inference\.nms_threshold: search\.decoding: true finds"):
        judge({"training.learning_rate": RATE, "inference.nms_threshold": {"type": "float", "low": 0.3, "high": 0.7}})
    with pytest.raises(ConfigError, match=r"^space: data\.num_val: search\.decoding: true judges all trials on the"):
        judge({"data.num_val": {"type": "int", "low": 100, "high": 200}})
    every = {key: configs.defaults()[key] for key in decoded_keys(make_plan().space)}
    with pytest.raises(ConfigError, match=r"^search\.decoding: true has no effect: `fixed` has all"):
        judge({"training.learning_rate": RATE}, every)
    space = make_plan().space
    with pytest.raises(ConfigError, match=rf"needs at least {LEAST} with relations; there are 6 \(data\.num_val 6\)"):
        creation.create(tiny(), space, toy)
    with pytest.raises(ConfigError, match=r"^search\.decoding: true decodes the checkpoints of speaq\.training"):
        creation.create(tiny(data__num_val=VAL), space, toy, train="tests.helpers.cheap_training:train")
    line = refusal("tune", "--from-predictions", run, "--output", tmp_path / "s", "--search", "decoding=true")
    assert "search.decoding: true has no effect with --from-predictions" in line
    with pytest.raises(ConfigError, match=r"metric 'AP50' is not one of"):
        creation.create(tiny(data__num_val=VAL), space, toy, objective="AP50")
    assert not (tmp_path / "s").exists()


def test_an_objective_without_rows_in_a_half_is_refused(toy: Path, tmp_path: Path) -> None:
    data, config = tmp_path / "data", tiny(data__num_val=VAL)
    shutil.copytree(toy, data)
    check_halves(toy, config, ["F@20"])
    val = open_data(toy).split("val", config.data)
    named = [set(map(tuple, named_triplets(val.scene_graph(row)))) for row in range(len(val))]
    alone = next(t for t in named[0] if not any(t in others for others in named[1:]))
    np.save(data / "zeroshot_triplets.npy", np.array([alone], dtype=np.int64))
    with pytest.raises(ConfigError, match=r"^objective: zR@20: .* one half has no zero-shot triplet"):
        check_halves(data, config, ["F@20", "zR@20"])


def named_triplets(graph: SceneGraph) -> IntArray:
    """[M, 3] subject class, object class, predicate."""
    return np.column_stack((graph.classes[graph.relations[:, :2]], graph.relations[:, 2]))
