"""Folders that are taken away, come from elsewhere, or that two processes want at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch import study
from launch.admission import Admission, OnAdmitted
from launch.failures import Halted, StorageLost
from speaq import space as spaces
from tests.moving_training import MARK
from tests.tiny import tiny

SPACE = spaces.from_dict(
    {"search": {"scheduler": "none"}, "parameters": {"matching.num_groups": {"type": "int", "low": 1, "high": 4}}}
)


def make_study(toy: Path, train: str, trials: int = 3) -> study.Study:
    config = tiny(**{"training.max_steps": 4, "training.eval_every": 1})
    return study.create(config, SPACE, toy, trials=trials, train=train)


# Taken away


def test_a_search_whose_folder_is_moved_halts_writes_nothing_in_its_place_and_goes_on_later(
    toy: Path, tmp_path: Path, ray_cluster: None
) -> None:
    output, asked = tmp_path / "study", make_study(toy, "tests.moving_training:train")
    output.mkdir()
    study.write(asked, output, None)
    (output / MARK).touch()
    with pytest.raises((Halted, StorageLost), match="is not there any more"):
        study.resume(output)
    assert list(output.iterdir()) == []
    output.rmdir()
    (tmp_path / "moved").rename(output)
    entries = study.resume(output)
    assert [(entry.state, entry.reason) for entry in entries] == [("finished", None)] * 3
    assert sorted(path.name for path in (output / "trials").iterdir()) == ["0000", "0001", "0002"]


def test_trials_are_placed_on_admitted_nodes(ray_cluster: None) -> None:
    import ray  # noqa: TID251

    nodes = Admission(lambda node: "")
    here = {ray.get_runtime_context().get_node_id()}
    assert set(nodes()) == here
    for among, is_placed in ((nodes, True), (lambda: {"0" * 56}, False)):
        group = OnAdmitted({"CPU": 0.01}, among).to_placement_group()
        try:
            assert group.wait(5) is is_placed
        finally:
            ray.util.remove_placement_group(group)
