"""Networks by their settings: building one with its seed's weights, saving it, and getting a trained one back."""

import json
from pathlib import Path

import torch
from torch import nn

from resattn.baseline import resnet8
from resattn.config import TrainConfig
from resattn.files import atomic_write
from resattn.model import ResAttnNet


def build_model(config: TrainConfig, num_classes: int, attention_channels: int = 1) -> nn.Module:
    """The network of ``config`` with its seed's initial weights, on the CPU."""
    generator = torch.Generator().manual_seed(config.seed)
    options = {"widths": config.widths, "image_size": config.image_size, "generator": generator}
    if config.model != "resattn":
        return resnet8(num_classes, attention=config.model.partition("-")[2] or None, **options)
    return ResAttnNet(num_classes, config.a, config.form, attention_channels=attention_channels, **options)


def save_weights(model: nn.Module, path: Path, config: TrainConfig) -> Path:
    """Write a network's weights as safetensors, with the settings that made them in the metadata."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return atomic_write(path, lambda partial: save_file(tensors, partial, {"config": json.dumps(config.identity())}))


def load_trained(path: Path, num_classes: int, attention_channels: int = 1) -> nn.Module:
    """The network that :func:`save_weights` wrote, in evaluation mode on the CPU.

    Raises:
        ValueError: the file is missing, or not one of these.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads(file.metadata()["config"])
        config = TrainConfig(**{name: value for name, value in settings.items() if value is not None})
        model = build_model(config, num_classes, attention_channels)
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"path must be weights that training wrote, got {path} ({error})") from error
    return model.eval()
