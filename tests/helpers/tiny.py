"""The smallest config that trains on the toy world, for tests of what surrounds the model."""

from __future__ import annotations

from typing import Any

from speaq import config as configs
from speaq.config import Config

TINY: dict[str, Any] = {
    "data.num_val": 6,
    "data.train_sides": [48],
    "data.train_max_side": 48,
    "data.eval_side": 48,
    "data.eval_max_side": 48,
    "data.crop_probability": 0.0,
    "data.num_workers": 0,
    "data.cache_images": True,
    "model.backbone": "small",
    "model.frozen_stages": 0,
    "model.hidden_dim": 16,
    "model.num_heads": 2,
    "model.feedforward_dim": 16,
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 2,
    "model.num_queries": 8,
    "training.max_steps": 6,
    "training.batch_size": 4,
    "training.learning_rate": 1e-3,
    "training.clip_norm": 1.0,
    "training.decay_steps": [5],
    "training.num_threads": 1,
    "training.eval_every": 3,
    "training.log_every": 2,
}


def tiny(**changes: Any) -> Config:
    """`TINY` with dotted keys changed (`__` for the dot)."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return configs.apply(Config(), {**TINY, **named})


def assignments(**changes: Any) -> list[str]:
    """The same as `--set` arguments."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    parts: list[str] = []
    for key, value in {**TINY, **named}.items():
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        parts += ["--set", f"{key}={text}"]
    return parts
