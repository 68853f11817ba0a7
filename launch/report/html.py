"""Pieces of the report's page. Every text is escaped here; plots are drawn by plotly's script, which the page holds."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from speaq.plain_text import shown, visible

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1100px; padding: 0 12px 48px; font: 15px/1.5 system-ui, sans-serif; color: #111827;
  overflow-wrap: anywhere; }
h1 { font-size: 1.4em; line-height: 1.25; margin: 1em 0 0.4em; } h2 { font-size: 1.15em; margin: 2em 0 0.4em; }
p { margin: 0.4em 0; } code, pre { font: 13px/1.5 ui-monospace, monospace; }
pre { background: #f3f4f6; padding: 8px; overflow-x: auto; overflow-wrap: normal; }
.box { overflow-x: auto; }
.box.long { max-height: 70vh; overflow-y: auto; }
.long thead th { position: sticky; top: 0; background: white; }
table { border-collapse: collapse; overflow-wrap: normal; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid #1d4ed8; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
nav { margin: 0.8em 0; } nav a { margin-right: 1em; white-space: nowrap; display: inline-block; }
a { color: #1d4ed8; } .lead { font-size: 1.05em; }
figure { margin: 0.6em 0; } figcaption { color: #4b5563; }
.example { display: block; width: 100%; max-width: 760px; }
th, td { padding: 2px 10px 2px 0; text-align: left; white-space: nowrap; border-bottom: 1px solid #e5e7eb; }
thead th { white-space: normal; vertical-align: bottom; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
table.facts td, table.facts th { white-space: normal; vertical-align: top; min-width: 5em; }
tr.best td { font-weight: 600; background: #fef9c3; }
tr.published td:first-child { border-left: 4px solid #c2410c; padding-left: 6px; }
tr.baseline td:first-child { border-left: 4px solid #1d4ed8; padding-left: 6px; }
/* Plots are drawn while the page loads: no width may depend on what comes later. */
html { overflow-y: scroll; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 8px; }
.plot { min-width: 0; overflow: hidden; }
h3 { font-size: 1em; font-weight: 600; margin: 0.6em 0 0; }
"""


# A click on a column's head sorts by it: numbers by value, those without one last, words by letter.
SORTING = """
addEventListener("click", event => {
  const head = event.target.closest("table.sortable th");
  if (!head) return;
  const up = head.getAttribute("aria-sort") === "descending", place = [...head.parentNode.children].indexOf(head);
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = head.closest("table").tBodies[0], of = row => row.children[place].textContent, sign = up ? 1 : -1;
  const number = text => text.trim() === "" || isNaN(text) ? null : Number(text);
  const compare = (a, b) => {
    const [x, y] = [number(of(a)), number(of(b))];
    if (x !== null && y !== null) return sign * (x - y);
    return x !== null ? -1 : y !== null ? 1 : sign * of(a).localeCompare(of(b));
  };
  body.append(...[...body.rows].sort(compare));
});
"""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    title: str
    content: str  # HTML

    @property
    def place(self) -> str:
        """What a link to it ends with."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def __str__(self) -> str:
        return f'<section id="{self.place}">\n<h2>{_escaped(self.title)}</h2>\n{self.content}\n</section>'


def _escaped(text: str) -> str:
    """Plain text for a page: no tags, and no characters that would turn the order of letters around."""
    return html.escape(visible(text, keep="\n"))


def page(title: str, heading: str, lead: str, sections: Iterable[Section]) -> str:
    """A whole document, with a list of its sections at its top.

    Args:
        title: of the window.
        lead: what the page tells, in a line or two.
    """
    parts = list(sections)
    links = "".join(f'<a href="#{part.place}">{_escaped(part.title)}</a>' for part in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # no browser asks for one then
        f"<title>{_escaped(title)}</title>\n<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script>\n"
        f"<script>{SORTING}</script>\n</head>\n<body>\n<h1>{_escaped(heading)}</h1>\n"
        f'<p class="lead">{_escaped(lead)}</p>\n<nav aria-label="Contents">{links}</nav>\n'
        + "\n".join(map(str, parts))
        + "\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> Section:
    """A heading and HTML below it."""
    return Section(title, "\n".join(parts))


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


@dataclass(frozen=True)
class Link:
    """A text that leads somewhere, relative to the page."""

    text: str
    target: str

    def __str__(self) -> str:
        return f'<a href="{html.escape(quote(self.target))}">{_escaped(self.text)}</a>'


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    classes: Sequence[str] | None = None,
    *,
    sortable: bool = False,
) -> str:
    """Numbers stand right; a table that is too wide scrolls on its own.

    Args:
        classes: one CSS class (or none) a row.
        sortable: by a click on a column's head; a long one scrolls below its head.
    """
    head = "".join(_head(name, sortable) for name in header)
    box, kind = ("box long", ' class="sortable"') if sortable else ("box", "")
    names = classes or [""] * len(rows)
    body = "".join(
        f'<tr class="{_escaped(name)}">' + "".join(map(_cell, row)) + "</tr>"
        for name, row in zip(names, rows, strict=True)
    )
    return f'<div class="{box}"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _head(name: str, sortable: bool) -> str:
    return f"<th><button>{_escaped(name)}</button></th>" if sortable and name else f"<th>{_escaped(name)}</th>"


def _cell(value: Any) -> str:
    if isinstance(value, Link):
        return f"<td>{value}</td>"
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
        font={"family": "system-ui, sans-serif", "color": "#16191d"},
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


def picture(png: bytes, about: str) -> str:
    """A picture inside the page. `about`: what it shows, for those who do not see it, and above it."""
    data = base64.b64encode(png).decode("ascii")
    image = f'<img class="example" alt="{_escaped(about)}" src="data:image/png;base64,{data}">'
    return f'<figure class="box"><figcaption>{_escaped(about)}</figcaption>{image}</figure>'


def grid(plots: Iterable[str]) -> str:
    """Small plots beside each other where there is room."""
    return '<div class="grid">' + "\n".join(plots) + "</div>"
