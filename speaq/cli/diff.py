"""`speaq diff`: two runs side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from speaq.cli.terminal import echo, echo_json, show, table
from speaq.runs.diff import Pairs, difference, read
from speaq.runs.files import EVALUATION


def print_difference(first: Path, second: Path, *, as_json: bool = False) -> None:
    """Prints how two runs differ. Raises as `read` and `difference`."""
    a, b = read(first), read(second)
    found = difference(a, b)
    if as_json:
        echo_json(vars(found))
        return
    names = (str(first), str(second))
    _print("config", names, found.config)
    _print("data, versions and hardware", names, found.made_from)
    _print(f"metrics of the kept checkpoints, {found.protocol or 'protocol not said'}", names, found.metrics)
    for record in (a, b):
        if not record.result:
            echo(f"{record.folder}: has not ended, it has no metrics")
    if found.predicates is None:
        lacking = [record.folder for record in (a, b) if record.evaluation is None]
        for folder in lacking:
            echo(f"recall by predicate: first speaq evaluate {folder} --json > {folder / EVALUATION}")
    else:
        changed = {name: pair for name, pair in found.predicates.items() if pair[0] != pair[1]}
        _print(f"{found.recall} by predicate", names, dict(sorted(changed.items(), key=_largest_first)))


def _change(pair: tuple[Any, Any]) -> float | None:
    numbers = [v for v in pair if isinstance(v, int | float) and not isinstance(v, bool)]
    return numbers[1] - numbers[0] if len(numbers) == 2 else None


def _largest_first(item: tuple[str, tuple[Any, Any]]) -> float:
    change = _change(item[1])
    return -math.inf if change is None else -abs(change)


def _print(title: str, names: tuple[str, str], pairs: Pairs) -> None:
    if not pairs:
        echo(f"{title}: no difference")
        return
    changes = [(pair, _change(pair)) for pair in pairs.values()]
    rows = [
        (name, *map(_text, pair), "" if not change else f"{change:+.4g}")
        for name, (pair, change) in zip(pairs, changes, strict=True)
    ]
    show(table((title, *names, "change"), rows, left=4))
    echo()


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
