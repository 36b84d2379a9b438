"""The paper's claims beside what was measured, and a verdict that follows from intervals alone.

A claim of the form "this is better than that" is judged by the paired difference and its 95 % interval: it *holds* where the
interval lies above zero, *does not hold* where it lies below, or where it reaches zero and excludes a gain of the size the paper
reports; otherwise nobody *can tell*. Nothing here is written by hand but the claims.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from resattn import paths
from resattn.analysis.comparisons import signed
from resattn.analysis.control_claims import NAMES, control_claims
from resattn.analysis.records import (
    BASELINE,
    NOT_MEASURED,
    PAPER_TABLE3,
    load_records,
    main_records,
    mean_interval,
    paired_difference,
)

_BASES = {"printed": "printed a=0", "gated": BASELINE}  # what each form is at a = 0
COLUMNS = ["measured", "verdict", "evidence"]


def claim_table(results: Path = paths.RESULTS) -> pd.DataFrame:
    """Every claim of the paper with what was measured and the verdict, as text; evidence as Markdown links from the checkout.

    Args:
        results: folder of records, those of controls, searches and Table 3 with the recipe found in ``controls``, ``search`` and
            ``recipe`` below it; what is missing
            leaves its cells "not measured yet".

    Returns:
        Indexed by "the paper says", columns "measured", "verdict", "evidence"; a cell has a line for each difference.
    """
    records = main_records(load_records(results))
    rows = {}
    for dataset, paper in PAPER_TABLE3.items():
        name = NAMES[dataset]
        numbers = ", ".join(f"{value:.1f}" for value in paper.values())
        for form, base in _BASES.items():
            claim = f"{name}: accuracy rises with *a* ({numbers} % at 0, 0.5, 1); {form} form, against {base}"
            rows[claim] = _gains(records, dataset, form, base, paper)
    rows["*a* = 0 is a standard ResNet (Sec. 3.5); printed form against ResNet8"] = _standard(records)
    for dataset in PAPER_TABLE3:
        rows[f"{NAMES[dataset]}: training converges faster with higher *a* (Sec. 5.3)"] = _convergence(records, dataset)
    rows |= control_claims(results)
    again = main_records(load_records(results / "recipe"))
    for dataset in [dataset for dataset in PAPER_TABLE3 if dataset in set(again["dataset"])]:
        for form, base in _BASES.items():
            claim = f"{NAMES[dataset]}: accuracy rises with *a*, with the recipe of our own search; {form} form, against {base}"
            measured, judged, _ = _gains(again, dataset, form, base, PAPER_TABLE3[dataset])
            rows[claim] = measured, judged, "[05](notebooks/05_hyperparameters.ipynb), [records](results/recipe)"
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS).rename_axis("the paper says")


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

    Args:
        records: of one protocol a data set (:func:`resattn.analysis.records.main_records`).
        share: of the last epoch's validation accuracy.

    Returns:
        Columns "dataset", "variant", "seeds", "epochs" and "epochs half" (:func:`epochs_to_reach`), "first loss" and "first loss
        half" (training loss of the first epoch, nats), "first accuracy" and "first accuracy half" (validation, after it, percent).
    """
    rows = []
    for (dataset, variant), runs in records.groupby(["dataset", "variant"], sort=False):
        histories = list(runs["history"])
        epochs = mean_interval(epochs_to_reach(history, share) for history in histories)
        loss = mean_interval(history[0]["train_loss"] for history in histories)
        accuracy = mean_interval(100 * history[0]["val_acc"] for history in histories)
        rows.append((dataset, variant, len(runs), *epochs, *loss, *accuracy))
    measured = ["epochs", "epochs half", "first loss", "first loss half", "first accuracy", "first accuracy half"]
    return pd.DataFrame(rows, columns=["dataset", "variant", "seeds", *measured])


