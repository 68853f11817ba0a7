"""Train, search and study SpeaQ, a transformer that finds subject-predicate-object triplets in photos."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Annotated

import typer

from speaq.cli import after, analyse, cluster, data, evaluate, predict, reproduce, search, start, train
from speaq.cli.commands import AS_ARGUMENT, Command
from speaq.cli.help import SpeaqGroup
from speaq.cli.terminal import confess, echo, keep_printing, log_to_stderr
from speaq.files.home import make_up_home

# What one wants to do → its commands. A command's heavy imports happen when it runs, so that --help is quick.
START, PARTS = "Start", "Data"  # panels; the second one is that of commands that have commands
COMMANDS: dict[str, tuple[Command, ...]] = {
    START: (
        Command(
            reproduce.demo,
            loads="Ray",
            examples=("speaq demo",),
            then=("speaq report {output}/search", "speaq explore --study {output}/search"),
        ),
        Command(
            start.init,
            examples=("speaq init MINE",),
            then=("speaq config show {directory}/config.yaml",),
        ),
        Command(
            reproduce.reproduce,
            loads="Ray",
            older={"run": "--checkpoint"},
            examples=(
                "speaq reproduce --output REPRODUCED --scale toy",
                "speaq reproduce --data DATA --detector DETECTOR.pth --output REPRODUCED",
            ),
        ),
    ),
    "Train": (
        Command(
            train.pretrain,
            loads="PyTorch",
            urls={"output": "work", "resume": "work"},
            examples=("speaq pretrain --config toy_detector --data DATA --output DETECTOR",),
            then=("speaq train --config CONFIG --data DATA --output RUN --init-from {output}",),
        ),
        Command(
            train.train,
            loads="PyTorch",
            urls={"output": "work", "resume": "work"},
            examples=(
                "speaq train --config toy --data DATA --output RUN --init-from DETECTOR",
                "speaq train --resume RUN",
            ),
            then=("speaq evaluate {output} --split test", "speaq explore --run {output} --predict"),
        ),
        Command(
            evaluate.evaluate,
            loads="PyTorch",
            urls={"run": "weights"},
            examples=("speaq evaluate RUN", "speaq evaluate RUN --split test --predictions RUN/test.h5"),
            then=("speaq explore --run {run} --predict",),
        ),
        Command(
            evaluate.metrics,
            examples=("speaq metrics PREDICTIONS.h5 --data DATA --split val --against OTHER.h5",),
            then=("speaq explore {data} --predictions {predictions}",),
        ),
        Command(
            train.rerun,
            loads="PyTorch",
            examples=("speaq rerun STUDY/trials/0003",),
            then=("speaq diff {run} {output}",),
        ),
        Command(
            train.cache,
            loads="PyTorch",
            examples=("speaq cache DETECTOR --data DATA --output FEATURES",),
            then=("speaq train --config CONFIG --data {data} --output RUN --set training.features={output}",),
        ),
    ),
    "Look": (
        Command(
            predict.predict,
            loads="PyTorch",
            urls={"run": "weights"},
            older={"run": "--checkpoint"},
            examples=("speaq predict PHOTOS --run RUN --output PICTURES --top 10",),
        ),
        Command(
            analyse.explore,
            urls={"run": "weights", "study": "small"},
            examples=("speaq explore DATA", "speaq explore --run RUN --predict", "speaq explore --study STUDY"),
        ),
        Command(
            analyse.groups,
            examples=("speaq groups --data DATA --num-groups 5 --table",),
            then=("speaq train --config CONFIG --data {data} --output RUN",),
        ),
        Command(
            analyse.microscope,
            loads="PyTorch",
            urls={"run": "weights"},
            examples=("speaq microscope RUN 2343", "speaq microscope RUN 2343 --triplet 0"),
        ),
        Command(
            analyse.specialization,
            loads="PyTorch",
            urls={"runs": "all"},
            examples=("speaq specialization RUN OTHER --output SPECIALIZATION",),
        ),
        Command(after.diff, urls={"first": "small", "second": "small"}, examples=("speaq diff RUN OTHER",)),
    ),
    "Search": (
        Command(
            search.tune,
            loads="Ray",
            urls={
                "output": "work",
                "resume": "work",
                "from_predictions": "weights",
                "earlier": "small",
            },
            examples=(
                "speaq tune --config toy --space toy --data DATA --output STUDY",
                "speaq tune --resume STUDY --trials 60",
                "speaq tune --from-predictions RUN --output CURVE",
            ),
            then=("speaq report {output}", "speaq confirm {output} --seeds 3..7"),
        ),
        Command(
            search.status,
            urls={"study": "small"},
            examples=("speaq status STUDY", "speaq status STUDY --wide", "speaq status STUDY --watch"),
            then=("speaq report {study}",),
        ),
        Command(
            search.logs, urls={"study": "small"}, examples=("speaq logs STUDY 0003", "speaq logs STUDY 0003 --follow")
        ),
        Command(
            search.calibrate,
            loads="Ray",
            urls={"output": "work"},
            examples=("speaq calibrate STUDY",),
        ),
    ),
    "After a search": (
        Command(
            after.confirm,
            loads="Ray",
            urls={"study": "work"},
            examples=("speaq confirm STUDY --top 5 --seeds 3..7",),
            then=("speaq report {study}", "speaq unseal {study} --reason WHY"),
        ),
        Command(
            after.report,
            urls={"study": "small"},
            examples=("speaq report STUDY", "speaq report RUN"),
            then=("speaq confirm {study} --seeds 3..7",),
        ),
        Command(
            after.export,
            urls={"study": "small"},
            older={"output": AS_ARGUMENT},
            examples=("speaq export STUDY --output TRIALS.csv",),
        ),
        Command(
            after.unseal,
            urls={"study": "small"},
            examples=("speaq unseal STUDY --reason 'the settings are chosen'",),
            then=("speaq evaluate {study}/trials/TRIAL --split test",),
        ),
    ),
    "Cluster": (
        Command(
            cluster.doctor,
            loads="Ray",
            older={"output": "--storage"},
            examples=("speaq doctor --output /shared/runs --data /shared/data", "speaq doctor STUDY"),
        ),
    ),
    "Elsewhere": (
        Command(
            predict.export_model,
            loads="PyTorch",
            urls={"run": "weights"},
            older={"outputs": AS_ARGUMENT},
            examples=("speaq export-model RUN --output MODEL.onnx",),
            then=("speaq benchmark {run} MODEL.onnx",),
        ),
        Command(
            predict.benchmark,
            loads="PyTorch",
            urls={"models": "weights"},
            examples=("speaq benchmark RUN MODEL.onnx --photos PHOTOS",),
        ),
        Command(
            predict.convert,
            loads="PyTorch",
            older={"output": AS_ARGUMENT},
            examples=("speaq convert PUBLISHED.pth --output RUN --data DATA",),
            then=("speaq evaluate {output} --split test",),
        ),
    ),
}
DATA: tuple[Command, ...] = (
    Command(
        data.make,
        examples=("speaq data make TOY --images 2000",),
        then=("speaq explore {directory}", "speaq pretrain --config CONFIG --data {directory} --output DETECTOR"),
    ),
    Command(
        data.check,
        examples=("speaq data check DATA",),
        then=("speaq data stats {data}",),
    ),
    Command(
        data.convert,
        older={"output": AS_ARGUMENT},
        examples=("speaq data convert ANNOTATIONS.json --images PHOTOS --output DATA",),
        then=("speaq explore {output}",),
    ),
    Command(data.stats, examples=("speaq data stats DATA",), then=("speaq groups --data {data}",)),
)
CONFIG: tuple[Command, ...] = (
    Command(data.show_config, name="show", examples=("speaq config show toy --set seed=7",)),
)


def _version(asked: bool) -> None:
    if asked:
        found = {name: metadata.version(name) for name in ("speaq", "torch")}
        echo(
            " · ".join(
                [*(f"{name} {version}" for name, version in found.items()), f"python {platform.python_version()}"]
            )
        )
        raise typer.Exit


def _options(
    traceback: Annotated[bool, typer.Option("--traceback", help="show the traceback of an error")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="print the versions of speaq, torch and python", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    log_to_stderr()


class _Root(SpeaqGroup):
    """The commands in the order of what one does first."""

    panels = (START, PARTS, *(panel for panel in COMMANDS if panel != START))


def _made() -> typer.Typer:
    made = typer.Typer(
        cls=_Root,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=__doc__,
    )
    made.callback()(_options)
    for name, what, commands in (
        ("data", "Make, check and describe data sets.", DATA),
        ("config", "Look at configurations.", CONFIG),
    ):
        part = typer.Typer(cls=SpeaqGroup, no_args_is_help=True, help=what)
        for command in commands:
            command.add_to(part)
        made.add_typer(part, name=name, rich_help_panel=PARTS)
    for panel, commands in COMMANDS.items():
        for command in commands:
            command.add_to(made, panel)
    return made


app = _made()


def main() -> None:
    """Runs the command line of this process."""
    # Threads that spin while they wait stall each other on a busy machine: 7-33 images/s became 84-109 (two threads).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_printing()
    try:
        make_up_home()
        app()
    finally:
        confess()


if __name__ == "__main__":
    main()
