"""Backbones: torchvision-named ResNets with frozen batch norm, and a small one for the toy world (method section 2).

Letters: B images, H x W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speaq.config import ModelConfig
from speaq.model.position import padding_mask
from speaq.model.recompute import run

PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255: ImageNet's
PIXEL_STD = (58.395, 57.12, 57.375)
EPSILON = 1e-5  # added to a frozen norm's variance, as torchvision does
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # of a stage, by depth


class Normalise(nn.Module):
    """Standardises images by ImageNet's mean and deviation; padding becomes exactly 0. Nothing of it is saved."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor, sizes_hw: Tensor) -> Tensor:
        """[B, 3, H, W] RGB in 0..255 with [B, 2] un-padded heights and widths → float32 of the same shape."""
        standard = (images.to(torch.float32) - self.mean) / self.std
        return standard.masked_fill_(padding_mask(sizes_hw, images.shape[-2:], 1)[:, None], 0.0)


class Backbone(nn.Module):
    """Images → one feature map. `out_channels` and `stride` (pixels per cell) describe it."""

    out_channels: int
    stride: int
    recompute: bool = False  # whether trained blocks compute their activations again in the backward pass


class FrozenNorm(nn.Module):
    """Batch norm whose statistics and affine values are fixed: what it does to a channel is a factor and an offset.

    It takes no input: `fused` folds it into the convolution before it. Its buffers have BatchNorm2d's names.

    Args:
        channels: number of channels.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, start in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), start))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Factor and offset of each channel, [C] and [C]."""
        scale = self.weight * (self.running_var + EPSILON).rsqrt()
        return scale, self.bias - self.running_mean * scale


def fused(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """A convolution and the frozen norm behind it as one convolution, which spares two passes over the features."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, FrozenNorm)
    scale, bias = norm.folded()
    return F.conv2d(x, conv.weight * scale[:, None, None, None], bias, conv.stride, conv.padding)


class Block(nn.Module):
    """Residual block of two 3×3 convolutions or, as a bottleneck, of 1×1, 3×3 (with the stride) and 1×1."""

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        shapes = [(in_channels, width, 3, stride), (width, out_channels, 3, 1)]
        if bottleneck:
            shapes = [(in_channels, width, 1, 1), (width, width, 3, stride), (width, out_channels, 1, 1)]
        self.num_convolutions = len(shapes)
        for i, (inputs, outputs, kernel, step) in enumerate(shapes, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{i}", FrozenNorm(outputs))
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, FrozenNorm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H/stride, W/stride]."""
        shortcut = x if self.downsample is None else fused(x, *self.downsample)
        for i in range(1, self.num_convolutions):
            x = F.relu_(fused(x, *self.convolution(i)))
        return F.relu_(fused(x, *self.convolution(self.num_convolutions)).add_(shortcut))

    def convolution(self, i: int) -> tuple[nn.Module, nn.Module]:
        """The i-th convolution, from 1, and its norm."""
        return self.get_submodule(f"conv{i}"), self.get_submodule(f"bn{i}")


class ResNet(Backbone):
    """ResNet up to its last stage, batch norm frozen; parameter names are torchvision's.

    Args:
        depth: 18, 34, 50 or 101.
        frozen_stages: stages (stem first) that get no gradient and save no activations.
        stem_channels: channels of the stem.
        width: channels inside the blocks of the first stage; they double with every stage.
        out_channels: channels behind those blocks, doubling likewise; None: as published.
    """

    stride = 32

    def __init__(
        self,
        depth: int,
        frozen_stages: int = 2,
        stem_channels: int = 64,
        width: int = 64,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        bottleneck = depth >= 50
        channels = out_channels or (4 * width if bottleneck else width)
        self.conv1 = nn.Conv2d(3, stem_channels, 7, 2, 3, bias=False)
        self.bn1 = FrozenNorm(stem_channels)
        self.out_channels = stem_channels
        for i, count in enumerate(BLOCKS[depth]):
            first = Block(self.out_channels, width << i, channels << i, 1 if i == 0 else 2, bottleneck)
            self.out_channels = channels << i
            others = (Block(self.out_channels, width << i, self.out_channels, 1, bottleneck) for _ in range(count - 1))
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *others))
        self._initialise(sum(BLOCKS[depth]))
        self.frozen_stages = frozen_stages
        for stage in self.stages()[:frozen_stages]:
            stage.requires_grad_(False)

    def stages(self) -> list[nn.Module]:
        """The stem's convolution, then the four stages."""
        return [self.conv1, *(self.get_submodule(f"layer{i}") for i in range(1, 5))]

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, out_channels, ceil(H / 32), ceil(W / 32)]."""
        for i, stage in enumerate(self.stages()):
            with torch.set_grad_enabled(torch.is_grad_enabled() and i >= self.frozen_stages):
                if i == 0:
                    x = F.max_pool2d(F.relu_(fused(x, self.conv1, self.bn1)), 3, 2, 1)
                    continue
                for block in stage.children():
                    x = run(block, x, recompute=self.recompute)
        return x

    def _initialise(self, num_blocks: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block):
                # A frozen norm does not stop the residual sum from growing with depth; smaller summands do.
                _, last = module.convolution(module.num_convolutions)
                last.get_buffer("weight").fill_(1 / math.sqrt(num_blocks))


class StandardisedConv(nn.Conv2d):
    """3×3 convolution whose filters have mean 0 and norm 1 (weight standardisation, Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H/stride, W/stride]."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        fan_in = self.weight[0].numel()
        weight = (self.weight - mean) * (variance * fan_in + 1e-4).rsqrt()
        return F.conv2d(x, weight, None, self.stride, self.padding)


class SmallBlock(nn.Module):
    """Residual block of two standardised convolutions, each followed by a layer norm over the channels of a cell.

    This looks neither at other images, as batch norm does, nor at padding, as group norm does. Without the
    standardisation, a detector of the toy world learned more slowly.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = StandardisedConv(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.LayerNorm(out_channels)
        self.conv2 = StandardisedConv(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.LayerNorm(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H/stride, W/stride]."""
        y = F.relu_(_over_channels(self.norm1, self.conv1(x)))
        return F.relu_(_over_channels(self.norm2, self.conv2(y)) + self.shortcut(x))


def _over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """[B, C, H, W] → the same, normalised over C; free of copies in channels-last layout."""
    y: Tensor = norm(x.permute(0, 2, 3, 1))
    return y.permute(0, 3, 1, 2)


class SmallCNN(Backbone):
    """A stem of stride 4 and three residual stages, for pictures of about 100 pixels on a CPU; 0.18 M parameters."""

    stride = 16

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 7, 4, 3)
        self.stages = nn.Sequential(SmallBlock(24, 24, 1), SmallBlock(24, 48, 2), SmallBlock(48, 96, 2))
        self.out_channels = 96
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, out_channels, ceil(H / 16), ceil(W / 16)]."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        x = F.relu_(x)
        for block in self.stages:
            x = run(block, x, recompute=self.recompute)
        return x


def build_backbone(config: ModelConfig) -> Backbone:
    """The configured backbone, with random weights."""
    small = config.backbone == "small"
    backbone = SmallCNN() if small else ResNet(int(config.backbone.removeprefix("resnet")), config.frozen_stages)
    backbone.recompute = config.activation_checkpointing
    return backbone
