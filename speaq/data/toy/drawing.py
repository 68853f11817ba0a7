"""Pictures of the toy world's things and of what connects them. Boxes are (x0, y0, x1, y1) pixels, x1 exclusive."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from PIL import ImageDraw

Box = tuple[int, int, int, int]
Colour = tuple[int, int, int]
Point = tuple[float, float]
Pen = ImageDraw.ImageDraw

BLACK, WHITE, GREY, BROWN = (20, 20, 20), (250, 250, 250), (110, 110, 115), (120, 75, 35)
BEAM, ROPE, WATER, SKIN = (255, 235, 60), (225, 20, 30), (20, 110, 250), (245, 190, 150)


def _corners(box: Box) -> Box:
    """The same box with its last row and column included, as Pillow draws."""
    return box[0], box[1], box[2] - 1, box[3] - 1


def _part(box: Box, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
    """A part of a box given in shares of its width and height, last row and column included."""
    x0, y0, x1, y1 = _corners(box)
    w, h = x1 - x0, y1 - y0
    return x0 + left * w, y0 + top * h, x0 + right * w, y0 + bottom * h


def _ball(pen: Pen, box: Box, colour: Colour) -> None:
    pen.ellipse(_corners(box), fill=colour, outline=BLACK)
    pen.ellipse(_part(box, 0.2, 0.2, 0.4, 0.4), fill=WHITE)


def _basket(pen: Pen, box: Box, colour: Colour) -> None:
    pen.rectangle(_corners(box), outline=colour, width=5)


def _ring(pen: Pen, box: Box, colour: Colour) -> None:
    pen.ellipse(_corners(box), outline=colour, width=5)


def _car(pen: Pen, box: Box, colour: Colour) -> None:
    pen.rectangle(_part(box, 0.2, 0.0, 0.8, 0.5), fill=WHITE, outline=colour, width=2)
    pen.rectangle(_part(box, 0.0, 0.4, 1.0, 0.8), fill=colour)
    for left in (0.1, 0.6):
        pen.ellipse(_part(box, left, 0.65, left + 0.3, 1.0), fill=BLACK)


def _cat(pen: Pen, box: Box, colour: Colour) -> None:
    pen.ellipse(_part(box, 0.0, 0.2, 1.0, 1.0), fill=colour)
    for left in (0.0, 0.7):
        x0, y0, x1, y1 = _part(box, left, 0.0, left + 0.3, 0.5)
        pen.polygon(((x0, y1), ((x0 + x1) / 2, y0), (x1, y1)), fill=colour)
    for left in (0.25, 0.6):
        pen.ellipse(_part(box, left, 0.4, left + 0.15, 0.55), fill=BLACK)


def _kite(pen: Pen, box: Box, colour: Colour) -> None:
    x0, y0, x1, y1 = _corners(box)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    pen.polygon(((x, y0), (x1, y), (x, y1), (x0, y)), fill=colour)
    pen.line((x, y0, x, y1), fill=WHITE, width=2)


def _lamp(pen: Pen, box: Box, colour: Colour) -> None:
    x0, y0, x1, y1 = _part(box, 0.0, 0.0, 1.0, 0.55)
    inset = 0.25 * (x1 - x0)
    pen.rectangle(_part(box, 0.4, 0.5, 0.6, 1.0), fill=BLACK)
    pen.polygon(((x0 + inset, y0), (x1 - inset, y0), (x1, y1), (x0, y1)), fill=colour)
    pen.rectangle(_part(box, 0.15, 0.9, 0.85, 1.0), fill=BLACK)


def _person(pen: Pen, box: Box, colour: Colour) -> None:
    pen.rectangle(_part(box, 0.0, 0.45, 1.0, 1.0), fill=colour)
    pen.ellipse(_part(box, 0.2, 0.0, 0.8, 0.5), fill=SKIN, outline=BLACK)


def _table(pen: Pen, box: Box, colour: Colour) -> None:
    pen.rectangle(_part(box, 0.0, 0.0, 1.0, 0.35), fill=colour)
    for left in (0.05, 0.75):
        pen.rectangle(_part(box, left, 0.35, left + 0.2, 1.0), fill=colour)


def _tree(pen: Pen, box: Box, colour: Colour) -> None:
    x0, y0, x1, y1 = _part(box, 0.0, 0.0, 1.0, 0.75)
    pen.rectangle(_part(box, 0.38, 0.7, 0.62, 1.0), fill=BROWN)
    pen.polygon((((x0 + x1) / 2, y0), (x1, y1), (x0, y1)), fill=colour)


THINGS: Mapping[str, tuple[Callable[[Pen, Box, Colour], None], Colour, str]] = {  # drawn by, colour, its name
    "ball": (_ball, (220, 40, 40), "red"),
    "basket": (_basket, (0, 140, 140), "teal"),
    "car": (_car, (40, 70, 210), "blue"),
    "cat": (_cat, (240, 140, 30), "orange"),
    "kite": (_kite, (240, 70, 180), "pink"),
    "lamp": (_lamp, (240, 215, 40), "yellow"),
    "person": (_person, (60, 60, 75), "grey"),
    "ring": (_ring, (140, 50, 190), "purple"),
    "table": (_table, (140, 85, 40), "brown"),
    "tree": (_tree, (40, 150, 50), "green"),
}


def draw_thing(pen: Pen, name: str, box: Box, shift: Colour) -> None:
    """Draws a thing that fills its box; `shift` is added to its colour."""
    draw, (red, green, blue), _ = THINGS[name]
    colour = tuple(min(255, max(0, c + s)) for c, s in zip((red, green, blue), shift, strict=True))
    draw(pen, box, (colour[0], colour[1], colour[2]))


def draw_checks(pen: Pen, box: Box) -> None:
    """A chequered badge in the middle of a thing."""
    x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    for row in range(-2, 2):
        for column in range(-2, 2):
            fill = WHITE if (row + column) % 2 else BLACK
            pen.rectangle((x + 3 * column, y + 3 * row, x + 3 * column + 2, y + 3 * row + 2), fill=fill)


def facing_points(subject: Box, other: Box) -> tuple[Point, Point]:
    """Where a connector leaves the subject and reaches the other thing: the middles of the facing sides."""
    x0, x1 = max(subject[0], other[0]), min(subject[2], other[2])
    y0, y1 = max(subject[1], other[1]), min(subject[3], other[3])
    if x0 >= x1:  # side by side
        y = (y0 + y1) / 2
        return ((subject[2], y), (other[0], y)) if subject[0] < other[0] else ((subject[0], y), (other[2], y))
    x = (x0 + x1) / 2
    return ((x, subject[3]), (x, other[1])) if subject[1] < other[1] else ((x, subject[1]), (x, other[3]))


def _between(start: Point, end: Point, along: float, across: float) -> Point:
    """A point `along` pixels from start towards end, `across` pixels beside that line (which lies along an axis)."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = max(abs(dx) + abs(dy), 1.0)
    ux, uy = dx / length, dy / length
    return start[0] + along * ux - across * uy, start[1] + along * uy + across * ux


