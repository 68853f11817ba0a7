"""Rows of named values, as results hold them: printed short, shown in a notebook, given to pandas."""

from __future__ import annotations

import html
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

from speaq.plain_text import shown, visible

PRINTED = 10  # rows of a table that is printed
IN_PAGE = 30  # rows of a table in a notebook
WIDTH = 110  # letters of a printed line

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table(Sequence[Row]):
    """Rows, each of which names its values; `table[0]["trial"]` is text where the file has text: `0000`."""

    rows: tuple[Row, ...]

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> Table: ...

    def __getitem__(self, place: int | slice) -> Row | Table:
        return Table(self.rows[place]) if isinstance(place, slice) else self.rows[place]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of all values that a row has, in the order in which rows first have them."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str) -> list[Any]:
        """The values of one name, None where a row lacks it. Raises KeyError where every row does."""
        if name not in self.columns:
            raise KeyError(f"{name}: no such column; there are {', '.join(self.columns)}")
        return [row.get(name) for row in self.rows]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with the same columns; text stays text. Raises ImportError where pandas is absent."""
        pandas = needed("pandas", "to_pandas()")
        return pandas.DataFrame([dict(row) for row in self.rows], columns=list(self.columns))

    def __repr__(self) -> str:
        if not self.rows:
            return "Table of 0 rows"
        cells = [self.columns, *(self._cells(row) for row in self.rows[:PRINTED])]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
        lines = [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines]
        return "\n".join([*lines, f"Table of {len(self)} rows, {len(self.columns)} columns"])

    def _repr_html_(self) -> str:
        return to_html(self.columns, [self._cells(row) for row in self.rows[:IN_PAGE]], len(self.rows) - IN_PAGE)

    def _cells(self, row: Row) -> tuple[str, ...]:
        return tuple(visible(shown(row.get(name))) for name in self.columns)


def to_html(header: Sequence[str], rows: Sequence[Sequence[str]], more: int = 0) -> str:
    """A table for a page; what rows and header hold is shown as it is, never obeyed. `more`: rows that are left out."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    left = f"<p>… {more} more rows</p>" if more > 0 else ""
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>{left}"


def facts_html(title: str, facts: Mapping[str, Any]) -> str:
    """A title above a table of two columns, for a page."""
    rows = [(name, visible(shown(value))) for name, value in facts.items()]
    return f"<b>{html.escape(visible(title))}</b>{to_html((), rows)}"


def needed(module: str, what: str) -> Any:
    """An optional module. Raises ImportError in one line that says how to get it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{what} needs {module}, which is not installed: pip install {module}") from error
