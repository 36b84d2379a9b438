"""Records as the report tells them: what ran where, and for each set of equal settings its accuracies and differences."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from resattn.analysis.claims import differences
from resattn.analysis.records import describe_protocol, main_records
from resattn.analysis.statistics import signed
from resattn.analysis.tables import accuracy_table, format_interval, paired_differences
from resattn.config import PRESETS
from resattn.experiments.protocols import PAPER_TABLE3, PRINTED0, QUESTIONS, RESNET8, Network
from resattn.progress import clock

_AGAINST = (RESNET8, PRINTED0)  # the true baseline, and the comparison that the paper made


@dataclass(frozen=True)
class Group:
    """The runs on one data set that share every setting but network, maps and seed.

    Attributes:
        settings: "the paper’s", "the demo’s", "reduced protocol" (a data set of the paper, not its settings) or "other".
        recipe: the main settings in words; ``protocol`` has them all.
        counts: whether these runs fill Table 3.
        accuracy: a row a network and source, as :func:`resattn.analysis.tables.accuracy_table`, with "text".
        differences: by the network compared with, rows as :func:`resattn.analysis.tables.paired_differences`, with "text", whether there
            is an "interval" and whether it leaves zero out ("apart"), and "low", "middle", "high", "zero" of a plot 100 wide.
    """

    dataset: str
    settings: str
    recipe: str
    protocol: str
    sources: list[str]
    variants: list[str]
    seeds: str
    runs: int
    counts: bool
    accuracy: list[dict]
    differences: dict[str, list[dict]]


def groups_of(runs: pd.DataFrame) -> list[Group]:
    """Groups of the records of :func:`resattn.analysis.records.load_records`: the paper's data sets first, and what counts for Table 3.

    Raises:
        ValueError: two records are the same network, maps, seed and settings.
    """
    table3 = set(main_records(runs[runs["full"].astype(bool) | ~runs["dataset"].isin(PAPER_TABLE3)])["path"])
    groups = [
        _group(dataset, protocol, part, set(part["path"]) <= table3)
        for (dataset, protocol), part in runs.groupby(["dataset", "protocol"], sort=True)
    ]
    return sorted(groups, key=lambda group: (group.dataset not in PAPER_TABLE3, not group.counts))


def comparisons_of(runs: pd.DataFrame) -> list[dict]:
    """The questions that controls answer, for each data set with the "dataset", the "question" and its "rows", as in a Group.

    Raises:
        ValueError: two records are the same network, seed and settings.
    """
    table = differences(runs)
    table = table[table["metric"] == "accuracy"].assign(dataset=table["words"])
    return [
        {"dataset": dataset, "question": QUESTIONS[question], "rows": _plotted(rows.to_dict("records"))}
        for (dataset, question), rows in table.groupby(["dataset", "question"], sort=False)
    ]


def facts_of(runs: pd.DataFrame) -> dict[str, str]:
    """Machines, versions, code, time: what the records say of how they were made; what they do not say is left out."""
    environments = [read(path)["environment"] for path in runs["path"]]

    def counted(values: list[str]) -> str:
        counts = Counter(values)
        return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{value} ({n})" for value, n in counts.items())

    def machine(environment: dict) -> str:
        threads = environment.get("threads")
        return environment["device"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")

    versions = [{"Python": e["python"]} | e["versions"] for e in environments if "versions" in e and "python" in e]
    packages = {name: sorted({v[name] for v in versions if name in v}) for v in versions for name in v}
    dates = sorted(f"{e['finished'][:16].replace('T', ' ')} UTC" for e in environments if "finished" in e)
    facts = {
        "Machine": counted([machine(e) for e in environments]),
        "Software": ", ".join(f"{name} {' and '.join(found)}" for name, found in packages.items()),
        "Precision": counted([e["precision"] for e in environments if "precision" in e]),
        "Code": counted([e["revision"] for e in environments if e.get("revision")]),
        "Finished": " to ".join(dict.fromkeys((dates[0], dates[-1]))) + _of(dates, environments) if dates else "",
        "Training": f"{clock(runs['seconds'].sum())} in all" if len(runs) else "",
    }
    return {name: text for name, text in facts.items() if text}


def read(path: Path | str) -> dict:
    """The JSON of a record."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _group(dataset: str, protocol: str, runs: pd.DataFrame, counts: bool) -> Group:
    config = read(runs["path"].iloc[0])["config"]
    demo = {name: value for name, value in PRESETS["demo"].items() if name != "source"}
    if runs["full"].all():
        settings = "the paper’s"
    elif all(config[name] == value for name, value in demo.items()):
        settings = "the demo’s"
    else:
        settings = "reduced protocol" if dataset in PAPER_TABLE3 else "other"
    accuracy = accuracy_table(runs).to_dict("records")
    for row in accuracy:
        row["text"] = format_interval(row["mean"], row["half"], row["seeds"])
        row["source"] = _maps(row["source"])
    return Group(
        dataset,
        settings,
        describe_protocol(runs, maps=False),
        protocol,
        sorted(runs["source"].dropna().unique()),
        list(dict.fromkeys(row["variant"] for row in accuracy)),
        _ranges(sorted(set(runs["seed"]))),
        len(runs),
        counts,
        accuracy,
        {against.name: rows for against in _AGAINST if (rows := _differences(runs, against))},
    )


def _differences(runs: pd.DataFrame, against: Network) -> list[dict]:
    """Differences to ``against``, source by source: networks with other maps are no pair."""
    rows = paired_differences(runs, against).to_dict("records")
    return _plotted([row | {"source": _maps(row["source"])} for row in rows])


def _plotted(rows: list[dict]) -> list[dict]:
    """Rows with "mean" and "half" in words, and as positions in a plot 100 wide that they share."""
    for row in rows:
        known = math.isfinite(row["half"])  # a single seed has no interval
        half = row["half"] if known else 0.0
        row |= {"low": row["mean"] - half, "middle": row["mean"], "high": row["mean"] + half, "zero": 0.0}
        row["text"] = signed(row["mean"], row["half"])
        row["interval"], row["apart"] = known, known and (row["low"] > 0 or row["high"] < 0)
    ends = [0.0, *(row[end] for row in rows for end in ("low", "high"))]
    left, span = min(ends), (max(ends) - min(ends)) or 1.0
    for row in rows:
        row |= {name: round(3 + 94 * (row[name] - left) / span, 2) for name in ("low", "middle", "high", "zero")}
    return rows


def _maps(source: str | float) -> str:
    """The source of maps, or a dash for the baseline, which looks at none."""
    return source if isinstance(source, str) else "–"


def _ranges(seeds: list[int]) -> str:
    """ "0–4", "0, 2": whole runs of numbers are joined."""
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _of(some: list, every: list) -> str:
    return "" if len(some) == len(every) else f" (said by {len(some)} of {len(every)} records)"
