"""Every figure. One style, colours that survive greyscale and colour blindness, PNG and SVG that come out the same twice."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from resattn.analysis.records import BASELINE, PAPER_TABLE3, accuracy_table, describe_protocol, variant_order
from resattn.files import atomic_write, file_name

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "svg.hashsalt": "resattn",
    "figure.facecolor": "white",
}
CLASSIFICATION, ATTENTION = "#c2457f", "#117a74"  # the paper's pink and teal, a step apart in lightness
_FORM_COLOURS = {"printed": "#d55e00", "gated": "#0072b2", "scaled": "#cc79a7", "unmasked": "#e69f00"}
_FORM_MARKERS = {"printed": "s", "gated": "o", "scaled": "v", "unmasked": "^"}
_A_LINES = {0.0: ":", 0.5: "--", 1.0: "-"}


def use_style() -> None:
    """Set the shared style for all figures of this process."""
    plt.rcParams.update(STYLE)


def save_figure(figure: Figure, path: Path | str) -> list[Path]:
    """Write ``path``.png and ``path``.svg; the same figure gives the same bytes each time."""
    written = []
    with plt.rc_context(STYLE):
        for suffix, metadata in {"png": {"Software": None}, "svg": {"Date": None}}.items():
            target = Path(f"{path}.{suffix}")
            write = lambda partial, kind=suffix, about=metadata: figure.savefig(partial, format=kind, metadata=about)  # noqa: E731
            written.append(atomic_write(target, write))
    return written


def variant_style(variant: str) -> dict:
    """Colour, line and marker of a network, the same in every figure."""
    if variant == BASELINE:
        return {"color": "#222222", "linestyle": "-", "marker": "D"}
    form, _, rest = variant.partition(" a=")
    if form not in _FORM_COLOURS:  # another baseline
        return {"color": "#777777", "linestyle": "--", "marker": "X"}
    line = _A_LINES.get(float(rest.split(" ")[0]), "-.")
    return {"color": _FORM_COLOURS[form], "linestyle": line, "marker": _FORM_MARKERS[form]}


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
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
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


def distillation_figure(record: dict) -> Figure:
    """The log of a self-distillation run: loss and entropies, and how well its attention finds the object, epoch by epoch."""
    epochs = record["metrics"]["epochs"]
    x = [entry["epoch"] for entry in epochs]
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8))
    for key, label, marker, line in (
        ("loss", "loss", "o", "-"),
        ("teacher_entropy", "entropy of one target", "s", "--"),
        ("mean_entropy", "entropy of the mean target", "^", ":"),
    ):
        axes[0].plot(x, [entry[key] for entry in epochs], marker=marker, linestyle=line, label=label)
    axes[0].axhline(np.log(record["config"]["prototypes"]), color="#999999", linewidth=1)
    axes[0].text(x[0], np.log(record["config"]["prototypes"]), " ln K", va="bottom", color="#777777", fontsize=8)
    axes[0].set(ylabel="nats")
    axes[0].legend(fontsize=8)
    axes[1].plot(x, [entry["energy_ratio"] for entry in epochs], marker="o", color="#0072b2")
    axes[1].axhline(1, color="#999999", linewidth=1)
    axes[1].set(ylabel="energy inside / area of the object", ylim=(0, None))
    axes[2].plot(
        x, [100 * entry["pointing_game"] for entry in epochs], marker="o", color="#0072b2", label="pointing game"
    )
    axes[2].plot(
        x,
        [100 * entry["knn_acc"] for entry in epochs],
        marker="s",
        color="#d55e00",
        linestyle="--",
        label="k-NN accuracy",
    )
    axes[2].set(ylabel="%", ylim=(0, 100))
    axes[2].legend(fontsize=8)
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.tight_layout()
    return figure


def masks_figure(image: Tensor, attention: Tensor, masks: Sequence[Tensor], channels: int = 8) -> Figure:
    """One image, its attention map, and for each learned mask its mean and its first channels.

    Args:
        image: uint8 (3, H, W).
        attention: float (1, h, w) in [0, 1].
        masks: float (C, H, W) each, in [0, 1].
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
        axes[i, 2].text(0.5, 0.5, f"$x_a^{{({i})}}$", ha="center", va="center", transform=axes[i, 2].transAxes)
        for ax in axes[i, : 2 if i else 0]:
            ax.set_visible(False)
    for ax, title in zip(axes[0], ["image", "map", "", "mean", *(f"ch. {k}" for k in range(channels))], strict=True):
        ax.set_title(title, fontsize=8)
    bare(axes)
    figure.subplots_adjust(wspace=0.06, hspace=0.08)
    return figure


