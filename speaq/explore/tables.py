"""Tables that are sorted by their headers' links: the order is in the address, no script is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column: the key of its values in a row, the title above it, and whether it holds numbers."""

    key: str
    title: str
    numeric: bool = True


class Order(NamedTuple):
    """How a table is sorted."""

    key: str
    descending: bool

    def next(self, column: Column) -> str:
        """Query that a header leads to: the other direction of the same column, else the usual one of a new column."""
        descending = not self.descending if column.key == self.key else column.numeric
        return f"?sort={column.key}&order={'down' if descending else 'up'}"


def read_order(query: Mapping[str, str], columns: Sequence[Column], usual: str) -> Order:
    """What an address asks for; the usual column where it names none that there is."""
    key = query.get("sort", usual)
    column = next((c for c in columns if c.key == key), next(c for c in columns if c.key == usual))
    return Order(column.key, query.get("order", "down" if column.numeric else "up") == "down")


def in_order(rows: Sequence[Mapping[str, Any]], order: Order) -> list[Mapping[str, Any]]:
    """Sorted; rows without a value come last in both directions, equal ones keep their order."""
    known = [row for row in rows if row.get(order.key) not in (None, "")]
    unknown = [row for row in rows if row.get(order.key) in (None, "")]
    return sorted(known, key=lambda row: row[order.key], reverse=order.descending) + unknown
