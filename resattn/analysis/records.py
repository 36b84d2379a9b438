"""The one reader of records: each is checked when read, and becomes a row of columns. Nothing here trains or guesses."""

import json
import math
from pathlib import Path

import pandas as pd
from jsonschema import Draft202012Validator

from resattn.config import DEPTHS, FORMS, PAPER, PRESETS, WIDTHS, TrainConfig
from resattn.experiments.protocols import Network, network
from resattn.files import file_name

NOT_MEASURED = "not measured yet"
NO_EVIDENCE = {"checks", "tuning"}  # folders of trials that were made to choose settings
_NETWORK = ("model", "form", "a", "source", "base", "heads", "weights", "widths", "depths")
_SETTINGS = ("epochs", "image_size", "batch_size", "lr", "weight_decay", "schedule")
_COLUMNS = ("dataset", "network", "name", "variant", *_NETWORK, "seed", "preset", "protocol", "settings", *_SETTINGS)
_COLUMNS += ("test_acc", "test_acc_at_best_val", "parameters", "seconds", "device", "history", "path")
_SCHEMA = json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))
_VALIDATOR = Draft202012Validator(_SCHEMA)


def load_records(*folders: Path | str) -> pd.DataFrame:
    """All records below the folders, one row each, sorted by data set, network and seed; records of searches are left out.

    Returns:
        Columns as ``_COLUMNS`` names them; "network" is a :class:`resattn.experiments.protocols.Network`, "name" and "variant" are for
        people, "preset" is "other" where the settings, maps and data aside, are none's, "protocol" is every setting but network and seed,
        "settings" says the same in words, without what nobody changes; accuracies are fractions, "history" is the list of epochs.

    Raises:
        ValueError: a file is not what training wrote, or one run has two results; the message names the file.
    """
    rows: dict[tuple[str, str], dict] = {}
    files = {path for folder in folders for path in Path(folder).rglob("*.json")}
    for path in sorted(files, key=lambda path: (path.parent.name in NO_EVIDENCE, path)):  # of equals the first stays
        if (record := read_record(path)) is not None:
            row = _row(record, path)
            first = rows.setdefault((path.stem, row["protocol"]), row)  # which tells folders of one name apart
            if _result(first) != _result(row):
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
        error = next(_VALIDATOR.iter_errors(record), None)
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


def _result(row: dict) -> tuple:
    """What a run that is executed twice must come to again; not its times."""
    return row["test_acc"], [entry | {"seconds": None} for entry in row["history"]]


def main_records(records: pd.DataFrame) -> pd.DataFrame:
    """For each data set and preset the runs of Table 3's networks at one protocol and with one source of maps.

    Runs at no preset's settings count where a data set has no others. The protocol is the one with most records; the maps are the
    preset's where it has records of them, else those with most.
    """
    table3 = one_per_seed(records.loc[[_may_count(one) for one in records["network"]]])
    chosen = []
    for _, runs in table3.groupby("dataset"):
        presets = [name for name in PRESETS if name in set(runs["preset"])] or ["other"]
        chosen += [_main(runs[runs["preset"] == name], name) for name in presets]
    return pd.concat(chosen, ignore_index=True) if chosen else records[:0]


def one_per_seed(records: pd.DataFrame) -> pd.DataFrame:
    """One run for each data set, protocol, network and seed: at a = 0 runs with other maps are the same network."""
    return records.drop_duplicates(["dataset", "protocol", "network", "seed"], ignore_index=True)


def _may_count(network: Network) -> bool:
    known = network.model in ("resnet8", "resattn") and network.form in (None, *FORMS) and network.widths == WIDTHS
    known = known and network.depths == DEPTHS[8]
    return known and network.heads in (None, "mean") and network.weights in (None, "pretrained")


def _main(group: pd.DataFrame, preset: str) -> pd.DataFrame:
    group = group[group["protocol"] == group["protocol"].mode().iloc[0]]
    sources, own = group["source"].dropna(), PRESETS.get(preset, {}).get("source")
    source = own if own in set(sources) else next(iter(sources.mode()), None)
    return group[group["source"].isna() | (group["source"] == source)]


def _row(record: dict, path: Path) -> dict:
    config, metrics, environment = record["config"], record["metrics"], record["environment"]
    one = network(**{name: config[name] for name in _NETWORK if name in config})
    rest = {name: value for name, value in sorted(config.items()) if name not in (*_NETWORK, "dataset", "seed")}
    rest |= {"folder": environment["folder"]} if "folder" in environment else {}  # another may have its name
    about = {"network": one, "name": one.name, "variant": one.variant, "history": metrics["epochs"], "path": str(path)}
    about |= {"protocol": ", ".join(f"{name}={value}" for name, value in rest.items())}
    about["settings"] = _in_words(config) + (f", folder {environment['folder'][:8]}" if "folder" in environment else "")
    about |= {"preset": _preset(config), "parameters": record["parameters"]}
    known = environment | metrics | config | vars(one) | about
    return {name: known[name] for name in _COLUMNS}


def _preset(config: dict) -> str:
    for preset, settings in PRESETS.items():
        if all(config[name] == value for name, value in settings.items() if name not in ("source", "dataset")):
            return preset
    return "other"


def _in_words(config: dict) -> str:
    epochs = f"{config['epochs']} epoch{'s' if config['epochs'] > 1 else ''}"
    recipe = f"batch {config['batch_size']}, learning rate {config['lr']:.3g}, {config['schedule']} schedule"
    decay = config["weight_decay"]
    changed = f", weight decay {decay:.2g}" if decay != PAPER["weight_decay"] else ""
    return f"{config['image_size']} pixels, {epochs}, {recipe}{changed}"


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value
