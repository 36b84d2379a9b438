"""What controls and searches say: a row of the claim table for each question, its verdict following from intervals alone."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from resattn.analysis.comparisons import control_records, differences, signed, verdict
from resattn.analysis.records import BASELINE, NOT_MEASURED
from resattn.analysis.search import best_against_paper, cosine_against_constant, load_searches
from resattn.experiments.controls import SAME_COMPUTE, SAME_PARAMETERS

NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "shapes": "shapes"}
_SAME_SIZE, _SAME_WORK = (f"{BASELINE} {'-'.join(map(str, widths))}" for widths in (SAME_PARAMETERS, SAME_COMPUTE))


class ControlClaim(NamedTuple):
    """A claim, and the differences that bear on it.

    Attributes:
        claim: as the table's first column has it.
        judging: pairs (one, other) of networks; the claim holds where "one" is better in all of them.
        beside: pairs that are told, but decide nothing.
    """

    claim: str
    judging: tuple[tuple[str, str], ...]
    beside: tuple[tuple[str, str], ...] = ()


CONTROL_CLAIMS = [
    ControlClaim(
        "Masks made from regions of high attention refine the residuals (Sec. 3, 6): other maps, all else equal",
        tuple(
            (f"{form} a=1, {one}", f"{form} a=1, {other}")
            for form in ("gated", "printed")
            for one, other in (
                ("saliency", "uniform"),
                ("saliency", "shuffled"),
                ("saliency", "center"),
                ("dino-tiny", "uniform"),
            )
        ),
        (("gated a=1, box", "gated a=1, uniform"), ("gated a=1, oracle", "gated a=1, uniform")),
    ),
    ControlClaim(
        "What *a* > 0 gains in the printed form is attention's (Sec. 5.3): the same equation with every mask 1",
        (("printed a=1, saliency", "unmasked a=1"),),
        (("unmasked a=1", "printed a=0"), ("scaled a=1", "printed a=0"), (BASELINE, "printed a=0")),
    ),
    ControlClaim(
        "The gain is not that of a larger network (not in the paper): a ResNet8 with as many parameters, or multiply-adds",
        tuple((f"{form} a=1, saliency", wider) for form in ("gated", "printed") for wider in (_SAME_SIZE, _SAME_WORK)),
    ),
    ControlClaim(
        "A map from outside does more than gates learned from the features (not in the paper): SE, ECA, CBAM",
        tuple((f"{form} a=1, saliency", f"CBAM-{BASELINE}") for form in ("gated", "printed")),
        tuple((f"{name}-{BASELINE}", BASELINE) for name in ("SE", "ECA", "CBAM")),
    ),
    ControlClaim(
        "All heads of the ViT as channels, which the paper leaves out for their cost (Sec. 5.2), beat their mean",
        tuple(
            (f"{form} a=1, {vit} all heads", f"{form} a=1, {vit}")
            for vit in ("dino-tiny-4heads", "dino")
            for form in ("gated", "printed")
        ),
    ),
]


def control_claims(results: Path) -> dict[str, tuple[str, str, str]]:
    """Measured, verdict and evidence (Markdown) by claim, from the records in ``results/controls`` and ``results/search``."""
    runs = control_records(results / "controls")
    tables = {dataset: differences(runs[runs["dataset"] == dataset]) for dataset in NAMES}
    trials = load_searches(results / "search")
    return {claim.claim: _judge(claim, tables) for claim in CONTROL_CLAIMS} | {
        "Learning rate 0.2 with AdamW, from a random search (Sec. 5.1, Table 1)": _learning_rate(trials),
        "No learning rate schedule is named (Table 1): cosine decay is better than a constant rate": _schedule(trials),
    }


def _judge(claim: ControlClaim, tables: dict[str, pd.DataFrame]) -> tuple[str, str, str]:
    said, judged = [], []
    for dataset, table in tables.items():
        rows = {(row.one, row.other): row for row in table.itertuples()}
        told = []
        for pair in claim.judging + claim.beside:
            if row := rows.get(pair):
                told.append(f"{_short(*pair)}: {signed(row.mean, row.half)}")
                judged += [verdict(row.mean, row.half)] if pair in claim.judging else []
        if told:
            seeds = table["seeds"].max()
            said += [f"{NAMES[dataset]} ({seeds} seed{'s' if seeds > 1 else ''}), points:", *told]
    notebook = "[06](notebooks/06_controls.ipynb)"
    if not said:
        return NOT_MEASURED, NOT_MEASURED, notebook
    return "\n".join(said), _together(judged), f"{notebook}, [records](results/controls)"


def _together(judged: list[str]) -> str:
    """One verdict from those of several differences that a claim says are above zero."""
    above, below = judged.count("higher"), judged.count("lower")
    if not judged:
        return NOT_MEASURED
    if above == len(judged):
        return "holds"
    if below:
        return f"does not hold: the opposite in {below} of {len(judged)}"
    return f"cannot tell: {above} of {len(judged)} intervals above zero" if above else "cannot tell"


def _short(one: str, other: str) -> str:
    """ "gated a=1, saliency − uniform" for two networks that differ in their maps alone."""
    (first, _, source), (second, _, against) = one.partition(", "), other.partition(", ")
    return f"{first}, {source} − {against}" if source and first == second else f"{one} − {other}"


def _learning_rate(trials: pd.DataFrame) -> tuple[str, str, str]:
    notebook = "[05](notebooks/05_hyperparameters.ipynb)"
    table = best_against_paper(trials) if len(trials) else pd.DataFrame()
    if not len(table):
        return NOT_MEASURED, NOT_MEASURED, notebook
    said = [
        f"{NAMES.get(row.dataset, row.dataset)}, {row.network}, {row.schedule}: {signed(row.mean, row.half)} points"
        for row in table.itertuples()
    ]
    worse = ((table["mean"] - table["half"]) > 0).sum()
    told = f"does not hold in {worse} of {len(table)} searches" if worse else "cannot tell"
    said = "best recipe found − the paper's, validation accuracy:\n" + "\n".join(said)
    return said, told, f"{notebook}, [records](results/search)"


def _schedule(trials: pd.DataFrame) -> tuple[str, str, str]:
    notebook = "[05](notebooks/05_hyperparameters.ipynb)"
    table = cosine_against_constant(trials)
    table = table[table["seeds"] > 0]
    if not len(table):
        return NOT_MEASURED, NOT_MEASURED, notebook
    said = [
        f"{NAMES.get(row.dataset, row.dataset)}, {row.network}: {signed(row.mean, row.half)} points ({row.seeds} seeds)"
        for row in table.itertuples()
    ]
    told = _together([verdict(row.mean, row.half) for row in table.itertuples()])
    said = "cosine − constant, each at its best recipe, validation accuracy:\n" + "\n".join(said)
    return said, told, f"{notebook}, [records](results/search)"
