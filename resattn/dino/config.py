"""Settings of the self-distillation in :mod:`resattn.dino.pretrain` (Sec. 3.1 and 3.2). Imports nothing heavy."""

import json
from dataclasses import dataclass
from pathlib import Path

from resattn.files import digest
from resattn.settings import check, setting


@dataclass(frozen=True)
class DinoConfig:
    """Settings of one pretraining run; the defaults made ``dino-tiny``.

    Attributes:
        dataset: "shapes", "cifar10", "cifar100", or a folder with train/ and test/, resized to ``image_size``.
        root: where data sets live; None means ``data/``.
        drawn: for "shapes", how many images to draw for training (with seeds the data set does not use), because 6,000 are
            few; 0 trains on the data set's own.
        epochs: passes over the training images that the schedules are laid out for.
        stop_after: end after this many of them, or None. Three, because the focus on the object, watched on the validation
            part, fell from the fourth on: with the object told apart, the [CLS] token goes on to learn what surrounds it.
        batch_size: images a step, of which the student sees two crops each.
        seed: decides weights, order, crops, the validation part and the drawn images.
        device: "cpu", "cuda", "cuda:1", ...; None means CUDA if present, else the CPU.
        image_size: side of the ViT's input, in pixels.
        patch: side of its patches, in pixels.
        dim: its width.
        depth: its number of blocks.
        heads: of the ViT. One, because several share the work, and in most trials their mean (Sec. 5.2) found the object less often;
            not in all: dino-tiny-4heads finds it slightly more often than dino-tiny.
        prototypes: how many, K in Eq. 2. A batch should hold about K crops.
        lr: peak learning rate of AdamW, reached linearly and left along a cosine.
        momentum: first and last value of the teacher's: one that follows fast follows into the uniform distribution.
        global_size: pixels of the two crops. There are no smaller ones for the student alone: a small crop often misses the
            object, so its background is all it can share with a large one.
    """

    dataset: str = "shapes"
    root: str | None = None
    drawn: int = setting(10_000, low=0)
    epochs: int = setting(10, low=1)
    stop_after: int | None = setting(3, low=1)
    batch_size: int = setting(64, low=1)
    seed: int = setting(0, low=0, high=2**63 - 1)
    device: str | None = None
    image_size: int = setting(32, low=1)
    patch: int = setting(4, low=1)
    dim: int = setting(64, low=1)
    depth: int = setting(3, low=1)
    heads: int = setting(1, low=1)
    prototypes: int = setting(64, low=1)
    lr: float = setting(1e-3, above=0)
    momentum: tuple[float, float] = setting((0.997, 1.0), above=0, high=1)
    global_size: int = setting(24, low=1)

    def __post_init__(self) -> None:
        check(self)
        for name, of in {"image_size": "patch", "global_size": "patch", "dim": "heads"}.items():
            if getattr(self, name) % getattr(self, of):
                raise ValueError(f"{name} must be a multiple of {of}={getattr(self, of)}, got {getattr(self, name)}")

    @property
    def vit(self) -> dict[str, int]:
        """The shape of the ViT, as :func:`resattn.attention.tiny.build_vit` takes it."""
        return {name: getattr(self, name) for name in ("image_size", "patch", "dim", "depth", "heads")}

    def identity(self) -> dict:
        """What decides the result, as a record stores it: no path and no device."""
        values = vars(self) | {"dataset": Path(self.dataset).name}
        return {name: value for name, value in values.items() if name not in ("root", "device")}

    @property
    def slug(self) -> str:
        """A folder name that tells runs apart."""
        return f"{Path(self.dataset).name}-seed{self.seed}-{digest(json.dumps(self.identity()))[:8]}"
