"""Colours of things in pictures, in an order in which the first ones differ most, also to colour-blind people."""

from __future__ import annotations

# Okabe and Ito's palette (2008) without its yellow, which is unreadable on white; behind it seven that are, in CIE Lab,
# at least as far from all before them (17.8) as the nearest two of that palette are, whether seen with all three
# cones, without red ones or without green ones (simulated as Machado et al. do, 2009).
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#0000AA", "#543005", "#225555", "#DDCC77", "#332288", "#A65628", "#EE99AA"),
)
LINES = ("-", "--", ":")  # of boxes: each time that the colours are used up
DARKEST_GROUND = 0.25  # relative luminance from which on black letters are read better than white ones


def colour(number: int) -> str:
    """Of the thing of this number, from 0."""
    return COLOURS[number % len(COLOURS)]


def line(number: int) -> str:
    """How the box of a thing is drawn: solid, dashed or dotted, so that equal colours part."""
    return LINES[number // len(COLOURS) % len(LINES)]


def letters(ground: str) -> str:
    """The colour of letters on a ground, `#rrggbb`."""
    return "black" if luminance(ground) > DARKEST_GROUND else "white"


def luminance(shade: str) -> float:
    """Relative luminance of `#rrggbb`, 0 to 1 (WCAG 2.2)."""
    parts = [int(shade[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
