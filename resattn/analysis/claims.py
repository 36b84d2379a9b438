"""The paper's claims and the controls' questions beside what was measured: every row of ``COMPARISONS`` judged by one rule, which the
introduction of ``results/CLAIMS.md`` explains."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from resattn import paths
from resattn.analysis.records import NO_EVIDENCE, NOT_MEASURED, load_records, one_per_seed
from resattn.analysis.search import SEARCH_QUESTIONS, load_searches, search_differences
from resattn.analysis.statistics import ALPHA, gain_text, holm, p_value, paired_difference, signed, verdict
from resattn.analysis.tables import epochs_to_reach, markdown_text, to_markdown
from resattn.experiments.protocols import COMPARISONS, QUESTIONS, Network

TEXTS = ["difference", "verdict", "reported"]
ALL_QUESTIONS = QUESTIONS | SEARCH_QUESTIONS
_METRICS = {
    "accuracy": lambda runs: 100 * runs["test_acc"],
    "epochs": lambda runs: runs["history"].map(epochs_to_reach),
}
_UNITS = {"accuracy": "points", "epochs": "epochs"}
_COLUMNS = ["dataset", "protocol", "words", "question", "one", "other", "claim", "claimed", "place", "metric", "better"]
_COLUMNS += ["folder", "seeds", "mean", "half"]


def differences(records: pd.DataFrame) -> pd.DataFrame:
    """Every comparison that records allow, in the order of ``COMPARISONS``, paired by seed within one data set and protocol, judged.

    Returns:
        What a :class:`resattn.experiments.protocols.Comparison` has; for people "words" (the protocol), "claim" (the pair) and ``TEXTS``;
        "claimed" (the paper's gain, or NaN), "seeds", "mean" and "half" (of the 95 % interval, in points or epochs; NaN for one seed),
        "p" (adjusted), "significant", "folder" (of the records).
    """
    return judge(_compared(records))


def claim_table(results: Path = paths.RESULTS) -> pd.DataFrame:
    """:func:`differences` of a folder of records, and those of the searches in ``search`` below it; trials in ``checks`` and
    ``tuning`` do not count."""
    records = load_records(results)
    rows = _compared(records.loc[[Path(path).parent.name not in NO_EVIDENCE for path in records["path"]]])
    searched = search_differences(load_searches(results / "search"))
    return judge([*rows, *(row | {"folder": results / "search"} for row in searched)])


def judge(rows: list[dict]) -> pd.DataFrame:
    """Rows with a difference, its interval and what is claimed, each with its verdict and, for people, the columns ``TEXTS``."""
    table = pd.DataFrame([row for row in rows if row["seeds"]], columns=_COLUMNS)
    table["question"] = pd.Categorical(table["question"], [*ALL_QUESTIONS])
    table["p"] = [p_value(row.seeds, row.mean, row.half) for row in table.itertuples()]
    table["p"] = table.groupby(["dataset", "protocol", "question"], observed=True)["p"].transform(holm)
    table["significant"] = table["p"] < ALPHA
    table["difference"] = [f"{signed(row.mean, row.half)} ({row.seeds})" for row in table.itertuples()]
    table["verdict"] = [verdict(row.mean, row.half, row.p, row.better) for row in table.itertuples()]
    return table.assign(reported=[gain_text(row.claimed, row.mean, row.half) for row in table.itertuples()])


def answer(table: pd.DataFrame, question: str) -> str:
    """What :func:`differences` say to one question, in Markdown: a table for each protocol, and how many comparisons it holds."""
    parts = []
    for (words, _), rows in table[table["question"] == question].groupby(["words", "protocol"], sort=False):
        text = rows.set_index("claim").filter([*TEXTS, "records"])
        about = f"in {_UNITS[rows['metric'].iloc[0]]}; comparisons tested: {rows['p'].count()}"
        parts.append(f"**{markdown_text(words)}**, {about}\n\n{to_markdown(text.loc[:, (text != '').any()])}")
    return "\n\n".join(parts) or NOT_MEASURED


def claims_page(results: Path = paths.RESULTS) -> str:
    """``results/CLAIMS.md``: every question that was looked at, with links to the records."""
    table, parts = claim_table(results), [_INTRODUCTION]
    table["records"] = [f"[records]({Path(folder).relative_to(results).as_posix()})" for folder in table["folder"]]
    for question, rows in table.groupby("question", observed=True):
        where = ", ".join(sorted(set(rows["place"]) - {""})) or "Not in the paper"
        parts.append(f"## {ALL_QUESTIONS[question]}\n\n{where}.\n\n{answer(table, question)}")
    return "\n\n".join(parts) + "\n"


def pair_name(one: Network, other: Network) -> str:
    """A comparison for people: "gated a=1: saliency − uniform" where only the maps differ, else both names."""
    if one.bare == other.bare:
        return f"{one.variant}: {one.maps} − {other.maps}"
    return f"{one.name} − {other.name}"


def _compared(records: pd.DataFrame) -> list[dict]:
    rows = []
    for (dataset, protocol), group in one_per_seed(records).groupby(["dataset", "protocol"]):
        run, runs = group.iloc[0], {network: own.set_index("seed") for network, own in group.groupby("network")}
        words = f"{dataset}, {run.settings if run.preset == 'other' else run.preset}"
        words += ", bfloat16" if "precision=bfloat16" in protocol else ""
        words += (
            f", folder {found[1]}" if run.preset != "other" and (found := re.search(r"folder=(.{8})", protocol)) else ""
        )
        about = {"dataset": dataset, "protocol": protocol, "words": words}
        for row in COMPARISONS:
            if row.one in runs and row.other in runs:
                one, other = runs[row.one], runs[row.other]
                measured = paired_difference(_METRICS[row.metric](one), _METRICS[row.metric](other))._asdict()
                claimed = {"claimed": row.claimed.get(dataset, np.nan), "claim": pair_name(row.one, row.other)}
                folder = {"folder": Path(one["path"].iloc[0]).parent}
                rows.append(row._asdict() | about | measured | claimed | folder)
    return rows


_INTRODUCTION = """# Claims

Made from the records by `python -m resattn.report.readme`; do not edit.

Each row compares two networks: the first minus the second, paired by seed, with its 95 % interval and the number of seeds. Higher accuracy and
fewer epochs support a row. Where the paper claims nothing, *supported* only means that the first network is better, *contradicted* that it is
worse. A better recipe than Table 1's contradicts Table 1. *Supported* and *contradicted* mean that the sign is clear **at the protocol named above the table**: the paired t
test rejects "no difference" at 5 % after Holm's correction over all comparisons of one question, data set and protocol. A few epochs
at 64 pixels can support a claim, or fail to, at that protocol; they cannot refute Tables 1 and 3, which are for 100 epochs at 224 pixels. Where
a row is *undecided*, it says which differences its interval excludes; the interval is not corrected, so it may exclude zero all the
same. *Reported* is the paper's gain, and whether it lies *inside* the interval, *above* or *below* it. Epochs are those until the
validation accuracy first reaches 95 % of its last value.

Names of maps follow the comma or the colon. None is the paper's ViT-B/8: `vit-s14` is a ViT-S/14 that its author fine-tuned on saliency,
`vit-s14-saliency` its decoder's map, `saliency` the contrast of colours, `dino-tiny` a small ViT trained on drawn shapes,
`dino-tiny-4heads` the same with four heads, `learned` one inside the network that started from the weights named. Controls: `shuffled` is
another image's map, `uniform` all ones, `center` a Gaussian, `oracle` the true mask, `box` its bounding box. The numbers of `ResNet8 18-36-71` are its widths.

Protocols are the presets of `resattn/config.py`, or in words. Rows with another weight decay than Table 1's have the best recipe of our
own search on CIFAR-10 (`results/recipe`). That search saw ResNet8 alone, so the recipe may suit the other networks less."""
