"""The report: one offline page of one's own runs beside the published evidence. Also ``python -m resattn report``."""

import base64
import itertools
import json
import shutil
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from resattn import paths
from resattn.analysis.claims import SEARCH_QUESTIONS, claim_table
from resattn.analysis.records import NOT_MEASURED, describe_protocol, load_records
from resattn.analysis.search import answers, load_searches
from resattn.analysis.statistics import signed
from resattn.analysis.tables import accuracy_table, format_interval, paired_differences, table3
from resattn.config import PRESETS
from resattn.experiments.protocols import PAPER_TABLE3, QUESTIONS
from resattn.files import atomic_write
from resattn.progress import clock
from resattn.report.captions import caption_of
from resattn.report.pages import notebook_title, templates, write_page


def build_report(records: Path | str, figures: Path | str, notebooks: Path | str, out: Path | str) -> Path:
    """Write ``out/index.html``, and beside it what it links to: ``notebooks/*.html`` and a copy of every record.

    Args:
        records: folder of run records, and of searches in ``search`` below it. Missing or empty: the page says so. Where it is not
            that of the published evidence, ``results/``, both are shown side by side.
        figures: folder; of a figure that is there as SVG and PNG the SVG is shown.
        notebooks: folder of executed notebooks.
        out: where to write; files of other names in it are left alone.

    Returns:
        The page. It loads nothing and needs no script, and is the same for the same input.

    Raises:
        ValueError: a record or a notebook is damaged; the message names it.
    """
    records, figures, notebooks, out = map(Path, (records, figures, notebooks, out))
    published = records.resolve() == paths.RESULTS.resolve()
    folders = {"published": records} if published else {"your runs": records, "published": paths.RESULTS}
    runs = {who: load_records(folder) for who, folder in folders.items()}
    own = next(iter(runs.values()))
    trials = load_searches(records / "search").groupby(["dataset", "protocol"])
    content = {
        "name": _shown(records),
        "published": published,
        "runs": own,
        "facts": _facts(own),
        "accuracies": _accuracies(own),
        "table3": _table3(runs),
        "questions": _questions(folders),
        "searches": [(dataset, len(group), answers(group)) for (dataset, _), group in trials],
        "figures": _figures(figures),
        "pages": _write_pages(notebooks, out),
        "files": _copy_records(records, out),
    }
    html = templates().get_template("report.html").render(content)
    return atomic_write(out / "index.html", lambda file: file.write_text(html, encoding="utf-8"))


def newest_records() -> Path:
    """The records of the profile that was run last on this machine; the committed ones where none was."""
    written = [path for profile in PRESETS for path in (paths.RUNS / profile / "records").glob("*.json")]
    return max(written, key=lambda path: path.stat().st_mtime).parent if written else paths.RESULTS


def _facts(runs: pd.DataFrame) -> dict[str, str]:
    """Machines, versions, code, time: what the records say of how they were made; what they do not say is left out."""
    records = (json.loads(Path(path).read_text(encoding="utf-8")) for path in runs["path"])
    said = pd.json_normalize([record["environment"] for record in records])
    facts = {name.removeprefix("versions."): values.dropna().astype(str).unique() for name, values in said.items()}
    names = ("device", "precision", "python", "torch", "timm", "revision")
    facts = {name: ", ".join(facts[name]) for name in names if len(facts.get(name, ()))}
    return facts | ({"training": f"{clock(runs['seconds'].sum())} in all"} if len(runs) else {})


def _accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """Every network's accuracy at every protocol, and its difference to the baseline, as text."""
    keys = ["dataset", "protocol", "network"]
    words = {key: describe_protocol(group, maps=False) for key, group in runs.groupby(keys[:2])}
    gains = paired_differences(runs)[[*keys, "mean", "half"]]
    rows = []
    for row in accuracy_table(runs).merge(gains, "left", keys, suffixes=("", "_gain")).itertuples(index=False):
        accuracy = format_interval(row.mean, row.half, row.seeds)
        gain = signed(row.mean_gain, row.half_gain) if np.isfinite(row.mean_gain) else "–"
        rows.append((row.dataset, row.name, accuracy, gain, words[row.dataset, row.protocol]))
    return pd.DataFrame(rows, columns=["data set", "network", "test accuracy (%)", "against ResNet8", "settings"])


