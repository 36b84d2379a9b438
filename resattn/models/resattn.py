"""The network of Sec. 3.3-3.5: a classification branch whose skip connections are gated by an attention branch.

Two readings of one paper. ``form="printed"`` is Eq. 3-4 to the letter; ``form="gated"`` is what the text around them says.
With f_i the convolutions of block i, P_i the projection where the shape changes (else the identity), m the masks:

    printed   x_i = relu((1 + a) f_i(x_{i-1}) + a P_i(x_{i-1} * m_{i-1}))              a plain net without skips at a = 0
    gated     x_i = relu(f_i(x_{i-1}) + P_i(x_{i-1} * (1 - a + a m_{i-1})))            a standard ResNet at a = 0

Two more forms are controls, to tell what in the printed equation does the work. They look at no map:

    scaled    x_i = relu((1 + a) f_i(x_{i-1}))                                        its factor alone
    unmasked  x_i = relu((1 + a) f_i(x_{i-1}) + a P_i(x_{i-1}))                       its factor and skip, every mask 1
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from resattn.config import CONTROL_FORMS, FORMS
from resattn.models.stem import ResizedPatchStem, fresh_generator


class ResAttnNet(nn.Module):
    """ResNet with attention-gated skip connections; ResNet8 by default (Sec. 3.5, Fig. 3).

    Args:
        num_classes: length of the score vector.
        a: strength of the mask, in [0, 1]; may be changed later (``net.a = 0.5``), the weights do not depend on it.
        form: "printed" (Eq. 3-4) or "gated" (the text), or a control, "scaled" or "unmasked", which leaves the attention branch
            unused; see the module's docstring.
        widths: channels of each stage; the first stage keeps the resolution, each later one halves it.
        depths: blocks in each stage.
        image_size: side the image and the map are resized to inside the stems, in pixels; a multiple of 4.
        attention_channels: channels K of the attention map.
        generator: source of the initial weights; None means PyTorch's global one. One seed gives the classification branch the
            same weights here, for every ``a`` and ``form``, and in :func:`resnet8`.

    Raises:
        ValueError: an argument is not as described.
    """

    def __init__(
        self,
        num_classes: int = 10,
        a: float = 0.5,
        form: str = "printed",
        *,
        widths: Sequence[int] = (16, 32, 64),
        depths: Sequence[int] = (1, 1, 1),
        image_size: int = 224,
        attention_channels: int = 1,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if form not in FORMS + CONTROL_FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS + CONTROL_FORMS)}; got {form!r}")
        if not widths or len(widths) != len(depths) or min(*widths, *depths) < 1:
            raise ValueError(f"widths and depths must be equally long and positive, got {widths} and {depths}")
        if num_classes < 2 or attention_channels < 1:
            raise ValueError(
                f"num_classes must be at least 2 and attention_channels at least 1, got {num_classes} and {attention_channels}"
            )
        self.a, self.form = a, form
        generator = generator or fresh_generator()
        self.stem = nn.Sequential(
            ResizedPatchStem(3, widths[0], image_size=image_size), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.blocks = nn.ModuleList(ClassificationBlock(*shape) for shape in _block_shapes(widths, depths))
        self.fc = nn.Linear(widths[-1], num_classes)
        self.attention_stem = nn.Sequential(
            ResizedPatchStem(attention_channels, widths[0], image_size=image_size),
            nn.BatchNorm2d(widths[0]),
            nn.Sigmoid(),
        )
        # The last block's mask would gate nothing, so it is not built.
        self.attention_blocks = nn.ModuleList(
            attention_block(*shape) for shape in list(_block_shapes(widths, depths))[:-1]
        )
        for branch in (self.stem, self.blocks, self.fc, self.attention_stem, self.attention_blocks):
            initialise(branch, generator)

    @property
    def a(self) -> float:
        """Strength of the mask, in [0, 1]."""
        return self._a

    @a.setter
    def a(self, value: float) -> None:
        self._a = check_strength(value)

    def forward(self, image: Tensor, attention: Tensor | None = None) -> Tensor:
        """Class scores.

        Args:
            image: float (B, 3, h, w), normalised; any h, w (the stem resizes).
            attention: float (B, K, h', w') in [0, 1]; any h', w'. May be None where no mask is used: at a = 0 and in the controls.

        Returns:
            float (B, num_classes).
        """
        masks = self._masks_for(image, attention)
        x = self.stem(image)
        for block, mask in zip(self.blocks, masks, strict=True):
            x = block(x, mask, self._a, self.form)
        return self.fc(x.mean((2, 3)))

    def masks(self, attention: Tensor) -> list[Tensor]:
        """The masks x_a(0), x_a(1), ... that gate the skip of block 1, 2, ...: each float (B, C, H, W) in [0, 1].

        Args:
            attention: float (B, K, h', w') in [0, 1].
        """
        channels = self.attention_stem[0].weight.shape[1]
        if attention.ndim != 4 or attention.shape[1] != channels:
            raise ValueError(f"attention must be (B, {channels}, h, w), got {tuple(attention.shape)}")
        mask = self.attention_stem(attention)
        masks = [mask]
        for block in self.attention_blocks:
            mask = block(mask)
            masks.append(mask)
        return masks

    def _masks_for(self, image: Tensor, attention: Tensor | None) -> list[Tensor | None]:
        if attention is not None and len(attention) != len(image):
            raise ValueError(f"attention must hold one map an image: got {len(attention)} maps for {len(image)} images")
        if self._a == 0 or self.form in CONTROL_FORMS:
            return [None] * len(self.blocks)
        if attention is None:
            raise ValueError(f"attention must be given where a > 0 (a = {self._a})")
        return self.masks(attention)


class ClassificationBlock(nn.Module):
    """One block of the classification branch: f_i, the gated skip, and their sum (Eq. 3-4)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.projection = _projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor, mask: Tensor | None, a: float, form: str) -> Tensor:
        """float (B, C, H, W) and its mask of the same shape (None where unused) to (B, C', H / stride, W / stride)."""
        feature = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        # Batch normalisation does not need its output again, so the sum may be made in its place.
        if form == "gated":
            feature = feature.add_(self.projection(x if a == 0 else x * (mask if a == 1 else 1 - a + a * mask)))
        elif a > 0:
            feature = feature.mul_(1 + a)
            if form != "scaled":
                feature = feature.add_(self.projection(x if form == "unmasked" else x * mask), alpha=a)
        return feature.relu_()


def attention_block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """One block of the attention branch: two convolutions, then a sigmoid; strides as the classification block's (Fig. 2)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.Sigmoid(),
    )


def initialise(branch: nn.Module, generator: torch.Generator | None = None) -> None:
    """Kaiming normal weights (Sec. 5.1), zero biases, and batch normalisations at the identity, in the order of definition."""
    for module in branch.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, ResizedPatchStem)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        if isinstance(module, (nn.Linear, nn.BatchNorm2d)):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def check_strength(a: float) -> float:
    """``a`` as a float; ValueError unless it is a number in [0, 1]."""
    if isinstance(a, bool) or not isinstance(a, (int, float)) or not (math.isfinite(a) and 0 <= a <= 1):
        raise ValueError(f"a must be a number in [0, 1], got {a!r}")
    return float(a)


def _block_shapes(widths: Sequence[int], depths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(in_channels, out_channels, stride) of every block."""
    channels = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for i in range(depth):
            yield channels, width, 2 if stage and not i else 1
            channels = width


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
