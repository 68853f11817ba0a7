"""Tables and displays in the terminal. rich is imported where it is used, so that --help is quick."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from speaq.plain_text import shown, visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


LONGEST_WORD = 16  # that is not folded on a narrow screen


def console(*, stderr: bool = False) -> Console:
    """Where tables and live displays go; it finds no markup, emoji codes or numbers in what is printed."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    left: int = 1,
    numbers: Container[str] = (),
    best: int = -1,
    gap: int = 2,
    tight: bool = False,
) -> Table:
    """A table of plain text: every text is shown as it is, other values as `shown` does.

    Args:
        left: so many first columns stand left, the others right.
        numbers: where given, columns of these titles stand right and no others.
        best: row in bold.
        gap: columns of the terminal between two of the table.
        tight: for a narrow screen: titles and cells of several words take several lines.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, gap - 1, 0, 1) if gap > 1 else (0, 1, 0, 0))
    for position, title in enumerate(header):
        right = title in numbers if numbers else position >= left
        place: dict[str, Any] = {"justify": "right" if right else "left"}
        if tight:
            place |= _tight(visible(title), [visible(shown(row[position])) for row in rows])
        made.add_column(Text(visible(title)), **place)
    for position, row in enumerate(rows):
        made.add_row(*(Text(visible(shown(cell))) for cell in row), style="bold" if position == best else None)
    return made


def _tight(title: str, cells: Sequence[str]) -> dict[str, Any]:
    """How wide a column may become, so that words of its title and cells are whole; very long ones are folded."""
    words = [word for text in (title, *cells) for word in text.split()]
    return {
        "min_width": min(max(map(len, words), default=1), LONGEST_WORD),
        "max_width": max(map(len, [*title.split(), *cells]), default=1),
        "overflow": "fold",
    }


def fitting(
    header: Sequence[str], rows: Sequence[Sequence[object]], width: int, spare: Sequence[str]
) -> tuple[list[str], list[list[object]]]:
    """Header and rows without as many of the columns named in `spare`, in its order, as a width has no place for."""
    kept = list(range(len(header)))
    for name in [*spare, None]:
        widths = (max([len(header[at]), *(len(visible(shown(row[at]))) for row in rows)]) for at in kept)
        if sum(widths) + 2 * (len(kept) - 1) <= width or name is None:
            break
        kept = [at for at in kept if header[at] != name]
    return [header[at] for at in kept], [[row[at] for at in kept] for row in rows]


def show(content: RenderableType) -> None:
    """Prints a table on stdout; as wide as it is where that is no terminal, so that nothing is cut or wrapped."""
    out = console()
    if not out.is_terminal:
        out.width = max(1, _width(content))
    out.print(content)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout, its first column left, the others right; titles take several lines on a narrow screen."""
    screen, made = console(), table(header, rows)
    if screen.is_terminal and _width(made) > screen.width:
        made = table(header, rows, tight=True)
        made = made if _width(made) <= screen.width else table(header, rows, tight=True, gap=1)
    show(made)


def _width(content: RenderableType) -> int:
    """Columns of a screen that something takes where there are enough."""
    from rich.measure import Measurement

    screen = console()
    return Measurement.get(screen, screen.options.update(max_width=1 << 16), content).maximum
