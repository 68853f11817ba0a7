"""Names in any script are drawn by a font that has their letters, or one line says which letters none has."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from numpy.typing import NDArray
from PIL import Image

from speaq import plain_text
from speaq.drawing import BASE, drawing, fonts_for
from speaq.prediction.graph import ImagePrediction
from speaq.prediction.layout import label_width
from speaq.prediction.scene import Thing, Triplet

RARE = "\ue000\ue002"  # of a STIX font that matplotlib brings along; DejaVu Sans lacks them
NOWHERE = "\U0003fffd"  # no character at all


def drawn(text: str) -> NDArray[np.uint8]:
    with drawing([text]):
        figure = Figure(figsize=(2, 1))
        canvas = FigureCanvasAgg(figure)
        figure.text(0.1, 0.3, text, fontsize=30)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba()).copy()


@pytest.fixture(autouse=True)
def _nothing_was_said() -> None:
    plain_text._turns.cache_clear()


def test_letters_of_another_font_are_found() -> None:
    assert fonts_for(["next to", "ä → ß"]) == ([], set())
    families, missing = fonts_for([RARE])
    assert families
    assert not missing
    assert BASE not in families
    assert not np.array_equal(drawn(RARE), drawn(2 * NOWHERE))  # no boxes


def test_characters_that_show_nothing_need_no_font() -> None:
    assert fonts_for(["\u200d\ufe0f\u200c\x1b"]) == ([], set())


def test_letters_that_no_font_has_are_said_once_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        drawn(NOWHERE)
        drawn(NOWHERE + "a")
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"no font on this machine has {NOWHERE}: ")
    assert "fonts-noto-cjk" in line


def test_a_font_that_came_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib keeps its list in a file and does not look again."""
    families, _ = fonts_for([RARE])
    later = [font for font in fontManager.ttflist if font.name in families]
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font not in later])
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [font.fname for font in later])
    assert fonts_for([RARE]) == (families, set())


def prediction(tmp_path: Path, name: str, predicate: str) -> ImagePrediction:
    Image.new("RGB", (200, 100), "grey").save(tmp_path / "photo.png")
    things = (Thing(name, 0, 0.5, (5.0, 5.0, 50.0, 50.0)), Thing("b", 1, 0.5, (60.0, 5.0, 150.0, 90.0)))
    return ImagePrediction(tmp_path / "photo.png", (100, 200), things, (Triplet(0, predicate, 0, 1, 0.5, 0.5),))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["球 盒子", "\u0643\u0631\u0629", "👩\u200d🚀", "a\x1b[31m\x07 & <b> $\\frac$", "$x$"])
def test_an_svg_keeps_text_as_text(name: str, tmp_path: Path) -> None:
    prediction(tmp_path, name, f"on {name}").save(tmp_path / "a.svg")
    elements = ElementTree.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")
    shown = name.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    assert {shown, f"on {shown}", "b"} <= {"".join(element.itertext()) for element in elements}
    prediction(tmp_path, name, f"on {name}").save(tmp_path / "a.png")


def test_square_letters_take_their_width() -> None:
    assert label_width("球球") > label_width("aa")
