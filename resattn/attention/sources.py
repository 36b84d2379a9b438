"""Attention maps that no ViT makes: contrast against the border, and controls with more or less knowledge of the object."""

import torch
from torch import Tensor
from torch.nn import functional as F

MAP_SIZE = 28  # pixels on a side; ViT-B/8 at 224 gives the same
SQUARE_SIDE = 0.5  # of the image's: the median side of the objects' bounding boxes in shapes, 16 of 32 pixels (9 to 23)


def border_contrast(images: Tensor) -> Tensor:
    """Training-free saliency: how far a pixel's colour lies from the colours along the image's border.

    The distance is Mahalanobis's under the border pixels' mean and covariance (one sixteenth of the side on each side),
    smoothed. Objects seldom fill the border, so what differs from it is likely one: the boundary prior of Wei et al. 2012.
    Images uint8 (B, 3, H, W) give float32 (B, 1, 28, 28) in [0, 1].
    """
    pixels = images.float() / 255
    height, width = images.shape[-2:]
    edge = max(1, min(height, width) // 16)
    border = torch.ones(height, width, dtype=torch.bool, device=images.device)
    border[edge : height - edge, edge : width - edge] = False
    samples = pixels[:, :, border]
    mean = samples.mean(2, keepdim=True)
    spread = samples - mean
    noise_floor = 0.01 * torch.eye(3, device=images.device)  # a tenth of the range: flat borders must not blow up noise
    covariance = spread @ spread.transpose(1, 2) / samples.shape[2] + noise_floor
    offset = pixels.flatten(2) - mean
    distance = (offset * torch.linalg.solve(covariance, offset)).sum(1).clamp_min(0).sqrt()
    distance = distance.round(decimals=3)  # one grey level is 0.04: less is rounding, which min-max would blow up
    smooth = _blur(distance.view(-1, 1, height, width), sigma=min(height, width) / 21)
    return min_max(F.interpolate(smooth, (MAP_SIZE, MAP_SIZE), mode="bilinear", align_corners=False, antialias=True))


def from_masks(source: str, masks: Tensor | None, n: int) -> Tensor:
    """Maps of "oracle", "box" or "square" for ``n`` images; ValueError where ``masks`` are not float (n, 1, h, w) in [0, 1]."""
    if masks is None or len(masks) != n:
        given = None if masks is None else len(masks)
        raise ValueError(f"masks must hold one true mask an image for source={source!r} ({n} images), got {given}")
    if masks.ndim != 4 or masks.shape[1] != 1 or not ((masks >= 0) & (masks <= 1)).all():
        low, high = float(masks.min()), float(masks.max())
        raise ValueError(f"masks must be (N, 1, h, w) in [0, 1], got {tuple(masks.shape)} from {low} to {high}")
    return {"oracle": Tensor.float, "box": bounding_box, "square": square_around}[source](masks)


def bounding_box(masks: Tensor) -> Tensor:
    """The smallest upright rectangle that holds all of a mask above one half: float32 (N, 1, h, w), 1 inside it and 0 outside."""
    inside = masks > 0.5
    spans = (inside.any(3, keepdim=True), 2), (inside.any(2, keepdim=True), 3)
    rows, columns = ((hit.cumsum(dim) > 0) & (hit.flip(dim).cumsum(dim).flip(dim) > 0) for hit, dim in spans)
    return (rows & columns).float()


def square_around(masks: Tensor) -> Tensor:
    """A square of one fixed side around the middle of :func:`bounding_box`: where the object is, neither its size nor its outline.

    The side is ``SQUARE_SIDE`` times the map's shorter one. A square that would cross the border is shifted back inside, so
    all have one area. On ``shapes`` 20 nearest neighbours tell the class (chance 10 %) from height and width for 31 % of
    bounding boxes and 9 % of squares. All 0 where the mask is empty.
    """
    boxes = bounding_box(masks)
    side = round(SQUARE_SIDE * min(masks.shape[-2:]))

    def across(dim: int) -> Tensor:
        length = masks.shape[dim]
        place = torch.arange(length, device=masks.device).view((-1, 1) if dim == 2 else (1, -1))
        inside = boxes.amax(5 - dim, keepdim=True)
        # NaN, so no square, where empty.
        middle = (inside * place).sum(dim, keepdim=True) / inside.sum(dim, keepdim=True)
        start = (middle - (side - 1) / 2).floor().clamp(0, length - side)
        return (place >= start) & (place < start + side)

    return (across(2) & across(3)).float()


def shuffle(maps: Tensor, seed: int) -> Tensor:
    """Give every image another image's map: neighbours along one random cycle, so none keeps its own."""
    if len(maps) < 2:
        raise ValueError(f"images must be at least 2 for source='shuffled', got {len(maps)}")
    cycle = torch.randperm(len(maps), generator=torch.Generator().manual_seed(seed))
    shuffled = torch.empty_like(maps)
    shuffled[cycle] = maps[cycle.roll(1)]
    return shuffled


def gaussian_map() -> Tensor:
    """A Gaussian around the middle, float32 (1, 1, 28, 28) in [0, 1]."""
    axis = torch.linspace(-1, 1, MAP_SIZE)
    return min_max(torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 0.5**2))[None, None])


def min_max(maps: Tensor) -> Tensor:
    """Scale each channel of each image to span [0, 1]; a constant one becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / span.clamp_min(torch.finfo(maps.dtype).tiny), 0)


def object_focus(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """How well maps (N, 1, h, w), not negative, find the object, by true masks (N, 1, H, W) in [0, 1]: means over images.

    "energy_ratio": the energy inside the object, as a share of the map's, over the object's share of the area (1 = no better
    than even); "pointing_game": share of images whose largest value lies on the object.
    """
    maps = F.interpolate(maps, masks.shape[-2:], mode="bilinear", align_corners=False).flatten(1)
    masks = masks.flatten(1)
    share = (maps * masks).sum(1) / maps.sum(1).clamp_min(1e-12)
    inside = masks.gather(1, maps.argmax(1, keepdim=True)) > 0.5
    return {"energy_ratio": float((share / masks.mean(1)).mean()), "pointing_game": float(inside.float().mean())}


def _blur(maps: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(3 * sigma))
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, device=maps.device).float() ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
    padded = F.pad(maps, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))
