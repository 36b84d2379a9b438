"""Pictures of images, attention maps and masks."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor


def image_grid(images: Tensor, rows: dict[str, Tensor]) -> Figure:
    """Images in the first row, one row of maps below for each entry of ``rows`` (Fig. 4).

    Args:
        images: uint8 (N, 3, H, W).
        rows: float (N, 1, h, w) in [0, 1] by name.
    """
    n = len(images)
    figure, axes = plt.subplots(1 + len(rows), n, figsize=(1.05 * n + 0.9, 1.05 * (1 + len(rows))), squeeze=False)
    pictures = {"image": images.permute(0, 2, 3, 1)} | {name: maps[:, 0] for name, maps in rows.items()}
    for row, (name, shown) in zip(axes, pictures.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
        for ax, picture in zip(row, shown, strict=True):
            ax.imshow(picture.numpy(), cmap="magma", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    figure.subplots_adjust(left=0.9 / figure.get_figwidth(), right=1, bottom=0, top=1, wspace=0.06, hspace=0.06)
    return figure
