"""The straightforward pipeline: torchvision transforms for each sample in DataLoader workers, bicubic upscaling to the full
image, F.interpolate for the map, default memory format, eager float32. What one would write first, and what the rest is
compared with."""

import os

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as T

from resattn.data.datasets import Split


class AugmentedImages(Dataset):
    """One sample at a time: crop, flip, erase, bicubic to full size; the map moves along."""

    def __init__(self, split: Split, maps: Tensor, mean: Tensor, std: Tensor, image_size: int):
        self.images = [T.to_pil_image(image) for image in split.images]
        self.labels, self.image_size = split.labels, image_size
        self.maps = F.interpolate(maps, split.images.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)
        self.to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean.tolist(), std.tolist())])
        self.erase = transforms.RandomErasing(p=0.2, scale=(0.02, 0.33), value="random")
        self.resize = transforms.Resize((image_size, image_size), transforms.InterpolationMode.BICUBIC)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        image, attention = T.pad(self.images[i], 4), T.pad(self.maps[i], 4)
        side = self.images[i].size[::-1]
        top, left, height, width = transforms.RandomCrop.get_params(image, side)
        image, attention = T.crop(image, top, left, height, width), T.crop(attention, top, left, height, width)
        if torch.rand(()) < 0.5:
            image, attention = T.hflip(image), T.hflip(attention)
        return self.resize(self.erase(self.to_tensor(image))), attention, self.labels[i]


def loader(split: Split, maps: Tensor, mean: Tensor, std: Tensor, image_size: int, batch_size: int) -> DataLoader:
    """Shuffled batches from one worker process a core."""
    data = AugmentedImages(split, maps, mean, std, image_size)
    pinned = torch.cuda.is_available()
    return DataLoader(
        data, batch_size, shuffle=True, drop_last=True, num_workers=os.cpu_count() or 1, pin_memory=pinned
    )


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, attention: Tensor, labels: Tensor
) -> Tensor:
    """One update in float32; the map is scaled up to the image first, so the stems only convolve."""
    device = next(model.parameters()).device
    images, attention, labels = (t.to(device, non_blocking=True) for t in (images, attention, labels))
    attention = F.interpolate(attention, images.shape[-2:], mode="bicubic", align_corners=False)
    loss = F.cross_entropy(model(images, attention), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss
