"""Our model at the reference's settings and with the reference's weights, stored or generated (golden README, G7)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speaq.model.backbone import PIXEL_MEAN, PIXEL_STD, ResNet
from speaq.model.reference_weights import from_reference
from speaq.model.speaq import SpeaQ
from speaq.structures import Sample, Targets
from speaq.targets import join, make_target
from tests.golden.case import Case
from tests.golden.g6 import model_config
from tests.helpers.reference_files import to_reference


def detr_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under MODEL.DETR, without that prefix."""
    prefix = "MODEL.DETR."
    return {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}


def build_model(config: Mapping[str, Any], num_predicates: int) -> SpeaQ:
    """SpeaQ at the settings of a G7 or G11 case, on its (perhaps narrow) ResNet."""
    settings, resnet = detr_settings(config), "MODEL.RESNETS."
    depth, frozen = config[resnet + "DEPTH"], config["MODEL.BACKBONE.FREEZE_AT"]
    assert config[resnet + "NUM_GROUPS"] == 1
    assert config[resnet + "RES5_DILATION"] == 1
    assert not config[resnet + "STRIDE_IN_1X1"]
    assert (tuple(config["MODEL.PIXEL_MEAN"]), tuple(config["MODEL.PIXEL_STD"])) == (PIXEL_MEAN, PIXEL_STD)
    backbone = ResNet(
        depth,
        frozen,
        stem_channels=config[resnet + "STEM_OUT_CHANNELS"],
        width=config[resnet + "WIDTH_PER_GROUP"],
        out_channels=config[resnet + "RES2_OUT_CHANNELS"],
    )
    model = model_config(settings, backbone=f"resnet{depth}", frozen_stages=frozen)
    return SpeaQ(model, settings["NUM_CLASSES"], num_predicates, backbone)


def load_weights(case: Case, model: SpeaQ) -> None:
    """Stored weights where the case has them, generated ones elsewhere; moves the model to the case's device."""
    rounded = "rounded" in str(case.config.get("weights"))
    weights = {}
    for name, value in to_reference(model.state_dict()).items():
        stored = f"state.{name}"
        if stored in case.arrays:
            weights[name] = case.tensor(stored)
        else:
            weights[name] = torch.from_numpy(generate(name, tuple(value.shape), rounded=rounded))
    model.load_state_dict(from_reference(weights))
    model.to(case.device)


def samples_of(case: Case, prefix: str = "in.") -> list[Sample]:
    """The images of a case and their ground truth."""
    count = sum(1 for name in case.arrays if name.startswith(prefix) and name.endswith(".image"))
    return [_sample(case, n, f"{prefix}{n}.") for n in range(count)]


def _sample(case: Case, n: int, prefix: str) -> Sample:
    image = case.tensor(prefix + "image").permute(1, 2, 0)
    original = case.arrays.get(prefix + "original_hw", image.shape[:2])
    return Sample(
        index=n,
        image=image,
        boxes_xyxy=case.tensor(prefix + "gt_boxes"),
        classes=case.tensor(prefix + "gt_classes"),
        relations=case.tensor(prefix + "relations"),
        original_hw=(int(original[0]), int(original[1])),
    )


def pad(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """Images of several sizes → [B, 3, H, W] padded with 0 at the lower right, and [B, 2] sizes."""
    sizes = torch.tensor([sample.image.shape[:2] for sample in samples])
    height, width = sizes.amax(dim=0).tolist()
    batch = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for row, sample in zip(batch, samples, strict=True):
        row[:, : sample.image.shape[0], : sample.image.shape[1]] = sample.image.permute(2, 0, 1)
    return batch, sizes


def inputs(case: Case, samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """`pad`, on the case's device."""
    images, sizes_hw = pad(samples)
    return images.to(case.device), sizes_hw.to(case.device)


def targets(case: Case, samples: list[Sample]) -> Targets:
    """What the samples have to learn, made on the host as in training, on the case's device."""
    return join([make_target(sample) for sample in samples]).mapped(lambda column: column.to(case.device))


def generate(name: str, shape: tuple[int, ...], *, rounded: bool) -> NDArray[np.float32]:
    """The weights that belong to a full state-dict name (golden README, "Generated weights")."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    values = np.asarray(_base(name, x) * _factor(name), dtype=np.float32)
    return np.asarray(np.round(values * 1024) / 1024, dtype=np.float32) if rounded else values


def _base(name: str, x: NDArray[np.float64]) -> Any:
    shape, fan = x.shape, np.prod(x.shape[1:])
    if ".backbone." in name:
        return _backbone(name, x)
    if "query_embed" in name:
        return x
    if name.endswith(("object_bbox_coords.layers.2.weight", "object_embed.weight", "relation_embed.weight")):
        return 3 * x / np.sqrt(shape[1])
    if len(shape) > 1:
        return x * min(1.2 / np.sqrt(fan), 0.3)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.15 * x
    return 0.1 * x


def _backbone(name: str, x: NDArray[np.float64]) -> Any:
    if x.ndim == 4:
        return x * np.sqrt(2 / np.prod(x.shape[1:]))
    if name.endswith("norm.weight"):
        return 1 + 0.1 * x
    if name.endswith("running_var"):
        return 1 + 0.2 * np.abs(x)
    return 0.1 * x


def _factor(name: str) -> float:
    if name.endswith("conv3.norm.weight"):
        return 0.1
    if ".encoder." in name:
        return 0.3 if name.endswith(("out_proj.weight", "linear2.weight")) else 1
    if "_layers." not in name:
        return 1
    factors = {
        ".self_attn.out_proj.weight": 0.3,
        ".multihead_attn.in_proj_weight": 2,
        ".multihead_attn.out_proj.weight": 3,
        "linear2.weight": 0.7,
    }
    return next((factor for end, factor in factors.items() if name.endswith(end)), 1)
