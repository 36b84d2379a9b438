"""The standard network to compare with: ResNet8 (He et al. 2016, option B), written without a look at the gated one.

It shares the stem and the names of its parts with :class:`resattn.ResAttnNet`, so weights move between the two with
``load_state_dict(..., strict=False)``, and nothing else. It may carry one of the attention modules the field knows, as a control.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resattn.config import ATTENTION_MODULES
from resattn.models.stem import ResizedPatchStem, fresh_generator


class ResNet(nn.Module):
    """Basic-block residual network, by default ResNet8: one block in each of three stages (6n + 2 layers with n = 1).

    Args:
        num_classes: length of the score vector.
        widths, depths: channels and blocks of each stage; n = 3, 5, 9 blocks make ResNet20, 32, 56.
        image_size: side the image is resized to inside the stem, in pixels.
        attention: a known attention module in each block: "se" (Hu et al. 2018), "eca" (Wang et al. 2020), "cbam" (Woo et al. 2018).
        generator: source of the initial weights; None means PyTorch's global one.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        widths: Sequence[int] = (16, 32, 64),
        depths: Sequence[int] = (1, 1, 1),
        image_size: int = 224,
        attention: str | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if len(widths) != len(depths) or min(*widths, *depths) < 1:
            raise ValueError(f"widths and depths must be equally long and positive, got {widths} and {depths}")
        generator = generator or fresh_generator()
        patches = ResizedPatchStem(3, widths[0], image_size=image_size)
        self.stem = nn.Sequential(patches, nn.BatchNorm2d(widths[0]), nn.ReLU())
        blocks, channels = [], widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for i in range(depth):
                blocks.append(BasicBlock(channels, width, downsample=stage > 0 and i == 0))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, num_classes)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        if attention is not None:  # last, so that one seed gives all other parts the same weights with and without it
            for block in self.blocks:
                block.attention = attention_module(attention, block.conv2.out_channels, generator)

    def forward(self, image: Tensor, attention: Tensor | None = None) -> Tensor:
        """float (B, 3, h, w), normalized, to class scores (B, num_classes); ignores a map, so it trains like the gated network."""
        features = self.blocks(self.stem(image))
        return self.fc(F.adaptive_avg_pool2d(features, 1).flatten(1))


class BasicBlock(nn.Module):
    """relu(conv-BN-relu-conv-BN + skip); where the shape changes, the skip is a strided 1x1 convolution with BN.

    ``attention`` weighs the convolutions' output, before the sum; none by default.
    """

    def __init__(self, in_channels: int, out_channels: int, downsample: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=2 if downsample else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.attention = nn.Identity()
        self.projection = None
        if downsample:
            convolution = nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False)
            self.projection = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.projection is None else self.projection(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.attention(self.bn2(self.conv2(x))) + skip)


def attention_module(name: str, channels: int, generator: torch.Generator) -> nn.Module:
    """timm's "se", "eca" or "cbam" for that many channels, as timm sets it up, its initial weights too; ``generator`` seeds them."""
    from timm.layers import create_attn  # here, because it takes a second to import

    if name not in ATTENTION_MODULES:
        raise ValueError(f"attention must be None or one of {', '.join(ATTENTION_MODULES)}; got {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return create_attn(name, channels)


resnet8 = ResNet  # what its defaults make
