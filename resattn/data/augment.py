"""Augmentation of Sec. 4 for whole batches on any device; an image and its attention map move together."""

import torch
from torch import Tensor
from torch.nn import functional as F

_ERASED_AREA = (0.02, 0.33)  # smallest and largest share of the image, as torchvision's RandomErasing
_ERASED_ASPECT = (0.3, 3.3)  # smallest and largest height / width, log-uniform between


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (B, C, H, W) to float32 with the given channel mean and standard deviation (on the scale [0, 1], above 0)."""
    if std.device.type == "cpu" and not (std > 0).all():  # on a GPU looking at a number would wait for it
        raise ValueError(f"std must be above 0 in each channel, got {std.tolist()}")
    scale = 1 / (255 * std.to(images.device))
    shift = mean.to(images.device) / std.to(images.device)
    return images * scale[:, None, None] - shift[:, None, None]


def augment(
    images: Tensor,
    maps: Tensor | None,
    mean: Tensor,
    std: Tensor,
    generator: torch.Generator,
    *,
    move_maps: bool = True,
    padding: int = 4,
    flip: float = 0.5,
    erase: float = 0.2,
) -> tuple[Tensor, Tensor | None]:
    """Augment a whole batch at once, each sample with its own random numbers (Sec. 4).

    Pad with black and crop back, flip left-right, normalize, then erase a rectangle with unit normal noise. The attention
    map moves with the crop and the flip (by the same fraction of its width, bilinearly, zero outside); it is not erased,
    because it was computed on the clean image.

    Args:
        images: uint8 (B, C, H, W), on the device of ``generator``.
        maps: float (B, K, h, w) in [0, 1], or None.
        mean, std: float (C,), on the scale [0, 1].
        generator: source of all randomness.
        move_maps: False leaves the maps as they are: a uniform map would get a border of zeros that tells where the crop lies.
        padding: pixels added on each side before the crop.
        flip, erase: probabilities in [0, 1].

    Returns:
        images float32 (B, C, H, W), normalized; maps as given in shape and dtype, or None.
    """
    n, _, height, width = images.shape
    device = images.device
    shift = torch.randint(0, 2 * padding + 1, (2, n), generator=generator, device=device) - padding
    flipped = torch.rand(n, generator=generator, device=device) < flip
    moved = _crop_and_flip(images, shift, flipped, padding)
    rectangles = _erase_rectangles(images, erase, generator)
    noise = torch.randn(images.shape, generator=generator, device=device)
    moved = torch.where(rectangles[:, None], noise, normalize(moved, mean, std))
    if maps is not None and move_maps:
        maps = _move_maps(maps, shift[0] / height, shift[1] / width, flipped)
    return moved, maps


def _crop_and_flip(images: Tensor, shift: Tensor, flipped: Tensor, padding: int) -> Tensor:
    n, channels, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device) + (shift[0] + padding)[:, None]
    columns = torch.arange(width, device=device).expand(n, width)
    columns = torch.where(flipped[:, None], width - 1 - columns, columns) + (shift[1] + padding)[:, None]
    padded = F.pad(images, (padding,) * 4)
    sample = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _move_maps(maps: Tensor, down: Tensor, right: Tensor, flipped: Tensor) -> Tensor:
    """Shift each map by a fraction of its height and width, then mirror it where ``flipped``; zero outside."""
    mirror = 1 - 2 * flipped.to(maps.dtype)
    zero, one = torch.zeros_like(mirror), torch.ones_like(mirror)
    across = torch.stack([mirror, zero, 2 * right.to(maps.dtype)], 1)
    upright = torch.stack([zero, one, 2 * down.to(maps.dtype)], 1)
    grid = F.affine_grid(torch.stack([across, upright], 1), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _erase_rectangles(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Boolean (B, H, W) for images (B, C, H, W): the rectangle to erase, empty for samples left alone.

    The same ten draws as torchvision's RandomErasing, all made at once: the first that fits counts, none means no erasing.
    """
    (n, _, height, width), device = images.shape, images.device
    uniform = torch.rand((5, n, 10), generator=generator, device=device)
    log_aspect = torch.tensor(_ERASED_ASPECT).log()
    smallest, largest = _ERASED_AREA
    target = height * width * (smallest + (largest - smallest) * uniform[0])
    ratio = (log_aspect[0] + (log_aspect[1] - log_aspect[0]) * uniform[1]).exp()
    tall, wide = (target * ratio).sqrt().round(), (target / ratio).sqrt().round()
    fits = (tall < height) & (wide < width)
    first = fits.float().argmax(1, keepdim=True)
    tall, wide, fits, row, column = (t.gather(1, first) for t in (tall, wide, fits, uniform[2], uniform[3]))
    top, left = (row * (height - tall + 1)).floor(), (column * (width - wide + 1)).floor()
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows, in_columns = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)
    erased = fits & (uniform[4, :, :1] < probability)
    return erased[:, :, None] & in_rows[:, :, None] & in_columns[:, None, :]