def _table3(runs: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 3 as text: for each data set and protocol that somebody ran the paper's numbers and theirs."""
    columns = {}
    for preset, (who, own) in itertools.product(PRESETS, runs.items()):
        table = table3(own, preset)
        for name in table.columns[(table != NOT_MEASURED).any()]:
            dataset, _, whose = name.rpartition(" (")
            if whose == "paper)":
                continue
            if dataset in PAPER_TABLE3:
                columns[dataset, "", "paper"] = table[f"{dataset} (paper)"]
            columns[dataset, preset if dataset in PAPER_TABLE3 else "", who] = table[name]
    networks = list(dict.fromkeys(name for cells in columns.values() for name in cells.index))
    order = sorted(columns, key=lambda key: (key[0] not in PAPER_TABLE3, key[0], key[2] != "paper"))
    named = {", ".join(filter(None, key)): columns[key].reindex(networks).fillna(NOT_MEASURED) for key in order}
    return pd.DataFrame(named, index=pd.Index(networks, name="network")).reset_index()


def _questions(folders: dict[str, Path]) -> dict[str, pd.DataFrame]:
    """What was measured to each question, one's own runs above the published ones."""
    tables = {who: claim_table(folder).reset_index() for who, folder in folders.items()}
    table = pd.concat(tables, names=["runs"]).reset_index("runs")
    table = table[table["difference"] != NOT_MEASURED]
    table = table.iloc[pd.factorize(table["claim"])[0].argsort(kind="stable")]  # claims as they first appear
    columns = ["claim", *(["runs"] if len(folders) > 1 else []), "protocol", "difference", "direction", "reported gain"]
    parts = {text: table.loc[table["question"] == key, columns] for key, text in (QUESTIONS | SEARCH_QUESTIONS).items()}
    return {text: part.loc[:, (part != "").any()] for text, part in parts.items() if len(part)}


def _copy_records(records: Path, out: Path) -> dict[str, list[dict]]:
    """Put a copy of each record beside the page, so that the report can be moved as one folder; names and links by folder."""
    files: dict[str, list[dict]] = {}
    for path in sorted(records.rglob("*.json")):
        name = path.relative_to(records)
        atomic_write(out / "records" / name, partial(shutil.copyfile, path))
        about = {"name": name.name, "href": quote(f"records/{name.as_posix()}")}
        files.setdefault(name.parent.as_posix().removeprefix("."), []).append(about)
    return dict(sorted(files.items()))


def _write_pages(notebooks: Path, out: Path) -> list[dict]:
    """Render the executed notebooks; name, title and link of each."""
    pages = []
    for path in sorted(set(notebooks.glob("*.ipynb")) - set(notebooks.glob("*.partial.ipynb"))):
        page = write_page(path, out / "notebooks" / f"{path.stem}.html")
        pages.append({"name": path.stem, "title": notebook_title(path), "href": quote(f"notebooks/{page.name}")})
    return pages


def _figures(folder: Path) -> list[dict]:
    """One picture a figure, SVG before PNG, in the order of their captions."""
    found = {path.stem: path for kind in ("png", "svg") for path in folder.glob(f"*.{kind}")}
    figures = []
    for name in sorted(found, key=lambda name: (caption_of(name)[0], name)):
        kind = {".svg": "svg+xml", ".png": "png"}[found[name].suffix]
        source = f"data:image/{kind};base64,{base64.b64encode(found[name].read_bytes()).decode()}"
        figures.append({"name": name, "caption": caption_of(name)[1], "source": source})
    return figures


def _shown(path: Path) -> str:
    """A path without the machine's part."""
    for root in (paths.ROOT, paths.CHECKOUT):
        if path.resolve().is_relative_to(root):
            return path.resolve().relative_to(root).as_posix()
    return path.name
