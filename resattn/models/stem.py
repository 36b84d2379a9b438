"""Resize and patch convolution as one convolution: the 224x224 image of Sec. 4 never exists in memory.

Upscaling by p/q and a convolution of stride P are both linear and both repeat along the image: after L = lcm(p, P) upscaled
pixels, which are L q/p input pixels and L/P outputs, everything starts over. So the pair is one convolution of stride L q/p on
the input, with L/P x L/P times the output channels, and a pixel shuffle. Its kernel is a fixed linear function of the patch
weights. At the border the resize repeats the outermost pixel, which is replicate padding.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resattn.settings import check_choice

_LARGEST_WINDOW = 12  # input pixels on a side; beyond it the joint kernel costs more than the two steps


def fresh_generator() -> torch.Generator:
    """A generator seeded by the global one: ``torch.manual_seed`` decides what it gives, and one number is all it takes."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


class ResizedPatchStem(nn.Module):
    """Resize an image to a square and convolve it with non-overlapping patches (Sec. 3.3), without making the large image.

    Equal to ``conv2d(interpolate(x, image_size, mode), weight, stride=patch)``, with antialiasing if the image is scaled down.
    The joint convolution is used where it is scaled up by a ratio with a short period, for example 32 or 28 to 224.

    Args:
        patch: side and stride of the patches, in pixels of the resized image.
        image_size: side of the resized image, a multiple of ``patch``.
        mode: "bicubic" (Sec. 4), "bilinear" or "nearest".

    Attributes:
        weight: (out_channels, in_channels, patch, patch). There is no bias: a batch normalization follows.
        taps_<length>: for each side that the joint convolution is used for, (outputs per period, patch, window): the share of each
            input pixel in each pixel of a patch. Buffers that stay out of the state dict.
    """

    def __init__(
        self, in_channels: int, out_channels: int, patch: int = 4, image_size: int = 224, mode: str = "bicubic"
    ):
        super().__init__()
        if patch < 1 or not isinstance(image_size, int) or image_size < patch or image_size % patch:
            raise ValueError(f"image_size must be a positive multiple of patch ({patch}), got {image_size!r}")
        check_choice("mode", mode, ("bicubic", "bilinear", "nearest"))
        self.patch, self.image_size, self.mode = patch, image_size, mode
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, patch, patch))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        # All sizes are worked out here, so that nothing is looked up or computed in Python while a compiler traces ``forward``.
        self._periods: dict[int, tuple[int, int, int]] = {}  # stride and padding
        self._taps: dict[str, Tensor] = {}  # float64, so that ``.double()`` loses nothing; buffers are made from them
        for length in range(1, image_size):
            if found := _find_period(length, image_size, patch, mode):
                self._periods[length], self._taps[f"taps_{length}"] = found
                self.register_buffer(f"taps_{length}", found[1].to(self.weight), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ResizedPatchStem":
        super()._apply(fn, recurse)
        for name, taps in self._taps.items():  # rounded once, from float64, whatever dtype the module had before
            setattr(self, name, taps.to(self.weight))
        return self

    def forward(self, image: Tensor) -> Tensor:
        """float (B, in_channels, h, w) to (B, out_channels, image_size / patch, image_size / patch)."""
        if image.ndim != 4 or image.shape[1] != self.weight.shape[1]:
            raise ValueError(f"image must be (B, {self.weight.shape[1]}, h, w), got {tuple(image.shape)}")
        height, width = (int(side) for side in image.shape[-2:])
        if height in self._periods and width in self._periods:
            return self._joint(image, height, width)
        return F.conv2d(self.resize(image), self.weight, stride=self.patch)

    def resize(self, image: Tensor) -> Tensor:
        """The first of the two steps on its own: float (B, C, h, w) to (B, C, image_size, image_size)."""
        size = (self.image_size, self.image_size)
        if image.shape[-2:] == size:
            return image
        antialias = self.mode != "nearest" and max(image.shape[-2:]) > self.image_size
        return F.interpolate(image, size, mode=self.mode, antialias=antialias)

    def _joint(self, image: Tensor, height: int, width: int) -> Tensor:
        (step_down, above, below), (step_right, left, right_of) = self._periods[height], self._periods[width]
        down, right = getattr(self, f"taps_{height}"), getattr(self, f"taps_{width}")
        with torch.autocast(image.device.type, enabled=False):  # contract in full precision, round the kernel once
            kernel = torch.einsum("ocij,yiu,xjv->yxocuv", self.weight, down, right).flatten(0, 2)
        padded = F.pad(image, (left, right_of, above, below), mode="replicate")
        out = _convolve(padded, kernel, step_down, step_right)
        # A pixel shuffle with the channels innermost: in channels_last it copies whole runs of them.
        batch, rows, columns, _ = out.shape
        out = out.reshape(batch, rows, columns, len(down), len(right), -1).transpose(2, 3)
        return out.reshape(batch, rows * len(down), columns * len(right), -1).permute(0, 3, 1, 2)


def _convolve(padded: Tensor, kernel: Tensor, down: int, right: int) -> Tensor:
    """``conv2d(padded, kernel, stride=(down, right))`` with the channels last: (B, rows, columns, out_channels).

    Where a window gives more numbers than it holds, copying all windows and one matrix product are faster than a convolution,
    which has no fast way for one input channel (forward and backward of the map's stem at 64 pixels: 52 against 11 ms on one core).
    """
    if len(kernel) < kernel[0].numel():
        return F.conv2d(padded, kernel, stride=(down, right)).permute(0, 2, 3, 1)
    height, width = kernel.shape[-2:]
    windows = padded.unfold(2, height, down).unfold(3, width, right).permute(0, 2, 3, 1, 4, 5)
    return windows.flatten(3) @ kernel.flatten(1).T


def _find_period(length: int, image_size: int, patch: int, mode: str) -> tuple[tuple[int, int, int], Tensor] | None:
    """Along one axis the joint convolution's (stride, padding before, after) and float64 taps; None where two steps serve better."""
    scale = Fraction(image_size, length)
    upscaled = math.lcm(scale.numerator, patch)
    stride = upscaled * scale.denominator // scale.numerator
    if stride > _LARGEST_WINDOW:
        return None
    # Resize unit impulses of an axis three periods and a margin long; the middle period is free of the border.
    margin = 4 * scale.denominator
    sides = 2 * margin + stride, int((2 * margin + stride) * scale)
    impulses = torch.eye(sides[0], dtype=torch.float64)[None, :, :, None]
    resized = F.interpolate(impulses, (sides[1], 1), mode=mode)[0, :, :, 0].T
    start = margin * scale.numerator // scale.denominator
    rows = resized[start : start + upscaled]
    used = rows.abs().sum(0).nonzero().squeeze(1)
    first, last = int(used[0]), int(used[-1])
    if last - first + 1 > _LARGEST_WINDOW:
        return None
    taps = rows[:, first : last + 1].reshape(upscaled // patch, patch, -1).contiguous()
    return (stride, margin - first, last + 1 - margin - stride), taps
