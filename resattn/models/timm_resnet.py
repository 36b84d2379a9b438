"""The paper's mechanism in a ResNet of timm: gates in its blocks, and a branch of attention blocks beside it (Sec. 3.3-3.5, 6).

timm's blocks compute ``relu(se(f(x)) + downsample(x))``, either of the two only where it is set. A gate in ``downsample`` is the
gated form, one in ``se`` the residual form. Gates have no weights and leave names as they are, so weights load both ways.
"""

import copy
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from resattn.config import GATED_FORMS
from resattn.models.branch import attention_block, chain_masks, check_maps, initialize
from resattn.models.resattn import Strength, apply_gate, coefficients, needs_masks
from resattn.models.stem import fresh_generator
from resattn.settings import check_choice, checked

# Channels of a bottleneck over those inside the attention block beside it. At ResNet's own, 4, the branch of resnet50 has 0.83
# times the backbone's multiply-adds, at 16 it has 0.13.
_SQUEEZE = 16


def gate_residuals(
    net: nn.Module,
    a: float = 0.5,
    form: str = "gated",
    attention_channels: int = 1,
    *,
    image_size: int | None = None,
    generator: torch.Generator | None = None,
) -> "GatedResNet":
    """A copy of a timm ResNet whose residual connections are gated by an attention map; the branch that makes the masks is untrained.

    The attention branch beside basic blocks (two 3x3 convolutions, as in the paper) has 0.80 times the multiply-adds of resnet18
    and 0.90 of resnet34, in the residual form 0.93 and 0.96. Beside bottlenecks (1x1, 3x3, 1x1) it has at most 0.15 times theirs.

    Args:
        net: ``timm.create_model("resnet18")`` to ``"resnet152"``, ``resnext*`` or ``wide_resnet*``, pretrained or not; stays as it is.
        a: strength of the mask, in [0, 1]; may be changed later. At 0 scores and gradients are those of ``net``, bit for bit.
        form: "gated" or "residual", as for :class:`resattn.ResAttnNet`.
        attention_channels: channels K of the attention map.
        image_size: side that images are resized to first, in pixels; None leaves them as they are.
        generator: source of the attention branch's initial weights; None means PyTorch's global one.

    Raises:
        ValueError: an argument is not as described, or ``net`` cannot be gated, is in half precision, or is gated already.
    """
    blocks = _blocks(net)
    if type(net) is not ResNet or not blocks:
        wanted = "a ResNet of timm (resnet18 to resnet152, resnext*, wide_resnet*), not gated yet"
        raise ValueError(f"net must be {wanted}, got {type(net).__name__}")
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in net.parameters()):
        raise ValueError(
            "net must be in float32: gate first, then .half() or autocast; got a backbone in half precision"
        )
    if net.grad_checkpointing:
        raise ValueError("net must not compute its blocks a second time, got one after set_grad_checkpointing(True)")
    check_choice("form", form, GATED_FORMS)
    if form == "residual" and any(block.se is not None for block in blocks):
        raise ValueError("net must have no attention module (se) in its blocks for form='residual', got one that has")
    checked("attention_channels", attention_channels, int, low=1)
    checked("image_size", image_size, int | None, low=1)
    gated = copy.deepcopy(net)
    gated.__class__ = GatedResNet
    gated._gate(form, attention_channels, generator or fresh_generator())
    gated.a, gated.image_size = a, image_size
    return gated


def _blocks(net: nn.Module) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, (BasicBlock, Bottleneck))]


