"""What queries have specialized in: known answers, and the command over runs side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from speaq.analysis.specialization import Analysed, count_predictions, entropies, from_json, load, specialization
from speaq.analysis.specialization_counts import Asked, analyse
from speaq.analysis.specialization_picture import draw
from speaq.config import BASELINE, PUBLISHED, ConfigError
from speaq.matching.groups import PredicateGroups
from speaq.runs.stored import store
from speaq.training.loop import train
from tests.helpers.command import command, refusal
from tests.helpers.tiny import tiny

GROUPS = PredicateGroups((0, 0, 1), ((0, 1), (2,)), (2, 1))  # with m = 2: queries 0 to 3, and 4 and 5


@given(st.integers(1, 60), st.integers(1, 1000), st.integers(0, 59))
def test_entropy_is_0_for_one_predicate_and_the_logarithm_for_all_alike(number: int, times: int, which: int) -> None:
    one = np.zeros(number, np.int64)
    one[which % number] = times
    assert entropies(one) == 0
    assert entropies(np.full(number, times)) == pytest.approx(math.log(number))
    assert np.isnan(entropies(np.zeros(number, np.int64)))


@given(arrays(np.int64, (4, 5), elements=st.integers(0, 9)))
def test_entropy_lies_between_whatever_the_order(counts: Any) -> None:
    found = entropies(counts)
    living = counts.sum(1) > 0
    assert np.array_equal(np.isfinite(found), living)
    assert (found[living] >= 0).all()
    assert (found[living] <= np.log(np.minimum(counts.sum(1), 5)[living]) + 1e-9).all()
    assert entropies(counts[:, ::-1]) == pytest.approx(found, nan_ok=True)
    assert entropies(3 * counts) == pytest.approx(found, nan_ok=True)


def test_separated_queries_do_not_leak() -> None:
    counts = np.array([[3, 0, 0], [1, 1, 0], [0, 9, 0], [0, 0, 0], [0, 0, 4], [0, 0, 2]])
    found = specialization(counts, GROUPS, query_multiple=2)
    assert found.leakage == 0
    assert found.group_leakage == (0, 0)
    assert found.dead == (3,)
    assert found.mean_entropy == pytest.approx(math.log(2) / 5)  # of five living queries one is undecided
    assert found.predicate_entropy == pytest.approx(-sum(s * math.log(s) for s in (4 / 20, 10 / 20, 6 / 20)))


def test_leakage_is_the_share_of_predictions_outside_of_the_own_group() -> None:
    counts = np.array([[2, 0, 2], [1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 3, 1], [0, 0, 0]])
    found = specialization(counts, GROUPS, query_multiple=2)
    assert found.group_leakage == (2 / 6, 3 / 4)
    assert found.leakage == 5 / 10
    silent = specialization(np.zeros((6, 3), np.int64), GROUPS, query_multiple=2)
    assert (silent.leakage, silent.mean_entropy, silent.predicate_entropy) == (None, None, None)
    assert silent.dead == tuple(range(6))
    plain = specialization(counts, None, query_multiple=2)
    assert (plain.leakage, plain.group_leakage) == (None, ())


def test_groups_own_runs_of_queries() -> None:
    assert GROUPS.group_of_query(2).tolist() == [0, 0, 0, 0, 1, 1]


def test_the_best_triplets_of_an_image_are_counted() -> None:
    images: list[Any] = [
        SimpleNamespace(query_index=np.array([4, 0, 4]), predicates=np.array([2, 1, 0])),
        SimpleNamespace(query_index=np.array([0]), predicates=np.array([1])),
        SimpleNamespace(query_index=np.array([], np.int64), predicates=np.array([], np.int64)),
    ]
    assert count_predictions(images, 6, 3, top=2)[[0, 4]].tolist() == [[0, 2, 0], [0, 0, 1]]
    assert count_predictions(images, 6, 3, top=3)[4].tolist() == [1, 0, 1]


@pytest.fixture(scope="module")
def runs(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two steps of each, with a checkpoint after both."""
    folder = tmp_path_factory.mktemp("specialization")
    short = {"training.max_steps": 2, "training.eval_every": 1, "data.num_val": 12}
    for name, setting in (("speaq", PUBLISHED), ("baseline", BASELINE)):
        changes = {key.replace(".", "__"): value for key, value in {**setting, **short}.items()}
        train(tiny(**changes), toy, folder / name)
    return {name: folder / name for name in ("speaq", "baseline")}


def test_runs_stand_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    done = command("specialization", *runs.values(), "--top", "5", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    lines = [line.split() for line in done.stdout.splitlines() if line.strip().startswith(("speaq", "baseline"))]
    assert [line[3:5] for line in lines] == [["4", "16"], ["-", "8"]]  # groups and relation queries
    speaq, baseline = load(tmp_path / "out")
    assert (speaq.images, speaq.counts.shape, baseline.counts.shape) == (12, (16, 16), (8, 16))
    assert 0 < speaq.counts.sum() <= 5 * 12
    assert speaq.result().leakage is not None
    assert baseline.result().leakage is None
    assert json.loads(json.dumps(speaq.to_json())) == speaq.to_json()
    assert (tmp_path / "out" / "specialization.png").stat().st_size > 10_000
    draw([speaq, baseline], tmp_path / "again.svg", "svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "out" / "specialization.svg").read_bytes()


def test_every_step_is_told_once(runs: dict[str, Path]) -> None:
    found = analyse([runs["speaq"]], Asked(every_checkpoint=True))
    assert [one.step for one in found] == [1, 2]
    assert ", ".join(one.checkpoint for one in found).count("best") == 1
    assert "last" in found[1].checkpoint
    assert "previous" in found[0].checkpoint


def test_stored_outputs_give_the_same_counts(runs: dict[str, Path]) -> None:
    asked = Asked(top=7)
    before = analyse([runs["baseline"]], asked)
    raw = store(runs["baseline"]).raw
    calls: list[str] = []
    after = analyse([runs["baseline"]], asked, lambda done, total, text: calls.append(text))
    assert np.array_equal(before[0].counts, after[0].counts)
    assert calls == []  # the network has not run
    raw.unlink()


def test_fewer_images_are_a_part_of_the_split(runs: dict[str, Path]) -> None:
    [found] = analyse([runs["speaq"]], Asked(images=4, split="train"))
    assert (found.images, found.split) == (4, "train")


def test_what_cannot_be_looked_at_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    assert "no such checkpoint" in refusal("specialization", tmp_path / "nothing")
    (tmp_path / "specialization.json").write_text("[{}]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"specialization\.json: not what speaq specialization writes \(KeyError"):
        load(tmp_path)


def test_json_goes_there_and_back() -> None:
    counts = np.arange(18).reshape(6, 3)
    one = Analysed("run", "best", 3, "val", 5, 20, ("on", "has", "of"), GROUPS, 2, counts)
    again = from_json(json.loads(json.dumps(one.to_json())))
    assert (again.groups, again.predicates, again.title) == (GROUPS, one.predicates, "run · best, step 3")
    assert np.array_equal(again.counts, counts)
