"""How good a network is on a split: mean cross entropy and accuracy."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resattn.data.augment import normalize
from resattn.data.datasets import Split
from resattn.training import distributed
from resattn.training.inputs import batches


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, maps: Tensor | None, mean: Tensor, std: Tensor, precision: str = "float32"
) -> tuple[float, float]:
    """Mean cross entropy and accuracy over a split as :func:`take` gives it; ``maps`` as the model takes them.

    Under torchrun every process must call it: each evaluates its share.
    """
    was_training = model.training
    model.eval()
    loss, correct = map(distributed.total, count_correct(model, split, maps, mean, std, precision))
    model.train(was_training)
    return float(loss) / len(split), float(correct) / len(split)


@torch.no_grad()
def count_correct(
    model: nn.Module, split: Split, maps: Tensor | None, mean: Tensor, std: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    """Summed cross entropy and number of correct answers of this process's share, on the device: nothing waits for a number."""
    device, n = mean.device, distributed.n_processes()
    loss, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    parts = (slice(start, start + 250 * n, n) for start in range(distributed.rank(), len(split), 250 * n))
    for images, share, labels in batches(split, maps, parts):
        with autocast(device, precision):
            images = normalize(images, mean, std).contiguous(memory_format=torch.channels_last)
            scores = model(images, share).float()
        loss += F.cross_entropy(scores, labels, reduction="sum")
        correct += (scores.argmax(1) == labels).sum()
    return loss, correct


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Automatic mixed precision where ``precision`` is "bfloat16", else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