class GatedResNet(Strength, ResNet):
    """What :func:`gate_residuals` makes: timm's ResNet, whose methods take a map beside the image.

    ``attention_stem`` and ``attention_blocks`` are the attention branch; all other names are timm's.
    """

    def _gate(self, form: str, channels: int, generator: torch.Generator) -> None:
        blocks = _blocks(self)
        self.form, self._gates = form, [_Gate() for _ in blocks]
        for block, gate in zip(blocks, self._gates, strict=True):
            if form == "residual":
                block.se = gate
            elif block.downsample is None:
                block.downsample = gate
            else:  # a Sequential's children keep their names, so the state dict does too
                block.downsample = nn.Sequential(OrderedDict(gate=gate, **block.downsample._modules))
        width = blocks[0].conv1.in_channels
        stem = [*self.conv1.modules(), *self.maxpool.modules()]  # small images are often given one without strides
        self._stride = math.prod(int(np.max(m.stride)) for m in stem if hasattr(m, "stride"))
        patches = nn.Conv2d(channels, width, self._stride, self._stride, bias=False)
        self.attention_stem = nn.Sequential(patches, nn.BatchNorm2d(width), nn.Sigmoid())
        shapes = []
        for block in blocks if form == "residual" else blocks[:-1]:
            out = (block.conv3 if isinstance(block, Bottleneck) else block.conv2).out_channels
            squeezed = max(1, out // _SQUEEZE) if isinstance(block, Bottleneck) else None
            shapes.append((block.conv1.in_channels, out, block.stride, squeezed))
        self.attention_blocks = nn.ModuleList(attention_block(*shape) for shape in shapes)
        weight = self.fc.weight if isinstance(self.fc, nn.Linear) else next(self.parameters())
        for branch in (self.attention_stem, self.attention_blocks):
            initialize(branch, generator)
            branch.to(weight).train(self.training)

    def forward(self, image: Tensor, attention: Tensor | None = None) -> Tensor:
        """float (B, 3, H, W), normalized, and maps float (B, K, h, w) in [0, 1] to scores; no map is needed at a = 0."""
        return self.forward_head(self.forward_features(image, attention))

    def forward_features(self, image: Tensor, attention: Tensor | None = None) -> Tensor:
        """The last block's features: (B, C, H / 32, W / 32)."""
        return self._with_masks(super().forward_features, image, attention)

    def forward_intermediates(self, image: Tensor, *args: Any, attention: Tensor | None = None, **options: Any) -> Any:
        """timm's: features of every stage; ``attention`` by name."""
        return self._with_masks(super().forward_intermediates, image, attention, *args, **options)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refused: a block computed again in the backward pass would not find its mask."""
        if enable:
            raise ValueError("enable must be False: a gated network cannot compute its blocks a second time, got True")

    def masks(self, attention: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """The masks of all blocks, each (B, C, H, W) in [0, 1], for maps (B, K, h, w) and images of ``size`` (height, width)."""
        check_maps(attention, self.attention_stem[0].in_channels)
        size = tuple(-(-side // self._stride) * self._stride for side in size)  # the stem rounds up
        resized = F.interpolate(attention, size, mode="bicubic", align_corners=False)
        return chain_masks(self.attention_stem(resized), self.attention_blocks, self.form, len(self._gates))

    def _with_masks(self, method: Any, image: Tensor, attention: Tensor | None, *args: Any, **options: Any) -> Any:
        if image.ndim != 4 or min(image.shape[-2:]) < self._stride:
            raise ValueError(f"image must be (B, C, H, W), sides at least {self._stride}, got {tuple(image.shape)}")
        if self.image_size is not None and image.shape[-2:] != (self.image_size,) * 2:
            shrink = max(image.shape[-2:]) > self.image_size
            image = F.interpolate(image, (self.image_size,) * 2, mode="bicubic", align_corners=False, antialias=shrink)
        used = coefficients(self.form, self.a)
        needed = needs_masks(image, attention, used)
        masks = self.masks(attention, image.shape[-2:]) if needed else [None] * len(self._gates)
        for gate, mask in zip(self._gates, masks, strict=True):
            gate.mask = mask
            gate.open, gate.gate = (used.feature, used.feature_gate) if self.form == "residual" else used[3:]
        try:
            return method(image, *args, **options)
        finally:
            for gate in self._gates:
                gate.mask = None


class _Gate(nn.Module):
    """``x * (open + gate * mask)``; the mask is there only while the network runs."""

    mask: Tensor | None = None
    open, gate = 1.0, 0.0

    def forward(self, x: Tensor) -> Tensor:
        return apply_gate(x, self.mask, self.open, self.gate)
