"""A look inside: groups of predicates, queries that specialise, one relation's queries, and a page to explore all."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from speaq import config as configs
from speaq.cli.options import AsJson, Assignments, DataDir, KnownData, Mode, RunDir, SplitOption
from speaq.cli.tables import print_table
from speaq.cli.terminal import echo, echo_json, echo_words, progress_bar
from speaq.config import ConfigError
from speaq.training.endings import DONE

if TYPE_CHECKING:
    from speaq.analysis.group_lab import Group
    from speaq.analysis.microscope import Microscope, Slide
    from speaq.analysis.specialization import Analysed
    from speaq.charts.chart import Bars
    from speaq.study.board import Board

LOCAL = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """What the user asks of `speaq groups`."""

    data: DataDir
    assignments: Assignments
    num_groups: Annotated[
        int | None, typer.Option("--num-groups", min=1, help="groups, G; default: the config's (4)")
    ] = None
    num_queries: Annotated[
        int | None, typer.Option("--num-queries", min=1, help="subject queries, Q; default: the config's (300)")
    ] = None
    query_multiple: Annotated[
        int | None,
        typer.Option("--query-multiple", min=1, help="relation queries of each, m; default: the config's (2)"),
    ] = None
    rule: Annotated[
        Literal["halving", "equal_mass", "equal_count"] | None,
        typer.Option("--rule", help="how predicates are put into groups; default: matching.group_rule"),
    ] = None
    file: Annotated[Path | None, typer.Option("--groups", help="YAML file with groups of your own")] = None
    config: Annotated[
        Path | None, typer.Option("--config", help="the setting of a config, on its train split", metavar="CONFIG")
    ] = None

    @property
    def changes(self) -> dict[str, object]:
        """Keys of the config that the options set, with their values."""
        given = {
            "matching.num_groups": self.num_groups,
            "model.num_queries": self.num_queries,
            "model.query_multiple": self.query_multiple,
            "matching.group_rule": self.rule,
            "matching.groups": None if self.file is None else str(self.file),
        }
        return {key: value for key, value in given.items() if value is not None}


def groups(
    wanted: Grouping,
    table: Annotated[bool, typer.Option("--table", help="also every predicate with its relations")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the predicate groups of a data set and their queries.

    Says which groups have too many or too few targets for the queries that they get.
    """
    from speaq.analysis.group_lab import group_lab, usual
    from speaq.data.statistics import predicate_count
    from speaq.data.visual_genome import open_data

    base = usual() if wanted.config is None else configs.load(wanted.config)
    asked = configs.apply(base, {**configs.parse_overrides(wanted.assignments), **wanted.changes}, "groups")
    vg = open_data(wanted.data, need_images=False)
    split = vg.split("train", asked.data)
    counts = predicate_count(split, vg.num_predicates)
    made = group_lab(split, counts, vg.vocabulary.predicates, asked)
    if as_json:
        echo_json([group.to_json() for group in made])
        return
    _print_lab(made, table)


def _print_lab(made: list[Group], table: bool) -> None:
    _print_groups(made)
    if table:
        _print_predicates(made)
    else:
        for group in made:
            echo_words(f"group {group.title}: {', '.join(name for name, _ in group.predicates)}")
    for group in made:
        if group.load.warning:
            echo(f"group {group.title} is {group.load.warning}")


def _print_groups(made: list[Group]) -> None:
    header = (
        "group",
        "predicates",
        "share",
        "subject queries",
        "relation queries",
        "targets per image",
        "targets per query",
        "overloaded",
    )
    rows = [
        (
            group.title,
            len(group.predicates),
            f"{group.share:.4f}",
            group.subject_queries,
            group.relation_queries,
            group.load.targets_per_image,
            group.load.targets_per_query,
            f"{group.load.overloaded:.1%}",
        )
        for group in made
    ]
    print_table(header, rows)


def _print_predicates(made: list[Group]) -> None:
    total = max(sum(number for group in made for _, number in group.predicates), 1)
    rows = [(name, group.title, number, f"{number / total:.4f}") for group in made for name, number in group.predicates]
    print_table(("predicate", "group", "relations", "share"), rows)


