"""Figures drawn from records: accuracies, learning curves, the log of a self-distillation."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from resattn.analysis.records import PAPER_TABLE3, accuracy_table, describe_protocol, variant_order
from resattn.files import file_name
from resattn.plots.style import put_title, variant_style


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
    axes[1].plot(x, [entry["mass_ratio"] for entry in epochs], marker="o", color="#0072b2")
    axes[1].axhline(1, color="#999999", linewidth=1)
    axes[1].set(ylabel="mass ratio on the object", ylim=(0, None))
    axes[2].plot(
        x, [100 * entry["peak_inside"] for entry in epochs], marker="o", color="#0072b2", label="peak inside the object"
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
