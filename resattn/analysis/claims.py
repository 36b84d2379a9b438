"""The paper's claims and the controls' questions beside what was measured: every row of ``COMPARISONS`` judged by one rule.

A verdict speaks about the sign of a difference paired by seed, at the protocol named beside it: *supported* or *contradicted* where
the paired t test rejects "no difference" at 5 % after Holm's correction over all comparisons of one question, data set and protocol,
else *undecided*. Whether a size that the paper reports lies inside the 95 % interval is said apart from that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from resattn import paths
from resattn.analysis.records import NOT_MEASURED, load_records, one_per_seed
from resattn.analysis.search import best_against_paper, cosine_against_constant, load_searches
from resattn.analysis.statistics import direction, holm, p_value, paired_difference, signed, size, verdict
from resattn.analysis.tables import epochs_to_reach, to_markdown
from resattn.config import PAPER
from resattn.experiments.protocols import COMPARISONS, PAPER_TABLE3, QUESTIONS, Network

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
SEARCH_QUESTIONS = {
    "recipe": "Is Table 1's learning rate the best that a random search finds?",
    "schedule": "Is cosine decay better than a constant learning rate?",
}
_NO_EVIDENCE = {"checks", "tuning"}  # folders of trials that were made to choose settings
_UNITS = {"accuracy": "points", "epochs": "epochs"}
_COLUMNS = [
    "dataset", "protocol", "preset", "words", "question", "one", "other", "claim", "claimed", "place", "metric", "better",
    "folder", "seeds", "mean", "half", "p", "looked_at", "direction", "size", "significant",
]  # fmt: skip
_TEXTS = ["claim", "protocol", "difference", "direction", "reported gain", "evidence", "question", "place", "looked_at"]


def differences(records: pd.DataFrame) -> pd.DataFrame:
    """Every comparison that records allow, in the order of ``COMPARISONS``, paired by seed within one data set and protocol.

    Returns:
        What a :class:`resattn.experiments.protocols.Comparison` has, and "words" (the protocol) and "claim" (the pair) for people, "claimed" (gain that the paper
        reports, or NaN), "seeds", "mean" and "half" (of the 95 % interval, in points or epochs; half is NaN for one seed), "p"
        (adjusted), "looked_at" (comparisons it is adjusted for), "direction", "size", "significant", "folder" (of the records).
    """
    rows = []
    records = one_per_seed(records)
    records = records.assign(accuracy=100 * records["test_acc"], epochs_needed=records["history"].map(epochs_to_reach))
    for (dataset, protocol), group in records.groupby(["dataset", "protocol"]):
        runs = {one: own.set_index("seed") for one, own in group.groupby("network")}
        about = {"dataset": dataset, "protocol": protocol, "preset": group["preset"].iloc[0], "words": _words(group)}
        for row in (row for row in COMPARISONS if row.one in runs and row.other in runs):
            one, other = runs[row.one], runs[row.other]
            column = "accuracy" if row.metric == "accuracy" else "epochs_needed"
            seeds, mean, half = paired_difference(one[column], other[column])
            said = {"claim": pair_name(row.one, row.other), "claimed": row.claimed.get(dataset, np.nan)}
            said |= {"folder": str(Path(one["path"].iloc[0]).parent), "seeds": seeds, "mean": mean, "half": half}
            rows += [about | row._asdict() | said] if seeds else []
    return _judged(rows)


def pair_name(one: Network, other: Network) -> str:
    """A comparison for people: "gated a=1: saliency − uniform" where only the maps differ, else both names."""
    if one.bare == other.bare:
        return f"{one.variant}: {one.maps} − {other.maps}"
    return f"{one.name} − {other.name}"


def interval_text(row: Any) -> str:
    """Difference, interval and seeds of a row of :func:`differences`: "+1.30 ± 1.32 (3)"."""
    return f"{signed(row.mean, row.half)} ({row.seeds})"


def answer(table: pd.DataFrame, question: str) -> str:
    """What :func:`differences` say to one question, protocol by protocol: how many were looked at, and a line for each."""
    parts = []
    for _, rows in table[table["question"] == question].groupby(["dataset", "protocol"], sort=False):
        words, clear, width = rows["words"].iloc[0], rows["significant"].sum(), rows["claim"].str.len().max()
        lines = [f"{words}: {clear} of {len(rows)} differences are significant after Holm's correction"]
        for row in rows.itertuples():
            said = verdict(row.mean, row.half, row.p, row.better)
            lines.append(f"  {row.claim:{width}s}  {interval_text(row)}  {said}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or "No records yet."


def claim_table(results: Path = paths.RESULTS) -> pd.DataFrame:
    """Every comparison with records, and what the paper claims and nobody ran, as text; evidence as Markdown links.

    Args:
        results: folder of records, with those of searches in ``search`` below it; trials in ``checks`` and ``tuning`` do not count.

    Returns:
        The columns ``_TEXTS``, indexed by "claim" (the first is better than the second); "question" is a key of ``QUESTIONS`` or
        ``SEARCH_QUESTIONS``, "looked_at" the number of comparisons that share Holm's correction.
    """
    records = load_records(results)
    table = differences(records.loc[[Path(path).parent.name not in _NO_EVIDENCE for path in records["path"]]])
    searched = _search_differences(load_searches(results / "search")).assign(folder=str(results / "search"))
    rows = [_text(row, results) for part in (table, searched) for row in part.itertuples()]
    for question in ("accuracy", "convergence"):
        measured = set(table[table["question"] == question]["dataset"])
        for dataset in [name for name in PAPER_TABLE3 if name not in measured]:
            said = [
                "a > 0 − a = 0",
                DATASETS[dataset],
                NOT_MEASURED,
                NOT_MEASURED,
                "",
                _notebook(question),
                question,
                "",
                0,
            ]
            rows.append(dict(zip(_TEXTS, said, strict=True)))
    order = [*QUESTIONS, *SEARCH_QUESTIONS]
    frame = pd.DataFrame(rows, columns=_TEXTS)
    return frame.sort_values("question", key=lambda column: column.map(order.index), kind="stable").set_index("claim")


def claims_page(results: Path = paths.RESULTS) -> str:
    """``results/CLAIMS.md``: the claim table, question by question."""
    table, parts = claim_table(results), [_INTRODUCTION]
    for question, text in (QUESTIONS | SEARCH_QUESTIONS).items():
        rows = table[table["question"] == question]
        if len(rows):
            looked = rows.groupby("protocol", sort=False)["looked_at"].first()
            counted = "; ".join(f"{name}: {number:.0f}" for name, number in looked.items() if number)
            places = ", ".join(sorted(set(rows["place"]) - {""})) or "Not in the paper"
            intervals = f" Comparisons looked at: {counted}." if counted else ""
            shown = rows.drop(columns=["question", "place", "looked_at"])
            parts.append(f"## {text}\n\n{places}.{intervals}\n\n{to_markdown(shown)}")
    return "\n\n".join(parts).replace("](", "](../").replace("](../http", "](http") + "\n"


_INTRODUCTION = """# Claims