def result_figures(records: pd.DataFrame) -> dict[str, Figure]:
    """Every figure made from records, by file name: accuracy and learning curves for each data set."""
    figures = {}
    for dataset, runs in records.groupby("dataset"):
        reduced = dataset in PAPER_TABLE3 and not runs["full"].all()
        seeds = runs.groupby("variant")["seed"].nunique().max()
        title = f"{dataset}{', reduced protocol' if reduced else ''}\n{describe_protocol(runs)}, {seeds} seed{'s' if seeds > 1 else ''}"
        figures[f"accuracy-{file_name(dataset)}"] = accuracy_figure(runs, title)
        figures[f"curves-{file_name(dataset)}"] = learning_curves(runs, title)
    return figures


def accuracy_figure(runs: pd.DataFrame, title: str = "") -> Figure:
    """Test accuracy of every network on one data set: each seed a tick, the mean with its 95 % interval.

    The paper's number is a grey cross, where the runs have the paper's settings.
    """
    table = accuracy_table(runs)
    variants = variant_order(runs["variant"])
    figure, ax = plt.subplots(figsize=(7, 3.3))
    for i, variant in enumerate(variants):
        style = variant_style(variant)
        row = table[table["variant"] == variant].iloc[0]
        values = 100 * runs.loc[runs["variant"] == variant, "test_acc"]
        ax.plot(values, np.full(len(values), i - 0.22), "|", color=style["color"], markersize=9, alpha=0.8)
        half = None if np.isnan(row["half"]) else row["half"]
        look = {"color": style["color"], "marker": style["marker"], "markersize": 6, "capsize": 3, "linewidth": 1.6}
        ax.errorbar(row["mean"], i, xerr=half, **look)
        if np.isfinite(row["paper"]) and runs["full"].all():  # other settings reach other levels
            ax.plot(row["paper"], i, marker="x", color="#777777", markersize=8, markeredgewidth=2)
    ax.set_yticks(range(len(variants)), variants)
    ax.set_ylim(len(variants) - 0.5, -0.7)
    low, high = ax.get_xlim()
    ax.set(xlabel="test accuracy (%)", xlim=(max(low, 0), min(high, 100)))
    put_title(ax, title)
    ax.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def learning_curves(records: pd.DataFrame, title: str = "") -> Figure:
    """Training loss and validation accuracy by epoch: mean over seeds, and the band from the lowest to the highest seed."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.4))
    for variant in variant_order(records["variant"]):
        histories = records.loc[records["variant"] == variant, "history"]
        shortest = min(map(len, histories))
        style = variant_style(variant)
        for ax, key, scale in ((axes[0], "train_loss", 1), (axes[1], "val_acc", 100)):
            values = scale * np.array([[entry[key] for entry in history[:shortest]] for history in histories])
            epochs = np.arange(1, shortest + 1)
            ax.fill_between(epochs, values.min(0), values.max(0), color=style["color"], alpha=0.1, linewidth=0)
            ax.plot(
                epochs,
                values.mean(0),
                label=variant,
                markersize=4,
                markevery=max(1, shortest // 8),
                linewidth=1.6,
                **style,
            )
    axes[0].set(xlabel="epoch", ylabel="training loss (nats)")
    put_title(axes[0], title)
    axes[1].set(xlabel="epoch", ylabel="validation accuracy (%)")
    for ax in axes:
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3)
    figure.tight_layout()
    return figure


def live_curve(n_epochs: int) -> Callable[[list[dict]], None]:
    """For ``train(on_epoch=...)`` in a notebook that somebody watches: the learning curve, redrawn in place each epoch."""
    from IPython.display import display

    handle = display(display_id=True)

    def show(history: list[dict]) -> None:
        figure = history_figure(history, n_epochs)
        handle.update(figure)
        plt.close(figure)

    return show


def history_figure(history: list[dict], n_epochs: int | None = None) -> Figure:
    """Losses and validation accuracy of one run, epoch by epoch."""
    epochs = range(1, len(history) + 1)
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8))
    axes[0].plot(epochs, [entry["train_loss"] for entry in history], marker="o", color="#0072b2", label="training")
    axes[0].plot(
        epochs,
        [entry["val_loss"] for entry in history],
        marker="s",
        color="#d55e00",
        linestyle="--",
        label="validation",
    )
    axes[0].set(xlabel="epoch", ylabel="loss (nats)")
    axes[0].legend()
    axes[1].plot(epochs, [100 * entry["val_acc"] for entry in history], marker="o", color="#222222")
    axes[1].set(xlabel="epoch", ylabel="validation accuracy (%)")
    for ax in axes:
        ax.set_xlim(0.8, (n_epochs or len(history)) + 0.2)
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.tight_layout()
    return figure


def put_title(ax: Axes, title: str) -> None:
    """The first line as the title, further ones smaller below it; both begin at the left end of the axis."""
    first, _, rest = title.partition("\n")
    ax.set_title(first, loc="left", pad=18 if rest else None, fontweight="bold", parse_math=False)
    if not rest:
        return
    note = ax.annotate(
        rest, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=8, color="#555555"
    )
    note.set_in_layout(False)  # it may run past its axis


def bare(axes: np.ndarray) -> None:
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
