"""Runs a notebook and keeps what it shows, without Jupyter; and makes pages of notebooks, as a hook of mkdocs.

.venv/bin/python docs/notebook.py docs/notebooks/first_look.ipynb [--output FILE]

runs the cells in the current folder. The notebooks here are run beside the folder `demo` that `make demo` writes.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH = 1000  # pixels of a picture at most
COLOURS = 160  # of a picture: it stays below 60 kB
NOTEBOOKS = Path(__file__).parent / "notebooks"


def run(notebook: dict[str, Any]) -> None:
    """Runs the code cells in their order, in this process, and puts what each shows into it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell["execution_count"] = number
            cell["outputs"] = outputs("".join(cell["source"]), names, number)


def outputs(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """What a cell prints, and the value of its last line where that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    found: list[dict[str, Any]] = []
    if printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)})
    if value is not None:
        about = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
        found.append({**about, "data": shown(value)})
    return found


def shown(value: Any) -> dict[str, Any]:
    """A value as a notebook has it: text, and HTML or a picture where it gives one."""
    data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if html := getattr(value, "_repr_html_", lambda: None)():
        data["text/html"] = html.splitlines(keepends=True)
    if png := getattr(value, "_repr_png_", lambda: None)():
        data["image/png"] = base64.b64encode(small(png)).decode()
    return data


def small(png: bytes) -> bytes:
    """The same picture with fewer pixels and colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def page(name: str, notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its pictures by name."""
    lines: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        lines += [source, ""] if cell["cell_type"] == "markdown" else ["```python", source, "```", ""]
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = f"{name}-{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode(data["image/png"])
                lines += [f"![{''.join(data['text/plain'])}]({picture})", ""]
            elif "text/html" in data:
                lines += [f'<div class="output">\n{"".join(data["text/html"])}\n</div>', ""]
            else:
                lines += ["```text", "".join(data["text/plain"]).rstrip("\n"), "```", ""]
    return "\n".join(lines), pictures


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each notebook: called by mkdocs."""
    from mkdocs.structure.files import File

    for path, content in pages():
        files.append(File.generated(config, path, content=content))
    return files


def pages() -> Iterator[tuple[str, str | bytes]]:
    """(path below docs, content) of every page and picture of the notebooks."""
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        text, pictures = page(file.stem, json.loads(file.read_text(encoding="utf-8")))
        yield f"notebooks/{file.stem}.md", text
        for name, content in pictures.items():
            yield f"notebooks/{name}", content


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description="run a notebook and keep what it shows")
    made.add_argument("notebook", type=Path)
    made.add_argument("--output", type=Path, help="default: the notebook itself")
    return made


if __name__ == "__main__":
    given = parser().parse_args()
    content = json.loads(given.notebook.read_text(encoding="utf-8"))
    run(content)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (given.output or given.notebook).write_text(text, encoding="utf-8")