def specialization(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="folders of runs, or checkpoints in them")],
    split: SplitOption = "val",
    checkpoints: Annotated[
        Literal["best", "all"], typer.Option("--checkpoints", help="all: also last and previous, where they differ")
    ] = "best",
    top: Annotated[int, typer.Option("--top", min=1, help="best triplets of an image that are counted")] = 20,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="images of the split to look at; default: all")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="data set; default: where each run's was", metavar="DATA")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="folder for specialization.json, .png and .svg", metavar="FOLDER")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which predicates each query predicts, run beside run.

    Counts entropy, leakage out of a query's group, and dead queries.
    """
    from speaq.analysis.specialization import save
    from speaq.analysis.specialization_counts import Asked, analyse

    with progress_bar("evaluating") as progress:
        found = analyse(runs, Asked(split, top, images, checkpoints == "all", data), progress)
    if output is not None:
        from speaq.analysis.specialization_picture import KINDS, draw

        save(found, output)
        for kind in KINDS:
            draw(found, output / f"specialization.{kind}", kind)
    if as_json:
        echo_json([one.to_json() for one in found])
        return
    print_table(SPECIALIZATION_COLUMNS, [_row(one) for one in found])
    echo(
        f"{found[0].images} images of {split}, the {top} best triplets of each; entropies in nats, "
        f"at most {math.log(len(found[0].predicates)):.3f}" + ("" if output is None else f" · {output}")
    )


SPECIALIZATION_COLUMNS = (
    "run",
    "checkpoint",
    "step",
    "groups",
    "queries",
    "mean entropy",
    "of all together",
    "leakage",
    "leakage by group",
    "dead",
)


def _row(one: Analysed) -> tuple[object, ...]:
    result = one.result()

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    return (
        one.run,
        one.checkpoint,
        one.step,
        None if one.groups is None else len(one.groups.queries),
        len(one.counts),
        "-" if result.mean_entropy is None else f"{result.mean_entropy:.3f}",
        "-" if result.predicate_entropy is None else f"{result.predicate_entropy:.3f}",
        share(result.leakage),
        " ".join(map(share, result.group_leakage)) or "-",
        len(result.dead),
    )


def microscope(
    run: RunDir,
    image: Annotated[str, typer.Argument(help="id of an image of its data set", metavar="IMAGE")],
    assignments: Assignments,
    triplet: Annotated[
        int | None, typer.Option("--triplet", min=0, help="number of a ground-truth triplet; default: list them")
    ] = None,
    data: KnownData = None,
    as_json: AsJson = False,
) -> None:
    """Show which queries learn one ground-truth triplet.

    Of every decoder layer: each query's quality for the triplet, k, and the matched queries.

    The network looks once; --set matching.max_repeats=6 and the like change the assignment alone.
    """
    from speaq.analysis.microscope import Microscope

    opened = Microscope.open(run, data)
    overrides = configs.parse_overrides(assignments)
    opened.settings(overrides)  # refused before the network looks
    slide = opened.slide(image)
    if triplet is None:
        _print_triplets(opened, slide, overrides, as_json)
        return
    found = opened.look(slide, triplet, overrides)
    if as_json:
        echo_json(found)
        return
    bounds, group = found["group_bounds"], found["group"]
    echo(
        f"image {slide.image_id} ({slide.split}) · triplet {triplet}: {found['words']} · group {group + 1} of "
        f"{len(bounds) - 1}, queries {bounds[group]} to {bounds[group + 1] - 1}"
    )
    header = ("layer", "sum of the K best", "k", "matched queries (quality)", "k as trained", "matched as trained")
    print_table(header, [_layer_row(layer) for layer in found["layers"]])


def _layer_row(layer: dict[str, Any]) -> tuple[object, ...]:
    trained, total = layer["as_trained"], layer["quality_sum"]
    return (
        layer["layer"],
        "-" if total is None else f"{total:.3f}",
        layer["repeats"],
        _queries(layer["matched"], layer["quality"]),
        trained["repeats"],
        _queries(trained["matched"], None),
    )


def _queries(queries: list[int], quality: list[float] | None) -> str:
    return ", ".join(str(q) if quality is None else f"{q} ({quality[q]:.2f})" for q in queries) or "-"


def _print_triplets(opened: Microscope, slide: Slide, overrides: dict[str, Any], as_json: bool) -> None:
    """The image's triplets with k and the number of matched queries of each layer."""
    found, _ = opened.examine(slide, overrides)
    rows: list[dict[str, Any]] = [
        {
            "triplet": number,
            "words": text,
            "repeats": found.repeats[:, number].tolist(),
            "matched": (found.relation == number).sum(1).tolist(),
        }
        for number, text in enumerate(slide.triplets)
    ]
    if as_json:
        echo_json(rows)
        return
    print_table(
        ("triplet", "", "k by layer", "matched by layer"),
        [
            (row["triplet"], row["words"], " ".join(map(str, row["repeats"])), " ".join(map(str, row["matched"])))
            for row in rows
        ],
    )


