"""Which nodes of the cluster get what a study trains: those that see its folder, its data and its start."""

from __future__ import annotations

import logging
from pathlib import Path

import ray

from speaq.config import Config
from speaq.config.before_encoder import from_features
from speaq.study.file import Study
from speaq.study.plan import Plan
from speaq.training import origins

from ..cluster import connection
from ..cluster.admission import Admission
from ..cluster.sharing import nodes_that_share, problem_of
from ..store import workspace

log = logging.getLogger(__name__)


def admission(study: Study, output: Path, url: str | None) -> Admission:
    """The nodes of the cluster that may get trials, and how others are judged that join later. Raises ClusterError."""
    config = _with_start_if_there(study.plan)
    shared = nodes_that_share(output, url, study.data, config)
    return Admission(shared, lambda node, ended: problem_of(node, output, url, study.data, config, ended=ended))


def admission_in_folder(study: Study, output: Path, url: str | None) -> Admission:
    """The nodes that may work in `output` itself, also where that is a copy of what lies at `url`.

    Where no other node sees a copy, this one alone does. Raises ClusterError where it has no room for a run.
    """
    try:
        return admission(study, output, None)
    except connection.ClusterError as error:
        here = {ray.get_runtime_context().get_node_id()}
        resources = study.plan.base.resources
        if url is None or resources.num_workers > 1 or not connection.runs(resources, here):
            raise
        log.warning("%s: its copy lies on this machine alone, which trains all of it (%s)", url, error)
        unseen = f"it does not see this machine's copy; {workspace.VARIABLE} can name a folder that all nodes share"
        return Admission(here, lambda node, ended: unseen)


def _with_start_if_there(plan: Plan) -> Config:
    """The study's config with the place of its start and of features; without, where the start is gone."""
    config = plan.placed(plan.base)
    named = origins.start(config)
    if named is not None and not named[1].exists():
        return origins.without_start(config)
    features = plan.settings.features
    return config if features is None or not Path(features).exists() else from_features(config, features)
