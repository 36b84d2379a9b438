"""What a network costs, counted: parameters that reach the scores, and multiply-adds for one image."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resattn.config import WIDTHS, TrainConfig
from resattn.models.checkpoints import build_model
from resattn.models.stem import ResizedPatchStem


class Cost(NamedTuple):
    """Of one network: ``parameters`` that its scores depend on, and ``macs``, multiply-adds of all layers for one image."""

    parameters: int
    macs: int


def network_cost(config: TrainConfig, num_classes: int = 10, attention_channels: int = 1) -> Cost:
    """Count a network at work: one forward and one backward pass over two images.

    Parameters without a gradient (an attention branch that a form leaves unused) do not count. Multiply-adds are those of
    convolutions and linear layers; the stem counts as the paper has it, a patch convolution of the resized image.
    """
    net = build_model(config, num_classes, attention_channels)
    macs = []

    def count(layer: nn.Module, _inputs: tuple, output: Tensor) -> None:
        macs.append(output[0].numel() * layer.weight[0].numel())

    for layer in net.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear, ResizedPatchStem)):
            layer.register_forward_hook(count)
    scores = net(torch.zeros(2, 3, 32, 32), torch.zeros(2, attention_channels, 28, 28) if config.uses_maps else None)
    F.cross_entropy(scores, torch.tensor([0, 1])).backward()
    return Cost(sum(p.numel() for p in net.parameters() if p.grad is not None), sum(macs))


def matched_widths(target: int, cost: Callable[[Sequence[int]], int]) -> tuple[int, ...]:
    """The widths, in the proportions of ``WIDTHS`` to a channel, whose cost comes closest to ``target``.

    Args:
        target: parameters or multiply-adds to match, between those of ``WIDTHS`` and of twice ``WIDTHS``.
        cost: what given widths cost.

    Raises:
        ValueError: the target lies outside.
    """
    candidates = {tuple(round(width * (1 + step / 64)) for width in WIDTHS) for step in range(65)}
    costs = {widths: cost(widths) for widths in sorted(candidates)}
    if not min(costs.values()) <= target <= max(costs.values()):
        raise ValueError(f"target must be between {min(costs.values())} and {max(costs.values())}, got {target}")
    return min(costs, key=lambda widths: abs(costs[widths] - target))
