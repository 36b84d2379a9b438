"""The networks by name: for ``torch.hub.load(repository, "resattn8")``, and after :func:`register` for ``timm.create_model("resnet8")``."""

from typing import Any

from resattn.models.resattn import ResAttnNet
from resattn.models.resnet import ResNet
from resattn.models.resnet import resnet8 as _resnet8

_FROM_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # passed to every network, None unless set


def resattn8(pretrained: bool = False, **options: Any) -> ResAttnNet:
    """ResNet8 with attention-gated skip connections. Call it as ``net(image, attention)``; ``net(image)`` will do at a = 0.

    Args:
        pretrained: must be False; weights trained elsewhere load with ``load_state_dict``, or ``checkpoint_path=`` in timm.
        options: as for :class:`resattn.ResAttnNet`: ``num_classes``, ``a``, ``form``, ``image_size``, ... ``in_chans`` must be 3.

    Raises:
        ValueError: an option is not one of these, or its value is not allowed.
    """
    return _build("resattn8", ResAttnNet, pretrained, options)


def resnet8(pretrained: bool = False, **options: Any) -> ResNet:
    """The standard ResNet8 to compare with; ``options`` as for :func:`resattn.resnet8`, the rest as for :func:`resattn8`."""
    return _build("resnet8", _resnet8, pretrained, options)


def register() -> None:
    """Enter ``resnet8`` into timm's registry, unless it has a network of that name.

    ``resattn8`` stays out: timm's scripts call ``net(image)``, and it needs a map.
    """
    from timm.models import is_model, register_model

    if not is_model("resnet8"):
        register_model(resnet8)


def _build(name: str, network: Any, pretrained: bool, options: dict[str, Any]) -> Any:
    tag = options.get("pretrained_cfg")
    if pretrained or tag:
        remedy = "for small networks trained on the drawn shapes see resattn.models.checkpoints.load_demo"
        raise ValueError(f"pretrained must be False for {name}, not published, got {tag or pretrained!r}; {remedy}")
    options = {key: value for key, value in options.items() if key not in _FROM_TIMM}
    channels = options.pop("in_chans", 3)
    if channels != 3:
        raise ValueError(f"in_chans must be 3 for {name}, got {channels!r}")
    try:
        return network(**options)
    except TypeError as error:
        raise ValueError(f"options of {name} must be those of resattn.{network.__name__}: {error}") from error
