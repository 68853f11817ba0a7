"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DATA_HELP = "folder with the four files of the data set"
DataDir = Annotated[Path, typer.Option("--data", help=DATA_HELP)]
KnownData = Annotated[Path | None, typer.Option("--data", help="default: where the run's data was")]
OutputDir = Annotated[Path, typer.Option("--output", help="folder to write")]
Assignments = Annotated[list[str], typer.Option("--set", help="key=value, any number of times", default_factory=list)]
InitFrom = Annotated[
    Path | None,
    typer.Option("--init-from", help="run or file whose weights to start from; of a run or search: where they are now"),
]
SplitOption = Annotated[Literal["val", "test", "train"], typer.Option("--split")]
StudyDir = Annotated[Path, typer.Argument(help="folder of a search", metavar="STUDY")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option()]
Mode = Literal["sgdet", "sgcls", "predcls", "phrase"]
