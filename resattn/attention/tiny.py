"""The small ViT "dino-tiny" for 32x32 images, and the weights that the package ships for it (Sec. 3.1)."""

from pathlib import Path

import torch
from torch import nn

from resattn.attention.vit import seeded
from resattn.files import load_arrays

PIXEL_MEAN, PIXEL_STD = 0.5, 0.25  # one scale for every data set: the crops' colours are moved about anyway
WEIGHTS = Path(__file__).parent.parent / "weights" / "dino-tiny.safetensors"
RECORD = WEIGHTS.with_suffix(".json")  # recipe, log and figures of the run that made them
VIT_SHAPE = {"image_size": 32, "patch": 4, "dim": 64, "depth": 3, "heads": 1}


def tiny_vit(pretrained: bool = True, *, weights: Path = WEIGHTS, seed: int = 0) -> nn.Module:
    """The small ViT for 32x32 images as a timm VisionTransformer, in evaluation mode, its weights frozen.

    With ``pretrained`` it has the weights and shape in the file ``weights``, which :mod:`resattn.dino.pretrain` wrote, and a
    ValueError says where it did not; else the default shape and random weights, decided by ``seed``.
    """
    arrays, about = (load_arrays(weights) if pretrained else None) or ({}, {})
    if pretrained and "config" not in about:
        given = f"{weights}, which is missing or damaged"
        raise ValueError(f"weights must be a file written by resattn.dino.pretrain, got {given}")
    shape = {name: about["config"][name] for name in VIT_SHAPE} if pretrained else VIT_SHAPE
    vit = seeded(seed, lambda: build_vit(**shape))
    if pretrained:
        vit.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return vit.eval().requires_grad_(False)


def build_vit(image_size: int, patch: int, dim: int, depth: int, heads: int) -> nn.Module:
    """The backbone: timm's VisionTransformer without a classifier, any input size that is a multiple of the patch."""
    from timm.models.vision_transformer import VisionTransformer

    shape = {"img_size": image_size, "patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": heads}
    vit = VisionTransformer(**shape, mlp_ratio=2.0, num_classes=0, dynamic_img_size=True)
    vit.pretrained_cfg = {"mean": (PIXEL_MEAN,) * 3, "std": (PIXEL_STD,) * 3}
    return vit
