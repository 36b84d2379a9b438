"""What a network costs: parameters that reach the scores and multiply-adds for one image, counted; images a second, measured."""

import timeit
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from resattn.config import DEPTHS, GATED_FORMS, WIDTHS, TrainConfig
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
    for layer in net.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear, ResizedPatchStem)):
            layer.register_forward_hook(lambda part, _, out: macs.append(out[0].numel() * part.weight[0].numel()))
    scores = net(torch.zeros(2, 3, 32, 32), torch.zeros(2, attention_channels, 28, 28) if config.uses_maps else None)
    F.cross_entropy(scores, torch.tensor([0, 1])).backward()
    return Cost(sum(p.numel() for p in net.parameters() if p.grad is not None), sum(macs))


def images_per_second(config: TrainConfig, repeats: int = 3) -> float:
    """How many 32x32 images the network trains on in a second on the CPU, forward and backward; the fastest of ``repeats`` batches."""
    net = build_model(config, 10).to(memory_format=torch.channels_last)
    images = torch.randn(config.batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    maps = torch.rand(config.batch_size, 1, 28, 28) if config.uses_maps else None
    labels = torch.arange(config.batch_size) % 10
    _first, *seconds = timeit.repeat(  # the first one sets things up
        lambda: F.cross_entropy(net(images, maps), labels).backward(), number=1, repeat=1 + repeats
    )
    return config.batch_size / min(seconds)


def cost_table(depths: Sequence[int] = tuple(DEPTHS), image_size: int = 224, repeats: int = 3) -> list[dict]:
    """What the standard network of each depth costs, and with it masked: a row each, for a data frame.

    Keys are "depth", "form" (None for the standard network; "printed" costs what "gated" does), "parameters", "macs" and
    "images_per_second".
    """
    rows = []
    for depth in depths:
        for form in (None, *GATED_FORMS):
            network = {"model": "resnet8"} if form is None else {"form": form, "a": 1.0}
            config = TrainConfig(**network, depths=DEPTHS[depth], image_size=image_size, batch_size=32)
            rows.append({"depth": depth, "form": form} | network_cost(config)._asdict())
            rows[-1]["images_per_second"] = images_per_second(config, repeats=repeats)
    return rows


def matched_widths(target: int, cost: Callable[[Sequence[int]], int]) -> tuple[int, ...]:
    """The widths, ``WIDTHS`` to twice as many in their proportions, whose ``cost`` (of widths) comes closest to ``target``."""
    candidates = {tuple(round(width * (1 + step / 64)) for width in WIDTHS) for step in range(65)}
    return min(sorted(candidates), key=lambda widths: abs(cost(widths) - target))
