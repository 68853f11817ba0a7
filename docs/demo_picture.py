"""Makes the picture of the README from a demo: .venv/bin/python docs/demo_picture.py TRIAL PHOTO TARGET

As committed, after `make demo`: `… demo/search/trials/0003 demo/data/VG_100K/100016.jpg docs/figures/demo.png`. The
trial is the best one, the photo one of the test split. `speaq predict` draws the photo; `search.png` is put below.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH = 1200


def drawn(run: Path, photo: Path, folder: Path) -> Path:
    """The picture of `photo` that `speaq predict` writes: what is worth drawing of it."""
    speaq = [sys.executable, "-m", "speaq.cli", "predict", str(photo), "--checkpoint", str(run)]
    subprocess.run([*speaq, "--output", str(folder)], check=True)
    return next(folder.glob("*.png"))


def stacked(files: list[Path]) -> Image.Image:
    """The pictures below each other, all of one width, in 128 colours."""
    pictures = [Image.open(file).convert("RGB") for file in files]
    pictures = [
        image.resize((WIDTH, image.height * WIDTH // image.width), Image.Resampling.LANCZOS) for image in pictures
    ]
    sheet = Image.new("RGB", (WIDTH, sum(image.height for image in pictures)), "white")
    top = 0
    for image in pictures:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet.quantize(128, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)


if __name__ == "__main__":
    trial, photo, target = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        picture = drawn(trial, photo, Path(folder))
        stacked([picture, trial.parents[1] / "search.png"]).save(target, optimize=True)
