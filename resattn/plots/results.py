"""Figures drawn from records: accuracies, learning curves, differences."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from resattn.analysis.claims import differences
from resattn.analysis.tables import accuracy_table
from resattn.experiments.protocols import QUESTIONS
from resattn.files import file_name
from resattn.plots.style import put_title, style_of


def result_figures(records: pd.DataFrame) -> dict[str, Figure]:
    """Accuracy and learning curves of each data set and preset by file name; records as
    :func:`resattn.analysis.records.main_records` gives them."""
    figures = {}
    for (dataset, preset), runs in records.groupby(["dataset", "preset"]):
        name, title = file_name(dataset if preset == "other" else f"{dataset}-{preset}"), _title(runs, maps=True)
        figures[f"accuracy-{name}"] = accuracy_figure(runs, title)
        figures[f"curves-{name}"] = learning_curves(runs, title)
    return figures


def control_figures(records: pd.DataFrame) -> dict[str, Figure]:
    """A forest plot for each data set that has intervals, by file name; of several protocols, of the one with most comparisons."""
    figures, table = {}, differences(records)
    for dataset, rows in table[(table["metric"] == "accuracy") & table["half"].notna()].groupby("dataset"):
        rows = rows[rows["protocol"] == rows["protocol"].mode().iloc[0]]
        runs = records[(records["dataset"] == dataset) & (records["protocol"] == rows["protocol"].iloc[0])]
        runs = runs[runs["network"].isin([*rows["one"], *rows["other"]])]
        figures[f"controls-{file_name(dataset)}"] = forest_figure(rows, _title(runs))
    return figures


def accuracy_figure(runs: pd.DataFrame, title: str = "") -> Figure:
    """Test accuracy of every network on one data set: each seed a tick, the mean with its 95 % interval; the paper's number a grey
    cross, where the runs have its settings."""
    table = accuracy_table(runs)
    figure, ax = plt.subplots(figsize=(7.6, 0.36 * len(table) + 1.1))
    for i, row in enumerate(table.itertuples()):
        style = style_of(row.network)
        values = 100 * runs.loc[runs["network"] == row.network, "test_acc"]
        ax.plot(values, np.full(len(values), i - 0.24), "|", color=style["color"], markersize=8, alpha=0.8)
        half = None if np.isnan(row.half) else row.half
        look = {"color": style["color"], "marker": style["marker"], "markersize": 6, "capsize": 3, "linewidth": 1.6}
        ax.errorbar(row.mean, i, xerr=half, **look)
        if np.isfinite(row.paper) and (runs["preset"] == "paper").all():  # other settings reach other levels
            ax.plot(row.paper, i, marker="x", color="#777777", markersize=8, markeredgewidth=2)
    each = "" if table["seeds"].nunique() == 1 else " ({} seeds)"
    labels = [row.variant + each.format(row.seeds) for row in table.itertuples()]
    ax.set_yticks(range(len(table)), labels)
    ax.set_ylim(len(table) - 0.5, -0.7)
    low, high = ax.get_xlim()
    ax.set(xlabel="test accuracy (%)", xlim=(max(low, 0), min(high, 100)))
    put_title(ax, title)
    ax.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def learning_curves(records: pd.DataFrame, title: str = "") -> Figure:
    """Training loss and validation accuracy by epoch: mean over seeds, and the band from the lowest to the highest seed."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.4))
    for network in sorted(set(records["network"])):
        histories, style = records.loc[records["network"] == network, "history"], style_of(network)
        for ax, key, scale in zip(axes, ("train_loss", "val_acc"), (1, 100), strict=True):
            values = scale * np.array([[entry[key] for entry in history] for history in histories])
            epochs = np.arange(1, values.shape[1] + 1)
            ax.fill_between(epochs, values.min(0), values.max(0), color=style["color"], alpha=0.1, linewidth=0)
            look = style | {"markersize": 4, "markevery": max(1, len(epochs) // 8), "linewidth": 1.6}
            ax.plot(epochs, values.mean(0), label=network.variant, **look)
    axes[0].set(ylabel="training loss (nats)")
    put_title(axes[0], title)
    axes[1].set(ylabel="validation accuracy (%)")
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3)
    figure.tight_layout()
    return figure


def forest_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """The differences of one data set and protocol, question by question, with 95 % intervals; filled where significant.

    The axis is linear near 0 and logarithmic further out, so that large and small effects fit one picture.

    Args:
        table: rows of :func:`resattn.analysis.claims.differences`, all in points and with an interval.
    """
    n_lines = len(table) + 1.4 * table["question"].nunique()
    figure, ax = plt.subplots(figsize=(8.6, 0.235 * n_lines + 0.9))
    look = {"color": "#0072b2", "markersize": 5, "capsize": 2.5, "linewidth": 1.4, "marker": "o"}
    beside = {"transform": ax.get_yaxis_transform(), "va": "center"}
    y, labels = 0.0, {}
    for i, (question, rows) in enumerate(table.groupby("question", sort=False)):
        y += 0.4 * (i > 0)
        ax.text(-0.012, y, QUESTIONS[question], fontsize=9, fontweight="bold", ha="right", **beside)
        for row in rows.itertuples():
            y += 1
            face = look["color"] if row.significant else "white"
            ax.errorbar(row.mean, y, xerr=row.half, markerfacecolor=face, **look)
            ax.text(1.02, y, row.difference, fontsize=8, **beside)
            labels[y] = row.claim
        y += 1
    ax.axvline(0, color="#777777", linewidth=1)
    ax.set_yticks(list(labels), list(labels.values()), fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(y - 0.3, -0.8)
    ax.set_xscale("asinh", linear_width=2)
    low, high = ax.get_xlim()
    ax.set_xticks([-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    label = "difference in test accuracy (percentage points; linear near 0, logarithmic further out)\nfilled: significant after Holm's correction within the question"
    ax.set(xlabel=label, xlim=(low, high))
    put_title(ax, title)
    ax.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def _title(runs: pd.DataFrame, maps: bool = False) -> str:
    """Data set and how many seeds the networks have, and below it what all runs have in common."""
    dataset, preset, settings = runs.iloc[0][["dataset", "preset", "settings"]]
    low, high = runs.groupby("network")["seed"].nunique().agg(["min", "max"])
    counted = f"{low} to {high} seeds" if low < high else f"{high} seed{'s' if high > 1 else ''}"
    named = f", protocol “{preset}”" if preset != "other" else ""
    sources = ", ".join(sorted(set(runs["source"].dropna()))) if maps else ""
    return f"{dataset}{named}, {counted}\n{f'maps {sources}, ' if sources else ''}{settings}"
