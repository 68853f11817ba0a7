"""Classes and predicates meet by name wherever a model, a file of predictions and a data set come together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from speaq import config as configs
from speaq.analysis.specialization_counts import Asked, analyse
from speaq.config import Config, ConfigError
from speaq.data import DataError
from speaq.data.visual_genome import open_data
from speaq.evaluation.predictions import PredictionFile
from speaq.evaluation.protocols import evaluate_file
from speaq.matching.groups import VISUAL_GENOME_COUNTS, VISUAL_GENOME_PREDICATES, visual_genome_counts
from speaq.runs.run import RunEvaluation, evaluate_run
from speaq.structures import Vocabulary
from speaq.training import checkpoint
from speaq.training.tasks import TaskName, initialise, make_model
from tests.helpers.command import command, refusal
from tests.helpers.shared import SHARED, needs
from tests.helpers.stored_predictions import DATA, predictions, write
from tests.helpers.tiny import assignments, tiny

CONFIG = tiny(model__num_decoder_layers=1, evaluation__zero_shot="recompute")
C, P = 7, 5
NAMES = Vocabulary(tuple("abcdefg"), tuple("vwxyz"))
HEADS = ("transformer.class_head", "transformer.predicate_head")


def reordered(data: Path, folder: Path, rename: dict[str, str] | None = None) -> Path:
    """The same data set with the last class and the last predicate first, and some names changed."""
    dictionaries, annotations = "VG-SGG-dicts-with-attri.json", "VG-SGG-with-attri.h5"
    folder.mkdir()
    for path in data.iterdir():
        if path.name not in (dictionaries, annotations, "zeroshot_triplets.npy"):
            (folder / path.name).symlink_to(path)
    given, content = json.loads((data / dictionaries).read_text()), {}
    for key in ("label_to_idx", "predicate_to_idx"):
        content[key] = {(rename or {}).get(name, name): n % len(given[key]) + 1 for name, n in given[key].items()}
    (folder / dictionaries).write_text(json.dumps(content))
    (folder / annotations).write_bytes((data / annotations).read_bytes())
    with h5py.File(folder / annotations, "r+") as file:
        for key, names in (("labels", "label_to_idx"), ("predicates", "predicate_to_idx")):
            file[key][...] = file[key][()] % len(content[names]) + 1
    return folder


def save(run: Path, names: Vocabulary | None, num_objects: int, num_predicates: int, task: TaskName = "speaq") -> Path:
    """A run of a model of which every row differs."""
    torch.manual_seed(1)
    model = make_model(task, CONFIG, num_objects, num_predicates)
    for name, parameter in model.named_parameters():
        if any(head in name for head in HEADS):
            nn.init.normal_(parameter)
    content = {"task": task, "step": 0, "model": model.state_dict(), "config": configs.to_dict(CONFIG)}
    content |= {"objects": None, "predicates": None} if names is None else {k: list(v) for k, v in vars(names).items()}
    checkpoint.save(run / "checkpoints" / "best.pt", {**content, "data_digest": "0" * 64})
    return run


def rows(state: Mapping[str, Tensor], names: Vocabulary) -> dict[str, list[float]]:
    """Name → row and bias; background's under the name of its head."""
    found = {}
    for head, some in zip(HEADS, (names.objects, names.predicates), strict=True):
        together = torch.cat((state[f"{head}.weight"], state[f"{head}.bias"][:, None]), dim=1)
        found |= dict(zip((*some, head), together.tolist(), strict=True))
    return found


