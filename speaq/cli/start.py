"""A folder to begin with: a config, a search space and the three commands that use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speaq.cli.terminal import echo
from speaq.config import ConfigError
from speaq.files import atomic
from speaq.files.shipped import names, shipped

SCHEMAS = "schemas"  # folder of what editors need
README = """\
# A search to begin with

Give these commands in this folder. On two CPU cores they take about ten minutes together.

```bash
speaq data make data
speaq pretrain --config toy_detector --data data --output detector
speaq tune --config config.yaml --space space.yaml --data data --output study --set training.init_from=detector
```

The first draws a world of toy pictures, the second trains the detector that every trial starts from, and the third
searches. `speaq status study` shows the trials, `speaq report study` writes a page about them.

- `config.yaml` is what is trained. `speaq config show config.yaml` prints every key with its meaning.
- `space.yaml` is what is searched. Any key of the config can be a parameter.
- `schemas/` is for editors that complete and check YAML (VS Code with its YAML extension): the first lines name it.
- Your own pictures: `speaq data convert --help`; give their folder in the place of `data`.

More come with speaq, and are found by name (`--config {config}`, `--space {space}`):

- configs: {configs}
- search spaces: {spaces}
"""


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="folder to write; it is made where there is none")
    ],
) -> None:
    """Begin a search of your own, in a folder.

    It gets a config, a search space, and a README with three commands.
    """
    from speaq.config.schema import config_schema
    from speaq.space.schema import space_schema

    configs, spaces = names("configs"), names("search_spaces")
    text = README.format(config="speaq_vg", space="speaq", configs=", ".join(configs), spaces=", ".join(spaces))
    schemas = {f"{SCHEMAS}/config.json": config_schema(), f"{SCHEMAS}/space.json": space_schema()}
    contents = {
        "config.yaml": _text(shipped("configs", "toy"), "config"),
        "space.yaml": _text(shipped("search_spaces", "toy"), "space"),
        "README.md": text,
    }
    made = {**{name: json.dumps(schema, indent=1) + "\n" for name, schema in schemas.items()}, **contents}
    there = [str(directory / name) for name in made if (directory / name).exists()]
    if there:
        raise ConfigError(f"{', '.join(there)}: there already, and not replaced; name a new folder")
    (directory / SCHEMAS).mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        atomic.write_text(directory / name, content)
    echo(f"{directory}: {', '.join(contents)} · its README has three commands")


def _text(path: Path, schema: str) -> str:
    """Of a file of speaq; its first line names the schema beside it, by which editors complete and check it."""
    first, _, rest = path.read_text(encoding="utf-8").partition("\n")
    return f"{first.partition('=')[0]}={SCHEMAS}/{schema}.json\n{rest}"
