"""What the widgets show, computed for one picture: maps, masks, and how a trained network answers at any strength and form."""

import copy
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resattn.attention.maps import aggregate_heads, border_contrast
from resattn.attention.tiny import tiny_vit
from resattn.attention.vit import cls_attention, load_vit, vit_input
from resattn.attention.vit_s14 import load_vit_s14
from resattn.config import FORMS
from resattn.data.augment import normalize
from resattn.data.datasets import Dataset, channel_stats
from resattn.data.images import in_8_bits
from resattn.models.checkpoints import load_trained, trained_config

SOURCES = ("dino", "dino-tiny", "vit-s14", "saliency")  # of the networks that can be explored
SWEEP = torch.linspace(0, 1, 11)  # the strengths at which probabilities are drawn


@dataclass(frozen=True)
class View:
    """A picture and what is made of it; all maps in [0, 1]."""

    name: str
    pixels: Tensor  # uint8 (3, H, W)
    label: int | None  # index into the data set's classes, if known
    object: Tensor | None  # its true mask, float (1, h, w), if known
    heads: Tensor  # float (heads, h, w)
    average: Tensor  # of the heads, float (h, w)
    saliency: Tensor  # float (h, w)
    attention: Tensor  # the map the network looks through, float (K, h, w)
    masks: dict[str, Tensor]  # those of the form that the network was trained in, by name, float (C, H, W)


class Explorer:
    """A trained network, the ViT it looks through, and a data set to pick images from.

    Args:
        weights: of the network, as for :func:`resattn.models.checkpoints.load_trained`.
        vit: the ViT whose heads are shown, and whose map a network gets that was trained with a ViT's; None: that ViT, else "dino-tiny".

    ``forms`` are those in which the weights can be used; "residual" only where they were trained in it.

    Raises:
        ValueError: the weights cannot be read, or their network has no attention branch or was trained with maps not in ``SOURCES``.
    """

    def __init__(self, data: Dataset, weights: str | Path = "shapes-gated-a1", vit: nn.Module | None = None):
        self.data, self.config = data, trained_config(weights)
        if self.config.model != "resattn" or not self.config.uses_maps or self.config.source not in SOURCES:
            raise ValueError(
                f"weights must be of a network with an attention branch, trained with one of {', '.join(SOURCES)}; "
                f"got model {self.config.model!r} with {self.config.source!r}"
            )
        if vit is None and self.config.source.startswith("dino") and self.config.weights != "pretrained":
            raise ValueError(
                f"vit must be the one that the network was trained with, whose weights are {self.config.weights}"
            )
        self.net = load_trained(weights)
        self.vit = vit or {"dino": load_vit, "vit-s14": load_vit_s14}.get(self.config.source, tiny_vit)()
        self.mean, self.std = channel_stats(data.train.images)
        self.forms = [form for form in FORMS if form != "residual" or self.config.form == "residual"]

    def pick(self, index: int) -> View:
        """Test image ``index``, looked at."""
        test, label = self.data.test, int(self.data.test.labels[index])
        mask = None if test.masks is None else test.masks[index]
        return self.look(test.images[index], f"test image {index}: {self.data.classes[label]}", label, mask)

    @torch.no_grad()
    def look(self, pixels: Tensor, name: str, label: int | None = None, mask: Tensor | None = None) -> View:
        """All maps of a picture, uint8 (3, H, W), and the masks that the attention branch makes of the one it gets."""
        attention, saliency = cls_attention(self.vit, vit_input(self.vit, pixels[None])), border_contrast(pixels[None])
        heads, average = aggregate_heads(attention, "all")[0], aggregate_heads(attention)[0, 0]
        fed = saliency if self.config.source == "saliency" else aggregate_heads(attention, self.config.heads)
        first = int(self.config.form == "residual")
        masks = {f"$x_a^{{({i})}}$": mask[0] for i, mask in enumerate(self.net.masks(fed), first)}
        return View(name, pixels, label, mask, heads, average, saliency[0, 0], fed[0], masks)

    @torch.no_grad()
    def answer(self, view: View, a: float, form: str) -> Tensor:
        """What the network says of a picture at strength ``a`` in [0, 1] in one of its ``forms``, weights unchanged: scores (classes,)."""
        shown, trained = len(self.data.classes), len(self.net.fc.bias)
        if (self.config.dataset, trained) != (self.data.name, shown):
            raise ValueError(
                f"weights must be trained on the data set that is shown, {self.data.name!r} with {shown} classes; "
                f"got ones trained on {self.config.dataset!r} with {trained}"
            )
        net = copy.deepcopy(self.net)
        net.a, net.form = a, form
        return net(normalize(view.pixels[None], self.mean, self.std), view.attention[None])[0]

    def sweep(self, view: View, form: str) -> Tensor:
        """Probabilities at the strengths of ``SWEEP``: float (strengths, classes)."""
        return torch.stack([self.answer(view, float(a), form) for a in SWEEP]).softmax(1)


def read_picture(content: bytes, name: str, size: int = 32) -> Tensor:
    """The centre square of a picture that Pillow reads, as uint8 (3, size, size); transparent parts become white.

    Raises:
        ValueError: it cannot be read, or a side is below ``size``; the message says ``name``.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as file:
            file.draft("RGB", (max(640, size),) * 2)  # large JPEGs are decoded smaller, in a tenth of the time
            picture = in_8_bits(ImageOps.exif_transpose(file)).convert("RGBA")
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more on damaged files
        raise ValueError(f"{name} cannot be read as a picture ({type(error).__name__})") from error
    if min(picture.size) < size:
        given = f"{name} is {picture.width}x{picture.height} pixels"
        raise ValueError(f"{given}; both sides must be at least {size}, what the network gets")
    cut = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    opaque = Image.alpha_composite(Image.new("RGBA", cut.size, "white"), cut).convert("RGB")
    return torch.from_numpy(np.array(opaque)).permute(2, 0, 1)
