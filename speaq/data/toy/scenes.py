"""What is to be seen in a toy picture: things laid out by events, and every relation that holds between them.

An *event* is a pair of things (sometimes three) laid out in an area of its own so that its predicate holds. Relations
of place are then read off the layout by the rules below, for all ordered pairs, so a scene carries all relations that
are true in it. No rule knows left from right: a horizontal flip keeps every label true.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from speaq.data.toy import layouts
from speaq.data.toy.drawing import CONNECTORS, THINGS, Box, Colour

Relation = tuple[int, int, str]  # subject, object (places in Scene.things), predicate

SIDE, SHORT_SIDE = 96, 80  # pixels; the longest side is always SIDE

OBJECTS = tuple(sorted(THINGS))
PREDICATES = (
    "above",
    "behind",
    "hanging from",
    "holding",
    "in front of",
    "inside",
    "larger than",
    "lighting",
    "matches",
    "near",
    "on",
    "pointing at",
    "splashing",
    "tied to",
    "touching",
    "under",
)
HOLLOW = ("basket", "ring")
SOLID = tuple(name for name in OBJECTS if name not in HOLLOW)
BROAD = ("ball", "car", "cat", "person")  # fill their box well enough to hide something


@dataclass(frozen=True)
class Thing:
    """An object of a scene: what it is, where, and how it is coloured."""

    name: str
    box: Box
    shift: Colour  # added to the colour of its kind
    chequered: bool = False


@dataclass(frozen=True)
class Scene:
    """Things in drawing order (the last is in front), what is drawn between them, and the relations that hold."""

    size_hw: tuple[int, int]
    things: tuple[Thing, ...]
    links: tuple[Relation, ...]
    relations: tuple[Relation, ...]


@dataclass(frozen=True)
class Event:
    """How a predicate comes into a picture. `share` is relative: the shares fall like Zipf's law with a thin tail."""

    share: float
    layout: Callable[[random.Random, Box], list[Box]]
    subjects: Sequence[str] = OBJECTS
    objects: Sequence[str] = OBJECTS


def _gap_and_overlap(a: Box, b: Box, axis: int) -> tuple[int, float]:
    """Distance along an axis (negative where they overlap), and the overlap across it as a share of the smaller."""
    gap = max(a[axis], b[axis]) - min(a[axis + 2], b[axis + 2])
    across = 1 - axis
    shared = min(a[across + 2], b[across + 2]) - max(a[across], b[across])
    return gap, shared / min(a[across + 2] - a[across], b[across + 2] - b[across])


def _is_inside(a: Box, b: Box) -> bool:
    return a[0] > b[0] and a[1] > b[1] and a[2] < b[2] and a[3] < b[3]


def _place(a: Thing, b: Thing) -> Iterator[str]:
    """Predicates of place that hold from a to b, where b is drawn after a."""
    beside, overlap_y = _gap_and_overlap(a.box, b.box, axis=0)
    below, overlap_x = _gap_and_overlap(a.box, b.box, axis=1)
    if layouts.CLOSE[0] <= beside <= layouts.CLOSE[1] and overlap_y >= 0.5:
        yield "near"
    if beside == 0 and overlap_y >= 0.5:
        yield "touching"
    if overlap_x >= 0.5 and (below == 0 or layouts.CLOSE[0] <= below <= layouts.CLOSE[1]):
        top_down = "on" if below == 0 else "above"
        yield top_down if a.box[1] < b.box[1] else "under"
    if _is_inside(a.box, b.box):
        yield "inside"
    elif beside < 0 and below < 0 and not _is_inside(b.box, a.box):
        yield "behind"
    if a.name == b.name and layouts.area_of(a.box) >= 2 * layouts.area_of(b.box):
        yield "larger than"
    if a.chequered and b.chequered:
        yield "matches"


def all_relations(things: Sequence[Thing], links: Sequence[Relation]) -> tuple[Relation, ...]:
    """Every relation that holds: those of place and pattern between all ordered pairs, and the links that are drawn."""
    found: list[Relation] = []
    for i, a in enumerate(things):
        for j, b in enumerate(things):
            if i != j:
                names = _place(a, b)
                found += [(i, j, "in front of" if name == "behind" and i > j else name) for name in names]
    return (*found, *links)


EVENTS: Mapping[str, Event] = {
    "near": Event(14.0, layouts.beside),
    "above": Event(7.0, layouts.stacked),
    "on": Event(6.5, layouts.resting, objects=("car", "table", "tree", "lamp")),
    "inside": Event(6.5, layouts.contained, subjects=SOLID, objects=HOLLOW),
    "behind": Event(5.2, layouts.overlapping, subjects=SOLID, objects=BROAD),
    "touching": Event(2.2, layouts.in_contact),
    "holding": Event(2.8, layouts.linked, subjects=("person", "cat"), objects=("ball", "kite", "ring", "lamp")),
    "larger than": Event(2.5, layouts.big_and_small, subjects=("ball", "car", "kite", "tree")),
    "matches": Event(1.1, layouts.linked, subjects=SOLID, objects=SOLID),
    "hanging from": Event(
        1.9, layouts.hanging, subjects=("ball", "basket", "kite", "ring"), objects=("car", "table", "tree")
    ),
    "pointing at": Event(
        1.6, layouts.linked, subjects=("car", "person", "table"), objects=("basket", "cat", "lamp", "tree")
    ),
    "lighting": Event(
        1.15, layouts.linked, subjects=("lamp", "car", "ball"), objects=("person", "table", "tree", "cat")
    ),
    "tied to": Event(0.5, layouts.linked, subjects=("kite", "basket", "cat"), objects=("person", "ring", "tree")),
    "splashing": Event(
        1.0, layouts.linked, subjects=("ball", "cat", "person"), objects=("basket", "car", "kite", "table")
    ),
}
SYMMETRIC = ("tied to",)  # links that hold in both directions
_TRIES = 200  # after so many failures an area stays empty (its kinds of things are all in the picture already)


