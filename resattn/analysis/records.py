"""The one reader of records: each is checked when read, and becomes a row of columns. Nothing here trains or guesses."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from resattn.config import FORMS, PAPER, PRESETS, WIDTHS, TrainConfig
from resattn.experiments.protocols import Network, network
from resattn.files import file_name

NOT_MEASURED = "not measured yet"
_NETWORK = ("model", "form", "a", "source", "base", "heads", "weights", "widths", "depths")
_SETTINGS = ("epochs", "image_size", "batch_size", "lr", "weight_decay", "schedule")
_COLUMNS = ("dataset", "network", "name", "variant", *_NETWORK, "seed", "preset", "protocol", *_SETTINGS)
_COLUMNS += ("test_acc", "test_acc_at_best_val", "parameters", "seconds", "device", "history", "path")
_FRACTION, _POSITIVE = {"type": "number", "minimum": 0, "maximum": 1}, {"type": "number", "minimum": 0}
_COUNT, _TEXT = {"type": "integer", "minimum": 1}, {"type": "string"}


def _object(needed: str, **properties: Any) -> dict:
    return {"type": "object", "properties": properties, "required": needed.split()}


_EPOCH = _object("train_loss val_loss val_acc", train_loss=_POSITIVE, val_loss=_POSITIVE, val_acc=_FRACTION)
_ACCURACIES = dict.fromkeys(("test_acc", "test_acc_at_best_val"), _FRACTION)
_COUNTED = {"best_val_epoch": _COUNT, "epochs": {"type": "array", "minItems": 1, "items": _EPOCH}}
_METRICS = _object(
    "test_acc test_acc_at_best_val best_val_epoch epochs", **_ACCURACIES, test_loss=_POSITIVE, **_COUNTED
)
_TEXTS = dict.fromkeys(("device", "instruction_set", "python", "precision", "finished"), _TEXT)
_USED = {"seconds": _POSITIVE, "peak_memory_mb": _POSITIVE, "threads": _COUNT}
_CODE = {"versions": {"type": "object", "additionalProperties": _TEXT}}
_CODE |= {"revision": {"type": ["string", "null"]}}  # null outside a git checkout
_ENVIRONMENT = _object("seconds device", **_TEXTS, **_USED, **_CODE)
_PARTS = {"config": {"type": "object"}, "metrics": _METRICS, "parameters": _COUNT, "environment": _ENVIRONMENT}
_RECORD = _object("config metrics parameters environment", **_PARTS)


def load_records(*folders: Path | str) -> pd.DataFrame:
    """All records below the folders, one row each, sorted by data set, network and seed; records of searches are left out.

    Returns:
        Columns as ``_COLUMNS`` names them; "network" is a :class:`resattn.experiments.protocols.Network`, "name" and "variant" are for
        people, "preset" is "other" where the settings, maps aside, are none's, "protocol" is every setting but network and seed as
        text, accuracies are fractions, "history" is the list of epochs. Empty, with these columns, where there is none.

    Raises:
        ValueError: a file is not what training wrote, or one run has two results; the message names the file.
    """
    rows: dict[str, dict] = {}
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.json")):
        if (record := read_record(path)) is not None:
            row = _row(record, path)
            first = rows.setdefault(path.stem, row)
            if first["history"] != row["history"] or first["test_acc"] != row["test_acc"]:
                raise ValueError(f"record {path} is the run of {first['path']} with another result; keep one of them")
    ordered = sorted(rows.values(), key=lambda row: (row["dataset"], row["network"], row["seed"]))
    return pd.DataFrame(ordered, columns=list(_COLUMNS))


def read_record(path: Path | str) -> dict | None:
    """One record, checked: types and ranges, its settings, its name, and its metrics against its epochs; None for a search's.

    Raises:
        ValueError: something is wrong; the message names the file and what it is.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
        if isinstance(record, dict) and "trials" in record:
            return None
        error = next(_validator().iter_errors(record), None)
        if error is not None:
            raise ValueError(f"{error.json_path.removeprefix('$.')}: {error.message[:200]}")
        config, metrics = record["config"], record["metrics"]
        settings = TrainConfig(**{name: value for name, value in config.items() if value is not None})
        if settings.identity() != config:
            raise ValueError("config is not one that TrainConfig writes")
        if path.stem not in (settings.slug, file_name(settings.slug)):
            raise ValueError(f"its config belongs to a file {settings.slug}.json")
        accuracies = [epoch["val_acc"] for epoch in metrics["epochs"]]
        if len(accuracies) != settings.epochs:
            raise ValueError(f"{len(accuracies)} epochs, where config says {settings.epochs}")
        best = 1 + accuracies.index(max(accuracies))
        if metrics["best_val_epoch"] != best:
            raise ValueError(f"best_val_epoch {metrics['best_val_epoch']}, where val_acc is first highest at {best}")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"record {path} is not one that training wrote ({error}); delete or mend it") from error
    return record


