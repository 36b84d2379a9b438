"""The attention branch: blocks that make each mask from the one before (Sec. 3.4), and how any branch is initialized."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from resattn.models.stem import ResizedPatchStem


def check_maps(attention: Tensor, channels: int) -> None:
    """ValueError unless the maps are (B, channels, h, w)."""
    if attention.ndim != 4 or attention.shape[1] != channels:
        raise ValueError(f"attention must be (B, {channels}, h, w), got {tuple(attention.shape)}")


def chain_masks(first: Tensor, blocks: Iterable[nn.Module], form: str, n: int) -> list[Tensor]:
    """The masks of ``n`` blocks: x_a(0) is ``first``, each attention block makes the next; the residual form starts at x_a(1)."""
    start = 1 if form == "residual" else 0
    masks = [first]
    for block, _ in zip(blocks, range(start + n - 1), strict=False):
        masks.append(block(masks[-1]))
    return masks[start:]


def attention_block(in_channels: int, out_channels: int, stride: int, squeezed: int | None = None) -> nn.Sequential:
    """One block of the attention branch; strides as the classification block's (Fig. 2), a sigmoid at the end.

    Two 3x3 convolutions, or where ``squeezed`` is given a bottleneck of that many channels: 1x1, 3x3, 1x1 (Sec. 6).
    """
    shapes = [(in_channels, out_channels, 3, stride), (out_channels, out_channels, 3, 1)]
    if squeezed is not None:
        shapes = [(in_channels, squeezed, 1, 1), (squeezed, squeezed, 3, stride), (squeezed, out_channels, 1, 1)]
    layers: list[nn.Module] = []
    for inputs, outputs, side, step in shapes:
        convolution = nn.Conv2d(inputs, outputs, side, step, side // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


def initialize(branch: nn.Module, generator: torch.Generator | None = None) -> None:
    """Kaiming normal weights (Sec. 5.1), zero biases, and batch normalizations at the identity, in the order of definition."""
    for module in branch.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, ResizedPatchStem)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        if isinstance(module, (nn.Linear, nn.BatchNorm2d)):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
