"""What trials say: needs launch/, which is imported when the command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from speaq.cli.terminal import AsJson, StudyDir, at_urls, command, launch

logs_app = typer.Typer()


@logs_app.command()
@command
@at_urls(study="small")
def logs(
    study: StudyDir,
    trial: Annotated[str, typer.Argument(help="its number, as `speaq status` shows it: 0003", metavar="TRIAL")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the trial ends")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a trial has logged: times, levels, steps, and the traceback of a failure."""
    launch("jobs.show_logs").print_logs(study, trial, follow=follow, as_json=as_json)
