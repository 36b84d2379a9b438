"""Records in, tables out: accuracy by network, and Table 3 at any protocol."""

import numpy as np
import pandas as pd

from resattn.analysis.records import NOT_MEASURED, main_records, one_per_seed
from resattn.analysis.statistics import mean_interval
from resattn.config import DEPTHS, FORMS, WIDTHS
from resattn.experiments.protocols import PAPER_TABLE3, RESNET8, TABLE3, Network

_NETWORK = ["dataset", "protocol", "network"]
_COLUMNS = [*_NETWORK, "name", "variant", "settings", "seeds", "mean", "half", "text", "paper"]


def accuracy_table(records: pd.DataFrame, metric: str = "test_acc") -> pd.DataFrame:
    """Accuracy in percent by data set, protocol and network, in Table 3's order: "seeds", "mean", "half" (95 %), all three as "text"
    ("83.21 ± 0.40 (5)"), and "paper": the number of Table 3 with the same a, for any form, or NaN."""
    rows = []
    for key, runs in one_per_seed(records).groupby(_NETWORK):
        dataset, _, network = key
        mean, half = mean_interval(100 * runs[metric])
        text = f"{mean:.2f} ± {half:.2f} ({len(runs)})" if np.isfinite(half) else f"{mean:.2f} ({len(runs)})"
        about = network.name, network.variant, runs["settings"].iloc[0]
        rows.append((*key, *about, len(runs), mean, half, text, _paper(dataset, network)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def table3(records: pd.DataFrame, *presets: str) -> pd.DataFrame:
    """Table 3 at the settings of presets ("paper" by default), as text: a row a network, and for each data set that has runs the paper's
    number, where it has one, and ours, a column a preset; what nobody ran says so."""
    presets = presets or ("paper",)
    ours = {preset: accuracy_table(main_records(records[records["preset"] == preset])) for preset in presets}
    table = pd.DataFrame(index=pd.Index([network.variant for network in TABLE3], name="network"))
    for dataset in sorted({dataset for rows in ours.values() for dataset in rows["dataset"]}):
        if dataset in PAPER_TABLE3:
            table[f"{dataset} (paper)"] = [f"{_paper(dataset, network):.1f}" for network in TABLE3]
        for preset, rows in ours.items():
            own = rows[rows["dataset"] == dataset]
            cells = dict(zip(own["variant"], own["text"], strict=True))
            if cells:
                name = preset if len(presets) > 1 else "ours"
                table[f"{dataset} ({name})"] = [cells.get(variant, NOT_MEASURED) for variant in table.index]
    return table


def epochs_to_reach(history: list[dict], share: float = 0.95) -> float:
    """Epochs until the validation accuracy first reaches ``share`` of its last value, linear between epochs, from 0 at 0."""
    accuracies = [0.0, *(entry["val_acc"] for entry in history)]
    goal = share * accuracies[-1]
    after = next(i for i, value in enumerate(accuracies) if value >= goal)
    if after == 0:
        return 0.0
    below, above = accuracies[after - 1], accuracies[after]
    return after - 1 + (goal - below) / (above - below)


def to_markdown(table: pd.DataFrame) -> str:
    """A text table as GitHub renders it, the index first; cells may have links, but no HTML of their own."""
    rows = [[table.index.name or "", *table.columns], ["---"] * (1 + len(table.columns)), *table.itertuples()]
    cells = [[markdown_text(cell).replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def markdown_text(text: object) -> str:
    """Text to put into Markdown: what would be an HTML tag in it is shown as it is."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;")


def _paper(dataset: str, network: Network) -> float:
    """The number of Table 3 for a network; the paper calls its a = 0 a standard ResNet8, so the baseline counts as 0."""
    same = (network.model, network.widths, network.depths) == ("resattn", WIDTHS, DEPTHS[8]) and network.form in FORMS
    a = 0.0 if network == RESNET8 else network.a if same else None
    return PAPER_TABLE3.get(dataset, {}).get(a, np.nan)
