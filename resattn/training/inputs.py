"""What a run feeds its network: its share of a data set and the maps its configuration asks for, on the device or read as needed."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from resattn.attention.maps import dataset_maps
from resattn.config import CLS_SOURCES, LEARNED, TrainConfig
from resattn.data.datasets import Dataset, Split

Batch = tuple[Tensor, Tensor | None, Tensor]  # images uint8, maps float32, labels int64


class Rows:
    """Some rows of a tensor that stays where it is, on disk: to index them copies those asked for to the device."""

    def __init__(self, source: Tensor, index: Tensor, device: torch.device):
        self.source, self.index, self.device = source, index, device

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        found, cuda = self.source[self.index[rows]], self.device.type == "cuda"
        return (found.pin_memory() if cuda else found).to(self.device, non_blocking=cuda)


def fits(data: Dataset, device: torch.device) -> bool:
    """Whether a run takes all images to the device: up to half of its free memory, or RESATTN_IN_MEMORY_MB where that is set."""
    import psutil  # here: it needs modules that are not on every system

    images = data.train.images.nbytes + data.test.images.nbytes
    if limit := os.environ.get("RESATTN_IN_MEMORY_MB"):
        return images <= float(limit) * 2**20
    cuda = device.type == "cuda"
    return images <= (torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available) / 2


def network_maps(
    config: TrainConfig, data: Dataset, device: torch.device, mapped: bool = False
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Maps of the train and test images, made on ``device``; None for a network that looks at none; ``mapped`` as they are on disk."""
    if not config.uses_maps or config.source == LEARNED:
        return None, None
    options = {"heads": config.heads, "weights": config.weights} if config.source in CLS_SOURCES else {}
    return dataset_maps(
        data, config.source, base=config.base, seed=config.seed, device=device, mapped=mapped, **options
    )


def take(
    split: Split, maps: Tensor | None, device: torch.device, index: Tensor | slice = slice(None), mapped: bool = False
) -> tuple[Split, Tensor | None]:
    """The chosen samples of a split and their maps, on the device, or as :class:`Rows` where they stay on disk."""
    rows = torch.arange(len(split))[index]
    images, labels, maps = (
        each if each is None else Rows(each, rows, device) if mapped else each[index].to(device)
        for each in (split.images, split.labels, maps)
    )
    return Split(images, labels), maps


def batches(split: Split, maps: Tensor | None, parts: Iterable[Tensor | slice]) -> Iterator[Batch]:
    """The samples of each part; where they are on disk, those of the next one are read while this one is used."""
    found = ((split.images[part], None if maps is None else _floats(maps[part]), split.labels[part]) for part in parts)
    if not isinstance(split.images, Rows):
        yield from found
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, found, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, found, None)
            yield batch


def _floats(maps: Tensor) -> Tensor:
    return maps / 255 if maps.dtype == torch.uint8 else maps
