"""Options and arguments that several commands have: one word, and one meaning, for each thing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DATA_HELP = "folder of a data set"
DataDir = Annotated[Path, typer.Option("--data", help=DATA_HELP, metavar="DATA")]
DataArgument = Annotated[Path, typer.Argument(help=DATA_HELP, metavar="DATA")]
KnownData = Annotated[
    Path | None, typer.Option("--data", help="data set; default: where the run's was", metavar="DATA")
]
BeginsWithData = Annotated[
    Path | None, typer.Option("--data", help=f"{DATA_HELP} [required; --resume finds it again]", metavar="DATA")
]
OutputDir = Annotated[Path, typer.Option("--output", help="folder to write", metavar="FOLDER")]
Assignments = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="change a key of the config; may be repeated; speaq config show lists them",
        metavar="KEY=VALUE",
        default_factory=list,
    ),
]
InitFrom = Annotated[
    Path | None,
    typer.Option(
        "--init-from", help="run whose weights to start from; where a start has moved: its new place", metavar="RUN"
    ),
]
RunDir = Annotated[Path, typer.Argument(help="folder of a run, or a checkpoint in it", metavar="RUN")]
SplitOption = Annotated[
    Literal["val", "test", "train"], typer.Option("--split", help="split of the data set to look at")
]
StudyDir = Annotated[Path, typer.Argument(help="folder of a study, which is what a search writes", metavar="STUDY")]
StudyOrRun = Annotated[Path, typer.Argument(help="folder of a study, or of a run", metavar="STUDY|RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="where to compute; auto: a GPU where there is one")
]
Mode = Literal["sgdet", "sgcls", "predcls", "phrase"]
