"""``resnet8`` for timm: after :func:`register`, ``timm.create_model("resnet8")``. For torch.hub see ``hubconf.py``."""

from typing import Any

from resattn.models.resnet import ResNet


def register() -> None:
    """Enter ``resnet8`` into timm's registry, unless it has a network of that name.

    :class:`resattn.ResAttnNet` stays out: timm's scripts call ``net(image)``, and it needs a map.
    """
    from timm.models import is_model, register_model

    if not is_model("resnet8"):
        register_model(resnet8)


def resnet8(pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> ResNet:
    """As timm calls it; ``options`` as for :func:`resattn.resnet8`. ValueError where pretrained weights are asked for."""
    if pretrained or pretrained_cfg:
        raise ValueError(f"pretrained must be False for resnet8, got {pretrained_cfg or pretrained!r}")
    return ResNet(
        **{name: value for name, value in options.items() if name not in ("pretrained_cfg_overlay", "cache_dir")}
    )
