"""Networks by their settings: building one with its seed's weights, saving it, and getting a trained one back."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from resattn.attention.vit import seeded
from resattn.config import LEARNED, TIMM_MODELS, TrainConfig
from resattn.files import atomic_write
from resattn.models.learned import LearnedMap
from resattn.models.resattn import ResAttnNet
from resattn.models.resnet import resnet8

_WEIGHTS = Path(__file__).parent.parent / "weights"


def build_model(
    config: TrainConfig,
    num_classes: int,
    attention_channels: int = 1,
    channel_stats: tuple[Tensor, Tensor] = (torch.zeros(3), torch.ones(3)),
) -> nn.Module:
    """The network of ``config`` with its seed's initial weights, on the CPU.

    ``channel_stats`` are the mean and standard deviation that images are normalized by, for a ViT inside the network.
    """
    if config.uses_maps and config.source == LEARNED:
        net = build_model(dataclasses.replace(config, source="uniform"), num_classes)
        return LearnedMap(net, config.weights, config.seed, *channel_stats)
    generator = torch.Generator().manual_seed(config.seed)
    options = {"image_size": config.image_size, "generator": generator}
    if config.model in TIMM_MODELS:
        import timm

        from resattn.models.timm_resnet import gate_residuals

        net = seeded(config.seed, lambda: timm.create_model(config.model, num_classes=num_classes))
        return gate_residuals(net, config.a, config.form, attention_channels, **options)
    options |= {"widths": config.widths, "depths": config.depths}
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator before ours sets their weights
        if config.model != "resattn":
            return resnet8(num_classes, attention=config.model.partition("-")[2] or None, **options)
        return ResAttnNet(num_classes, config.a, config.form, attention_channels=attention_channels, **options)


def save_weights(model: nn.Module, path: Path, config: TrainConfig) -> Path:
    """Write a network's weights as safetensors, with the settings that made them in the metadata."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return atomic_write(path, lambda partial: save_file(tensors, partial, {"config": json.dumps(config.identity())}))


def load_trained(path: str | Path, num_classes: int | None = None, attention_channels: int | None = None) -> nn.Module:
    """The network that :func:`save_weights` wrote, in evaluation mode on the CPU.

    Args:
        path: the file, such as ``runs/training/<slug>/weights.safetensors``; or the name of a network that is part of the package, such as
            "shapes-gated-a1" (``weights/README.md`` lists them).
        num_classes, attention_channels: what the file must fit; None takes the file's own.

    Raises:
        ValueError: the file is missing, not one of these, or made for other numbers than the ones given.
    """
    config = trained_config(path)
    try:
        weights = load_file(weights_file(path))
        inside = "net." if config.uses_maps and config.source == LEARNED else ""
        num_classes = num_classes or len(weights[f"{inside}fc.bias"])
        if attention_channels is None:
            attention_channels = weights[f"{inside}attention_stem.0.weight"].shape[1] if config.has_form else 1
        model = build_model(config, num_classes, attention_channels)
        model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise _not_trained(path, error) from error
    return model.eval()


def trained_config(path: str | Path) -> TrainConfig:
    """The settings that made the weights in ``path``; ValueError as for :func:`load_trained`."""
    try:
        with safe_open(weights_file(path), framework="pt") as file:
            settings = json.loads(file.metadata()["config"])
        return TrainConfig(**{name: value for name, value in settings.items() if value is not None})
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise _not_trained(path, error) from error


def weights_file(path: str | Path) -> Path:
    """The file that :func:`load_trained` reads."""
    packaged = _WEIGHTS / f"{path}.safetensors"
    return packaged if packaged.is_file() else Path(path)


def _not_trained(path: str | Path, error: Exception) -> ValueError:
    names = ", ".join(sorted(file.stem for file in _WEIGHTS.glob("*.safetensors") if not file.stem.startswith("dino")))
    return ValueError(f"path must be weights that training wrote, or one of {names}; got {path} ({error})")
