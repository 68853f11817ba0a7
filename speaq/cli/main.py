"""Train, search and study SpeaQ, a transformer that finds subject-predicate-object triplets in photos."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from speaq.cli import after, analyse, cluster, data, evaluate, predict, reproduce, search, start, train
from speaq.cli.commands import Command
from speaq.cli.terminal import confess, keep_printing, log_to_stderr
from speaq.files.home import make_up_home

# Panel of --help → its commands. A command's heavy imports happen when it runs, so that --help is quick.
COMMANDS: dict[str, tuple[Command, ...]] = {
    "Training and evaluation": (
        Command(train.pretrain, urls={"output": "work"}),
        Command(train.train, urls={"output": "work"}),
        Command(evaluate.evaluate, urls={"run": "weights"}),
        Command(evaluate.metrics),
        Command(train.cache),
        Command(train.rerun),
    ),
    "A trained model": (
        Command(predict.predict, urls={"checkpoint": "weights"}),
        Command(predict.export_model, urls={"run": "weights"}),
        Command(predict.benchmark, urls={"models": "weights"}),
        Command(predict.convert),
    ),
    "A look inside": (
        Command(analyse.explore, urls={"run": "weights", "study": "small"}),
        Command(analyse.groups),
        Command(analyse.microscope, urls={"run": "weights"}),
        Command(analyse.specialization, urls={"runs": "all"}),
    ),
    "Search": (
        Command(
            search.tune,
            urls={"output": "work", "resume": "work", "from_predictions": "weights", "earlier": "small"},
        ),
        Command(search.status, urls={"study": "small"}),
        Command(search.logs, urls={"study": "small"}),
        Command(search.calibrate, urls={"output": "work"}),
    ),
    "After a search": (
        Command(after.confirm, urls={"study": "work"}),
        Command(after.report, urls={"study": "small"}),
        Command(after.export, urls={"study": "small"}),
        Command(after.diff, urls={"first": "small", "second": "small"}),
        Command(after.unseal, urls={"study": "small"}),
    ),
    "The cluster": (Command(cluster.doctor),),
    "The whole way": (Command(reproduce.reproduce), Command(reproduce.demo), Command(start.init)),
}
PARTS = "Data sets and configs"  # panel of the commands that have commands
DATA: tuple[Command, ...] = (Command(data.make), Command(data.check), Command(data.convert), Command(data.stats))
CONFIG: tuple[Command, ...] = (Command(data.show_config, name="show"),)


class _ByPanel(TyperGroup):
    """Lists commands below the titles of their panels."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {panel: [] for panel in (PARTS, *COMMANDS)}
        width = formatter.width - 6 - max(map(len, self.commands))
        for name, command in self.commands.items():
            panels[command.rich_help_panel].append((name, command.get_short_help_str(width)))  # type: ignore[attr-defined]
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


def _options(traceback: Annotated[bool, typer.Option(help="show the traceback of an error")] = False) -> None:
    log_to_stderr()


def _made() -> typer.Typer:
    made = typer.Typer(
        cls=_ByPanel,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help=__doc__,
    )
    made.callback()(_options)
    for name, what, commands in (
        ("data", "Make, check and describe data sets.", DATA),
        ("config", "Look at configurations.", CONFIG),
    ):
        part = typer.Typer(no_args_is_help=True, help=what)
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
