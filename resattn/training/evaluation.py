"""How good a network is on a split: mean cross entropy and accuracy."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resattn.data.augment import normalize
from resattn.data.datasets import Split
from resattn.training import distributed


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, maps: Tensor | None, mean: Tensor, std: Tensor, precision: str = "float32"
) -> tuple[float, float]:
    """Mean cross entropy and accuracy over a split whose tensors lie on the model's device; ``maps`` as the model takes them.

    Under torchrun every process must call it: each evaluates its share.
    """
    was_training = model.training
    model.eval()
    part = Split(distributed.share(split.images), distributed.share(split.labels))
    loss, correct = map(distributed.total, count_correct(model, part, distributed.share(maps), mean, std, precision))
    model.train(was_training)
    return float(loss) / len(split), float(correct) / len(split)


@torch.no_grad()
def count_correct(
    model: nn.Module, split: Split, maps: Tensor | None, mean: Tensor, std: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    """Summed cross entropy and number of correct answers, on the device: nothing waits for a number."""
    device = split.images.device
    loss, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(split), 250):
        part = slice(start, start + 250)
        with autocast(device, precision):
            images = normalize(split.images[part], mean, std).contiguous(memory_format=torch.channels_last)
            scores = model(images, None if maps is None else maps[part]).float()
        loss += F.cross_entropy(scores, split.labels[part], reduction="sum")
        correct += (scores.argmax(1) == split.labels[part]).sum()
    return loss, correct


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Automatic mixed precision where ``precision`` is "bfloat16", else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
