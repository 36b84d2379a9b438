"""From records to tables: means, intervals and paired differences over seeds. Nothing here trains or guesses."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from resattn.config import FORMS, PAPER

# Table 3 of the paper: top-1 test accuracy in percent for mask strength a. It gives one number a cell, and no variance.
PAPER_TABLE3 = {
    "cifar10": {0.0: 83.3, 0.5: 86.6, 1.0: 87.0},
    "cifar100": {0.0: 41.1, 0.5: 42.9, 1.0: 43.4},
}
BASELINE = "ResNet8"
NOT_MEASURED = "not measured yet"
_FULL_PROTOCOL = {name: value for name, value in PAPER.items() if name != "source"}
_NOT_PROTOCOL = {"dataset", "model", "form", "a", "source", "heads", "weights", "widths", "seed"}
_WEIGHTS = Path(__file__).parent.parent / "weights"
_FORM_ORDER = (BASELINE, "printed", "gated", "scaled", "unmasked")


def load_records(folder: Path | str) -> pd.DataFrame:
    """All records of a folder, one row each, sorted by data set, variant and seed.

    Returns:
        Columns "dataset", "variant" (as :func:`variant_name`), "network" (as :func:`network_name`), "source", "seed", "protocol" (every other setting, as text),
        "full" (whether the settings are those of the paper's Tables 1 and 2), "test_acc" and "test_acc_at_best_val" (fractions), "parameters", "seconds", "device", "history" (the list of
        epochs), "path". Empty, with these columns, where the folder holds none or is missing.

    Raises:
        ValueError: a file is not a record; the message names it.
    """
    columns = ["dataset", "variant", "network", "source", "seed", "protocol", "full", "test_acc"]
    columns += ["test_acc_at_best_val", "parameters", "seconds", "device", "history", "path"]
    rows = [_row(path) for path in sorted(Path(folder).glob("*.json"))]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["dataset", "variant", "seed"], kind="stable", ignore_index=True)


def variant_name(config: dict) -> str:
    """ "ResNet8", "printed a=0.5", "gated a=1", ... for the configuration of a record.

    Controls: "SE-ResNet8"; "ResNet8 18-36-71" for other widths; "gated a=1 all heads" where a map is not the heads' mean.
    """
    return " ".join(part for part in (_architecture(config), _heads(config)) if part)


def network_name(config: dict) -> str:
    """:func:`variant_name` and, where maps decide something, their source: "gated a=1, dino-tiny all heads".

    Weights of a ViT other than the source's own go by the name of their file in the package, or by their digest.
    """
    if not config["source"] or config["a"] == 0:
        return _architecture(config)
    source, weights = config["source"], config.get("weights", "pretrained")
    if weights != "pretrained":
        packaged = {
            hashlib.sha256(path.read_bytes()).hexdigest()[:16]: path.stem for path in _WEIGHTS.glob("*.safetensors")
        }
        source = packaged.get(weights, f"{source} {weights[:8]}")
    return " ".join(part for part in (f"{_architecture(config)}, {source}", _heads(config)) if part)


def variant_order(variants: Iterable[str]) -> list[str]:
    """The baseline, then the printed form, then the gated one, each by rising a; then the controls."""

    def rank(variant: str) -> tuple:
        form, _, rest = variant.partition(" a=")
        return (*(form != known for known in _FORM_ORDER), float(rest.split(" ")[0] or 0), variant)

    return sorted(set(variants), key=rank)


def mean_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of Student's interval; the half-width is NaN for a single value.

    Raises:
        ValueError: there is no value.
    """
    from scipy import stats  # here, because it takes a second to import

    values = np.asarray(list(values), float)
    if not len(values):
        raise ValueError("values must not be empty")
    if len(values) == 1:
        return float(values[0]), float("nan")
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def accuracy_table(records: pd.DataFrame, metric: str = "test_acc") -> pd.DataFrame:
    """Accuracy in percent by data set, protocol, source and variant: columns "seeds", "mean", "half" (95 %), "paper".

    "paper" is the number of Table 3 with the same a, for either form, and NaN where the paper has none.
    """
    rows = []
    for (dataset, protocol, variant), group in records.groupby(["dataset", "protocol", "variant"], sort=False):
        for source, runs in group.groupby("source", dropna=False):
            _refuse_doubles(runs, f"{dataset} {variant}")
            mean, half = mean_interval(100 * runs[metric])
            paper = PAPER_TABLE3.get(dataset, {}).get(_mask_strength(variant), np.nan)
            rows.append((dataset, protocol, variant, source, len(runs), mean, half, paper))
    table = pd.DataFrame(rows, columns=["dataset", "protocol", "variant", "source", "seeds", "mean", "half", "paper"])
    order = {variant: i for i, variant in enumerate(variant_order(table["variant"]))}
    return table.sort_values(
        ["dataset", "protocol", "variant"], key=lambda c: c.map(order) if c.name == "variant" else c, ignore_index=True
    )


