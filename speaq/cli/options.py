"""Options and arguments that several commands have, and those that would make a signature long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DATA_HELP = "folder with the four files of the data set"
ConfigFile = Annotated[Path, typer.Option("--config", help="YAML config, see configs/", dir_okay=False)]
DataDir = Annotated[Path, typer.Option("--data", help=DATA_HELP)]
DataOfSearch = Annotated[Path | None, typer.Option("--data", help=DATA_HELP)]
RunData = Annotated[Path | None, typer.Option("--data", help=f"{DATA_HELP}; --resume finds it again")]
KnownData = Annotated[Path | None, typer.Option("--data", help="default: where the run's data was")]
OutputDir = Annotated[Path, typer.Option("--output", help="folder to write")]
OutputOfSearch = Annotated[Path | None, typer.Option("--output", help="folder to write")]
Assignments = Annotated[list[str], typer.Option("--set", help="key=value, any number of times", default_factory=list)]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --output")]
Force = Annotated[bool, typer.Option("--force", help="with --resume: go on where the data set has changed since")]
InitFrom = Annotated[
    Path | None,
    typer.Option("--init-from", help="run or file whose weights to start from; of a run or search: where they are now"),
]
SplitOption = Annotated[Literal["val", "test", "train"], typer.Option("--split")]
StudyDir = Annotated[Path, typer.Argument(help="folder of a search", metavar="STUDY")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option()]
Mode = Literal["sgdet", "sgcls", "predcls", "phrase"]

# speaq tune
SearchConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML config, see configs/")]
SpaceFile = Annotated[Path | None, typer.Option("--space", help="YAML search space, see search_spaces/")]
Trials = Annotated[int | None, typer.Option("--trials", help="default: the search space's")]
Objective = Annotated[str | None, typer.Option("--objective", help="one or two metrics: R@50,mR@50")]
SearchSettings = Annotated[
    list[str] | None, typer.Option("--search", help="key=value of the space's `search`: sampler=gp, seed=1 …")
]
BudgetText = Annotated[
    str | None, typer.Option("--budget", help="most that the search may take in all: 8h, 90m, 40gpu-h, 20cpu-h")
]
FromPredictions = Annotated[
    Path | None,
    typer.Option("--from-predictions", help="trained run whose decoding to search: minutes, no training"),
]
EarlierSearches = Annotated[
    list[Path] | None,
    typer.Option("--from", help="earlier search, of other data too: its best settings come first; may be repeated"),
]
OptunaStorage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Optuna storage that follows the search: sqlite:///FILE, postgresql://, mysql://, journal:///FILE or "
        "none; default: $SPEAQ_STORAGE (for URLs with a password), else study.db in the output",
    ),
]
ResumedSearch = Annotated[Path | None, typer.Option("--resume", help="folder of a search to finish")]
ForceSearch = Annotated[
    bool, typer.Option("--force", help="with --resume: go on although data, start or code have changed")
]

# speaq data convert
Annotations = Annotated[Path, typer.Argument(help="COCO-style JSON with relationships, see speaq/data/coco/form.py")]
NewDataSet = Annotated[Path, typer.Argument(help="new folder for the data set")]
Photos = Annotated[Path, typer.Option("--images", help="folder that file_name is relative to")]
Relations = Annotated[
    Path | None, typer.Option(help="JSON with relationships (and predicates), where ANNOTATIONS has none")
]
TestShare = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="of the images, where none has a split  [default: 0.2]")
]
SplitSeed = Annotated[int | None, typer.Option(min=0, help="of that choice  [default: 0]")]
CopyPhotos = Annotated[bool, typer.Option("--copy", help="copy the photos; otherwise the data set links to them")]
Boxes = Annotated[
    Literal["xywh", "xyxy", "cxcywh", "yxhw", "yxyx"] | None,
    typer.Option(help="what bbox holds; left out: xywh, refused where it looks like another"),
]
Fractions = Annotated[bool, typer.Option("--fractions", help="bbox is in fractions of the photo's sides")]
Clip = Annotated[
    bool, typer.Option("--clip", help="cut boxes that reach far outside, leave those beside the photo out")
]
MergeNames = Annotated[
    bool, typer.Option("--merge-names", help="names that differ by case, spaces, _ or - alone are one")
]
ByName = Annotated[
    bool, typer.Option("--by-name", help="look for photos in all folders below --images, by file name alone")
]
OutsideImages = Annotated[
    bool, typer.Option("--outside-images", help="take photos that names or links outside --images lead to")
]
Strict = Annotated[bool, typer.Option("--strict", help="refuse what would be left out")]

# speaq explore
ExploredData = Annotated[Path | None, typer.Argument(metavar="DATA", help="folder of a data set")]
ExploredRun = Annotated[Path | None, typer.Option("--run", help="folder of a run")]
ExploredStudy = Annotated[Path | None, typer.Option("--study", help="folder of a search")]
MovedData = Annotated[Path | None, typer.Option("--data", help="data of the run or search; default: where it was")]
ExploredSplit = Annotated[
    Literal["train", "val", "test"] | None, typer.Option(help="default: val; of DATA alone: train")
]
Predictions = Annotated[
    Path | None, typer.Option("--predictions", help="HDF5 file; default: the newest one in the run's folder")
]
GivenMode = Annotated[Mode, typer.Option(help="what the predictions were given")]
Protocol = Annotated[
    Literal["published", "strict", "per-query", "ng", "ng-unique"] | None,
    typer.Option(help="which triplets count; ng: without graph constraint; default: the run's, or published"),
]
Host = Annotated[str, typer.Option("--host", help="address to listen at; others let other machines in")]
PredictFirst = Annotated[
    bool, typer.Option("--predict", help="with --run: make predictions first where the run has none")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one")]
