"""What the controls answer: for each question the pairs of networks that differ in one thing, and how much that thing is worth.

Records in, paired differences with 95 % intervals out, as a table, as sentences and as a picture.
"""

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from resattn.analysis.records import (
    BASELINE,
    PAPER_TABLE3,
    describe_protocol,
    load_records,
    mean_interval,
    paired_difference,
)
from resattn.experiments.controls import SAME_COMPUTE, SAME_PARAMETERS
from resattn.files import file_name
from resattn.plots.style import put_title

QUESTIONS = {
    "content": "Does the content of the map matter?",
    "oracle": "What is the true mask worth?",
    "parts": "Which part of the printed equation does it?",
    "size": "Is it the size of the network?",
    "modules": "How far do known attention modules get?",
    "heads": "All heads as channels instead of their mean?",
}
_WIDER, _WIDEST = (f"{BASELINE} {'-'.join(map(str, widths))}" for widths in (SAME_PARAMETERS, SAME_COMPUTE))
_GATED, _PRINTED = "gated a=1, saliency", "printed a=1, saliency"


class Comparison(NamedTuple):
    """``one`` minus ``other``, names of networks as :func:`resattn.analysis.records.network_name` gives them."""

    question: str
    one: str
    other: str


COMPARISONS = [
    *(
        Comparison(question, f"{form} a=1, {one}", f"{form} a=1, {other}")
        for question, one, other in (
            ("content", "saliency", "shuffled"),
            ("content", "saliency", "uniform"),
            ("content", "saliency", "center"),
            ("content", "dino-tiny", "uniform"),
            ("content", "dino", "uniform"),
            ("oracle", "oracle", "uniform"),
            ("oracle", "oracle", "saliency"),
            ("oracle", "box", "uniform"),
            ("oracle", "oracle", "box"),
        )
        for form in ("gated", "printed")
    ),
    *(
        Comparison("oracle", f"{form} a=1, {one}", BASELINE)
        for one in ("oracle", "box")
        for form in ("gated", "printed")
    ),
    Comparison("parts", _PRINTED, "printed a=0"),
    Comparison("parts", "scaled a=1", "printed a=0"),
    Comparison("parts", "unmasked a=1", "printed a=0"),
    Comparison("parts", BASELINE, "printed a=0"),
    Comparison("parts", "printed a=1, uniform", "unmasked a=1"),
    Comparison("parts", _PRINTED, "unmasked a=1"),
    *(Comparison("size", one, BASELINE) for one in (_WIDER, _WIDEST, _GATED, _PRINTED)),
    *(Comparison("size", one, other) for other in (_WIDER, _WIDEST) for one in (_GATED, _PRINTED)),
    *(Comparison("modules", f"{name}-{BASELINE}", BASELINE) for name in ("SE", "ECA", "CBAM")),
    *(Comparison("modules", one, f"CBAM-{BASELINE}") for one in (_GATED, _PRINTED)),
    *(
        Comparison("heads", f"{form} a=1, {vit} all heads", f"{form} a=1, {vit}")
        for vit in ("dino-tiny-4heads", "dino")
        for form in ("gated", "printed")
    ),
]


def control_records(folder: Path | str) -> pd.DataFrame:
    """The records of controls, and those of Table 3 (in the folder above) that share their data set and protocol."""
    controls, others = load_records(folder), load_records(Path(folder).parent)
    protocols = set(zip(controls["dataset"], controls["protocol"], strict=True))
    shared = [pair in protocols for pair in zip(others["dataset"], others["protocol"], strict=True)]
    both = pd.concat([controls, others[shared]], ignore_index=True)
    return both.drop_duplicates(["dataset", "protocol", "network", "seed"], ignore_index=True)


def by_data_set(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The records of each data set; of several protocols, those of the one with most."""
    return {
        dataset: runs[runs["protocol"] == runs["protocol"].mode().iloc[0]]
        for dataset, runs in records.groupby("dataset")
    }


def accuracy_by_network(records: pd.DataFrame, metric: str = "test_acc") -> pd.DataFrame:
    """Accuracy in percent of every network of one data set and protocol, the best first: "network", "seeds", "mean", "half"."""
    rows = [
        (network, len(runs), *mean_interval(100 * runs[metric]))
        for network, runs in records.groupby("network", sort=False)
    ]
    table = pd.DataFrame(rows, columns=["network", "seeds", "mean", "half"])
    return table.sort_values("mean", ascending=False, ignore_index=True)


def differences(records: pd.DataFrame, metric: str = "test_acc") -> pd.DataFrame:
    """Every comparison that records allow, in order, paired by seed.

    Returns:
        Columns "dataset", "protocol", "question", "one", "other", "seeds", "mean", "half": difference and half-width of its 95 %
        interval in percentage points (NaN for a single seed).

    Raises:
        ValueError: a network has two runs of one seed at the same protocol.
    """
    rows = []
    for (dataset, protocol), group in records.groupby(["dataset", "protocol"]):
        runs = {name: own.set_index("seed")[metric] for name, own in group.groupby("network")}
        for question, one, other in COMPARISONS:
            if one in runs and other in runs:
                seeds, mean, half = paired_difference(runs[one], runs[other])
                if seeds:
                    rows.append((dataset, protocol, question, one, other, seeds, mean, half))
    return pd.DataFrame(rows, columns=["dataset", "protocol", "question", "one", "other", "seeds", "mean", "half"])


def verdict(mean: float, half: float) -> str:
    """What an interval allows to say: "higher" or "lower" if it leaves 0 out, else "not told apart"; "one seed" without one."""
    if not np.isfinite(half):
        return "one seed"
    return "not told apart" if abs(mean) <= half else "higher" if mean > 0 else "lower"


def signed(mean: float, half: float) -> str:
    """A difference with the half-width of its interval, where it has one: "+1.30 ± 0.40"; with a true minus sign."""
    return (f"{mean:+.2f} ± {half:.2f}" if np.isfinite(half) else f"{mean:+.2f}").replace("-", "−")


def sentences(table: pd.DataFrame, question: str) -> str:
    """The answers to one question, a line each: the pair, the difference, the interval, the verdict."""
    chosen = table[table["question"] == question]
    pairs = [_pair(row.one, row.other) for row in chosen.itertuples()]
    width = max(map(len, pairs), default=0)
    return "\n".join(
        f"{pair:{width}s}  {_interval(row)}  {verdict(row.mean, row.half)}"
        for pair, row in zip(pairs, chosen.itertuples(), strict=True)
    )


def conclusion(table: pd.DataFrame, question: str) -> str:
    """What all intervals of one question say together, in a sentence."""
    chosen = table[table["question"] == question]
    told = [
        f"{_pair(row.one, row.other)} is {said}"
        for row in chosen.itertuples()
        if (said := verdict(row.mean, row.half)) in ("higher", "lower")
    ]
    if not told:
        return f"None of {len(chosen)} intervals leaves 0 out: nothing is told apart here."
    return f"{len(told)} of {len(chosen)} intervals leave 0 out: {'; '.join(told)}."


def answer(tables: dict[str, pd.DataFrame], question: str) -> str:
    """Conclusion and sentences for every data set that has a comparison of this question."""
    answers = [
        f"{dataset}: {conclusion(table, question)}\n{sentences(table, question)}"
        for dataset, table in tables.items()
        if question in set(table["question"])
    ]
    return "\n\n".join(answers) or "No records yet."


def control_figures(records: pd.DataFrame) -> dict[str, Figure]:
    """A forest plot for each data set, by file name; of several protocols, of the one with most records."""
    figures = {}
    for dataset, runs in by_data_set(records).items():
        table = differences(runs)
        if len(table):
            reduced = ", reduced protocol" if dataset in PAPER_TABLE3 and not runs["full"].all() else ""
            figures[f"controls-{file_name(dataset)}"] = forest_figure(
                table, f"{dataset}{reduced}\n{describe_protocol(runs.assign(source=None))}"
            )
    return figures


def forest_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """The differences of one data set and protocol, question by question, with 95 % intervals.

    Filled: the interval leaves 0 out. The axis is linear near 0 and logarithmic further out, so that large and small effects
    fit one picture.
    """
    n_lines = len(table) + 1.4 * table["question"].nunique()
    figure, ax = plt.subplots(figsize=(8.6, 0.235 * n_lines + 0.9))
    look = {"color": "#0072b2", "markersize": 5, "capsize": 2.5, "linewidth": 1.4, "marker": "o"}
    beside = {"transform": ax.get_yaxis_transform(), "va": "center"}
    y, labels = 0, {}
    for i, (question, rows) in enumerate(table.groupby("question", sort=False)):
        y += 0.4 * (i > 0)
        ax.text(-0.012, y, QUESTIONS[question], fontsize=9, fontweight="bold", ha="right", **beside)
        y += 1
        for row in rows.itertuples():
            told = verdict(row.mean, row.half) in ("higher", "lower")
            half = row.half if np.isfinite(row.half) else None
            ax.errorbar(row.mean, y, xerr=half, markerfacecolor=look["color"] if told else "white", **look)
            ax.text(1.02, y, _interval(row), fontsize=8, **beside)
            labels[y] = _pair(row.one, row.other)
            y += 1
    ax.axvline(0, color="#777777", linewidth=1)
    ax.set_yticks(list(labels), list(labels.values()), fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(y - 0.3, -0.8)
    ax.set_xscale("asinh", linear_width=2)
    low, high = ax.get_xlim()
    ticks = [tick for tick in (-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100) if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:+g}".replace("-", "−") if tick else "0" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="difference in test accuracy (percentage points)", xlim=(low, high))
    put_title(ax, title)
    ax.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def _pair(one: str, other: str) -> str:
    """ "gated a=1: saliency − uniform" where the network is the same, else both names in full."""
    (first, _, source), (second, _, against) = one.partition(", "), other.partition(", ")
    return f"{first}: {source} − {against}" if source and first == second else f"{one} − {other}"


def _interval(row) -> str:
    return f"{signed(row.mean, row.half)} ({row.seeds})"