def weights(run: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = checkpoint.load(checkpoint.find(run))["model"]
    return found


@pytest.fixture(scope="module")
def other(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reordered(toy, tmp_path_factory.mktemp("other") / "data")


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = open_data(toy).vocabulary
    return save(tmp_path_factory.mktemp("run") / "run", names, len(names.objects), len(names.predicates))


def test_a_run_says_the_same_of_data_in_another_order(
    run: Path, toy: Path, other: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_data(other).vocabulary.predicates == (
        open_data(toy).vocabulary.predicates[-1],
        *open_data(toy).vocabulary.predicates[:-1],
    )
    here = evaluate_run(run, data=toy, predictions=tmp_path / "here.h5")
    assert not caplog.messages
    there = evaluate_run(run, data=other, predictions=tmp_path / "there.h5")
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        f"has its {word} in another order than {other}; they meet by name" for word in ("classes", "predicates")
    ]
    assert here.evaluation.metrics == pytest.approx(there.evaluation.metrics)
    assert dict(by_predicate(here)) == pytest.approx(dict(by_predicate(there)))
    assert triplets(tmp_path / "here.h5", toy) == triplets(tmp_path / "there.h5", other)


def by_predicate(found: RunEvaluation) -> list[tuple[str, float]]:
    return [(row["predicate"], row["R@100"] or 0.0) for row in found.report()["predicates"]]


def triplets(file: Path, data: Path) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """What is predicted for every image, in words."""
    names, found = open_data(data).vocabulary, []
    for image_id, _, prediction in PredictionFile(file, names):
        words = [names.objects[c] for c in prediction.classes]
        pairs = zip(prediction.pairs.tolist(), prediction.predicates.tolist(), strict=True)
        found.append((image_id, [(words[s], names.predicates[p], words[o]) for (s, o), p in pairs]))
    assert any(some for _, some in found)
    return found


def test_predictions_of_other_programs_meet_the_data_by_name(
    toy: Path, other: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = open_data(toy), open_data(other)
    split = here.split("test", DATA)
    file = write(tmp_path / "p.h5", here, split, predictions(here, split))
    with h5py.File(file, "r+") as content:
        del content.attrs["data_digest"]  # other programs do not know it
    found = [evaluate_file(file, vg, "test", "sgdet", CONFIG.evaluation).results[0] for vg in (here, there)]
    assert found[0].metrics == pytest.approx(found[1].metrics)
    assert found[0].metrics["R@100"]
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        f"has its {key} in another order than the data set; they meet by name" for key in ("objects", "predicates")
    ]
    assert triplets(file, toy) == triplets(file, other)
    one, two = (next(iter(PredictionFile(file, vg.vocabulary))).prediction.predicate_scores for vg in (here, there))
    assert np.array_equal(one[:, [-2, *range(one.shape[1] - 2), -1]], two)


def test_other_names_are_refused_with_the_first_that_differs(run: Path, toy: Path, tmp_path: Path) -> None:
    first, second = open_data(toy).vocabulary.predicates[:2]
    data = reordered(toy, tmp_path / "data", {first: "hugging", second: "kissing"})
    line = refusal("evaluate", run, "--data", data)
    assert f"was trained with other predicates than {data} has: {first!r}, not 'hugging' (16 then, 16 here)" in line
    file = tmp_path / "config.yaml"
    file.write_text("", encoding="utf-8")
    start = (
        "train",
        "--config",
        file,
        "--data",
        data,
        "--output",
        tmp_path / "out",
        *assignments(),
        "--set",
        "model.num_decoder_layers=1",
        "--set",
        f"training.init_from={run}",
    )
    line = refusal(*start)
    assert "training.init_from: " in line
    assert f"{first!r}, not 'hugging'" in line
    assert "training.init_heads: matching" in line
    predictions = tmp_path / "p.h5"
    evaluate_run(run, data=toy, predictions=predictions)
    with pytest.raises(DataError, match=f"predicates · are the names of the data set · {first!r}, not 'hugging'"):
        PredictionFile(predictions, open_data(data).vocabulary)
    done = command(*start, "--set", "training.init_heads=matching", "--set", "training.max_steps=1")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("task", ["speaq", "detector"])
def test_a_model_starts_from_another_by_name(task: TaskName, tmp_path: Path) -> None:
    source = save(tmp_path / "run", NAMES, C, P, task)
    turned = Vocabulary(NAMES.objects[::-1], NAMES.predicates[::-1])
    model = make_model("speaq", CONFIG, C, P)
    before = rows(model.state_dict(), turned)
    initialise(model, source, "speaq", turned)
    found, given = rows(model.state_dict(), turned), weights(source)
    if task == "detector":  # its data had predicates, it has no head for them
        given |= {name: value for name, value in model.state_dict().items() if "predicate_head" in name}
        assert {name: found[name] for name in NAMES.predicates} == {name: before[name] for name in NAMES.predicates}
        initialise(model, source, "speaq", Vocabulary(NAMES.objects, tuple("other")))
    else:
        assert found == rows(given, NAMES)
    assert {name: found[name] for name in NAMES.objects} == {name: rows(given, NAMES)[name] for name in NAMES.objects}


def test_known_rows_are_kept_and_the_rest_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = save(tmp_path / "run", NAMES, C, P)
    names = Vocabulary(("new", "c", "a"), ("x", "own", "z", "v", "more", "much"))
    for heads, kept in (("matching", {"c", "a", "x", "z", "v", *HEADS}), ("new", set())):
        model = make_model("speaq", CONFIG, 3, 6)
        before = rows(model.state_dict(), names)
        caplog.clear()
        initialise(model, source, "speaq", names, heads)
        found, source_weights = rows(model.state_dict(), names), weights(source)
        given = rows(source_weights, NAMES)
        assert found == {name: given[name] if name in kept else before[name] for name in found}
        rest = {name: value for name, value in model.state_dict().items() if not name.startswith(HEADS)}
        assert all(torch.equal(value, source_weights[name]) for name, value in rest.items())
        said = " ".join(caplog.messages)
        if heads == "matching":
            assert "2 of 3 classes keep the rows of" in said
            assert "; new: new; left out: b, d, e, f, g" in said
            assert "3 of 6 predicates keep the rows of" in said
            assert "; new: own, more, much; left out: w, y" in said
        else:
            assert "all 3 rows of classes are new" in said
    with pytest.raises(ConfigError, match=r"other objects than the data has: 'b', not 'new' \(7 then, 3 here\)"):
        initialise(make_model("speaq", CONFIG, 3, 6), source, "speaq", names)
    with pytest.raises(ConfigError, match="does not fit the model"):
        initialise(make_model("speaq", tiny(model__hidden_dim=32), 3, 6), source, "speaq", names, "matching")


def test_a_checkpoint_without_names_is_taken_in_order_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = save(tmp_path / "run", None, C, P)
    model = make_model("speaq", CONFIG, C, P)
    initialise(model, source, "speaq", NAMES)
    assert rows(model.state_dict(), NAMES) == rows(weights(source), NAMES)
    assert ["knows no names" in message for message in caplog.messages] == [True, True]
    with pytest.raises(ConfigError, match=r"has 7 objects, the data has 3; training\.init_heads"):
        initialise(make_model("speaq", CONFIG, 3, P), source, "speaq", Vocabulary(tuple("abc"), NAMES.predicates))
    with pytest.raises(ConfigError, match=r"init_heads: matching needs names, .* convert it with --data"):
        initialise(model, source, "speaq", NAMES, "matching")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (Vocabulary(NAMES.objects, ("v", "w", "x", "y", "y")), "'y', not 'z'|without 'z'"),
        (Vocabulary(NAMES.objects[:3], NAMES.predicates), "names 3 objects, its head tells 7 apart"),
        (Vocabulary((*NAMES.objects[:6], "\x1b[2J"), NAMES.predicates), "objects is not what speaq writes"),
    ],
)
def test_names_that_are_not_those_of_the_rows_are_refused(names: Vocabulary, message: str, tmp_path: Path) -> None:
    source = save(tmp_path / "run", names, C, P)
    with pytest.raises(ConfigError, match=message):
        initialise(make_model("speaq", CONFIG, C, P), source, "speaq", NAMES)