def verdict(mean: float, half: float, claimed: float) -> str:
    """Judge a claimed gain by the mean difference and the half-width of its interval; all three in the same unit."""
    if not np.isfinite(half):
        return "cannot tell (one seed)"
    if mean - half > 0:
        return "holds" if mean + half >= claimed else "holds, but smaller than reported"
    if mean + half < 0:
        return "does not hold: the opposite"
    return "does not hold: a gain of the reported size is excluded" if mean + half < claimed else "cannot tell"


def _gains(
    records: pd.DataFrame, dataset: str, form: str, base: str, paper: dict[float, float]
) -> tuple[str, str, str]:
    said, judged = [], []
    for a in (0.5, 1.0):
        seeds, mean, half = _difference(records, dataset, f"{form} a={a:g}", base, "test_acc")
        if seeds:
            said.append(f"*a* = {a:g}: {signed(mean, half)} points")
            judged.append(f"*a* = {a:g}: {verdict(mean, half, paper[a] - paper[0.0])}")
    if not said:
        return NOT_MEASURED, NOT_MEASURED, _evidence("accuracy", dataset)
    return "\n".join(said) + _protocol(records, dataset), "\n".join(judged), _evidence("accuracy", dataset)


def _standard(records: pd.DataFrame) -> tuple[str, str, str]:
    said, standard = [], True
    for dataset in PAPER_TABLE3:
        seeds, mean, half = _difference(records, dataset, "printed a=0", BASELINE, "test_acc")
        if seeds:
            said.append(f"{NAMES[dataset]}: {signed(mean, half)} points{_protocol(records, dataset)}")
            standard &= not abs(mean) > half
    measured = "\n".join(["printed *a* = 0 has no skip connection; gated *a* = 0 is ResNet8 to the last bit", *said])
    judged = "holds for the gated form alone" + (
        "" if standard or not said else "; the missing skips can be seen in the accuracy"
    )
    return measured, judged, "[02](notebooks/02_architecture.ipynb), [04](notebooks/04_figures.ipynb)"


def _convergence(records: pd.DataFrame, dataset: str) -> tuple[str, str, str]:
    said, judged = [], NOT_MEASURED
    for variant, base in (("gated a=1", BASELINE), ("printed a=1", "printed a=0")):
        seeds, mean, half = _difference(records, dataset, variant, base, "epochs_to_reach")
        if seeds:
            said.append(f"{variant} needs {signed(mean, half)} epochs against {base}")
            judged = "cannot tell" if not abs(mean) > half else "holds" if mean < 0 else "does not hold: the opposite"
    if not said:
        return NOT_MEASURED, NOT_MEASURED, _evidence("curves", dataset)
    measured = "\n".join(said) + "\nto 95 % of its last validation accuracy" + _protocol(records, dataset)
    return measured, f"{judged} (printed form)", _evidence("curves", dataset)


def _difference(records: pd.DataFrame, dataset: str, one: str, other: str, metric: str) -> tuple[int, float, float]:
    """Seeds both have, mean difference and half-width of its 95 % interval; no seeds where one of them was not run."""
    runs = records[records["dataset"] == dataset].copy()
    runs["epochs_to_reach"] = [epochs_to_reach(history) for history in runs["history"]]
    one_run, other_run = (runs[runs["variant"] == variant].set_index("seed")[metric] for variant in (one, other))
    seeds, mean, half = paired_difference(one_run, other_run)
    return (seeds, mean, half) if metric == "test_acc" else (seeds, mean / 100, half / 100)  # points, or epochs


def _protocol(records: pd.DataFrame, dataset: str) -> str:
    runs = records[records["dataset"] == dataset]
    kind = "paper's settings" if runs["full"].all() else "reduced protocol"
    seeds = runs["seed"].nunique()
    return f" ({kind}, {seeds} seed{'s' if seeds > 1 else ''})"


def _evidence(figure: str, dataset: str) -> str:
    drawn = f"figures/{figure}-{dataset}.png"
    links = ["[04](notebooks/04_figures.ipynb)", "[records](results)"]
    return ", ".join([links[0], *([f"[figure]({drawn})"] if (paths.CHECKOUT / drawn).exists() else []), links[1]])
