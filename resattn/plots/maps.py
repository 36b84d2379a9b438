"""Pictures of images, attention maps and masks."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from resattn.plots.style import bare


def image_grid(images: Tensor, rows: dict[str, Tensor], overlay: bool = False) -> Figure:
    """Images in the first row, one row of maps below for each entry of ``rows`` (Fig. 4).

    Args:
        images: uint8 (N, 3, H, W).
        rows: float (N, 1, h, w) in [0, 1] by name.
        overlay: draw maps over the darkened grey image instead of on their own.
    """
    n = len(images)
    figure, axes = plt.subplots(1 + len(rows), n, figsize=(1.05 * n + 0.9, 1.05 * (1 + len(rows))), squeeze=False)
    pictures = images.permute(0, 2, 3, 1).numpy()
    for j in range(n):
        axes[0, j].imshow(pictures[j])
        for i, maps in enumerate(rows.values(), 1):
            if overlay:
                side = pictures[j].shape[:2]
                axes[i, j].imshow(
                    pictures[j].mean(2), cmap="gray", vmin=-100, vmax=400, extent=(0, side[1], side[0], 0)
                )
                axes[i, j].imshow(
                    maps[j, 0].numpy(), cmap="magma", vmin=0, vmax=1, alpha=0.65, extent=(0, side[1], side[0], 0)
                )
            else:
                axes[i, j].imshow(maps[j, 0].numpy(), cmap="magma", vmin=0, vmax=1)
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
    n, n_heads = heads.shape[:2]
    columns = {f"head {k}": heads[:, k] for k in range(n_heads)} | {"mean": aggregated[:, 0]}
    if masks is not None:
        columns["object"] = masks[:, 0]
    figure, axes = plt.subplots(
        n, len(columns) + 1, figsize=(0.95 * (len(columns) + 1), 0.98 * n + 0.25), squeeze=False
    )
    for i in range(n):
        axes[i, 0].imshow(images[i].permute(1, 2, 0).numpy())
        for ax, maps in zip(axes[i, 1:], columns.values(), strict=True):
            ax.imshow(maps[i].numpy(), cmap="magma", vmin=0, vmax=1)
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
    figure, axes = plt.subplots(
        len(masks),
        channels + 4,
        figsize=(0.92 * (channels + 3.5), 1.05 * len(masks)),
        width_ratios=[1, 1, 0.5] + [1] * (channels + 1),
        squeeze=False,
    )
    axes[0, 0].imshow(image.permute(1, 2, 0).numpy())
    axes[0, 1].imshow(attention[0].numpy(), cmap="magma", vmin=0, vmax=1)
    for i, mask in enumerate(masks):
        for ax, panel in zip(axes[i, 3:], [mask.mean(0), *mask[:channels]], strict=True):
            ax.imshow(panel.numpy(), cmap="magma", vmin=0, vmax=1)
        axes[i, 2].text(0.5, 0.5, f"$x_a^{{({first + i})}}$", ha="center", va="center", transform=axes[i, 2].transAxes)
        for ax in axes[i, : 2 if i else 0]:
            ax.set_visible(False)
    for ax, title in zip(axes[0], ["image", "map", "", "mean", *(f"ch. {k}" for k in range(channels))], strict=True):
        ax.set_title(title, fontsize=8)
    bare(axes)
    figure.subplots_adjust(wspace=0.06, hspace=0.08)
    return figure