def test_starting_heads_anew_needs_a_start() -> None:
    with pytest.raises(ConfigError, match="init_heads: new has no effect without init_from"):
        configs.apply(Config(), {"training.init_heads": "new"})
    config = configs.apply(Config(), {"training.init_from": "RUN", "training.init_heads": "matching"})
    assert config.training.init_heads == "matching"


def test_queries_of_runs_with_another_order_are_compared_by_name(run: Path, toy: Path, other: Path) -> None:
    here, there = analyse([run], Asked(data=toy))[0], analyse([run], Asked(data=other))[0]
    assert here.predicates != there.predicates
    again = there.in_order_of(here.predicates)
    assert np.array_equal(again.counts, here.counts)
    assert again.groups is not None
    named = [{there.predicates[p] for p in some} for some in there.groups.predicates]
    assert [{here.predicates[p] for p in some} for some in again.groups.predicates] == named
    assert all(again.groups.group_of_predicate[p] == g for g, some in enumerate(again.groups.predicates) for p in some)
    assert again.result().leakage == pytest.approx(there.result().leakage)


def test_visual_genomes_table_is_looked_up_by_name() -> None:
    turned = VISUAL_GENOME_PREDICATES[::-1]
    assert visual_genome_counts(VISUAL_GENOME_PREDICATES) == list(VISUAL_GENOME_COUNTS)
    assert visual_genome_counts(turned) == list(VISUAL_GENOME_COUNTS[::-1])
    with pytest.raises(ConfigError, match=r"the data has 50: 'hugging', not 'above' \(group_counts: train"):
        visual_genome_counts(("hugging", *VISUAL_GENOME_PREDICATES[1:]))


@needs("data", "vg-100")
def test_the_table_has_visual_genomes_names() -> None:
    vg = open_data(SHARED / "data" / "vg-100", need_images=False)
    assert vg.vocabulary.predicates == VISUAL_GENOME_PREDICATES
