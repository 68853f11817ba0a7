"""`speaq explore`: a web page of this machine over a data set, a run or a search."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from speaq.cli.terminal import DONE, at_urls, command, echo, progress_bar
from speaq.config import ConfigError

explore_app = typer.Typer()
LOCAL = "127.0.0.1"


@explore_app.command()
@command
@at_urls(run="weights", study="small")
def explore(
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="folder of a data set")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="folder of a run")] = None,
    study: Annotated[Path | None, typer.Option("--study", help="folder of a search")] = None,
    data_option: Annotated[
        Path | None, typer.Option("--data", help="data of the run or search; default: where it was")
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None, typer.Option(help="default: val; of DATA alone: train")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="HDF5 file; default: the newest one in the run's folder")
    ] = None,
    mode: Annotated[
        Literal["sgdet", "sgcls", "predcls", "phrase"], typer.Option(help="what the predictions were given")
    ] = "sgdet",
    protocol: Annotated[
        Literal["published", "strict", "per-query", "ng", "ng-unique"] | None,
        typer.Option(help="which triplets count; ng: without graph constraint; default: the run's, or published"),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="address to listen at; others let other machines in")] = LOCAL,
    predict: Annotated[
        bool, typer.Option("--predict", help="with --run: make predictions first where the run has none")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one")] = 0,
) -> int:
    """Look at images, ground truth and predictions in a web browser; Ctrl-C ends it."""
    if data is not None and data_option is not None:
        raise ConfigError(f"--data {data_option}: the data set is given already, {data}; give it once")
    app, server, opening = (_web(name) for name in ("app", "server", "opening"))
    split = split or ("val" if run or study else "train")
    counted = protocol and protocol.replace("-", "_")
    wanted = opening.Exploration(
        data=data or data_option,
        run=run,
        study=study,
        split=split,
        predictions=predictions,
        mode=mode,
        protocol=counted,
    )
    if predict:
        with progress_bar("predicting") as progress:
            opening.predict(wanted, progress)
    context = opening.explore(wanted)
    if context.main.predictions is not None:
        with progress_bar("matching") as progress:
            context.main.judge_all(progress)
    listening = server.bind(host, port)
    if not server.is_loopback(host):
        echo(f"warning: --host {host} lets other machines read the data set and the run", err=True)
    application = app.create_app(context, server.known_names(host))
    with contextlib.suppress(KeyboardInterrupt):  # how a server ends
        server.serve(application, listening, lambda where: echo(f"{where}  Ctrl-C ends it"))
    echo("ended", err=True)
    return DONE


def _web(module: str) -> Any:
    """A module of speaq.explore, which needs web libraries."""
    try:
        return importlib.import_module(f"speaq.explore.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed: pip install -e ".[explore]"') from error
