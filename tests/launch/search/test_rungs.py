"""Successive halving with promotion: the rule alone."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.search.rungs import Rungs, best_first
from speaq.study.results import fronts

Point = tuple[float, ...]

levels = st.integers(0, 6).map(lambda level: level / 6)  # few, so that there are ties
pairs = st.lists(st.tuples(levels, levels), min_size=1, max_size=14)


def beats(one: Point, other: Point) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def volume(points: Sequence[Point]) -> float:
    """What points dominate above 0, on the grid of all their coordinates."""
    xs, ys = (sorted({0.0, *(point[axis] for point in points)}) for axis in (0, 1))
    cells = itertools.product(itertools.pairwise(xs), itertools.pairwise(ys))
    return sum((x1 - x0) * (y1 - y0) for (x0, x1), (y0, y1) in cells if any(a >= x1 and b >= y1 for a, b in points))


def play(points: Sequence[Point], step: float = 10, order: Sequence[int] | None = None) -> tuple[Rungs, list[str]]:
    """Trials that come to the first rung in an order; those that are paused there."""
    rungs = Rungs(90, 10, 3.0)
    paused = [
        f"{place:04d}" for place in order or range(len(points)) if not rungs.judge(f"{place:04d}", step, points[place])
    ]
    return rungs, paused


@given(pairs)
def test_fronts_are_those_of_the_definition(points: list[Point]) -> None:
    left = set(range(len(points)))
    for front in fronts(points):
        assert set(front) == {a for a in left if not any(beats(points[b], points[a]) for b in left)}
        left -= set(front)
    assert not left


@given(pairs)
def test_in_a_front_each_point_adds_most_to_those_before_it(points: list[Point]) -> None:
    ranked = best_first(points)
    assert sorted(ranked) == list(range(len(points)))
    for front in fronts(points):
        order = [place for place in ranked if place in front]
        for count in range(len(order)):
            taken = [points[place] for place in order[:count]]
            gains = [volume([*taken, points[place]]) for place in order[count:]]
            assert gains[0] == pytest.approx(max(gains))


@given(st.lists(levels, min_size=1, max_size=20), st.integers(1, 20))
def test_one_objective_ranks_by_its_value_and_ties_by_their_order(values: list[float], number: int) -> None:
    wanted = sorted(range(len(values)), key=lambda place: (-values[place], place))
    as_good_as_the_best = values.count(max(values))
    assert best_first([(value,) for value in values], number) == wanted[: max(number, as_good_as_the_best)]


@given(pairs, st.randoms())
def test_what_no_other_one_beats_is_never_paused(points: list[Point], chance: random.Random) -> None:
    order = list(range(len(points)))
    chance.shuffle(order)
    rungs = Rungs(90, 10, 3.0)
    come: list[int] = []
    for place in order:
        come.append(place)
        goes_on = rungs.judge(f"{place:04d}", 10, points[place])
        assert goes_on or any(beats(points[other], points[place]) for other in come)


@given(pairs, st.randoms())
def test_who_deserves_to_go_on_does_not_depend_on_who_came_first(points: list[Point], chance: random.Random) -> None:
    order = list(range(len(points)))
    chance.shuffle(order)
    everyone = [f"{place:04d}" for place in range(len(points))]
    first, paused = play(points)
    second, _ = play(points, order=order)
    assert first.promotable(everyone) == second.promotable(everyone)
    assert first.promotable(paused) == [trial for trial in first.promotable(everyone) if trial in paused]
    assert len(first.promotable(everyone)) >= max(1, len(points) // 3)


@given(st.lists(levels, min_size=1, max_size=20, unique=True))
def test_one_objective_is_asynchronous_successive_halving(values: list[float]) -> None:
    """As its paper has it: at a rung of n trials the best n // eta may go on."""
    rungs = Rungs(90, 10, 3.0)
    seen: list[float] = []
    for number, value in enumerate(values):
        seen.append(value)
        best = sorted(seen, reverse=True)[: max(1, len(seen) // 3)]
        assert rungs.judge(f"{number:04d}", 10, (value,)) == (value in best)
    best = sorted(values, reverse=True)[: max(1, len(values) // 3)]
    everyone = [f"{number:04d}" for number in range(len(values))]
    assert rungs.promotable(everyone) == [f"{values.index(value):04d}" for value in best]


def test_the_best_of_the_highest_rung_is_promoted_first() -> None:
    rungs = Rungs(90, 10, 2.0)
    paused = set()
    for step, values in ((10, (0.9, 0.8, 0.7, 0.6, 0.1, 0.2)), (20, (0.9, 0.8, 0.75))):
        for number, value in enumerate(values):
            if not rungs.judge(f"{number:04d}", step, (value,)):
                paused.add(f"{number:04d}")
    assert paused == {"0001", "0002", "0003", "0004", "0005"}
    assert rungs.promotable(paused) == []  # of six the best three have come to the next rung, of three one goes on
    rungs.judge("0006", 10, (0.0,))
    rungs.judge("0007", 10, (0.0,))
    assert rungs.promotable(paused) == ["0003"]  # four of eight
    rungs.judge("0003", 20, (0.1,))
    assert rungs.promotable(paused) == ["0001"]  # two of four at the higher rung
    for number in (8, 9):
        rungs.judge(f"{number:04d}", 10, (0.0,))
    assert rungs.promotable(paused) == ["0001", "0005"]


def test_with_two_objectives_the_best_of_one_is_kept_though_it_is_mediocre_in_both_together() -> None:
    """One that is best in mean recall alone, with a poor harmonic mean, among forty that are balanced."""
    chance = random.Random(0)
    rungs, scalar = Rungs(90, 10, 3.0), Rungs(90, 10, 3.0)
    kept, kept_by_f = [], []
    for number in range(41):
        recall, mean = (0.05, 0.5) if number == 20 else (chance.uniform(0.4, 0.6), chance.uniform(0.1, 0.3))
        f = 2 * recall * mean / (recall + mean)
        trial = f"{number:04d}"
        if all(rungs.judge(trial, step, (recall, mean)) for step in (10, 30)):
            kept.append(trial)
        if all(scalar.judge(trial, step, (f,)) for step in (10, 30)):
            kept_by_f.append(trial)
    assert "0020" in kept
    assert "0020" not in kept_by_f
    assert len(kept) < 20


def test_references_count_and_are_never_paused() -> None:
    rungs = Rungs(90, 10, 3.0)
    assert rungs.judge("0000", 10, (0.5,), protected=True)
    assert rungs.judge("0001", 10, (0.1,), protected=True)
    assert not rungs.judge("0002", 10, (0.4,))
    assert rungs.values()[0][10] == {"0000": (0.5,), "0001": (0.1,), "0002": (0.4,)}


def test_values_that_are_not_finite_count_nowhere() -> None:
    rungs = Rungs(90, 10, 3.0)
    assert rungs.judge("0000", 10, (0.5, 0.5))
    for number, values in enumerate(((math.nan, 0.9), (0.9, math.inf), (math.nan, math.nan)), start=1):
        assert rungs.judge(f"{number:04d}", 10, values)
    assert list(rungs.values()[0][10]) == ["0000"]
    assert not rungs.judge("0001", 20, (0.1, 0.1))  # its first finite values at the rung


def test_a_trial_is_judged_once_at_a_rung_and_not_at_its_end() -> None:
    rungs = Rungs(90, 10, 3.0)
    assert rungs.judge("0000", 10, (0.5,))
    assert rungs.judge("0000", 10, (0.0,))
    assert rungs.judge("0000", 20, (0.0,))
    assert not rungs.judge("0001", 29, (0.4,))
    assert rungs.judge("0002", 40, (0.4,))  # evaluated too rarely for the first rung
    assert rungs.judge("0002", 10, (0.0,))
    assert rungs.judge("0003", 90, (0.0,))
    assert rungs.values() == [{10: {"0000": (0.5,), "0001": (0.4,)}, 30.0: {"0002": (0.4,)}}]


def test_brackets_have_rungs_of_their_own() -> None:
    rungs = Rungs(90, 10, 3.0, brackets=2)
    assert rungs.judge("0000", 10, (0.5,))
    assert rungs.judge("0001", 10, (0.1,))  # its bracket judges at 30 for the first time
    assert not rungs.judge("0002", 10, (0.1,))
    assert rungs.judge("0003", 30, (0.5,))
    assert not rungs.judge("0001", 30, (0.1,))
    for number in (5, 7, 9, 11):
        rungs.judge(f"{number:04d}", 30, (0.0,))
    for number in (4, 6, 8, 10):
        rungs.judge(f"{number:04d}", 10, (0.0,))
    assert rungs.promotable({"0001", "0002"}) == ["0001", "0002"]
