"""Pieces of the report's page. Every text is escaped here; plots are drawn by plotly's script, which the page holds."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from speaq.plain_text import shown, visible

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1100px; padding: 0 12px 48px; font: 15px/1.5 system-ui, sans-serif; color: #111827;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5em; margin: 1em 0 0.2em; } h2 { font-size: 1.15em; margin: 2em 0 0.4em; }
p { margin: 0.4em 0; } code, pre { font: 13px/1.5 ui-monospace, monospace; }
pre { background: #f3f4f6; padding: 8px; overflow-x: auto; overflow-wrap: normal; }
.box { overflow-x: auto; }
table { border-collapse: collapse; overflow-wrap: normal; }
th, td { padding: 2px 10px 2px 0; text-align: left; white-space: nowrap; border-bottom: 1px solid #e5e7eb; }
thead th { white-space: normal; vertical-align: bottom; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
table.facts td { white-space: normal; vertical-align: top; }
tr.best td { font-weight: 600; background: #fef9c3; }
tr.published td:first-child { border-left: 4px solid #c2410c; padding-left: 6px; }
tr.baseline td:first-child { border-left: 4px solid #1d4ed8; padding-left: 6px; }
/* Plots are drawn while the page loads: no width may depend on what comes later. */
html { overflow-y: scroll; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 8px; }
.plot { min-width: 0; overflow: hidden; }
h3 { font-size: 1em; font-weight: 600; margin: 0.6em 0 0; }
"""


def _escaped(text: str) -> str:
    """Plain text for a page: no tags, and no characters that would turn the order of letters around."""
    return html.escape(visible(text, keep="\n"))


def page(title: str, sections: Iterable[str]) -> str:
    """A whole document. `sections` are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # no browser asks for one then
        f"<title>{_escaped(title)}</title>\n<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n"
        f"<body>\n<h1>{_escaped(title)}</h1>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and HTML below it."""
    return f"<section>\n<h2>{_escaped(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def text(content: str) -> str:
    """A paragraph."""
    return f"<p>{_escaped(content)}</p>"


def commands(lines: Sequence[str]) -> str:
    """Commands to copy, one a line."""
    return f"<pre>{_escaped(chr(10).join(lines))}</pre>"


def listing(lines: Sequence[str]) -> str:
    """A list with a point before each line."""
    return "<ul>" + "".join(f"<li>{_escaped(line)}</li>" for line in lines) + "</ul>"


def facts(values: Mapping[str, str]) -> str:
    """Names and values, one a line."""
    rows = "".join(f"<tr><th>{_escaped(n)}</th><td>{_escaped(v)}</td></tr>" for n, v in values.items())
    return f'<div class="box"><table class="facts">{rows}</table></div>'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], classes: Sequence[str] | None = None) -> str:
    """Numbers stand right; a table that is too wide scrolls on its own. `classes`: one CSS class (or none) a row."""
    head = "".join(f"<th>{_escaped(name)}</th>" for name in header)
    names = classes or [""] * len(rows)
    body = "".join(
        f'<tr class="{_escaped(name)}">' + "".join(map(_cell, row)) + "</tr>"
        for name, row in zip(names, rows, strict=True)
    )
    return f'<div class="box"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    kind = ' class="number"' if number else ""
    return f"<td{kind}>{_escaped(shown(value))}</td>"


def plot(figure: go.Figure, height: int = 360) -> str:
    """A figure as wide as its place, its title above it. plotly escapes what would end its script."""
    title = figure.layout.title.text
    heading = f"<h3>{_escaped(title)}</h3>" if title else ""
    figure.update_layout(
        autosize=True,
        title=None,
        width=None,
        height=height,
        margin={"l": 50, "r": 16, "t": 16, "b": 44},
        template="plotly_white",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "font": {"size": 11}},
    )
    figure.update_xaxes(exponentformat="power")
    drawn: str = plotly.io.to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        include_mathjax=False,
        default_height=f"{height}px",
        config={"responsive": True, "displayModeBar": False},  # a double click shows all again
    )
    return f'<div class="plot">{heading}{drawn}</div>'


def grid(plots: Iterable[str]) -> str:
    """Small plots beside each other where there is room."""
    return '<div class="grid">' + "\n".join(plots) + "</div>"
