"""The network of Sec. 3.3-3.5: a classification branch whose residual connections are gated by an attention branch.

Three readings of one paper. ``form="printed"`` is Eq. 3-4 to the letter; ``form="gated"`` is what the text of Sec. 3.5 says of
them; ``form="residual"`` masks what the title, the abstract and Sec. 3.4 call the residual, with Eq. 4's index i.
With f_i the convolutions of block i, P_i the projection where the shape changes (else the identity), m_i the masks:

    printed   x_i = relu((1 + a) f_i(x_{i-1}) + a P_i(x_{i-1} * m_{i-1}))              a plain net without skips at a = 0
    gated     x_i = relu(f_i(x_{i-1}) + P_i(x_{i-1} * (1 - a + a m_{i-1})))            a standard ResNet at a = 0
    residual  x_i = relu(f_i(x_{i-1}) * (1 - a + a m_i) + P_i(x_{i-1}))                a standard ResNet at a = 0

Two more forms are controls, to tell what in the printed equation does the work. They look at no map:

    scaled    x_i = relu((1 + a) f_i(x_{i-1}))                                        its factor alone
    unmasked  x_i = relu((1 + a) f_i(x_{i-1}) + a P_i(x_{i-1}))                       its factor and skip, every mask 1
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resattn.config import CONTROL_FORMS, FORMS
from resattn.models.branch import attention_block, chain_masks, check_maps, initialize
from resattn.models.stem import ResizedPatchStem, fresh_generator
from resattn.settings import check_choice, checked


class Coefficients(NamedTuple):
    """x_i = relu(f_i * (feature + feature_gate m_i) + skip P_i(x_{i-1} * (open + gate m_{i-1})))."""

    feature: float
    feature_gate: float
    skip: float
    open: float
    gate: float


def coefficients(form: str, a: float) -> Coefficients:
    """What a form makes of the strength ``a``: one line for each equation above."""
    return {
        #                        feature  feature_gate  skip  open   gate
        "printed": Coefficients(1 + a, 0, a, 0, 1),
        "gated": Coefficients(1, 0, 1, 1 - a, a),
        "residual": Coefficients(1 - a, a, 1, 1, 0),
        "scaled": Coefficients(1 + a, 0, 0, 1, 0),
        "unmasked": Coefficients(1 + a, 0, a, 1, 0),
    }[form]


class Strength:
    """``a``, the strength of the mask in [0, 1], as a property that checks what it is set to."""

    @property
    def a(self) -> float:
        """Strength of the mask, in [0, 1]."""
        return self._a

    @a.setter
    def a(self, value: float) -> None:
        self._a = checked("a", value, float, low=0, high=1)


class ResAttnNet(Strength, nn.Module):
    """ResNet with attention-gated skip connections; ResNet8 by default (Sec. 3.5, Fig. 3).

    Args:
        num_classes: length of the score vector.
        a: strength of the mask, in [0, 1]; may be changed later, the weights do not depend on it.
        form: "printed", "gated" or "residual", or a control, which leaves the attention branch unused; see the module's docstring.
            May be changed later, but to "residual" only where the network was built with it: it alone has the last attention block.
        widths, depths: channels and blocks of each stage; the first keeps the resolution, each later one halves it.
        image_size: side the image and the map are resized to inside the stems, in pixels; a multiple of 4.
        attention_channels: channels K of the attention map.
        generator: source of the initial weights; None means PyTorch's global one. One seed gives the classification branch the
            same weights for every ``a`` and ``form``, and in :func:`resnet8`.

    ValueError where an argument is not as described.
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
        if not widths or len(widths) != len(depths) or min(*widths, *depths) < 1:
            raise ValueError(f"widths and depths must be equally long and positive, got {widths} and {depths}")
        if num_classes < 2 or attention_channels < 1:
            given = f"{num_classes} and {attention_channels}"
            raise ValueError(f"num_classes must be at least 2 and attention_channels at least 1, got {given}")
        self.a = a
        generator = generator or fresh_generator()
        patches = ResizedPatchStem(3, widths[0], image_size=image_size)
        self.stem = nn.Sequential(patches, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        shapes = [  # (in_channels, out_channels, stride) of every block
            (width if i else before, width, 2 if stage and not i else 1)
            for stage, (before, width, depth) in enumerate(zip((widths[0], *widths), widths, depths, strict=False))
            for i in range(depth)
        ]
        self.blocks = nn.ModuleList(ClassificationBlock(*shape) for shape in shapes)
        self.fc = nn.Linear(widths[-1], num_classes)
        patches = ResizedPatchStem(attention_channels, widths[0], image_size=image_size)
        self.attention_stem = nn.Sequential(patches, nn.BatchNorm2d(widths[0]), nn.Sigmoid())
        masked = shapes if form == "residual" else shapes[:-1]  # only that form looks at the last block's mask
        self.attention_blocks = nn.ModuleList(attention_block(*shape) for shape in masked)
        self.form = form
        for branch in (self.stem, self.blocks, self.fc, self.attention_stem, self.attention_blocks):
            initialize(branch, generator)

    @property
    def form(self) -> str:
        """The reading of Eq. 3-4."""
        return self._form

    @form.setter
    def form(self, value: str) -> None:
        check_choice("form", value, FORMS + CONTROL_FORMS)
        if value == "residual" and len(self.attention_blocks) < len(self.blocks):
            raise ValueError("form must not become 'residual' in a network that was built without it")
        self._form = value

    def forward(self, image: Tensor, attention: Tensor | None = None) -> Tensor:
        """Normalized images, float (B, 3, h, w), and maps, float (B, K, h', w') in [0, 1], to class scores (B, num_classes).

        Any sizes: the stems resize. No map is needed where no mask is used, at a = 0 and in the controls.
        """
        used = coefficients(self._form, self._a)
        masks = self.masks(attention) if needs_masks(image, attention, used) else [None] * len(self.blocks)
        x = self.stem(image)
        for block, mask in zip(self.blocks, masks, strict=True):
            x = block(x, mask, used)
        return self.fc(x.mean((2, 3)))

    def masks(self, attention: Tensor) -> list[Tensor]:
        """The masks that gate block 1, 2, ...: each float (B, C, H, W) in [0, 1], for maps (B, K, h', w') in [0, 1].

        x_a(0), x_a(1), ... on the skips, or in the residual form x_a(1), x_a(2), ... on the convolutions' output.
        """
        check_maps(attention, self.attention_stem[0].weight.shape[1])
        return chain_masks(self.attention_stem(attention), self.attention_blocks, self._form, len(self.blocks))


class ClassificationBlock(nn.Module):
    """One block of the classification branch: f_i, the skip, and their gated sum (Eq. 3-4)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.projection = nn.Identity()
        if in_channels != out_channels or stride != 1:
            convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.projection = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor, mask: Tensor | None, used: Coefficients) -> Tensor:
        """float (B, C, H, W) to (B, C', H / stride, W / stride); the mask has the shape of what it gates, None where unused."""
        # Batch normalization does not need its output again, so what follows may be made in its place.
        feature = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        feature = apply_gate(feature, mask, used.feature, used.feature_gate)
        if used.skip:
            feature = feature.add_(self.projection(apply_gate(x, mask, used.open, used.gate)), alpha=used.skip)
        return feature.relu_()


def apply_gate(x: Tensor, mask: Tensor | None, open: float, gate: float) -> Tensor:
    """``x * (open + gate * mask)``, without the products by one and the sums with zero; by a number alone in place."""
    if not gate:
        return x if open == 1 else x.mul_(open)
    if not open:
        return x * (mask if gate == 1 else gate * mask)
    return x * (open + gate * mask)


def needs_masks(image: Tensor, attention: Tensor | None, used: Coefficients) -> bool:
    """Whether masks gate anything; ValueError where they do and there is no map, or not one map an image."""
    if attention is not None and len(attention) != len(image):
        raise ValueError(f"attention must hold one map an image: got {len(attention)} maps for {len(image)} images")
    needed = bool(used.feature_gate or (used.skip and used.gate))
    if needed and attention is None:
        raise ValueError("attention must be given where a > 0")
    return needed
