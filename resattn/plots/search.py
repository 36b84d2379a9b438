"""Pictures of a search (Sec. 5.1): the landscape over learning rate and weight decay, and slices along the learning rate."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resattn.analysis.search import best_trial
from resattn.config import PAPER
from resattn.files import file_name

_STAGES = {"random": "o", "grid": "s", "paper": "P"}
_SCHEDULES = {
    "cosine": {"color": "#0072b2", "marker": "o", "linestyle": "-"},
    "constant": {"color": "#d55e00", "marker": "^", "linestyle": "--"},
}
_COLOURS = "cividis"  # rises in lightness: readable in greyscale and without red or green
_PANELS = {"squeeze": False, "sharex": True, "sharey": True, "layout": "constrained"}


def search_figures(trials: pd.DataFrame) -> dict[str, Figure]:
    """Both pictures for each data set and protocol, by file name."""
    figures = {}
    for (dataset, _), group in trials.groupby(["dataset", "protocol"]):
        size, epochs = group.iloc[0][["image_size", "epochs"]]
        name = f"{file_name(dataset)}-{size}px-{epochs}-epochs"
        while f"search-landscape-{name}" in figures:
            name += "-other"
        title = f"{dataset}, {size} pixels, {epochs} epoch{'s' if epochs > 1 else ''}"
        figures[f"search-landscape-{name}"] = landscape_figure(group, title)
        figures[f"search-slices-{name}"] = slices_figure(group, title)
    return figures


def landscape_figure(trials: pd.DataFrame, title: str = "") -> Figure:
    """Validation accuracy over learning rate and weight decay: a row a network, a column a schedule."""
    networks = sorted(set(trials["network"]))
    schedules = [name for name in _SCHEDULES if name in set(trials["schedule"])]
    searched = trials[trials["stage"] != "confirm"]
    size = (3.6 * len(schedules) + 1.1, 2.7 * len(networks) + 0.9)
    figure, axes = plt.subplots(len(networks), len(schedules), figsize=size, **_PANELS)
    ended = 100 * searched.loc[~searched["diverged"], "val_acc"]
    span = {"vmin": ended.min(), "vmax": ended.max()}
    for row, network in zip(axes, networks, strict=True):
        for ax, schedule in zip(row, schedules, strict=True):
            group = searched[(searched["network"] == network) & (searched["schedule"] == schedule)]
            ax.set_title(f"{network}, {schedule}")
            if len(group):
                shown = _landscape(ax, group, span)
            else:
                ax.text(0.5, 0.5, "not measured yet", ha="center", va="center", transform=ax.transAxes)
    plt.setp(axes[-1], xlabel="learning rate")
    plt.setp(axes[:, 0], ylabel="weight decay")
    figure.colorbar(shown, ax=axes, label="validation accuracy (%)", shrink=0.8)
    look = {"linestyle": "none", "markerfacecolor": "white", "markeredgecolor": "#222222", "markersize": 8}
    handles = [
        Line2D([], [], marker="o", label="random", **look),
        Line2D([], [], marker="s", label="grid", **look),
        Line2D([], [], marker="P", label="the paper's (Table 1)", **look | {"markersize": 10}),
        Line2D([], [], marker="x", label="diverged", **look),
        Line2D([], [], marker="o", label="best", **look | {"markerfacecolor": "none", "markersize": 15}),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, handletextpad=0.3, columnspacing=1.4)
    figure.suptitle(title)
    return figure


def slices_figure(trials: pd.DataFrame, title: str = "") -> Figure:
    """Validation accuracy against learning rate, a panel a network: every trial, and as a line the slice at the best weight decay."""
    networks = sorted(set(trials["network"]))
    searched = trials[trials["stage"] != "confirm"]
    size = (4.1 * len(networks) + 0.4, 3.6)
    figure, axes = plt.subplots(1, len(networks), figsize=size, **_PANELS)
    for ax, network in zip(axes[0], networks, strict=True):
        for schedule, look in _SCHEDULES.items():
            group = searched[(searched["network"] == network) & (searched["schedule"] == schedule)]
            if len(group):
                hollow = {"s": 26, "marker": look["marker"], "facecolors": "none", "edgecolors": look["color"]}
                ax.scatter(group["lr"], 100 * group["val_acc"], **hollow)
                line = group[group["weight_decay"] == best_trial(group)["weight_decay"]].sort_values("lr")
                ax.plot(line["lr"], 100 * line["val_acc"], markersize=6, **look)
        ax.axvline(PAPER["lr"], color="#777777", linestyle=":", linewidth=1.4)
        ax.set(xscale="log", xlabel="learning rate", title=str(network))
    axes[0, 0].set(ylabel="validation accuracy (%)", ylim=(0, None))
    shown = set(trials["schedule"])
    handles = [Line2D([], [], label=name, **look) for name, look in _SCHEDULES.items() if name in shown]
    handles.append(Line2D([], [], color="#777777", linestyle=":", label="the paper's learning rate"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    return figure


def _landscape(ax: Axes, group: pd.DataFrame, span: dict[str, float]):
    """The trials of one search as coloured marks; returns what the colour bar needs."""
    shown = None
    for stage, marker in _STAGES.items():
        part = group[(group["stage"] == stage) & ~group["diverged"]]
        look = {"marker": marker, "s": 110 if stage == "paper" else 56, "edgecolors": "#222222", "linewidths": 0.8}
        shown = ax.scatter(part["lr"], part["weight_decay"], c=100 * part["val_acc"], cmap=_COLOURS, **look, **span)
    lost = group[group["diverged"]]
    ax.plot(lost["lr"], lost["weight_decay"], "x", color="#222222", markersize=8)
    best = best_trial(group)
    ring = {"marker": "o", "markersize": 15, "markerfacecolor": "none", "markeredgecolor": "#222222"}
    ax.plot(best["lr"], best["weight_decay"], linestyle="none", markeredgewidth=1.6, **ring)
    ax.set(xscale="log", yscale="log")
    return shown
