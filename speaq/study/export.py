"""All trials of a study as one file: CSV, Parquet, a LaTeX table, or what others can write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speaq.config import ConfigError
from speaq.files.atomic import replaced
from speaq.study.board import Board, as_trained, to_csv
from speaq.study.snapshot import Snapshot

ENDINGS = (".csv", ".parquet", ".tex", ".db")  # .db: an Optuna storage, which this library cannot write
Row = dict[str, Any]
Writer = Callable[[Path, Snapshot], None]


def check_new(output: Path) -> None:
    """Raises ConfigError where a file has another ending, or is there already."""
    if output.suffix not in ENDINGS:
        raise ConfigError(f"{output}: the ending is one of {', '.join(ENDINGS)}, not {output.suffix!r}")
    if output.exists():
        raise ConfigError(f"{output}: exists already; give another file")


def write(snapshot: Snapshot, output: Path, others: Mapping[str, Writer]) -> int:
    """Writes the trials of a study in the format that the ending of `output` names; returns their number.

    Args:
        others: ending → what writes a file of it.

    Raises:
        ConfigError: no trial, a file that cannot be written, or (LaTeX, where the best one is marked) trials of
            different protocols.
    """
    if not snapshot.entries:
        raise ConfigError(f"{snapshot.folder}: has no trial yet")
    writers = {".csv": _write_csv, ".parquet": _write_parquet, ".tex": _write_latex, **others}
    try:
        with replaced(output) as temporary:
            writers[output.suffix](temporary, snapshot)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror or error})") from error
    return len(snapshot.entries)


def _write_csv(path: Path, snapshot: Snapshot) -> None:
    path.write_text(to_csv(Board.of(snapshot).rows), encoding="utf-8")


def _write_parquet(path: Path, snapshot: Snapshot) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = Board.of(snapshot).rows
    columns = {name: _column([row[name] for row in rows]) for name in rows[0]}
    parquet.write_table(pyarrow.table(columns), path)


def _write_latex(path: Path, snapshot: Snapshot) -> None:
    path.write_text(to_latex(Board.of(snapshot), snapshot.protocol), encoding="utf-8")


def _column(values: list[Any]) -> list[Any]:
    """Values of one type, as Parquet wants them: whole numbers among fractions become fractions, else text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values] if len(kinds) > 1 else values
    return values if len(kinds) == 1 and not kinds & {list, dict} else [None if v is None else str(v) for v in values]


def to_latex(board: Board, protocol: str | None) -> str:
    """A `table` for a document with `booktabs`: the best trial bold, objective and protocol in the caption."""
    plan, rows, best, metrics = board.plan, board.rows, board.best, board.columns
    decoded = [as_trained(name) for name in plan.objective] if plan.settings.decoding else []
    texts = [*(["decoding"] if decoded else []), *plan.space.parameters]
    columns = ["trial", "label", "status", *metrics, *decoded, "steps", "seconds", *texts]
    objective = latex_escape(" and ".join(plan.objective))
    said = "" if protocol is None else f" Protocol: {latex_escape(protocol)}."
    said += "" if board.measured is None else f" Measured: {latex_escape(board.measured)}."
    lines = [
        r"\begin{table}",
        rf"\caption{{{len(rows)} trials by {objective}, the best one bold.{said}}}",
        rf"\begin{{tabular}}{{lll{'r' * (len(metrics) + len(decoded) + 2)}{'l' * len(texts)}}}",
        r"\toprule",
        " & ".join(latex_escape(name) for name in columns) + r" \\",
        r"\midrule",
        *(_latex_row(row, columns, best is not None and row["trial"] == best.id) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(row: Row, columns: Sequence[str], bold: bool) -> str:
    cells = [_latex_cell(name, row[name]) for name in columns]
    return " & ".join(rf"\textbf{{{cell}}}" if bold and cell else cell for cell in cells) + r" \\"


def _latex_cell(name: str, value: Any) -> str:
    if value is None:
        return "--"
    if isinstance(value, float):
        return f"{value:.3f}" if "@" in name else f"{value:.3g}" if "." in name else f"{value:.0f}"
    return latex_escape(str(value))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text)