@dataclass(frozen=True, kw_only=True)
class Exploring:
    """What the user asks of `speaq explore`."""

    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="folder of a data set")] = None
    run: Annotated[Path | None, typer.Option("--run", help="folder of a run", metavar="RUN")] = None
    study: Annotated[Path | None, typer.Option("--study", help="folder of a study", metavar="STUDY")] = None
    data_option: Annotated[
        Path | None, typer.Option("--data", help="data set of the run or study; default: where it was", metavar="DATA")
    ] = None
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option("--split", help="split of the data set; default: val; of DATA alone: train"),
    ] = None
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="HDF5 file; default: the newest one in the run's folder")
    ] = None
    mode: Annotated[Mode, typer.Option("--mode", help="what the model was given")] = "sgdet"
    protocol: Annotated[
        Literal["published", "strict", "per-query", "ng", "ng-unique"] | None,
        typer.Option(
            "--protocol", help="which triplets count; ng: without graph constraint; default: the run's, or published"
        ),
    ] = None
    host: Annotated[str, typer.Option("--host", help="address to listen at; others let other machines in")] = LOCAL
    predict: Annotated[
        bool, typer.Option("--predict", help="with --run: make predictions first where the run has none")
    ] = False
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="port to listen at; 0: a free one")] = 0


def _importance(board: Board) -> Bars | str:
    """Imported when a page asks for it: Optuna takes a second."""
    from speaq.cli.launched import series

    return series.importance(board)


def explore(asked: Exploring) -> int:
    """Look at a data set, a run or a study in a web browser.

    Shows images, ground truth and predictions. Ctrl-C ends it.
    """
    if asked.data is not None and asked.data_option is not None:
        raise ConfigError(f"--data {asked.data_option}: the data set is given already, {asked.data}; give it once")
    from speaq.explore import app, opening, server

    counted: Any = asked.protocol and asked.protocol.replace("-", "_")
    wanted = opening.Exploration(
        data=asked.data or asked.data_option,
        run=asked.run,
        study=asked.study,
        split=asked.split or ("val" if asked.run or asked.study else "train"),
        predictions=asked.predictions,
        mode=asked.mode,
        protocol=counted,
    )
    if asked.predict:
        with progress_bar("predicting") as progress:
            opening.predict(wanted, progress)
    context = opening.explore(wanted)
    if asked.study is not None and find_spec("optuna") is not None:
        context.importance = _importance
    if context.main.predictions is not None:
        with progress_bar("matching") as progress:
            context.main.judge_all(progress)
    listening = server.bind(asked.host, asked.port)
    if not server.is_loopback(asked.host):
        echo(f"warning: --host {asked.host} lets other machines read the data set and the run", err=True)
    application = app.create_app(context, server.known_names(asked.host))
    with contextlib.suppress(KeyboardInterrupt):  # how a server ends
        server.serve(application, listening, lambda where: echo(f"{where}  Ctrl-C ends it"))
    echo("ended", err=True)
    return DONE