Made from the records by `python -m resattn.report.readme`; do not edit.

Each row says that the first network is better than the second, and how much it was: a difference paired by seed, with its 95 % interval
and the number of seeds. *Supported* and *contradicted* mean that the sign is clear **at the protocol named in the row**: the paired t
test rejects "no difference" at 5 % after Holm's correction over all comparisons of one question, data set and protocol. A few epochs
at 64 pixels can support a claim, or fail to, at that protocol; they cannot refute Table 3, which is 100 epochs at 224 pixels. Where
nothing is distinguished, the row says which differences its interval excludes; an interval is not corrected for the number of
comparisons, so one can leave zero out where the corrected test distinguishes nothing. *Reported gain* is the paper's, and where it
lies: *inside* the interval, or *above* or *below* it. Epochs are those until the validation accuracy first reaches 95 % of its last value.

Protocols are the presets of `resattn/config.py`, or in words. Rows with another weight decay than Table 1's have the best recipe of our
own search on CIFAR-10 (`results/recipe`). That search saw ResNet8 alone, so the recipe may suit the other networks less."""


def _judged(rows: list[dict]) -> pd.DataFrame:
    """Rows with a difference, its interval and what is claimed, each with its verdict."""
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table["p"] = [p_value(row.seeds, row.mean, row.half) for row in table.itertuples()]
    families = table.groupby(["dataset", "protocol", "question"])["p"]
    table["p"], table["looked_at"] = families.transform(lambda p: holm(p)), families.transform("count")
    table["direction"] = [direction(row.mean, row.p, row.better) for row in table.itertuples()]
    table["size"] = [size(row.mean, row.half, row.claimed) for row in table.itertuples()]
    return table.assign(significant=table["direction"] != "undecided")


def _search_differences(trials: pd.DataFrame) -> pd.DataFrame:
    """The answers of searches as rows like those of :func:`differences`."""
    searches = trials.groupby("protocol").first()
    recipe, schedule = best_against_paper(trials), cosine_against_constant(trials)
    recipe["claim"] = [f"{row.network}, {row.schedule}: best recipe found − Table 1's" for row in recipe.itertuples()]
    schedule["claim"] = [f"{one}: cosine − constant, each at its best recipe" for one in schedule["network"]]
    recipe = recipe.assign(question="recipe", place="Sec. 5.1, Table 1", better=-1)
    schedule = schedule.assign(question="schedule", place="", better=1)
    rows = []
    for row in [*recipe.to_dict("records"), *schedule[schedule["seeds"] > 0].to_dict("records")]:
        words = f"{_pixels(searches.loc[row['protocol']])}, validation"
        rows.append(row | {"preset": "other", "words": words, "metric": "accuracy", "claimed": np.nan})
    return _judged(rows)


def _text(row: Any, results: Path) -> dict:
    difference = f"{signed(row.mean, row.half)} {_UNITS[row.metric]} ({row.seeds})"
    reported = ", ".join(filter(None, [f"{row.claimed:+.1f}" if row.claimed else "none", row.size]))
    folder = (Path("results") / Path(row.folder).relative_to(results)).as_posix()
    said = [row.claim, row.words, difference, verdict(row.mean, row.half, row.p, row.better)]
    said += [reported if np.isfinite(row.claimed) else "", f"{_notebook(row.question)}, [records]({folder})"]
    return dict(zip(_TEXTS, [*said, row.question, row.place, row.looked_at], strict=True))


def _words(runs: pd.DataFrame) -> str:
    """Data set and protocol of runs that share both, for people: in words where it is no preset."""
    run = runs.iloc[0]
    if run.preset != "other":
        return f"{DATASETS.get(run.dataset, run.dataset)}, {run.preset}"
    decay = f", weight decay {run.weight_decay:.2g}" if run.weight_decay != PAPER["weight_decay"] else ""
    return f"{_pixels(run)}, learning rate {run.lr:.3g}{decay}"


def _pixels(run: pd.Series) -> str:
    epochs = f"{run.epochs} epoch{'s' if run.epochs > 1 else ''}"
    return f"{DATASETS.get(run.dataset, run.dataset)}, {run.image_size} pixels, {epochs}"


def _notebook(question: str) -> str:
    known = {"recipe": "05_hyperparameters", "schedule": "05_hyperparameters", "standard": "02_architecture"}
    known |= dict.fromkeys(("accuracy", "convergence"), "04_figures")
    name = known.get(question, "06_controls")
    return f"[{name[:2]}](notebooks/{name}.ipynb)"