def main_records(records: pd.DataFrame) -> pd.DataFrame:
    """For each data set the runs of Table 3's networks that count: of one protocol, and with one source of maps.

    The protocol is the first of the paper's, "reduced", "short" and "demo" that has records, else the one with most; the maps are
    that preset's own where it has records of them, else those with most.
    """
    table3 = records.loc[[_may_count(one) for one in records["network"]]]
    chosen = [_main(group) for _, group in one_per_seed(table3).groupby("dataset")]
    return pd.concat(chosen, ignore_index=True) if chosen else records[:0]


def one_per_seed(records: pd.DataFrame) -> pd.DataFrame:
    """One run for each data set, protocol, network and seed: at a = 0 runs with other maps are the same network."""
    return records.drop_duplicates(["dataset", "protocol", "network", "seed"], ignore_index=True)


def describe_protocol(records: pd.DataFrame, maps: bool = True) -> str:
    """In words what runs of one protocol have in common: maps, image side, epochs, batch, learning rate, schedule, and a weight
    decay that is not the paper's.

    Raises:
        ValueError: the records were made with different settings.
    """
    if records["protocol"].nunique() != 1:
        raise ValueError(f"records must share one protocol, got {sorted(set(records['protocol']))}")
    run, sources = records.iloc[0], ", ".join(sorted(set(records["source"].dropna())))
    shown = f"maps {sources}, " if sources and maps else ""
    epochs = f"{run.epochs} epoch{'s' if run.epochs > 1 else ''}"
    decay = f", weight decay {run.weight_decay:.2g}" if run.weight_decay != PAPER["weight_decay"] else ""
    recipe = f"batch {run.batch_size}, learning rate {run.lr:.3g}, {run.schedule} schedule{decay}"
    return f"{shown}{run.image_size} pixels, {epochs}, {recipe}"


def _may_count(network: Network) -> bool:
    known = network.model in ("resnet8", "resattn") and network.form in (None, *FORMS) and network.widths == WIDTHS
    return known and network.heads in (None, "mean") and network.weights in (None, "pretrained")


def _main(group: pd.DataFrame) -> pd.DataFrame:
    preset = next((name for name in PRESETS if name in set(group["preset"])), None)
    if preset:
        group = group[group["preset"] == preset]
    group = group[group["protocol"] == group["protocol"].mode().iloc[0]]
    sources = group["source"].dropna()
    own = PRESETS[preset]["source"] if preset else None
    source = own if own in set(sources) else next(iter(sources.mode()), None)
    return group[group["source"].isna() | (group["source"] == source)]


def _row(record: dict, path: Path) -> dict:
    config, metrics, environment = record["config"], record["metrics"], record["environment"]
    one = network(**{name: config[name] for name in _NETWORK if name in config})
    rest = {name: value for name, value in sorted(config.items()) if name not in (*_NETWORK, "dataset", "seed")}
    presets = (name for name, settings in PRESETS.items() if _agrees(config, settings))
    about = {"network": one, "name": one.name, "variant": one.variant, "preset": next(presets, "other")}
    about |= {"protocol": ", ".join(f"{name}={value}" for name, value in rest.items()), "path": str(path)}
    about |= {"parameters": record["parameters"], "history": metrics["epochs"]}
    known = environment | metrics | config | vars(one) | about
    return {name: known[name] for name in _COLUMNS}


def _agrees(config: dict, preset: dict) -> bool:
    return all(config[name] == value for name, value in preset.items() if name != "source")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value


@functools.cache
def _validator():
    from jsonschema import Draft202012Validator  # here, because it takes a moment to import

    return Draft202012Validator(_RECORD)
