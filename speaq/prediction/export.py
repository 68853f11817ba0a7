"""A trained network → a file that needs none of our training code, checked against the network that it came from."""

from __future__ import annotations

import io
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speaq.config import Config, ConfigError, apply, to_dict
from speaq.data.dataset import collate
from speaq.data.transforms import resize_shape
from speaq.files.atomic import naming
from speaq.model.backbone import PIXEL_MEAN, PIXEL_STD
from speaq.prediction.exported import INPUTS, KEY, OUTPUTS, SCHEMA, SUFFIXES
from speaq.prediction.predictor import Predictor, find_images
from speaq.training.callbacks import Progress

OPSET, IR_VERSION = 18, 8  # of ONNX 1.13: read by onnxruntime 1.14 and newer; the exporter's own is 10 and more
MOST_PHOTOS = 32  # are held in memory at once
ExampleBatch = tuple[Tensor, Tensor]  # [B, 3, H, W] uint8 and [B, 2] int64


@dataclass(frozen=True)
class Export:
    """What was written, and how far it is from the network in PyTorch."""

    file: Path
    size: int  # bytes
    batches: int  # compared
    difference: Mapping[str, float]  # largest absolute one of every output


class OneLayer(nn.Module):
    """The network as it is exported: the outputs of one decoder layer, one tensor each, in the order of `OUTPUTS`."""

    def __init__(self, model: nn.Module, layer: int) -> None:
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, images: Tensor, sizes_hw: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] uint8 and [B, 2] int64 → six tensors [B, R, ·]."""
        outputs = self.model(images, sizes_hw)
        return tuple(getattr(outputs, name)[self.layer] for name in OUTPUTS)


def export_model(
    run: Path,
    outputs: Sequence[Path],
    photos: Sequence[Path] = (),
    *,
    tolerance: float = 1e-3,
    progress: Progress = lambda done, total, text: None,
) -> list[Export]:
    """Writes the best checkpoint of a run as .onnx or .pt2, for any number of images of any size.

    A file is opened again and run on the photos, the first alone, then two at a time, and on two generated pictures of
    the evaluation size, which are padded. It appears under its name when it has passed.

    Args:
        run: run folder or checkpoint file.
        outputs: new files; the ending says which kind.
        photos: files, or folders of them; the first 32 are looked at.
        tolerance: largest absolute difference of an output (logits, and boxes in units of the image).

    Raises:
        ConfigError: another ending, a file that is there already, no photos, or a difference above the tolerance.
    """
    for output in outputs:
        if output.suffix not in SUFFIXES:
            raise ConfigError(f"{output}: the name of an exported model ends in {' or '.join(SUFFIXES)}")
        if output.exists():
            raise ConfigError(f"{output}: exists already; give a new name")
    predictor = Predictor.load(run, device="cpu")
    if not isinstance(predictor.model, nn.Module):
        raise ConfigError(f"{run}: is exported already; give the run that it came from")
    predictor.model.frozen = ()  # type: ignore[assignment]  # an exported network sees pictures in their batch
    batches = example_batches(predictor, photos, batch_size=2)
    batches = [(images[:1], sizes_hw[:1]) for images, sizes_hw in batches[:1]] + batches
    if photos:  # which may all have one size
        batches.append(_generated(predictor.config)[1])
    progress(0, 1 + len(outputs), "tracing")
    program = _traced(OneLayer(predictor.model, predictor.config.inference.layer))
    exports = []
    for done, output in enumerate(outputs, start=1):
        progress(done, 1 + len(outputs), output.name)
        exports.append(_export(predictor, program, output, batches, tolerance))
    progress(1 + len(outputs), 1 + len(outputs), "")
    return exports


def _export(
    predictor: Predictor,
    program: torch.export.ExportedProgram,
    output: Path,
    batches: Sequence[ExampleBatch],
    tolerance: float,
) -> Export:
    unfinished = output.with_name(f".{secrets.token_hex(6)}.{output.name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(program, json.dumps(metadata(predictor), ensure_ascii=False), unfinished)
        return accept(predictor, unfinished, output, batches, tolerance)
    finally:
        unfinished.unlink(missing_ok=True)


def accept(predictor: Predictor, file: Path, output: Path, batches: Sequence[ExampleBatch], tolerance: float) -> Export:
    """Moves a file to its name where it gives what the network gives. Raises ConfigError where it does not."""
    difference = compare(predictor, Predictor.load(file, device="cpu", trusted=True), batches)
    worst = max(difference, key=lambda name: difference[name])
    if not difference[worst] <= tolerance:
        raise ConfigError(
            f"{output}: {worst} differs by {difference[worst]:.3g} from the network in PyTorch, the tolerance is "
            f"{tolerance:g}; nothing was written"
        )
    size = file.stat().st_size
    file.replace(output)
    return Export(output, size, len(batches), difference)


def example_batches(predictor: Predictor, photos: Sequence[Path], batch_size: int) -> list[ExampleBatch]:
    """The first `MOST_PHOTOS` photos as the network sees them, padded to the largest of a batch.

    Without photos one generated picture, or two of different sizes where a batch may hold them.
    """
    if not photos:
        alone, padded = _generated(predictor.config)
        return [alone if batch_size == 1 else padded]
    files = [file for file, _ in find_images(photos)[0][:MOST_PHOTOS]]
    samples = [predictor.sample(index, file) for index, file in enumerate(files)]
    batches = (collate(samples[start : start + batch_size]) for start in range(0, len(samples), batch_size))
    return [(batch.images.contiguous(), batch.sizes_hw) for batch in batches]


def _generated(config: Config) -> tuple[ExampleBatch, ExampleBatch]:
    """One noisy landscape; and a landscape and a portrait, which are padded."""
    sizes = [resize_shape(hw, config.data.eval_side, config.data.eval_max_side) for hw in ((3, 4), (4, 3))]
    random = torch.Generator().manual_seed(0)
    side = max(max(hw) for hw in sizes)
    images = torch.randint(0, 256, (2, 3, side, side), generator=random, dtype=torch.uint8)
    height, width = sizes[0]
    alone = images[:1, :, :height, :width].contiguous(), torch.tensor(sizes[:1])
    return alone, (images, torch.tensor(sizes))


def metadata(predictor: Predictor) -> dict[str, Any]:
    """What a user of the file needs besides the network; plain values."""
    config = apply(predictor.config, {"inference.layer": -1, "training.device": "cpu"})
    return {
        "schema": SCHEMA,
        "objects": list(predictor.vocabulary.objects),
        "predicates": list(predictor.vocabulary.predicates),
        "image": {
            "layout": "uint8 RGB, 0 to 255, [batch, 3, height, width], padded at the lower right",
            "normalisation": "in the network: (pixel - mean) / std, padding becomes 0",
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
            "shortest_side": config.data.eval_side,
            "longest_side": config.data.eval_max_side,
            "resizing": "bilinear with antialiasing (Pillow), aspect ratio kept: shortest_side, less where the longest "
            "side would exceed longest_side",
        },
        "boxes": "cx cy w h in [0, 1] of the un-padded image",
        "logits": "softmax; the last is background or no relation",
        "triplets": "score = p(subject) p(object) p(predicate), see config.inference",
        "decoder_layer": predictor.config.inference.layer,
        "config": to_dict(config),
        "step": predictor.step,
        "torch": torch.__version__,
    }


def _traced(network: OneLayer) -> torch.export.ExportedProgram:
    sizes_hw = torch.tensor([[128, 160], [96, 90]])
    images = torch.zeros((2, 3, 128, 160), dtype=torch.uint8)
    any_size = torch.export.Dim.DYNAMIC
    shapes = {"images": {0: any_size, 2: any_size, 3: any_size}, "sizes_hw": {0: any_size}}
    with torch.no_grad():
        return torch.export.export(network.eval().requires_grad_(False), (images, sizes_hw), dynamic_shapes=shapes)


def _write(program: torch.export.ExportedProgram, text: str, file: Path) -> None:
    if file.suffix == ".pt2":
        content = io.BytesIO()  # PyTorch's own writer of files ends the process where a disk is full
        torch.export.save(program, content, extra_files={KEY: text})
        with naming(file):
            file.write_bytes(content.getbuffer())
        return
    try:
        onnx = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=INPUTS, output_names=OUTPUTS, verbose=False
        )
    except ImportError as error:
        raise ConfigError(f'{error.name} is not installed: pip install -e ".[onnx]"') from error
    assert onnx is not None
    onnx.model.metadata_props[KEY] = text
    onnx.model.ir_version = IR_VERSION
    graph = onnx.model.graph  # what follows came with version 10, and says where in our code a node comes from
    for node in graph.all_nodes():
        node.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values(), *(v for n in graph.all_nodes() for v in n.outputs)):
        value.metadata_props.clear()
    onnx.save(file, external_data=False)


@torch.inference_mode()
def compare(ours: Predictor, exported: Predictor, batches: Sequence[ExampleBatch]) -> dict[str, float]:
    """Largest absolute difference of every output, on the layer that is decoded; infinite where one is NaN."""
    layer = ours.config.inference.layer
    largest = dict.fromkeys(OUTPUTS, 0.0)
    for images, sizes_hw in batches:
        wanted, got = ours.model(images, sizes_hw), exported.model(images, sizes_hw)
        for name in OUTPUTS:
            difference = float((getattr(wanted, name)[layer] - getattr(got, name)[-1]).abs().max())
            largest[name] = math.inf if math.isnan(difference) else max(largest[name], difference)
    return largest