def paired_differences(records: pd.DataFrame, against: str = BASELINE, metric: str = "test_acc") -> pd.DataFrame:
    """Difference in accuracy (percentage points) to ``against``, paired by seed, with its 95 % interval.

    Only seeds that both variants have count. Columns "dataset", "protocol", "variant", "source", "seeds", "mean", "half".
    """
    rows = []
    for (dataset, protocol), group in records.groupby(["dataset", "protocol"], sort=False):
        reference = group[group["variant"] == against].set_index("seed")[metric]
        others = group[group["variant"] != against]
        for (variant, source), runs in others.groupby(["variant", "source"], sort=False, dropna=False):
            seeds, mean, half = paired_difference(runs.set_index("seed")[metric], reference)
            if seeds:
                rows.append((dataset, protocol, variant, source, seeds, mean, half))
    table = pd.DataFrame(rows, columns=["dataset", "protocol", "variant", "source", "seeds", "mean", "half"])
    order = {variant: i for i, variant in enumerate(variant_order(table["variant"]))}
    return table.sort_values(
        ["dataset", "protocol", "variant"], key=lambda c: c.map(order) if c.name == "variant" else c, ignore_index=True
    )


def paired_difference(one: pd.Series, other: pd.Series) -> tuple[int, float, float]:
    """Over the seeds that both have: how many, and mean and half-width (95 %) of ``one`` - ``other`` in percentage points.

    Args:
        one, other: fractions, indexed by seed.

    Raises:
        ValueError: a seed is there twice.
    """
    if one.index.has_duplicates or other.index.has_duplicates:
        raise ValueError(f"one and other must hold one run a seed, got seeds {list(one.index)} and {list(other.index)}")
    differences = 100 * (one - other).dropna()
    return len(differences), *(mean_interval(differences) if len(differences) else (np.nan, np.nan))


def table3(records: pd.DataFrame) -> pd.DataFrame:
    """Table 3 as text: one row a variant, for each data set the paper's number and ours; what nobody ran says so.

    The data sets of the paper are always there, and only runs at the paper's settings count for them. Others (``shapes``)
    follow where there are records. Of several protocols or sources, the one with most records counts.
    """
    datasets = [*PAPER_TABLE3, *sorted(set(records["dataset"]) - set(PAPER_TABLE3))]
    wanted = [BASELINE, *(f"{form} a={a:g}" for form in ("printed", "gated") for a in (0, 0.5, 1))]
    variants = variant_order([*wanted, *records["variant"]])
    columns = {}
    for dataset in datasets:
        runs = records[(records["dataset"] == dataset) & (records["full"].astype(bool) | (dataset not in PAPER_TABLE3))]
        ours = accuracy_table(main_records(runs))
        cells = {row.variant: format_interval(row.mean, row.half, row.seeds) for row in ours.itertuples()}
        if dataset in PAPER_TABLE3:
            paper = PAPER_TABLE3[dataset]
            columns[f"{dataset} (paper)"] = [_paper_cell(paper, variant) for variant in variants]
        columns[f"{dataset} (ours)"] = [cells.get(variant, NOT_MEASURED) for variant in variants]
    return pd.DataFrame(columns, index=pd.Index(variants, name="network"))


def reduced_table(records: pd.DataFrame) -> pd.DataFrame:
    """Table 3 at a reduced protocol, as text: one row a variant that was run, per data set of the paper its number and ours.

    Only runs on the paper's data sets with other settings than the paper's count. Empty where there are none.
    """
    reduced = records[~records["full"].astype(bool) & records["dataset"].isin(PAPER_TABLE3)]
    ours = accuracy_table(main_records(reduced))
    columns = {}
    variants = variant_order(ours["variant"])
    for dataset, rows in ours.groupby("dataset"):
        cells = {row.variant: format_interval(row.mean, row.half, row.seeds) for row in rows.itertuples()}
        columns[f"{dataset} (paper)"] = [_paper_cell(PAPER_TABLE3[dataset], variant) for variant in variants]
        columns[f"{dataset} (reduced)"] = [cells.get(variant, NOT_MEASURED) for variant in variants]
    return pd.DataFrame(columns, index=pd.Index(variants, name="network"))


