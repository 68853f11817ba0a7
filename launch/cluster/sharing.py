"""Do all nodes see the same output folder, data and start? Checked before a run begins, and by `speaq doctor`."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from speaq.config import Config

from ..store import workspace
from ..store.remote import joined
from .connection import ClusterError
from .nodes import Node, Probes, Problem, alive, probes

LIMIT = 120.0  # seconds for each question: Ray gives its workers the lowest priority on a busy node


def nodes_that_share(
    output: Path, url: str | None, data: Path, config: Config, *, all_of_them: bool = False
) -> frozenset[str]:
    """The ids of the cluster's nodes that see what a run or a search reads and writes; the others get no trial.

    Args:
        output: folder that is written; need not be there yet.
        url: that `output` is a copy of.
        data: folder of the data set.
        config: its paths are absolute.
        all_of_them: every node has to, as always where a run has several workers, which Ray places on any node.

    Raises:
        ClusterError: this node is not among them, no other one is, or one that has to be; in one line.
    """
    nodes = alive()
    fit, strict = {node.id for node in nodes}, all_of_them or config.resources.num_workers > 1
    for what, problems in _problems(nodes, output, url, data, config) if len(nodes) > 1 else ():
        fit -= {node.id for node in nodes if problems[node.id]}
        if strict or nodes[0].id not in fit or len(fit) == 1:
            _refuse(what, nodes, problems)
    return frozenset(fit)


def problem_of(node: Node, output: Path, url: str | None, data: Path, config: Config, *, ended: threading.Event) -> str:
    """Why a node cannot take part in a run or a search of this process's node; "" where it can.

    Args:
        url: that `output` is a copy of.
        ended: set where nobody wants to know any more.
    """
    here = alive()[0]
    for what, problems in _problems([here, node], output, url, data, config, ended=ended):
        if problem := problems[node.id]:
            return f"{what}: {problem}"
    return ""


def _problems(
    nodes: list[Node],
    output: Path,
    url: str | None,
    data: Path,
    config: Config,
    *,
    ended: threading.Event | None = None,
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """What each node has to see, and by node id what is wrong with it, or ""."""
    start = {"init_from": config.training.init_from, "backbone_from": config.training.backbone_from}
    files = {f"training.{key}": path for key, path in start.items() if path is not None}
    if config.training.features is not None:
        files["training.features"] = str(Path(config.training.features) / "features.json")
    with probes(nodes, ended) as asked:
        if url is not None:
            yield f"output {url}", storage(asked, url, LIMIT)
        if url is None or config.resources.num_workers > 1:  # workers of one run write one folder
            what = output if url is None else f"{output}, where the workers of a run meet (${workspace.VARIABLE}),"
            yield f"output {what}", storage(asked, str(workspace.existing(output)), LIMIT)
        yield f"data {data}", different(digests(asked, data, {}, LIMIT), nodes)
        for name, path in files.items():
            yield f"{name} {path}", different(digests(asked, None, {name: weights(path)}, LIMIT), nodes)


def _refuse(what: str, nodes: list[Node], problems: Mapping[str, str]) -> None:
    lost = {node.id for node in nodes} - {node.id for node in alive()} if any(problems.values()) else set()
    for node in nodes:
        if node.id not in lost and (problem := problems[node.id]):
            raise ClusterError(
                f"{what}: is not shared by the cluster's {len(nodes)} nodes ({node.name}: {problem}); "
                "use storage that all of them mount at the same path; speaq doctor looks closer"
            )


def weights(start: str) -> str:
    """The file that `training.init_from` or `training.backbone_from` names, by itself or by its run folder."""
    from speaq.training.folder import find

    return str(find(Path(start)))


def storage(asked: Probes, place: str, limit: float) -> dict[str, str]:
    """Lets every node write into a folder (or a URL), and read what all wrote. By node id: what is wrong, or ""."""
    name = f".speaq-doctor-{secrets.token_hex(8)}"
    where = joined(place, name) if "://" in place else str(Path(place) / name)
    tokens = {node.id: secrets.token_hex(16) for node in asked.nodes}
    names = {node.id: node.name for node in asked.nodes}
    wrote = asked.ask("write_token", limit, lambda node: (where, node.id, tokens[node.id]))
    written = {node: token for node, token in tokens.items() if not isinstance(wrote[node], Problem)}
    missing = asked.ask("unseen", limit, lambda node: (where, written))
    asked.ask("remove", limit, lambda node: (where, list(tokens)))
    problems = {}
    for node in names:
        unseen = missing[node]
        if isinstance(wrote[node], Problem):
            problems[node] = f"cannot write there: {wrote[node].text}"
        elif isinstance(unseen, Problem):
            problems[node] = f"cannot read there: {unseen.text}"
        else:
            problems[node] = "does not see what is written on " + ", ".join(names[n] for n in unseen) if unseen else ""
    return problems


def digests(asked: Probes, data: Path | None, files: Mapping[str, str], limit: float) -> dict[str, str | Problem]:
    """What each node has there, as one text to compare; by node id."""
    answers = asked.ask("digests", limit, lambda node: (None if data is None else str(data), files))
    return {
        node: answer if isinstance(answer, Problem) else ", ".join(answer.values()) for node, answer in answers.items()
    }


def different(found: Mapping[str, str | Problem], nodes: list[Node]) -> dict[str, str]:
    """By node id: what is wrong, or "" where it has what this process's node has."""
    first = found[nodes[0].id]
    problems = {}
    for node in nodes:
        own = found[node.id]
        if isinstance(own, Problem):
            problems[node.id] = own.text
        else:
            there = "" if isinstance(first, Problem) or own == first else f"has {own}, {nodes[0].name} has {first}"
            problems[node.id] = there
    return problems
