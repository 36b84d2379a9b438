"""Pictures of images, attention maps and masks."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from resattn.plots.style import bare

_MAP = {"cmap": "magma", "vmin": 0, "vmax": 1}


def image_grid(images: Tensor, rows: dict[str, Tensor], overlay: bool = False) -> Figure:
    """Images in the first row, one row of maps below for each entry of ``rows`` (Fig. 4).

    Args:
        images: uint8 (N, 3, H, W).
        rows: float (N, 1, h, w) in [0, 1] by name.
        overlay: draw maps over the darkened grey image instead of on their own.
    """
    n = len(images)
    figure, axes = plt.subplots(1 + len(rows), n, figsize=(1.05 * n + 0.9, 1.05 * (1 + len(rows))), squeeze=False)
    for column, picture in zip(axes.T, images.permute(0, 2, 3, 1).numpy(), strict=True):
        column[0].imshow(picture)
        if overlay:
            for ax in column[1:]:
                ax.imshow(picture.mean(2), cmap="gray", vmin=-100, vmax=400)
    # Over an image, a map is stretched to its edges.
    look = _MAP | ({"alpha": 0.65, "extent": axes[0, 0].images[0].get_extent()} if overlay else {})
    for row, maps in zip(axes[1:], rows.values(), strict=True):
        for ax, one in zip(row, maps, strict=True):
            ax.imshow(one[0].numpy(), **look)
    for i, name in enumerate(["image", *rows]):
        axes[i, 0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    bare(axes)
    figure.subplots_adjust(left=0.9 / figure.get_figwidth(), right=1, bottom=0, top=1, wspace=0.06, hspace=0.06)
    return figure


def heads_figure(images: Tensor, heads: Tensor, aggregated: Tensor, masks: Tensor | None = None) -> Figure:
    """For each image a row: the image, the map of every head, their aggregate (Sec. 5.2), and the true object if known.

    Args:
        images: uint8 (N, 3, H, W).
        heads: float (N, heads, h, w) in [0, 1].
        aggregated: float (N, 1, h, w) in [0, 1].
        masks: float (N, 1, H, W) in [0, 1], or None.
    """
    columns = {f"head {k}": heads[:, k] for k in range(heads.shape[1])} | {"mean": aggregated[:, 0]}
    if masks is not None:
        columns["object"] = masks[:, 0]
    n, width = len(images), len(columns) + 1
    figure, axes = plt.subplots(n, width, figsize=(0.95 * width, 0.98 * n + 0.25), squeeze=False)
    for i in range(n):
        axes[i, 0].imshow(images[i].permute(1, 2, 0).numpy())
        for ax, maps in zip(axes[i, 1:], columns.values(), strict=True):
            ax.imshow(maps[i].numpy(), **_MAP)
    for ax, title in zip(axes[0], ["image", *columns], strict=True):
        ax.set_title(title, fontsize=8)
    bare(axes)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    return figure


def masks_figure(
    image: Tensor, attention: Tensor, masks: Sequence[Tensor], channels: int = 8, first: int = 0
) -> Figure:
    """One image, its attention map, and for each learned mask its mean and its first channels.

    Args:
        image: uint8 (3, H, W).
        attention: float (1, h, w) in [0, 1].
        masks: float (C, H, W) each, in [0, 1].
        channels: how many to show.
        first: index of the first mask; 1 in the residual form.
    """
    size, widths = (0.92 * (channels + 3.5), 1.05 * len(masks)), [1, 1, 0.5] + [1] * (channels + 1)
    figure, axes = plt.subplots(len(masks), channels + 4, figsize=size, width_ratios=widths, squeeze=False)
    axes[0, 0].imshow(image.permute(1, 2, 0).numpy())
    axes[0, 1].imshow(attention[0].numpy(), **_MAP)
    for i, mask in enumerate(masks):
        for ax, panel in zip(axes[i, 3:], [mask.mean(0), *mask[:channels]], strict=True):
            ax.imshow(panel.numpy(), **_MAP)
        axes[i, 2].text(0.5, 0.5, f"$x_a^{{({first + i})}}$", ha="center", va="center", transform=axes[i, 2].transAxes)
        for ax in axes[i, : 2 if i else 0]:
            ax.set_visible(False)
    for ax, title in zip(axes[0], ["image", "map", "", "mean", *(f"ch. {k}" for k in range(channels))], strict=True):
        ax.set_title(title, fontsize=8)
    bare(axes)
    figure.subplots_adjust(wspace=0.06, hspace=0.08)
    return figure
