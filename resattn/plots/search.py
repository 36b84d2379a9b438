"""The picture of a search (Sec. 5.1): its landscape over learning rate and weight decay, and what each rate leads to."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from resattn.analysis.search import best_trial
from resattn.files import file_name

_ROWS = {"val_acc": "validation accuracy (%)", "weight_decay": "weight decay"}
_MARKS = {
    "random": ("o", 50, "random"),
    "grid": ("s", 50, "grid"),
    "paper": ("P", 100, "the paper's (Table 1)"),
}  # by stage


def search_figures(trials: pd.DataFrame) -> dict[str, Figure]:
    """The picture of each data set and protocol, by file name."""
    figures = {}
    for (dataset, _), group in trials.groupby(["dataset", "protocol"]):
        size, epochs = group.iloc[0][["image_size", "epochs"]]
        name = f"search-landscape-{file_name(dataset)}-{size}px-{epochs}-epochs"
        while name in figures:
            name += "-other"
        title = f"{dataset}, {size} pixels, {epochs} epoch{'s' if epochs > 1 else ''}"
        figures[name] = landscape_figure(group, title)
    return figures


def landscape_figure(trials: pd.DataFrame, title: str = "") -> Figure:
    """A column a search: every trial by learning rate, above with its validation accuracy (0 where it diverged), its colour, below
    with its weight decay."""
    searched = trials[trials["stage"] != "confirm"].assign(val_acc=100 * trials["val_acc"])
    searches = list(searched.groupby(["network", "schedule"]))
    panels = {
        "figsize": (2.8 * len(searches) + 2.2, 5.2),
        "squeeze": False,
        "sharex": True,
        "sharey": "row",
        "layout": "constrained",
    }
    figure, axes = plt.subplots(2, len(searches), **panels)
    colours = {"cmap": "cividis", "vmin": searched["val_acc"].min(), "vmax": searched["val_acc"].max()}
    for column, ((network, schedule), group) in zip(axes.T, searches, strict=True):
        column[0].set_title(f"{network}, {schedule}")
        best = best_trial(group)
        for ax, y in zip(column, _ROWS, strict=True):
            for stage, (marker, size, label) in _MARKS.items():
                own = group[group["stage"] == stage]
                look = {"marker": marker, "s": size, "edgecolors": "#222222", "linewidths": 0.8}
                drawn = ax.scatter("lr", y, c="val_acc", data=own, label=label, **look, **colours)
            ring = {"color": "#222222", "markersize": 14, "fillstyle": "none", "clip_on": False}
            ax.plot(best["lr"], best[y], "o", label="best", **ring)
    for ax, label in zip(axes[:, 0], _ROWS.values(), strict=True):
        ax.set_ylabel(label)
    axes[0, 0].set_ylim(0, None)
    plt.setp(axes[1], xlabel="learning rate", xscale="log", yscale="log")
    figure.colorbar(drawn, ax=axes, label=_ROWS["val_acc"], shrink=0.7)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure
