"""From search records to answers: where the best recipe lies, what the paper's costs, and which schedule wins (Sec. 5.1)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from resattn.analysis.records import NOT_MEASURED
from resattn.analysis.statistics import paired_difference
from resattn.config import PAPER
from resattn.experiments.protocols import network

GROUP = ["dataset", "protocol", "network", "schedule"]
_NOT_PROTOCOL = {"dataset", "model", "form", "a", "source", "heads", "weights", "schedule"}
_RECIPE = ["lr", "weight_decay"]


def load_searches(folder: Path | str) -> pd.DataFrame:
    """All trials of the search records in a folder, as :func:`search_trials` makes them; empty where there is none.

    Raises:
        ValueError: a file is not a search record; the message names it.
    """
    frames = [search_trials({"config": {}, "trials": []})]
    for path in sorted(Path(folder).glob("*.json")):
        try:
            frames.append(search_trials(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"search record {path} is not one that a search wrote ({said}); delete or mend it"
            ) from error
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


def search_trials(record: dict) -> pd.DataFrame:
    """The trials of one record: columns "dataset", "protocol" (text), "image_size", "epochs", "network" (without maps), "schedule", "stage", "lr",
    "weight_decay", "seed", "val_acc" (fraction, after the last epoch; 0 where the loss was lost), "val_loss", "diverged", "seconds".
    """
    config = record["config"]
    columns = [*GROUP, "image_size", "epochs", "stage", *_RECIPE, "seed", "val_acc", "val_loss", "diverged", "seconds"]
    protocol = ", ".join(f"{name}={value}" for name, value in sorted(config.items()) if name not in _NOT_PROTOCOL)
    rows = []
    for trial in record["trials"]:
        diverged = trial["diverged"] is not None
        last = {"val_acc": 0.0, "val_loss": np.inf} if diverged else trial["epochs"][-1]
        about = {
            "protocol": protocol,
            "network": network(**config).bare,
            "epochs": config["epochs"],
            "diverged": diverged,
        }
        known = config | trial | about | {name: last[name] for name in ("val_acc", "val_loss")}
        rows.append({name: known[name] for name in columns})
    return pd.DataFrame(rows, columns=columns)


def best_trial(trials: pd.DataFrame) -> pd.Series:
    """Of one search, the trial that it found best: highest validation accuracy, then lowest validation loss."""
    searched = trials[trials["stage"] != "confirm"]
    return searched.sort_values(["val_acc", "val_loss"], ascending=[False, True], kind="stable").iloc[0]


def best_recipes(trials: pd.DataFrame) -> pd.DataFrame:
    """For each search: trials, how many diverged, the best recipe, its validation accuracy and that of Table 1's (%), and the
    learning rates whose best trial comes within 5 points of the best."""
    rows = []
    for key, group in _searches(trials):
        searched, best = group[group["stage"] != "confirm"], best_trial(group)
        good = searched.loc[searched["val_acc"] >= best["val_acc"] - 0.05, "lr"]
        paper = searched.loc[searched["stage"] == "paper", "val_acc"]
        measured = len(searched), int(searched["diverged"].sum())
        table1 = 100 * paper.iloc[0] if len(paper) else np.nan
        recipe = best["lr"], best["weight_decay"]
        rows.append((*key, *measured, *recipe, 100 * best["val_acc"], table1, good.min(), good.max()))
    names = ["trials", "diverged", "lr", "weight_decay", "best", "paper", "good_from", "good_to"]
    return pd.DataFrame(rows, columns=[*GROUP, *names])


def best_against_paper(trials: pd.DataFrame) -> pd.DataFrame:
    """Best recipe minus Table 1's, paired by the seeds that trained both again: "seeds", "mean", "half" (points, 95 %).

    A search that found none better than Table 1's has no row.
    """
    rows = []
    for key, group in _searches(trials):
        best = best_trial(group)
        recipe = best["lr"], best["weight_decay"]
        if recipe != _PAPER_RECIPE:
            seeds, *interval = paired_difference(_confirmed(group, recipe), _confirmed(group, _PAPER_RECIPE))
            rows += [(*key, seeds, *interval)] if seeds else []
    return pd.DataFrame(rows, columns=[*GROUP, "seeds", "mean", "half"])


def cosine_against_constant(trials: pd.DataFrame) -> pd.DataFrame:
    """Cosine minus constant (points, 95 %), each at its best recipe, paired by the seeds that trained it again; and, "wins", how many of
    the recipes that both trained came out better with cosine, of "recipes"."""
    rows = []
    for key, group in trials.groupby(GROUP[:-1], sort=False):
        both = [group[group["schedule"] == schedule] for schedule in ("cosine", "constant")]
        if all(map(len, both)):
            again = [_confirmed(one, tuple(best_trial(one)[_RECIPE])) for one in both]
            tried = [one[one["stage"].isin(["random", "paper"])].set_index(_RECIPE)["val_acc"] for one in both]
            gains = (tried[0] - tried[1]).dropna()
            rows.append((*key, *paired_difference(*again), int((gains > 0).sum()), len(gains)))
    return pd.DataFrame(rows, columns=[*GROUP[:-1], "seeds", "mean", "half", "wins", "recipes"])


def answers(trials: pd.DataFrame) -> list[str]:
    """The two questions of Sec. 5.1, answered in sentences made from the trials of one data set and protocol."""
    lines = []
    against = {(row.network, row.schedule): _points(row) for row in best_against_paper(trials).itertuples()}
    for row in best_recipes(trials).itertuples():
        own = "none, the best is the paper's own" if (row.lr, row.weight_decay) == _PAPER_RECIPE else NOT_MEASURED
        confirmed = against.get((row.network, row.schedule), own)
        paper = f"{row.paper:.1f} %" if np.isfinite(row.paper) else NOT_MEASURED
        lines.append(
            f"{row.network}, {row.schedule}: best at lr {row.lr:.3g}, weight decay {row.weight_decay:.2g} "
            f"({row.best:.1f} %; the paper's lr 0.2, weight decay 5e-4: {paper}). Trials within 5 points of the best "
            f"have lr {row.good_from:.2g} to {row.good_to:.2g}. Best minus the paper's on other seeds: {confirmed}."
        )
    for row in cosine_against_constant(trials).itertuples():
        confirmed = _points(row) if row.seeds else NOT_MEASURED
        lines.append(
            f"{row.network}, cosine against constant, each at its best, on other seeds: {confirmed}; "
            f"cosine is ahead at {row.wins} of {row.recipes} recipes that both tried."
        )
    return lines


_PAPER_RECIPE = (PAPER["lr"], PAPER["weight_decay"])


def _searches(trials: pd.DataFrame):
    """Groups of one search each, the baseline first."""
    groups = list(trials.groupby(GROUP, sort=False))
    return sorted(groups, key=lambda pair: (*pair[0][:3], pair[0][3] != "cosine"))


def _confirmed(group: pd.DataFrame, recipe: tuple[float, float]) -> pd.Series:
    """Validation accuracy (percent) by seed where one search trained a recipe again."""
    chosen = (group["stage"] == "confirm") & (group[_RECIPE] == list(recipe)).all(axis=1)
    return 100 * group[chosen].set_index("seed")["val_acc"]


def _points(row: Any) -> str:
    spread = f" ± {row.half:.1f}" if np.isfinite(row.half) else ""
    return f"{row.mean:+.1f}{spread} points ({row.seeds:.0f} seeds)"
