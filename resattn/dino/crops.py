"""Random crops for self-distillation, a whole batch at once on any device (Sec. 3.2)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_JITTER = 0.4  # brightness, contrast and saturation are multiplied by 1 - this to 1 + this
_GREY = 0.1  # probability that a crop loses its colours


def random_crops(
    images: Tensor, n_crops: int, size: int, area: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Cut ``n_crops`` crops from every image, each with its own place, size, flip and colours.

    A crop's coarse colours (the means of its quarters, blended) give way to those of a crop of another image, the same other
    one for all crops of an image: colours cannot tell images apart.

    ``images`` are uint8 (B, 3, H, W), ``size`` is pixels on a side, ``area`` the smallest and largest share of the image. Returns
    float32 (n_crops, B, 3, size, size), about 0 to 1; brightened crops leave that range.
    """
    n, device = n_crops * len(images), images.device
    uniform = torch.rand(9, n, generator=generator, device=device)
    grid = F.affine_grid(_boxes(uniform[:5], area), [n, 3, size, size], align_corners=False)
    repeated = images.repeat(n_crops, 1, 1, 1).float() / 255
    crops = F.grid_sample(repeated, grid, padding_mode="reflection", align_corners=False)
    crops = _change_colours(crops, 1 + _JITTER * (2 * uniform[5:8] - 1), uniform[8] < _GREY)
    coarse = F.interpolate(F.adaptive_avg_pool2d(crops, 2), (size, size), mode="bilinear")
    crops, coarse = (each.view(n_crops, len(images), 3, size, size) for each in (crops, coarse))
    return crops + (coarse.roll(len(images) // 2, 1) - coarse)


def _boxes(uniform: Tensor, area: tuple[float, float]) -> Tensor:
    """Affine maps (n, 2, 3) of boxes inside the image, half of them mirrored; width to height is 3:4 to 4:3."""
    covered = area[0] + (area[1] - area[0]) * uniform[0]
    aspect = torch.exp(math.log(4 / 3) * (2 * uniform[1] - 1))
    width, height = (covered * aspect).sqrt().clamp_max(1), (covered / aspect).sqrt().clamp_max(1)
    right, down = (1 - width) * (2 * uniform[2] - 1), (1 - height) * (2 * uniform[3] - 1)
    mirror = torch.where(uniform[4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    return torch.stack([width * mirror, zero, right, zero, height, down], 1).view(-1, 2, 3)


def _change_colours(crops: Tensor, factors: Tensor, to_grey: Tensor) -> Tensor:
    brightness, contrast, saturation = factors[:, :, None, None, None]
    crops = crops * brightness
    mean = crops.mean((1, 2, 3), keepdim=True)
    crops = (crops - mean) * contrast + mean
    lightness = crops.mean(1, keepdim=True)
    return (crops - lightness) * torch.where(to_grey[:, None, None, None], 0, saturation) + lightness
