"""What decides what the encoder makes of a picture: fixed where that is stored, without effect where it is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speaq.config.config import Config, apply, flatten, to_dict
from speaq.files.plain_yaml import ConfigError

# How a picture comes to the network, and the shape of backbone and encoder.
TRANSFORM = (
    "data.flip_probability",
    "data.train_sides",
    "data.train_max_side",
    "data.crop_probability",
    "data.crop_sides",
    "data.crop_window",
    "data.eval_side",
    "data.eval_max_side",
    "data.reduced_decoding",
)
SHAPE = (
    "model.backbone",
    "model.hidden_dim",
    "model.num_heads",
    "model.feedforward_dim",
    "model.num_encoder_layers",
    "model.pre_norm",
)
# Without effect on a part that is frozen.
OF_BACKBONE = ("model.frozen_stages", "training.backbone_multiplier")


class OtherFeatures(ConfigError):
    """Stored features that a run's own frozen parts would not make, or that are not finished."""


def made_with(config: Config) -> dict[str, Any]:
    """Values of the keys that decide what features are, by dotted key."""
    values = flatten(to_dict(config))
    return {key: values[key] for key in (*TRANSFORM, *SHAPE)}


def without_effect(config: Config) -> Mapping[str, str]:
    """Dotted keys that a search around `config` cannot vary, and why."""
    found: dict[str, str] = {}
    if config.training.features is not None:
        found |= dict.fromkeys((*TRANSFORM, *SHAPE), "it acts before the encoder, whose outputs are stored")
    if "backbone" in config.model.frozen:
        found |= dict.fromkeys(OF_BACKBONE, "it acts on the backbone alone, which is frozen (model.frozen)")
    return found


def from_features(config: Config, folder: str) -> Config:
    """The config of a training from stored features, what they replace frozen. Raises ConfigError."""
    return apply(config, {"training.features": folder, "model.frozen": ["backbone", "encoder"]})


def in_full(config: Config) -> Config:
    """The config of a training from the photos where `config` trains from features; else as it is."""
    if config.training.features is None:
        return config
    return apply(config, {"training.features": None, "model.frozen": []})
