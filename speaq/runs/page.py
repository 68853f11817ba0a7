"""`speaq report RUN`: how a run trained, on one page that needs no network, and its curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from speaq.charts.svg import draw, escaped
from speaq.config import Config, ConfigError, defaults, flatten, to_dict
from speaq.files import atomic
from speaq.files.atomic import check_links
from speaq.plain_text import shown
from speaq.runs.standing import Standing, standing
from speaq.training import picture

PAGE = "report.html"
STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 84rem; padding: 0 1rem 3rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--chart-ink); background: var(--chart-ground); overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 1rem 0 .5rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 1rem; margin: .5rem 0; max-width: 60rem; }
dt { color: var(--chart-quiet); } dd { margin: 0; }
"""


def write_report(run: Path, output: Path | None = None) -> tuple[Path, Path]:
    """Writes the page of a run, at work or not, and the picture of its curves, over older ones.

    Args:
        output: the page, with the picture beside it; default: report.html and training.png in the run.

    Returns:
        The page and the picture.

    Raises:
        ConfigError: no run, a file in it that is not what speaq writes, or one that cannot be written.
    """
    now = standing(run)
    if output is not None and output.suffix == ".png":
        raise ConfigError(f"--output {output}: the page; its picture gets this name. Call the page .html")
    if output is None:
        check_links(run)
    page = run / PAGE if output is None else output
    drawn = run / picture.NAME if output is None else output.with_suffix(".png")
    try:
        atomic.write_text(page, _html(now))
        picture.draw(drawn, now.rows, now.folder.resolve().name)
    except OSError as error:
        raise ConfigError(f"{page}: cannot be written ({error.strerror or error})") from error
    return page, drawn


def _html(now: Standing) -> str:
    name = escaped(f"Training {now.folder.resolve().name}")
    style = resources.files("speaq.charts").joinpath("chart.css").read_text(encoding="utf-8") + STYLE
    charts = "".join(map(draw, now.charts)) or "<p>Nothing is logged yet.</p>"
    changed = _changed(now.config)
    settings = (
        f"<details><summary>{len(changed)} settings that differ from the defaults</summary>{_facts(changed)}</details>"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # no browser asks for one then
        f"<title>{name}</title>\n<style>{style}</style>\n</head>\n<body>\n<h1>{name}</h1>\n"
        f'{_facts(now.facts)}\n{settings}\n<div class="charts">\n{charts}\n</div>\n</body>\n</html>\n'
    )


def _facts(values: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>' for name, value in values.items())}</dl>"


def _changed(config: Config) -> dict[str, str]:
    usual = defaults()
    return {key: shown(value) for key, value in flatten(to_dict(config)).items() if value != usual.get(key)}
