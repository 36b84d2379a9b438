"""What the widgets show, computed for one picture: maps, masks, and how a trained network answers at any strength and form."""

import copy
import io
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resattn.attention.maps import aggregate_heads, attention_maps, border_contrast
from resattn.attention.tiny import tiny_vit
from resattn.attention.vit import cls_attention, load_vit, vit_input
from resattn.config import FORMS
from resattn.data.augment import normalize
from resattn.data.datasets import Dataset, channel_stats
from resattn.models.checkpoints import demo_weights, load_trained, trained_config
from resattn.models.resattn import ResAttnNet, coefficients

SOURCES = ("dino", "dino-tiny", "saliency", "uniform", "center")  # those that need no more than the picture itself
SWEEP = torch.linspace(0, 1, 11)  # the strengths at which probabilities are drawn
_SHOWN = 320  # pixels on a side at most: an uploaded picture as it is shown


@dataclass(frozen=True)
class Picture:
    """One image for the networks and for the eye, and what is known of it."""

    name: str
    pixels: Tensor  # uint8 (3, h, w)
    shown: np.ndarray  # uint8 (H, W, 3)
    label: int | None = None  # index into the data set's classes
    mask: Tensor | None = None  # the true object, float (1, h, w)


@dataclass(frozen=True)
class View:
    """A picture and what is made of it; all maps in [0, 1]."""

    picture: Picture
    heads: Tensor  # float (heads, h, w)
    average: Tensor  # of the heads, float (h, w)
    saliency: Tensor  # float (h, w)
    attention: Tensor  # the map the network looks through, float (K, h, w)
    masks: dict[str, Tensor]  # those of the form that the network was trained in, by name, float (C, H, W)
    sweeps: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a network says, and for each block the mean size over channels of what its mask acts on."""

    a: float
    form: str
    scores: Tensor  # float (classes,)
    probabilities: Tensor
    part: str  # what the mask acts on: "skip" or "feature"
    masked: list[Tensor]  # float (H, W)
    whole: list[Tensor]  # the same without the mask
    passed: list[float]  # the share that passes


class Explorer:
    """A trained network, the ViT it looks through, and a data set to pick images from.

    Args:
        weights: "gated" or "printed" for a network that travels with the package, trained on ``shapes``; or the file of one
            trained here, ``runs/training/<slug>/weights.safetensors``.
        vit: the ViT whose heads are shown, and whose map the network gets if it was trained with a ViT's; None means the one it was
            trained with ("dino-tiny" where that was another source).

    Attributes:
        forms: those in which the weights can be used; "residual" only where they were trained in it.

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
        self.forms = []
        for form in FORMS:
            with suppress(ValueError):
                self._network(self.config.a, form)
                self.forms.append(form)

    def pick(self, index: int) -> Picture:
        """Test image ``index``."""
        test = self.data.test
        label, pixels = int(test.labels[index]), test.images[index]
        mask = None if test.masks is None else test.masks[index]
        name = f"test image {index}: {self.data.classes[label]}"
        return Picture(name, pixels, pixels.permute(1, 2, 0).numpy(), label, mask)

    @torch.no_grad()
    def look(self, picture: Picture) -> View:
        """All maps of a picture, and the masks that the attention branch makes of the one it gets."""
        image, source = picture.pixels[None], self.config.source
        attention, saliency = cls_attention(self.vit, vit_input(self.vit, image)), border_contrast(image)
        heads, average = aggregate_heads(attention, "all")[0], aggregate_heads(attention)[0, 0]
        if source.startswith("dino"):
            fed = aggregate_heads(attention, self.config.heads)
        else:
            fed = saliency if source == "saliency" else attention_maps(image, source)
        masks = self.net.masks(fed)
        first = len(self.net.attention_blocks) + 1 - len(masks)
        named = {f"$x_a^{{({i})}}$": mask[0] for i, mask in enumerate(masks, first)}
        return View(picture, heads, average, saliency[0, 0], fed[0], named)

    @torch.no_grad()
    def answer(self, view: View, a: float, form: str) -> Answer:
        """What the network says of a picture at strength ``a`` in [0, 1] in one of its ``forms``, weights unchanged."""
        net = copy.deepcopy(self._network(a, form))  # its hooks go with it
        part, whole = "feature" if form == "residual" else "skip", []
        for block in net.blocks:
            if part == "feature":
                block.bn2.register_forward_hook(lambda _layer, _inputs, output: whole.append(output[0].abs()))
            else:
                block.conv1.register_forward_pre_hook(lambda _layer, inputs: whole.append(inputs[0][0].abs()))
        scores, used = self._scores(net, view), coefficients(form, net.a)
        if part == "feature":
            fixed, gate = used.feature, used.feature_gate
        else:
            fixed, gate = used.skip * used.open, used.skip * used.gate
        masked = [x * (fixed + gate * mask[0]) for x, mask in zip(whole, net.masks(view.attention[None]), strict=True)]
        passed = [float(rest.sum() / x.sum().clamp_min(1e-12)) for rest, x in zip(masked, whole, strict=True)]
        means = [x.mean(0) for x in masked], [x.mean(0) for x in whole]
        return Answer(net.a, form, scores, scores.softmax(0), part, *means, passed)

    @torch.no_grad()
    def sweep(self, view: View, form: str) -> Tensor:
        """Probabilities at the strengths of ``SWEEP``: float (strengths, classes); computed once a view and form."""
        if form not in view.sweeps:
            scores = [self._scores(self._network(float(a), form), view) for a in SWEEP]
            view.sweeps[form] = torch.stack(scores).softmax(1)
        return view.sweeps[form]

    def _scores(self, net: ResAttnNet, view: View) -> Tensor:
        shown, trained = len(self.data.classes), len(net.fc.bias)
        if (self.config.dataset, trained) != (self.data.name, shown):
            raise ValueError(
                f"weights must be trained on the data set that is shown, {self.data.name!r} with {shown} classes; "
                f"got ones trained on {self.config.dataset!r} with {trained}"
            )
        return net(normalize(view.picture.pixels[None], self.mean, self.std), view.attention[None])[0]

    def _network(self, a: float, form: str) -> ResAttnNet:
        """The network with another strength and form; it shares its weights with ``net``."""
        net = copy.copy(self.net)
        net.a, net.form = a, form
        return net


def read_picture(content: bytes, name: str, size: int = 32) -> Picture:
    """A picture from a file's bytes: its centre square, ``size`` pixels on a side, and a larger copy to look at.

    ``content`` is a PNG, JPEG, or anything else that Pillow reads; transparent parts become white. ``name`` is for messages.

    Raises:
        ValueError: the file cannot be read as a picture, or a side is below ``size``.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as file:
            file.draft("RGB", (2 * _SHOWN, 2 * _SHOWN))  # large JPEGs are decoded smaller, in a tenth of the time
            picture = ImageOps.exif_transpose(file).convert("RGBA")
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more on damaged files
        raise ValueError(f"{name} cannot be read as a picture ({type(error).__name__})") from error
    if min(picture.size) < size:
        given = f"{name} is {picture.width}x{picture.height} pixels"
        raise ValueError(f"{given}; both sides must be at least {size}, what the network gets")

    def square(side: int) -> np.ndarray:
        cut = ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
        return np.asarray(Image.alpha_composite(Image.new("RGBA", cut.size, "white"), cut).convert("RGB"))

    return Picture(name, torch.tensor(square(size)).permute(2, 0, 1), square(min(_SHOWN, *picture.size)))
