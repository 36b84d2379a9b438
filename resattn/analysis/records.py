"""The one reader of records: each is checked when read, and becomes a row of columns. Nothing here trains or guesses."""

import functools
import json
from pathlib import Path
from typing import Any

import pandas as pd

from resattn.config import FORMS, PAPER, PRESETS, WIDTHS, TrainConfig
from resattn.experiments.protocols import PAPER_TABLE3 as PAPER_TABLE3  # read from here too
from resattn.experiments.protocols import RESNET8, network
from resattn.files import file_name

BASELINE = RESNET8.name
NOT_MEASURED = "not measured yet"
_NETWORK = ("model", "form", "a", "source", "base", "heads", "weights", "widths", "depths")
_SETTINGS = ("epochs", "image_size", "batch_size", "lr", "weight_decay", "schedule")
_COLUMNS = ("dataset", "network", "name", "variant", *_NETWORK, "seed", "preset", "full", "protocol", *_SETTINGS)
_COLUMNS += ("test_acc", "test_acc_at_best_val", "parameters", "seconds", "device", "history", "path")
_FRACTION, _POSITIVE = {"type": "number", "minimum": 0, "maximum": 1}, {"type": "number", "minimum": 0}
_COUNT, _TEXT = {"type": "integer", "minimum": 1}, {"type": "string"}


def _object(needed: str, **properties: Any) -> dict:
    return {"type": "object", "properties": properties, "required": needed.split()}


_EPOCH = _object("train_loss val_loss val_acc", train_loss=_POSITIVE, val_loss=_POSITIVE, val_acc=_FRACTION)
_METRICS = _object(
    "test_acc test_acc_at_best_val best_val_epoch epochs",
    **dict.fromkeys(("test_acc", "test_acc_at_best_val"), _FRACTION),
    test_loss=_POSITIVE,
    best_val_epoch=_COUNT,
    epochs={"type": "array", "minItems": 1, "items": _EPOCH},
)
_ENVIRONMENT = _object(
    "seconds device",
    **dict.fromkeys(("device", "instruction_set", "python", "precision", "finished"), _TEXT),
    seconds=_POSITIVE,
    peak_memory_mb=_POSITIVE,
    threads=_COUNT,
    versions={"type": "object", "additionalProperties": _TEXT},
    revision={"type": ["string", "null"]},  # null outside a git checkout
)
_PARTS = {"config": {"type": "object"}, "metrics": _METRICS, "parameters": _COUNT, "environment": _ENVIRONMENT}
_RECORD = _object("config metrics parameters environment", **_PARTS)


def load_records(*folders: Path | str) -> pd.DataFrame:
    """All records below the folders, one row each, sorted by data set, network and seed; records of searches are left out.

    Returns:
        Columns "dataset", "network" (a :class:`resattn.experiments.protocols.Network`) and its parts ("name" and "variant" for people, "model",
        "form", "a", "source", "base", "heads", "weights", "widths"), "seed", "preset" ("other" where the settings, maps aside, are
        none's), "full" (the paper's), "protocol" (every setting but network and seed, as text), "epochs", "image_size",
        "batch_size", "lr", "weight_decay", "schedule", "test_acc" and "test_acc_at_best_val" (fractions), "parameters",
        "seconds", "device", "history" (the list of epochs), "path". Empty, with these columns, where there is none.

    Raises:
        ValueError: a file is not what training wrote, or one run has two results; the message names the file.
    """
    rows: dict[str, dict] = {}
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.json")):
        record = read_record(path)
        if record is None:
            continue
        row = _row(record, path)
        first = rows.setdefault(path.stem, row)
        if first["history"] != row["history"] or first["test_acc"] != row["test_acc"]:
            raise ValueError(f"record {path} is the run of {first['path']} with another result; keep one of them")
    ordered = sorted(rows.values(), key=lambda row: (row["dataset"], row["network"], row["seed"]))
    return pd.DataFrame(ordered, columns=list(_COLUMNS)).astype({"full": bool})


def read_record(path: Path | str) -> dict | None:
    """One record, checked: types and ranges, its settings, its name, and its metrics against its epochs; None for a search's.

    Raises:
        ValueError: something is wrong; the message names the file and what it is.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
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
    table3 = [
        network.model in ("resnet8", "resattn")
        and (network.form in (None, *FORMS), network.widths, network.heads, network.weights)
        in ((True, WIDTHS, None, None), (True, WIDTHS, "mean", "pretrained"))
        for network in records["network"]
    ]
    chosen = [_main(group) for _, group in one_per_seed(records.loc[table3]).groupby("dataset")]
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
    said = [f"maps {sources}"] if sources and maps else []
    said += [
        f"{run.image_size} pixels",
        f"{run.epochs} epoch{'s' if run.epochs > 1 else ''}",
        f"batch {run.batch_size}",
    ]
    said += [f"learning rate {run.lr:.3g}", f"{run.schedule} schedule"]
    if run.weight_decay != PAPER["weight_decay"]:
        said.append(f"weight decay {run.weight_decay:.2g}")
    return ", ".join(said)


def _main(group: pd.DataFrame) -> pd.DataFrame:
    presets = [name for name in PRESETS if name in set(group["preset"])]
    if presets:
        group = group[group["preset"] == presets[0]]
    group = group[group["protocol"] == group["protocol"].mode().iloc[0]]
    sources = group["source"].dropna()
    own = PRESETS[presets[0]]["source"] if presets else None
    source = own if own in set(sources) else next(iter(sources.mode()), None)
    return group[group["source"].isna() | (group["source"] == source)]


def _row(record: dict, path: Path) -> dict:
    config, metrics = record["config"], record["metrics"]
    one = network(**{name: config[name] for name in _NETWORK if name in config})
    preset = next((name for name, settings in PRESETS.items() if _agrees(config, settings)), "other")
    rest = {name: value for name, value in sorted(config.items()) if name not in (*_NETWORK, "dataset", "seed")}
    return (
        {"dataset": config["dataset"], "network": one, "name": one.name, "variant": one.variant, **vars(one)}
        | {"seed": config["seed"], "preset": preset, "full": preset == "paper"}
        | {"protocol": ", ".join(f"{name}={value}" for name, value in rest.items())}
        | {name: config[name] for name in _SETTINGS}
        | {"test_acc": metrics["test_acc"], "test_acc_at_best_val": metrics["test_acc_at_best_val"]}
        | {"parameters": record["parameters"], "history": metrics["epochs"], "path": str(path)}
        | {name: record["environment"][name] for name in ("seconds", "device")}
    )


def _agrees(config: dict, preset: dict) -> bool:
    return all(config[name] == value for name, value in preset.items() if name != "source")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


@functools.cache
def _validator():
    from jsonschema import Draft202012Validator  # here, because it takes a moment to import

    return Draft202012Validator(_RECORD)