def _pick_event(uniform: float) -> str:
    uniform *= sum(event.share for event in EVENTS.values())
    for name, event in EVENTS.items():
        uniform -= event.share
        if uniform < 0:
            return name
    return next(iter(EVENTS))


def _kind(index: int, slot: int, seed: int) -> str:
    """The event of an area. Additive recurrences spread the rare ones evenly: every thousand images has its share."""
    step = (2**0.5, 3**0.5)[slot]
    return _pick_event((random.Random(f"{seed} {slot}").random() + index * step) % 1.0)


def is_held_out(subject: str, predicate: str, other: str) -> bool:
    """Triplets that only test pictures show, about one in twenty (zero-shot)."""
    s, o, p = OBJECTS.index(subject), OBJECTS.index(other), PREDICATES.index(predicate)
    return (5 * s + 3 * o + 7 * p) % 19 == 0


def _names(rng: random.Random, kind: str, count: int, used: set[str]) -> list[str] | None:
    """Kinds of the things of an event, none of which is in the picture yet; None where the draw fails."""
    event = EVENTS[kind]
    subject = rng.choice(event.subjects)
    names = [subject, subject if kind == "larger than" else rng.choice(event.objects)]
    names += [rng.choice(OBJECTS) for _ in range(count - 2)]
    distinct = set(names)
    num_kinds = count - 1 if kind == "larger than" else count
    return names if len(distinct) == num_kinds and not distinct & used else None


def _shift(rng: random.Random) -> Colour:
    return rng.randint(-18, 18), rng.randint(-18, 18), rng.randint(-18, 18)


def _links(kind: str) -> tuple[Relation, ...]:
    if kind not in CONNECTORS:
        return ()
    return ((0, 1, kind), (1, 0, kind)) if kind in SYMMETRIC else ((0, 1, kind),)


def _event(
    rng: random.Random, kind: str, area: Box, used: set[str], test: bool
) -> tuple[list[Thing], tuple[Relation, ...]]:
    """Things and links of an event; subject and object come first. Nothing where no choice of things fits."""
    for _ in range(_TRIES):
        boxes = EVENTS[kind].layout(rng, area)
        names = _names(rng, kind, len(boxes), used)
        if names is None:
            continue
        things = [Thing(n, b, _shift(rng), kind == "matches") for n, b in zip(names, boxes, strict=True)]
        relations = all_relations(things, _links(kind))
        held_out = any(is_held_out(names[s], p, names[o]) for s, o, p in relations)
        if (0, 1, kind) in relations and (test or not held_out):
            return things, _links(kind)
    return [], ()


def _lone_thing(rng: random.Random, area: Box, used: set[str]) -> list[Thing]:
    width, height = (layouts.random_side(rng, min(40, area[i + 2] - area[i])) for i in (0, 1))
    x, y = rng.randint(area[0], area[2] - width), rng.randint(area[1], area[3] - height)
    name = rng.choice([name for name in OBJECTS if name not in used])
    return [Thing(name, (x, y, x + width, y + height), _shift(rng))]


def make_scene(index: int, seed: int, test: bool) -> Scene:
    """Scene number `index` of the world `seed`, with 1 to 5 things and all relations that hold.

    Equal arguments give equal scenes, whatever the number of scenes. Only `test` scenes show held-out triplets.
    """
    rng = random.Random(f"{seed} scene {index}")
    size_hw = rng.choice(((SIDE, SIDE), (SIDE, SIDE), (SHORT_SIDE, SIDE), (SIDE, SHORT_SIDE)))
    parts = 1 if rng.random() < 0.2 else 2
    second_is_lone = rng.random() < 0.2
    without_event = rng.random() < 0.03
    things: list[Thing] = []
    links: list[Relation] = []
    for slot, area in enumerate(layouts.split_areas(rng, size_hw, parts)):
        used = {thing.name for thing in things}
        kind = _kind(index, slot, seed)
        twice = kind == "matches" and any(thing.chequered for thing in things)  # all four would match each other
        if without_event or twice or (slot == 1 and second_is_lone):
            things += _lone_thing(rng, area, used)
            continue
        new, new_links = _event(rng, kind, area, used, test)
        links += [(s + len(things), o + len(things), p) for s, o, p in new_links]
        things += new
    return Scene(size_hw, tuple(things), tuple(links), all_relations(things, links))


def make_picture(index: int, seed: int, test: bool, grid: int = 1) -> Scene:
    """Picture number `index`: one scene, or `grid` × `grid` of them side by side.

    Relations hold within a scene; between things of two scenes none is told, whatever their places.
    """
    if grid == 1:
        return make_scene(index, seed, test)
    things: list[Thing] = []
    links: list[Relation] = []
    relations: list[Relation] = []
    for place in range(grid**2):
        scene = make_scene(index * grid**2 + place, seed, test)
        links += _from(len(things), scene.links)
        relations += _from(len(things), scene.relations)
        things += [_moved(thing, place % grid * SIDE, place // grid * SIDE) for thing in scene.things]
    return Scene((grid * SIDE, grid * SIDE), tuple(things), tuple(links), tuple(relations))


def _from(first: int, relations: Sequence[Relation]) -> list[Relation]:
    return [(first + subject, first + other, predicate) for subject, other, predicate in relations]


def _moved(thing: Thing, x: int, y: int) -> Thing:
    x0, y0, x1, y1 = thing.box
    return replace(thing, box=(x0 + x, y0 + y, x1 + x, y1 + y))
