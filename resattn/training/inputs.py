"""What a run feeds its network: the maps its configuration asks for, and its share of a data set on the device."""

import torch
from torch import Tensor

from resattn.attention.maps import dataset_maps
from resattn.config import CLS_SOURCES, LEARNED, TrainConfig
from resattn.data.datasets import Dataset, Split


def network_maps(config: TrainConfig, data: Dataset, device: torch.device) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Maps of the train and test images, made on ``device``; None for a network that looks at none."""
    if not config.uses_maps or config.source == LEARNED:
        return None, None
    options = {"heads": config.heads, "weights": config.weights} if config.source in CLS_SOURCES else {}
    return dataset_maps(data, config.source, base=config.base, seed=config.seed, device=device, **options)


def take(
    split: Split, maps: Tensor | None, device: torch.device, index: Tensor | slice = slice(None)
) -> tuple[Split, Tensor | None]:
    """The chosen samples of a split and their maps, on the device."""
    part = Split(split.images[index].to(device), split.labels[index].to(device))
    return part, None if maps is None else maps[index].to(device)
