"""What the widgets show, computed for one picture: maps, masks, and how a trained network answers at any strength and form."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resattn.attention.maps import aggregate_heads, attention_maps, border_contrast
from resattn.attention.tiny import tiny_vit
from resattn.attention.vit import cls_attention, load_vit, vit_input
from resattn.data.augment import normalize
from resattn.data.datasets import Dataset, channel_stats
from resattn.models.checkpoints import demo_weights, load_trained, trained_config
from resattn.models.resattn import check_strength, coefficients

SOURCES = ("dino", "dino-tiny", "saliency", "uniform", "center")  # those that need no more than the picture itself
FORMS = ("printed", "gated")  # one network's weights serve both
SWEEP = torch.linspace(0, 1, 11)  # the strengths at which probabilities are drawn
_SHOWN = 320  # pixels on a side at most: an uploaded picture as it is shown


@dataclass(frozen=True)
class Picture:
    """One image: ``pixels`` uint8 (3, h, w) for the networks, ``shown`` uint8 (H, W, 3) for the eye, and what is known of it.

    ``label`` is an index into the data set's classes or None; ``mask`` the true object, float (1, h, w), or None.
    """

    name: str
    pixels: Tensor
    shown: np.ndarray
    label: int | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class View:
    """A picture and what is made of it: ``heads`` float (heads, h, w), ``average`` of the heads and ``saliency`` float (h, w),
    ``attention`` float (K, h, w), the map the network looks through; all in [0, 1]. ``masks``: x_a(0), x_a(1), ..., (C, H, W)."""

    picture: Picture
    heads: Tensor
    average: Tensor
    saliency: Tensor
    attention: Tensor
    masks: list[Tensor]
    sweeps: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a network says: ``scores`` and ``probabilities`` float (classes,); for each block, the mean over channels of the gated
    skip (``skips``) and of the skip without a gate (``features``), float (H, W), and the share of it that passes (``passed``)."""

    a: float
    form: str
    scores: Tensor
    probabilities: Tensor
    skips: list[Tensor]
    features: list[Tensor]
    passed: list[float]


class Explorer:
    """A trained network, the ViT it looks through, and a data set to pick images from.

    Args:
        data: the data set.
        weights: "gated" or "printed" for a network that travels with the package, trained on ``shapes``; or the file of one
            trained here, ``runs/training/<slug>/weights.safetensors``.
        vit: the ViT whose heads are shown, and whose map the network gets if it was trained with a ViT's; None means the one it was
            trained with ("dino-tiny" where that was another source).

    Raises:
        ValueError: the weights cannot be read, are those of the baseline, or of a network whose map needs more than the picture.
    """

    def __init__(self, data: Dataset, weights: str | Path = "gated", vit: nn.Module | None = None):
        path = demo_weights(str(weights)) if weights in FORMS else Path(weights)
        self.data, self.config = data, trained_config(path)
        if self.config.model != "resattn" or self.config.source not in SOURCES:
            raise ValueError(
                f"weights must be of a network with an attention branch, trained with one of {', '.join(SOURCES)}; "
                f"got model {self.config.model!r} with {self.config.source!r}"
            )
        self.net = load_trained(path)
        self.vit = vit or (load_vit() if self.config.source == "dino" else tiny_vit())
        self.mean, self.std = channel_stats(data.train.images)

    def pick(self, index: int) -> Picture:
        """Test image ``index``."""
        test = self.data.test
        label = int(test.labels[index])
        return Picture(
            f"test image {index}: {self.data.classes[label]}",
            test.images[index],
            test.images[index].permute(1, 2, 0).numpy(),
            label,
            None if test.masks is None else test.masks[index],
        )

    def read(self, content: bytes, name: str) -> Picture:
        """An uploaded file as a picture of the data set's image size; errors as for :func:`read_picture`."""
        height, width = self.data.test.images.shape[-2:]
        return read_picture(content, name, min(height, width))

    @torch.no_grad()
    def look(self, picture: Picture) -> View:
        """All maps of a picture, and the masks that the attention branch makes of the one it gets."""
        image = picture.pixels[None]
        attention = cls_attention(self.vit, vit_input(self.vit, image))
        if self.config.source.startswith("dino"):
            fed = aggregate_heads(attention, self.config.heads)
        else:
            fed = (
                border_contrast(image)
                if self.config.source == "saliency"
                else attention_maps(image, self.config.source)
            )
        every, average = aggregate_heads(attention, "all")[0], aggregate_heads(attention)[0, 0]
        masks = [mask[0] for mask in self.net.masks(fed)]
        return View(picture, every, average, border_contrast(image)[0, 0], fed[0], masks)

    @torch.no_grad()
    def answer(self, view: View, a: float, form: str) -> Answer:
        """What the network says of a picture at strength ``a`` in [0, 1] in the ``form`` "printed" or "gated", weights unchanged."""
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}")
        a = check_strength(a)
        self._check_classes()
        x = self.net.stem(normalize(view.picture.pixels[None], self.mean, self.std))
        skips, features, passed = [], [], []
        used = coefficients(form, a)
        for block, mask in zip(self.net.blocks, view.masks, strict=True):
            gated = x * (a * mask if form == "printed" else 1 - a + a * mask)
            skips.append(gated[0].mean(0))
            features.append(x[0].mean(0))
            passed.append(float(gated.sum() / x.sum().clamp_min(1e-12)))
            x = block(x, mask[None], used)
        scores = self.net.fc(x.mean((2, 3)))[0]
        return Answer(a, form, scores, scores.softmax(0), skips, features, passed)

    def sweep(self, view: View, form: str) -> Tensor:
        """Probabilities at the strengths of ``SWEEP``: float (strengths, classes); computed once a view and form."""
        if form not in view.sweeps:
            view.sweeps[form] = torch.stack([self.answer(view, float(a), form).probabilities for a in SWEEP])
        return view.sweeps[form]

    def _check_classes(self) -> None:
        if self.config.dataset != self.data.name or len(self.net.fc.bias) != len(self.data.classes):
            raise ValueError(
                f"weights must be trained on the data set that is shown, {self.data.name!r} with {len(self.data.classes)} classes; "
                f"got ones trained on {self.config.dataset!r} with {len(self.net.fc.bias)}"
            )


def read_picture(content: bytes, name: str, size: int = 32) -> Picture:
    """A picture from a file's bytes: its centre square, ``size`` pixels on a side, and a larger copy to look at.

    Args:
        content: the bytes of a PNG, JPEG, or anything else that Pillow reads; transparent parts become white.
        name: the file's name, for messages.
        size: pixels on a side, in the data set's way; the picture must not be smaller.

    Raises:
        ValueError: the file cannot be read as a picture, or is too small.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as file:
            file.draft(
                "RGB", (2 * _SHOWN, 2 * _SHOWN)
            )  # large JPEGs are decoded smaller, which takes a tenth of the time
            picture = ImageOps.exif_transpose(file).convert("RGBA")
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more on damaged files
        raise ValueError(f"{name} cannot be read as a picture ({type(error).__name__})") from error
    if min(picture.size) < size:
        raise ValueError(
            f"{name} is {picture.width}x{picture.height} pixels; both sides must be at least {size}, what the network gets"
        )

    def square(side: int) -> np.ndarray:
        cut = ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
        return np.asarray(Image.alpha_composite(Image.new("RGBA", cut.size, "white"), cut).convert("RGB"))

    return Picture(name, torch.from_numpy(square(size).transpose(2, 0, 1).copy()), square(min(_SHOWN, *picture.size)))
