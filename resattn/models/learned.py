"""Maps learned end to end (Sec. 6): a small ViT inside the network, trained by the classifier's loss alone."""

from typing import Any

import torch
from torch import Tensor, nn

from resattn.attention.tiny import tiny_vit
from resattn.attention.vit import attend, vit_input
from resattn.data.augment import normalize
from resattn.settings import check_choice

_LR_SCALE = 0.1  # of the ViT: at the classifier's own learning rate its map left the object within two epochs, from either start


class LearnedMap(nn.Module):
    """A network that takes an image and a map, and a ViT that makes the map from the image.

    Args:
        net: such as :class:`resattn.ResAttnNet` with one attention channel, or what :func:`resattn.gate_residuals` returns.
        start: where the ViT starts: "dino-tiny", the weights in the package, or "random".
        seed: decides the random weights.
        mean, std: float (3,), what images are normalized by before they come here.
    """

    def __init__(self, net: nn.Module, start: str, seed: int, mean: Tensor, std: Tensor):
        super().__init__()
        check_choice("start", start, ("dino-tiny", "random"))
        self.net = net
        self.vit = tiny_vit(start == "dino-tiny", seed=seed).requires_grad_(True)
        self.register_buffer("mean", mean.clone()[:, None, None])
        self.register_buffer("std", std.clone()[:, None, None])

    def forward(self, image: Tensor, attention: Tensor | None = None) -> Tensor:
        """float (B, 3, H, W), normalized, to class scores; an ``attention`` from outside is not looked at."""
        return self.net(image, self.map(image))

    def map(self, image: Tensor) -> Tensor:
        """The [CLS] attention for normalized images (B, 3, H, W), mean of heads, over its peak: float (B, 1, h, w) in (0, 1].

        Not stretched to span [0, 1] as finished maps are: a ViT without a preference gives ones, the uniform map.
        """
        pixels = image * self.std + self.mean
        attention = attend(self.vit, vit_input(self.vit, pixels)).mean(1, keepdim=True)
        return attention / attention.amax((2, 3), keepdim=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For an optimizer: the classifier's, then the ViT's, which take smaller steps."""
        return [{"params": self.net.parameters()}, {"params": self.vit.parameters(), "lr_scale": _LR_SCALE}]


@torch.no_grad()
def learned_maps(net: LearnedMap, images: Tensor) -> Tensor:
    """The network's maps of uint8 images (N, 3, H, W): float (N, 1, h, w), as :func:`resattn.attention.maps.object_focus` takes them."""
    mean, std = net.mean.flatten(), net.std.flatten()
    return torch.cat([net.map(normalize(part.to(mean.device), mean, std)).cpu() for part in images.split(500)])