def _dot(pen: Pen, centre: Point, radius: float, fill: Colour) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _arm(pen: Pen, start: Point, end: Point, length: float) -> None:
    pen.line((start, end), fill=SKIN, width=4)
    _dot(pen, end, 4, BLACK)


def _arrow(pen: Pen, start: Point, end: Point, length: float) -> None:
    pen.line((start, _between(start, end, length - 4, 0)), fill=BLACK, width=2)
    pen.polygon((end, _between(start, end, length - 7, 6), _between(start, end, length - 7, -6)), fill=BLACK)


def _beam(pen: Pen, start: Point, end: Point, length: float) -> None:
    corners = ((0.0, 1.0), (length, 7.0), (length, -7.0), (0.0, -1.0))
    pen.polygon([_between(start, end, along, across) for along, across in corners], fill=BEAM)


def _rope(pen: Pen, start: Point, end: Point, length: float) -> None:
    steps = max(int(length // 3), 2)
    points = [_between(start, end, i * length / steps, 4 if i % 2 else -4) for i in range(steps + 1)]
    pen.line(points, fill=ROPE, width=2)


def _drops(pen: Pen, start: Point, end: Point, length: float) -> None:
    for share, across, radius in ((0.2, 0, 2), (0.5, -4, 2), (0.55, 4, 2), (0.9, -5, 3), (0.9, 3, 3)):
        _dot(pen, _between(start, end, share * length, across), radius, WATER)


def _string(pen: Pen, start: Point, end: Point, length: float) -> None:
    pen.line((start, end), fill=BLACK, width=2)
    _dot(pen, _between(start, end, 3, 0), 3, BLACK)


CONNECTORS: Mapping[str, Callable[[Pen, Point, Point, float], None]] = {
    "holding": _arm,
    "pointing at": _arrow,
    "lighting": _beam,
    "tied to": _rope,
    "splashing": _drops,
    "hanging from": _string,
}


def draw_connector(pen: Pen, predicate: str, subject: Box, other: Box) -> None:
    """Draws what makes the predicate visible, from the subject to the other thing; reaches 2 pixels into both."""
    start, end = facing_points(subject, other)
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    start, end = _between(start, end, -2, 0), _between(start, end, length + 2, 0)
    CONNECTORS[predicate](pen, start, end, length + 4)
