"""Two pages that are made when the site is built: all commands, and all keys of configs and search spaces.

A hook of mkdocs (`hooks` in mkdocs.yml); what it says comes from the command line and the config themselves.
"""

from __future__ import annotations

import json
import re
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from speaq import config as configs
from speaq.cli import help
from speaq.cli.main import app
from speaq.space.settings import SearchConfig

_ABOUT_KEYS = """
A config is a YAML file; what it leaves out has the default, which is the published setting for Visual Genome. `--set
KEY=VALUE` changes a key, and a search space names keys in the same way. `speaq config show FILE` prints the values of a
config.

`extends: OTHER.yaml` takes what another config says, wherever this one says nothing: sections are merged key by key, a
list is replaced as a whole, the path is relative to the file. A run's own `config.yaml` is whole.

Editors with YAML support complete keys, show their meanings and underline what is wrong when the first line of a file
is `# yaml-language-server: $schema=PATH` with the schema of [configs](schemas/config.json) or of
[search spaces](schemas/space.json).
"""
_HEAD = ("| key | value | default | meaning |", "|---|---|---|---|")
SECTIONS = {
    "": "Of no section",
    "data": "data: images and how they are read",
    "model": "model: the network",
    "matching": "matching: groups, repeats, costs",
    "losses": "losses",
    "training": "training",
    "inference": "inference: from outputs to triplets",
    "evaluation": "evaluation",
    "sinks": "sinks: where numbers go",
    "resources": "resources: what a run takes of a cluster",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for name, text in (("commands.md", commands_page()), ("keys.md", keys_page())):
        files.append(File.generated(config, name, content=text))
    return files


def commands_page() -> str:
    """Every command with its summary, arguments, options and examples, below what it is for."""
    root: Any = typer.main.get_command(app)
    lines = ["# All commands", "", "`speaq COMMAND --help` prints the same.", "", *_table(root, "speaq")]
    groups = {name: f"## speaq {name}\n\n{group.help}\n" for name, group in root.commands.items() if _is_group(group)}
    for _, name, command in help.listed(root):
        words = f"speaq {name}"
        lines += [groups.pop(name.partition(" ")[0], ""), f"## {words}", "", *_paragraphs(command.help or "")]
        lines += [*_table(command, words), "```text", *_examples(command), "```", ""]
    return "\n".join(lines)


def _is_group(command: Any) -> bool:
    return hasattr(command, "commands")


def _paragraphs(text: str) -> list[str]:
    return [line for part in help.paragraphs(text) for line in (_plain(part), "")]


def _table(command: Any, words: str) -> list[str]:
    arguments, options = help.rows(command, command.context_class(command, info_name=words))
    rows = [f"| `{name}` | {_plain(_cell(what))} |" for name, what in arguments + options if "--help" not in name]
    return ["| argument or option | meaning |", "|---|---|", *rows, ""] if rows else []


def _examples(command: Any) -> list[str]:
    return [line for example in command.examples for line in help.broken(example, 90, "")]


def keys_page() -> str:
    """Every key of a config, then every key of a space's `search` section."""
    lines = ["# All keys", "", _ABOUT_KEYS]
    defaults = configs.flatten(configs.to_dict(configs.Config()))
    begun = None
    for key, kind, meaning in configs.describe():
        if begun != (section := key.rpartition(".")[0]):
            begun = section
            lines += ["", f"## {SECTIONS.get(section, section)}", "", *_HEAD]
        default = _cell(json.dumps(defaults[key]))
        lines.append(f"| `{key}` | {_plain(_cell(kind))} | `{default}` | {_plain(_cell(meaning))} |")
    lines += [
        "",
        "## search: of a search space",
        "",
        "In the section `search` of a space, or `--search KEY=VALUE`.",
        "",
    ]
    lines += ["| key | default | meaning |", "|---|---|---|"]
    for name, default in SearchConfig().model_dump(mode="json").items():
        meaning = SearchConfig.model_fields[name].description or ""
        lines.append(f"| `{name}` | `{json.dumps(default)}` | {_plain(_cell(meaning))} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text whose signs mean nothing to Markdown, but for what stands between backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([<\[*_])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
