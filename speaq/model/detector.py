"""The DETR detector that pre-trains SpeaQ, and how its weights become SpeaQ's ("replicated weights", method section 2).

Letters: L decoder layers, B images, Q queries, C object classes, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from speaq.config import ModelConfig
from speaq.model.decoder import repeat_rows
from speaq.model.speaq import BoxHead, Network, SpeaQ, Transformer, class_head
from speaq.model.transformer import DecoderLayer, Encoder, Memory, xavier
from speaq.structures import DetectorOutputs


class DetectionDecoder(nn.Module):
    """DETR's decoder; every layer's output is kept."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim)
        for parameter in self.parameters():
            xavier(parameter)

    def forward(self, queries: Tensor, memory: Memory) -> Tensor:
        """[1, Q, d] learned positions → [L, B, Q, d], normalised."""
        x = queries.new_zeros(()).expand(memory.values.shape[0], *queries.shape[1:])
        outputs = []
        for layer in self.layers:
            x = layer(x, queries, memory)
            outputs.append(x)
        return self.norm(torch.stack(outputs))  # type: ignore[no-any-return]


class DetectionTransformer(Transformer):
    """Everything behind the backbone, under the names it has in SpeaQ."""

    def __init__(self, config: ModelConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(config, in_channels)
        self.queries = nn.Parameter(torch.randn(config.num_queries, config.hidden_dim))
        self.decoder = DetectionDecoder(config)
        self.class_head = class_head(config.hidden_dim, num_classes)
        self.box_head = BoxHead(config.hidden_dim, config.reference_points)

    def forward(self, features: Tensor, padding: Tensor) -> DetectorOutputs:
        """[B, in_channels, H, W] features under a [B, H, W] padding mask (True is padding) → raw outputs."""
        return self.decode(self.encoder(features, padding))

    def decode(self, memory: Memory) -> DetectorOutputs:
        """Everything behind the encoder."""
        x = self.decoder(self.queries[None], memory)
        return DetectorOutputs(self.class_head(x), self.box_head(x, self.queries))


class Detector(Network):
    """DETR on the blocks of SpeaQ.

    Args:
        config: shape of the network; query_multiple plays no part.
        num_classes: C, object classes without background.
    """

    transformer: DetectionTransformer

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config)
        self.transformer = DetectionTransformer(config, self.backbone.out_channels, num_classes)
        self.freeze()


STREAMS = ("subject", "object", "relation")
RELATION_QUERIES = "transformer.relation_queries"
# What a detector has not, or in another number, and how its parameters' names in SpeaQ are known.
NEW_PARTS = {
    "conditioning": "_conditioning.",
    "refinement": ".refinements.",
    "predicate head": ".predicate_head.",
    "queries": "_queries",
}


def replicate(detector_state: Mapping[str, Tensor], model: SpeaQ) -> None:
    """Copies a detector into SpeaQ: its decoder into all three stacks, its norm into both, all else as it is.

    The detector's queries become the subject, object and relation queries, see `load_replicated`.

    Args:
        detector_state: state dict of a `Detector`.
        model: changed in place, nothing of it when this raises.

    Raises:
        ValueError: the detector has another shape (backbone, d, C, layers, reference points); names the first key.
    """
    load_replicated({target: value for name, value in detector_state.items() for target in _targets(name)}, model)


def load_replicated(state: Mapping[str, Tensor], model: SpeaQ) -> None:
    """Copies into SpeaQ a detector whose decoder is replicated already (the reference's pre-trained file is one).

    Its queries, each repeated in place where the model has a multiple of them, become the model's; where their number
    does not fit, the model keeps its own. What is not there of `NEW_PARTS` keeps its initial values.

    Args:
        state: parameters under SpeaQ's names.
        model: changed in place, nothing of it when this raises.

    Raises:
        ValueError: a parameter has another shape, is unknown or missing; names it.
    """
    own = model.state_dict()
    queries = {name: value for name, value in state.items() if name.endswith("_queries")}
    values = {name: value for name, value in state.items() if name not in queries}
    if all(name in own and len(own[name]) % len(value) == 0 for name, value in queries.items()):
        values |= {name: repeated_queries(value, len(own[name])) for name, value in queries.items()}
    for name, value in values.items():
        if name not in own:
            raise ValueError(f"the detector has {name}, which the model has not: another backbone, depth or option")
        if own[name].shape != value.shape:
            wanted, got = tuple(own[name].shape), tuple(value.shape)
            raise ValueError(f"{name} of the detector has shape {got}, the model's has {wanted}")
    if missing := [name for name in own if name not in values and not _is_new(name)]:
        raise ValueError(f"the detector has no {missing[0]}, which the model needs: another backbone, depth or option")
    model.load_state_dict(own | values)


def load_speaq(state: Mapping[str, Tensor], model: SpeaQ) -> None:
    """Loads SpeaQ into SpeaQ; relation queries are repeated in place where `model` has a multiple of them.

    Raises:
        RuntimeError: another shape; names the parameters.
    """
    queries = repeated_queries(state[RELATION_QUERIES], len(model.transformer.relation_queries))
    model.load_state_dict({**state, RELATION_QUERIES: queries})


def repeated_queries(queries: Tensor, count: int) -> Tensor:
    """[n, d] → [count, d], each row repeated in place; unchanged where `count` is no multiple of n."""
    return queries if count % len(queries) else repeat_rows(queries, count // len(queries))


def _targets(name: str) -> list[str]:
    """The names in SpeaQ that a parameter of the detector is copied to."""
    if name == "transformer.queries":
        return [f"transformer.{stream}_queries" for stream in STREAMS]
    prefix, _, rest = name.partition("decoder.")
    if rest.startswith("layers."):
        _, layer, parameter = rest.split(".", 2)
        return [f"{prefix}decoder.layers.{layer}.{stream}.{parameter}" for stream in STREAMS]
    if rest.startswith("norm."):
        return [f"{prefix}decoder.{norm}_{rest}" for norm in ("entity", "relation")]
    return [name]


def _is_new(name: str) -> bool:
    """Whether a parameter of SpeaQ has no counterpart in a detector, or one that may differ in number."""
    return any(part in name for part in NEW_PARTS.values())
