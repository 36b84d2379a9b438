"""Residual connections gated by self-supervised attention: the reference implementation of "Refining Residual Mappings
Using Regions of High Attention". Names are imported on first use, so that ``import resattn`` and ``--help`` take no time."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resattn.attention.maps import attention_maps as attention_maps
    from resattn.config import ATTENTION_SOURCES as ATTENTION_SOURCES
    from resattn.config import TrainConfig as TrainConfig
    from resattn.data.datasets import load_dataset as load_dataset
    from resattn.data.datasets import stratified_split as stratified_split
    from resattn.models.resattn import ResAttnNet as ResAttnNet
    from resattn.models.resnet import resnet8 as resnet8
    from resattn.models.stem import ResizedPatchStem as ResizedPatchStem
    from resattn.models.timm_resnet import gate_residuals as gate_residuals
    from resattn.training.trainer import train as train

__version__ = "0.2.0"

_HOMES = {
    "ResAttnNet": "models.resattn",
    "gate_residuals": "models.timm_resnet",
    "resnet8": "models.resnet",
    "ResizedPatchStem": "models.stem",
    "attention_maps": "attention.maps",
    "ATTENTION_SOURCES": "config",
    "load_dataset": "data.datasets",
    "stratified_split": "data.datasets",
    "TrainConfig": "config",
    "train": "training.trainer",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'resattn' has no attribute {name!r}")
    return getattr(importlib.import_module(f"resattn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
