"""Learning rates, schedule and clipping of method section 8."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from speaq.config import ConfigError, ModelConfig, TrainingConfig
from speaq.data.visual_genome import open_data
from speaq.model.detector import Detector
from speaq.model.reference_weights import reference_name
from speaq.model.speaq import SpeaQ
from speaq.training.resume import previous_run
from speaq.training.step import (
    clip_gradients,
    lr_multiplier,
    make_optimizer,
    parameter_groups,
    part_of,
    set_learning_rate,
)
from speaq.training.tasks import make_task
from tests.helpers.command import command
from tests.helpers.tiny import assignments, tiny


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        self.head = nn.Linear(3, 2)
        self.backbone[0].requires_grad_(False)


def test_backbone_has_its_own_rate_and_frozen_weights_have_none() -> None:
    rest, backbone = make_optimizer(Model(), TrainingConfig(learning_rate=1e-4)).param_groups
    assert (rest["lr"], len(rest["params"])) == (1e-4, 2)
    assert (backbone["lr"], len(backbone["params"])) == (pytest.approx(1e-5), 2)
    assert rest["weight_decay"] == backbone["weight_decay"] == 1e-4


def test_published_schedule() -> None:
    config = TrainingConfig()
    assert [lr_multiplier(step, config) for step in (0, 9, 10, 95_999)] == [1.0] * 4
    assert [lr_multiplier(step, config) for step in (96_000, 149_999)] == [pytest.approx(0.1)] * 2


def test_warm_up_is_linear_and_applies_to_every_group() -> None:
    config = TrainingConfig(warmup_steps=10, warmup_factor=0.1, learning_rate=1.0, backbone_multiplier=0.5)
    optimizer = make_optimizer(Model(), config)
    set_learning_rate(optimizer, 5, config)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.55), pytest.approx(0.275)]
    assert lr_multiplier(0, config) == pytest.approx(0.1)
    assert lr_multiplier(10, config) == 1.0


def test_clipping_is_over_the_whole_model() -> None:
    model = Model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, each = clip_gradients(model, TrainingConfig(clip_norm=0.01))
    after = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert before == pytest.approx(32**0.5)
    assert each.tolist() == pytest.approx([p.numel() ** 0.5 for p in model.parameters()])
    assert after == pytest.approx(0.01, rel=1e-4)


FACTORS = TrainingConfig(learning_rate=1.0, backbone_multiplier=0.5, relation_multiplier=3.0, entity_multiplier=7.0)


def rates(model: nn.Module, config: TrainingConfig) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["lr"]  # type: ignore[misc]
        for group in parameter_groups(model, config)
        for parameter in group["params"]  # type: ignore[attr-defined]
    }


def test_each_part_has_the_rate_of_the_method() -> None:
    with torch.device("meta"):
        model = SpeaQ(ModelConfig(), 150, 50)
    found = rates(model, FACTORS)
    for name, rate in found.items():
        theirs = reference_name(name)  # where the relation stream's names, and only those, say relation
        entity = theirs.startswith("detr.transformer.encoder.") or theirs == "detr.query_embed.weight"
        backbone = theirs.startswith("detr.backbone.")
        assert rate == (3.0 if "relation" in theirs else 3.5 if backbone else 7.0 if entity else 1.0), name
    # Of the relation stream: 6 decoder layers of 18, 6 conditionings of 8 and 5 refinements of 10 parameters, a norm
    # and the predicate head of 2, the queries. Of the entities: 6 encoder layers of 12, the queries.
    counts = Counter(part_of(name) for name in found if not name.startswith("backbone."))
    assert counts == {
        "relation": 6 * 18 + 6 * 8 + 5 * 10 + 2 + 2 + 1,
        "entity": 6 * 12 + 1,
        # projection 2, 12 decoder layers, 6 + 10 of conditioning and refinement, norm 2, queries, class and box head
        "rest": 2 + 12 * 18 + 6 * 6 + 10 * 10 + 2 + 1 + 2 + 6,
    }
    assert sorted(part_of(f"transformer.encoder.norm.{kind}") for kind in ("weight", "bias")) == ["entity"] * 2


def test_parts_of_one_rate_are_one_group_so_that_older_runs_resume() -> None:
    with torch.device("meta"):
        model = SpeaQ(tiny().model, 3, 2)
    rest, backbone = parameter_groups(model, TrainingConfig())
    assert [p for p in model.parameters() if p.requires_grad] == [*backbone["params"], *rest["params"]]  # type: ignore[misc]
    assert (rest["lr"], backbone["lr"]) == (1e-4, pytest.approx(1e-5))
    groups = parameter_groups(model, FACTORS)
    assert [group["lr"] for group in groups] == [1.0, 3.0, 7.0, 3.5]  # the first is what the log shows


def test_a_detector_has_entities_and_no_relations(toy: Path) -> None:
    with torch.device("meta"):
        found = rates(Detector(tiny().model, 3), FACTORS.model_copy(update={"relation_multiplier": 1.0}))
    assert {found[name] for name in found if ".encoder.layers." in name or name == "transformer.queries"} == {7.0}
    assert {found[name] for name in found if name.startswith(("transformer.decoder.", "transformer.class"))} == {1.0}
    vg = open_data(toy)
    config = tiny(training__relation_multiplier=2.0)
    with pytest.raises(ConfigError, match=r"relation_multiplier 2 has no effect on a detector"):
        make_task("detector", config, vg, vg.split("train", config.data))


def test_factors_are_shown_kept_and_not_changed_on_the_way(toy: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("", encoding="utf-8")
    shown = command("config", "show", file, "--set", "training.relation_multiplier=2.5").stdout
    assert "training.relation_multiplier: 2.5  # float; factor of the relation stream's" in shown
    assert "training.entity_multiplier: 1.0  # float; factor of the learning rate of encoder layers" in shown
    start = ("train", "--config", file, "--data", toy, "--output", tmp_path / "run", *assignments())
    given = ("--set", "training.relation_multiplier=2.5", "--set", "training.max_steps=5")
    done = command(*start, *given)
    assert done.exit_code == 0, done.output
    with pytest.raises(ConfigError, match=r"relation_multiplier: 2\.5 then, 1\.0 now"):
        previous_run(tiny(), tmp_path / "run", "speaq", resume=True)
    assert command(*start, *given, "--set", "training.max_steps=6", "--resume").exit_code == 0