def describe_protocol(records: pd.DataFrame) -> str:
    """In words what runs of one protocol have in common: maps, image side, epochs, batch, learning rate, schedule, and a weight
    decay that is not the paper's.

    Raises:
        ValueError: the records were made with different settings.
    """
    protocols = set(records["protocol"])
    if len(protocols) != 1:
        raise ValueError(f"records must share one protocol, got {len(protocols)}: {sorted(protocols)}")
    settings = dict(part.split("=") for part in protocols.pop().split(", "))
    sources = ", ".join(sorted(set(records["source"].dropna())))
    names = {"image_size": "{} pixels", "epochs": "{} epochs", "batch_size": "batch {}", "lr": "learning rate {}"}
    said = [text.format(settings[name]) for name, text in names.items()]
    maps = [f"maps {sources}"] if sources else []
    said.append(f"{settings['schedule']} schedule")
    if float(settings["weight_decay"]) != PAPER["weight_decay"]:
        said.append(f"weight decay {settings['weight_decay']}")
    return ", ".join([*maps, *said])


def main_records(records: pd.DataFrame) -> pd.DataFrame:
    """For each data set, the records of the protocol that has most, and of them the baseline and the source with most."""

    def largest(group: pd.DataFrame) -> pd.DataFrame:
        group = group[group["protocol"] == group["protocol"].mode().iloc[0]]
        sources = group["source"].dropna()
        return group[group["source"].isna() | (group["source"] == (sources.mode().iloc[0] if len(sources) else None))]

    chosen = [largest(group) for _, group in records.groupby("dataset")]
    return pd.concat(chosen, ignore_index=True) if chosen else records


def format_interval(mean: float, half: float, seeds: int) -> str:
    """ "83.21 ± 0.40 (5)": mean, half-width of the 95 % interval, number of seeds."""
    return f"{mean:.2f} ± {half:.2f} ({seeds})" if np.isfinite(half) else f"{mean:.2f} ({seeds})"


def to_markdown(table: pd.DataFrame) -> str:
    """A text table as GitHub renders it, the index first; cells may have several lines and links, but no HTML of their own."""
    head = [table.index.name or "", *table.columns]
    lines = [
        head,
        ["---"] * len(head),
        *([index, *row] for index, row in zip(table.index, table.to_numpy(), strict=True)),
    ]
    return "\n".join(
        "| " + " | ".join(markdown_text(cell).replace("|", r"\|").replace("\n", "<br>") for cell in line) + " |"
        for line in lines
    )


def markdown_text(text: object) -> str:
    """Text to put into Markdown: what would be an HTML tag in it is shown as it is."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;")


def _row(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        config, metrics = record["config"], record["metrics"]
        return {
            "dataset": config["dataset"],
            "variant": variant_name(config),
            "network": network_name(config),
            "source": config["source"],
            "seed": config["seed"],
            "protocol": ", ".join(f"{k}={v}" for k, v in sorted(config.items()) if k not in _NOT_PROTOCOL),
            "full": all(config[name] == value for name, value in _FULL_PROTOCOL.items()),
            "test_acc": metrics["test_acc"],
            "test_acc_at_best_val": metrics["test_acc_at_best_val"],
            "parameters": record["parameters"],
            "seconds": record["environment"]["seconds"],
            "device": record["environment"]["device"],
            "history": metrics["epochs"],
            "path": str(path),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"record {path} is not one that training wrote ({type(error).__name__}: {error}); delete or mend it"
        ) from error


def _architecture(config: dict) -> str:
    known = BASELINE if config["model"] == "resnet8" else f"{config['model'].partition('-')[2].upper()}-{BASELINE}"
    name = f"{config['form']} a={config['a']:g}" if config["model"] == "resattn" else known
    return f"{name} {'-'.join(map(str, config['widths']))}" if "widths" in config else name


def _heads(config: dict) -> str:
    heads = config.get("heads", "mean")
    return "" if heads == "mean" else f"head {heads}" if isinstance(heads, int) else f"{heads} heads"


def _refuse_doubles(runs: pd.DataFrame, what: str) -> None:
    doubles = runs[runs.duplicated("seed")]
    if len(doubles):
        raise ValueError(
            f"records must hold one run a seed for {what}; seed {doubles.iloc[0]['seed']} is there twice: {list(runs['path'])}"
        )


def _paper_cell(paper: dict[float, float], variant: str) -> str:
    a = _mask_strength(variant)
    return f"{paper[a]:.1f}" if a in paper else "–"


def _mask_strength(variant: str) -> float:
    """a of a variant of Table 3, NaN for another; the paper calls its a = 0 a standard ResNet8, so the baseline counts as 0."""
    form, _, a = variant.partition(" a=")
    if variant == BASELINE:
        return 0.0
    return float(a) if form in FORMS and " " not in a else float("nan")
