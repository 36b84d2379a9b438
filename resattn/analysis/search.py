"""From search records to answers: where the best recipe lies, what the paper's costs, and which schedule wins (Sec. 5.1)."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from resattn.analysis.statistics import paired_difference
from resattn.config import PAPER
from resattn.experiments.protocols import network

SEARCH_QUESTIONS = {
    "recipe": "Is Table 1's recipe (learning rate, weight decay) the best that a search finds?",
    "schedule": "Is cosine decay better than a constant learning rate?",
}
_RECIPE = ["lr", "weight_decay"]
_COLUMNS = ["dataset", "protocol", "network", "schedule", "image_size", "epochs", "stage"]
_COLUMNS += [*_RECIPE, "seed", "val_acc", "val_loss", "diverged", "seconds"]
_NO_PROTOCOL = {"dataset", "model", "form", "a", "source", "heads", "weights", "schedule"}
_TABLE1 = (PAPER["lr"], PAPER["weight_decay"])


def load_searches(folder: Path | str) -> pd.DataFrame:
    """All trials of the search records in a folder, as :func:`search_trials` makes them; empty where there is none.

    Raises:
        ValueError: a file is not a search record, or two searched one network with one schedule; the message names them.
    """
    tables, seen = [], {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            tables.append(search_trials(json.loads(path.read_text(encoding="utf-8"))))
            about = tuple(tables[-1].iloc[0][["dataset", "protocol", "network", "schedule"]])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            wrong = f"search record {path} is not one that a search wrote ({type(error).__name__}: {error})"
            raise ValueError(f"{wrong}; delete or mend it") from error
        if (other := seen.setdefault(about, path)) != path:  # maps and ranges may differ, so they are no one search
            raise ValueError(f"search records {other} and {path} are of one network and schedule; keep one of them")
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=_COLUMNS)


def search_trials(record: dict) -> pd.DataFrame:
    """The trials of one record: columns "dataset", "protocol" (text), "network" (without maps), "schedule", "image_size", "epochs",
    "stage", "lr", "weight_decay", "seed", "val_acc" (fraction, after the last epoch; 0 where the loss was lost), "val_loss",
    "diverged", "seconds".
    """
    config, rows = record["config"], []
    protocol = ", ".join(f"{name}={value}" for name, value in sorted(config.items()) if name not in _NO_PROTOCOL)
    for trial in record["trials"]:
        diverged = trial["diverged"] is not None
        last = {"val_acc": 0.0, "val_loss": np.inf} if diverged else trial["epochs"][-1]
        about = {"protocol": protocol, "network": network(**config).bare}
        rows.append(last | config | trial | about | {"epochs": config["epochs"], "diverged": diverged})
    return pd.DataFrame(rows, columns=_COLUMNS)


def best_trial(trials: pd.DataFrame) -> pd.Series:
    """Of one search, the trial that it found best: highest validation accuracy, then lowest validation loss."""
    searched = trials[trials["stage"] != "confirm"]
    return searched.sort_values(["val_acc", "val_loss"], ascending=[False, True], kind="stable").iloc[0]


def search_differences(trials: pd.DataFrame) -> list[dict]:
    """Best recipe minus Table 1's, and cosine minus constant, each at its best: in points of validation accuracy, paired by the seeds
    that trained both again; as rows for :func:`resattn.analysis.claims.judge`."""
    rows = []
    for (dataset, protocol, net), group in trials.groupby(["dataset", "protocol", "network"]):
        size, epochs = group.iloc[0][["image_size", "epochs"]]
        about = {"dataset": dataset, "protocol": protocol, "metric": "accuracy", "claimed": np.nan}
        about["words"] = f"{dataset}, {size} pixels, {epochs} epoch{'s' if epochs > 1 else ''}, validation"
        again = {}
        for schedule, own in group.groupby("schedule"):
            recipe = tuple(best_trial(own)[_RECIPE])
            again[schedule] = _confirmed(own, recipe)
            if recipe != _TABLE1:
                asked = {"question": "recipe", "place": "Sec. 5.1, Table 1", "better": -1}
                asked["claim"] = f"{net}, {schedule}: best recipe found − Table 1's"
                rows.append(about | asked | paired_difference(again[schedule], _confirmed(own, _TABLE1))._asdict())
        if len(again) == 2:
            asked = {"question": "schedule", "place": "", "better": 1}
            asked["claim"] = f"{net}: cosine − constant, each at its best recipe"
            rows.append(about | asked | paired_difference(again["cosine"], again["constant"])._asdict())
    return rows


def _confirmed(trials: pd.DataFrame, recipe: tuple[float, float]) -> pd.Series:
    """Validation accuracy (percent) by seed where one search trained a recipe again."""
    chosen = (trials["stage"] == "confirm") & (trials[_RECIPE] == list(recipe)).all(axis=1)
    return 100 * trials[chosen].set_index("seed")["val_acc"]
