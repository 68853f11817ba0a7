"""What is drawn of a prediction: what is worth it, in colours that part, with no label over another."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.offsetbox import AnnotationBbox
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from speaq.prediction.choice import DRAWN, worth_drawing
from speaq.prediction.graph import ImagePrediction
from speaq.prediction.palette import COLOURS, colour, letters, line, luminance
from speaq.prediction.picture import figure
from speaq.prediction.places import everywhere, free_place, inside, shared
from speaq.prediction.scene import Thing, Triplet
from tests.helpers.command import command
from tests.helpers.tiny import tiny


def graph_of(triplets: list[tuple[int, int, float]], photo: Path | None = None, num_things: int = 4) -> ImagePrediction:
    """Triplets (subject, object, score) of things whose boxes lie close together."""
    things = tuple(
        Thing(f"thing {n}", 0, 0.5, (5.0 + 3 * n, 5.0 + 2 * n, 60.0 + 3 * n, 50.0 + 2 * n)) for n in range(num_things)
    )
    rows = tuple(Triplet(a, "next to", 0, b, score, score) for a, b, score in triplets)
    return ImagePrediction(photo, (100, 150), things, rows)


def test_a_quarter_of_the_best_is_drawn_and_nothing_of_a_thing_with_itself() -> None:
    given = graph_of([(0, 0, 0.9), (0, 1, 0.8), (1, 2, 0.2), (2, 3, 0.19)])
    choice = worth_drawing(given)
    assert [triplet.score for triplet in choice.scene.triplets] == [0.8, 0.2]
    assert [thing.label for thing in choice.scene.things] == ["thing 0", "thing 1", "thing 2"]
    assert choice.said == "2 of 4 triplets: score ≥ 0.2, a quarter of the best; 1 of a thing to itself left out"
    choice = worth_drawing(given, loops=True)
    assert [triplet.score for triplet in choice.scene.triplets] == [0.9, 0.8]
    assert choice.said == "2 of 4 triplets: score ≥ 0.23, a quarter of the best"


def test_guesses_are_not_drawn_unless_asked_for() -> None:
    weak = graph_of([(0, 1, 0.04), (1, 2, 0.03)])
    assert worth_drawing(weak).scene.triplets == ()
    assert worth_drawing(weak).said == "no triplet with score ≥ 0.05: the best has 0.04"
    assert len(worth_drawing(weak, 0.0).scene.triplets) == 2
    assert worth_drawing(weak, 0.035).said == "1 of 2 triplets: score ≥ 0.035"
    assert worth_drawing(graph_of([])).said == "no triplet"
    loops = worth_drawing(graph_of([(0, 0, 0.9)]))
    assert loops.said == "no triplet with score ≥ 0.05; 1 of a thing to itself left out"


def test_no_more_are_drawn_than_can_be_read() -> None:
    many = graph_of([(n % 4, (n + 1) % 4, 0.9) for n in range(12)])
    choice = worth_drawing(many)
    assert len(choice.scene.triplets) == DRAWN
    assert choice.said == "the best 10 of 12 triplets"


# Machado, Oliveira and Fernandes (2009), severity 1: all three cones, no red ones, no green ones; on linear RGB.
SIGHT = (
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
)
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(shade: str, sight: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE Lab of `#rrggbb` as somebody sees it."""
    parts = np.array([int(shade[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    x, y, z = TO_XYZ @ np.clip(sight @ linear, 0, 1) / (0.9505, 1, 1.089)
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def test_fourteen_colours_part_for_colour_blind_people_as_well() -> None:
    gaps = [
        np.linalg.norm(lab(one, sight) - lab(other, sight))
        for one, other in itertools.combinations(COLOURS, 2)
        for sight in SIGHT
    ]
    assert len(COLOURS) == 14
    assert min(gaps) > 17
    looks = [(colour(number), line(number)) for number in range(2 * DRAWN)]  # as many things as a picture can have
    assert len(set(looks)) == len(looks)


def test_letters_can_be_read_on_every_colour() -> None:
    for shade in COLOURS:
        ground, text = luminance(shade), 1.0 if letters(shade) == "white" else 0.0
        assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) > 3.4  # WCAG asks 3 of large letters


boxes = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 20)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(boxes, min_size=1), st.lists(boxes))
def test_a_place_that_hides_nothing_is_taken_if_there_is_one(places: list[Any], taken: list[Any]) -> None:
    found = free_place(places, taken)
    hidden = [sum(shared(place, other) for other in taken) for place in places]
    assert places.index(found) == hidden.index(min(hidden))


def test_places_stay_within_their_bounds() -> None:
    bounds = (0.0, 0.0, 30.0, 20.0)
    found = list(everywhere((10.0, 5.0), bounds, (30.0, 20.0)))
    assert found[0] == (20.0, 15.0, 30.0, 20.0)
    assert all(inside(place, bounds) == place for place in found)
    assert len(found) == 5 * 7
    assert inside((-5.0, 18.0, 45.0, 25.0), bounds) == (0.0, 13.0, 50.0, 20.0)
    with pytest.raises(ValueError, match="at least one"):
        free_place([], [])


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("size", [(150, 100), (640, 480), (100, 300)])
def test_no_label_and_no_words_lie_over_others(size: tuple[int, int], loops: bool, tmp_path: Path) -> None:
    """Twelve things whose boxes are nearly the same, related in a ring, to and fro, and to themselves."""
    Image.new("RGB", size, "grey").save(tmp_path / "photo.png")
    ring = [(n, (n + 1) % 6, 0.9) for n in range(6)] + [(1, 0, 0.8), (3, 2, 0.7), (4, 4, 0.6), (0, 3, 0.5)]
    scene = graph_of(ring, tmp_path / "photo.png", 6)
    made = figure(scene, loops=loops)
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    photo, graph = made.axes
    words = [artist for artist in graph.get_children() if isinstance(artist, AnnotationBbox)]
    assert len(words) == 9 + loops
    for axes, others in ((photo, []), (graph, words)):
        shown = [text for text in axes.texts if isinstance(text, Text) and text.get_text()]
        extents = [artist.get_window_extent(canvas.get_renderer()) for artist in [*shown, *others]]
        boxes = [(e.x0, e.y0, e.x1, e.y1) for e in extents]
        assert len(shown) >= 6
        assert [pair for pair in itertools.combinations(boxes, 2) if shared(*pair) > 4] == []  # square pixels


def test_scores_are_shown_beside_predicates(tmp_path: Path) -> None:
    Image.new("RGB", (150, 100), "grey").save(tmp_path / "photo.png")
    graph_of([(0, 1, 0.87), (1, 2, 0.04)], tmp_path / "photo.png").save(tmp_path / "a.svg")
    texts = [
        "".join(e.itertext()) for e in ElementTree.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")
    ]
    assert "0.87" in texts
    assert "next to" in texts
    assert "1 of 2 triplets: score ≥ 0.22, a quarter of the best" in texts
    assert "0.04" not in texts


def test_the_command_says_what_it_draws(toy: Path, tmp_path: Path) -> None:
    from speaq.training.loop import train

    train(tiny(training__max_steps=1, training__decay_steps=[1]), toy, tmp_path / "run")
    photo = min((toy / "VG_100K").iterdir())
    options = (photo, "--checkpoint", tmp_path / "run", "--output", tmp_path / "out")
    done = command("predict", *options)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.splitlines()[1:] == [
        "pictures show triplets that score a quarter of a photo's best or more, and 0.05; --threshold sets it"
    ]
    default = (tmp_path / "out" / f"{photo.name}.png").read_bytes()
    done = command("predict", *options, "--threshold", "0", "--loops")
    assert len(done.stdout.splitlines()) == 1
    assert (tmp_path / "out" / f"{photo.name}.png").read_bytes() != default
