"""Records in, tables out: Table 3 at any protocol, accuracy and paired differences by network, and convergence."""

import numpy as np
import pandas as pd

from resattn.analysis.records import NOT_MEASURED, main_records, one_per_seed
from resattn.analysis.statistics import mean_interval, p_value, paired_difference
from resattn.config import FORMS, WIDTHS
from resattn.experiments.protocols import PAPER_TABLE3, RESNET8, TABLE3, Network

_NAMES = ["dataset", "protocol", "network", "name", "variant", "source"]


def accuracy_table(records: pd.DataFrame, metric: str = "test_acc") -> pd.DataFrame:
    """Accuracy in percent by data set, protocol and network: columns "seeds", "mean", "half" (95 %), "paper".

    "paper" is the number of Table 3 with the same a, for any form, and NaN where the paper has none.
    """
    groups = _groups(records)
    rows = [(*key, len(runs), *mean_interval(100 * runs[metric]), _paper(key[0], key[2])) for key, runs in groups]
    return pd.DataFrame(rows, columns=[*_NAMES, "seeds", "mean", "half", "paper"])


def paired_differences(records: pd.DataFrame, against: Network = RESNET8, metric: str = "test_acc") -> pd.DataFrame:
    """Difference in accuracy (percentage points) to ``against``, paired by the seeds that both have.

    Columns as in :func:`accuracy_table`, with "p" (of one comparison, not adjusted) instead of "paper".
    """
    groups = _groups(records)
    reference = {key[:2]: runs for key, runs in groups if key[2] == against}
    rows = []
    for key, runs in groups:
        if key[2] != against and key[:2] in reference:
            one, other = (100 * each.set_index("seed")[metric] for each in (runs, reference[key[:2]]))
            seeds, mean, half = paired_difference(one, other)
            rows += [(*key, seeds, mean, half, p_value(seeds, mean, half))] if seeds else []
    return pd.DataFrame(rows, columns=[*_NAMES, "seeds", "mean", "half", "p"])


def table3(records: pd.DataFrame, preset: str = "paper") -> pd.DataFrame:
    """Table 3 as text: one row a network, for each data set the paper's number and ours; what nobody ran says so.

    The data sets of the paper are always there, and only runs with the settings of ``preset`` count for them. Others (``shapes``)
    follow where there are records. A network with fewer seeds than the others has its own number of them beside it.
    """
    counts = records[(records["preset"] == preset) | ~records["dataset"].isin(PAPER_TABLE3)]
    ours = accuracy_table(main_records(counts))
    networks = sorted({*TABLE3, *(network.bare for network in ours["network"])})
    columns = {}
    for dataset in [*PAPER_TABLE3, *sorted(set(ours["dataset"]) - set(PAPER_TABLE3))]:
        rows = ours[ours["dataset"] == dataset]
        cells = {row.network.bare: format_interval(row.mean, row.half, row.seeds) for row in rows.itertuples()}
        if dataset in PAPER_TABLE3:
            columns[f"{dataset} (paper)"] = [f"{_paper(dataset, network):.1f}" for network in networks]
        columns[f"{dataset} (ours)"] = [cells.get(network, NOT_MEASURED) for network in networks]
    return pd.DataFrame(columns, index=pd.Index([network.variant for network in networks], name="network"))


def reduced_table(records: pd.DataFrame, preset: str = "short") -> pd.DataFrame:
    """Table 3 at a protocol smaller than the paper's: :func:`table3` without the data sets and networks that have no runs."""
    chosen = records[(records["preset"] == preset) & records["dataset"].isin(PAPER_TABLE3)]
    table = table3(chosen, preset)
    kept = [column for column in table if column.rpartition(" (")[0] in set(chosen["dataset"])]
    ours = table[[column for column in kept if column.endswith("(ours)")]]
    return table.loc[(ours != NOT_MEASURED).any(axis=1), kept]


def epochs_to_reach(history: list[dict], share: float = 0.95) -> float:
    """Epochs until the validation accuracy first reaches ``share`` of its last value, linear between epochs, from 0 at 0."""
    accuracies = [0.0, *(entry["val_acc"] for entry in history)]
    goal = share * accuracies[-1]
    after = next(i for i, value in enumerate(accuracies) if value >= goal)
    if after == 0:
        return 0.0
    below, above = accuracies[after - 1], accuracies[after]
    return after - 1 + (goal - below) / (above - below)


def convergence_table(records: pd.DataFrame, share: float = 0.95) -> pd.DataFrame:
    """How soon each network gets near its end, and how far it is after one epoch; means with 95 % half-widths over seeds.

    "epochs" are :func:`epochs_to_reach`, "first loss" is the training loss of the first epoch (nats), "first accuracy" the validation
    accuracy after it (percent); the other columns are as in :func:`accuracy_table`.
    """
    rows = []
    for key, runs in _groups(records):
        histories = list(runs["history"])
        epochs = mean_interval(epochs_to_reach(history, share) for history in histories)
        loss = mean_interval(history[0]["train_loss"] for history in histories)
        accuracy = mean_interval(100 * history[0]["val_acc"] for history in histories)
        rows.append((*key, len(runs), *epochs, *loss, *accuracy))
    measured = ["epochs", "epochs half", "first loss", "first loss half", "first accuracy", "first accuracy half"]
    return pd.DataFrame(rows, columns=[*_NAMES, "seeds", *measured])


def format_interval(mean: float, half: float, seeds: int) -> str:
    """ "83.21 ± 0.40 (5)": mean, half-width of the 95 % interval, number of seeds."""
    return f"{mean:.2f} ± {half:.2f} ({seeds})" if np.isfinite(half) else f"{mean:.2f} ({seeds})"


def to_markdown(table: pd.DataFrame) -> str:
    """A text table as GitHub renders it, the index first; cells may have several lines and links, but no HTML of their own."""
    rows = [[table.index.name or "", *table.columns], ["---"] * (1 + len(table.columns)), *table.itertuples()]
    cells = [[markdown_text(cell).replace("|", r"\|").replace("\n", "<br>") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def markdown_text(text: object) -> str:
    """Text to put into Markdown: what would be an HTML tag in it is shown as it is."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;")


def _groups(records: pd.DataFrame) -> list[tuple[tuple, pd.DataFrame]]:
    """The runs of each network, in Table 3's order, by what ``_NAMES`` names."""
    groups = sorted(one_per_seed(records).groupby(_NAMES[:3], sort=False), key=lambda group: group[0])
    return [((*key, key[2].name, key[2].variant, key[2].maps or None), runs) for key, runs in groups]


def _paper(dataset: str, network: Network) -> float:
    """The number of Table 3 for a network; the paper calls its a = 0 a standard ResNet8, so the baseline counts as 0."""
    a = 0.0 if network == RESNET8 else network.a if network.form in FORMS and network.widths == WIDTHS else None
    return PAPER_TABLE3.get(dataset, {}).get(a, np.nan)
