"""The report: one offline page of one's own runs beside the published evidence. Also ``python -m resattn report``."""

import base64
import shutil
from functools import partial
from pathlib import Path

import pandas as pd

from resattn import paths
from resattn.analysis.claims import ALL_QUESTIONS, TEXTS, claim_table
from resattn.analysis.records import load_records
from resattn.analysis.tables import accuracy_table, table3
from resattn.config import PRESETS
from resattn.files import atomic_write
from resattn.progress import clock
from resattn.report.captions import caption_of
from resattn.report.pages import templates, write_page


def build_report(records: Path | str, figures: Path | str, notebooks: Path | str, out: Path | str) -> Path:
    """Write ``out/index.html``, a page that loads nothing, and what it links to: ``notebooks/*.html`` and a copy of every record.

    Args:
        records: folder of run records, and of searches in ``search`` below it; may be missing. Beside them stand those of ``results/``.
        figures: folder; those that are there as SVG are shown.
        notebooks: folder of executed notebooks.
        out: where to write; files of other names in it are left alone.

    Raises:
        ValueError: a record or a notebook is damaged; the message names it.
    """
    records, figures, notebooks, out = map(Path, (records, figures, notebooks, out))
    published = records.resolve() == paths.RESULTS.resolve()
    folders = {"published": records} if published else {"your runs": records, "published": paths.RESULTS}
    runs = {who: load_records(folder) for who, folder in folders.items()}
    own = next(iter(runs.values()))
    executed = [path for path in sorted(notebooks.glob("*.ipynb")) if not path.match("*.partial.ipynb")]
    accuracies = accuracy_table(own)[["dataset", "name", "text", "settings"]]
    content = {
        "name": "results" if published else "/".join(records.resolve().parts[-2:]),
        "published": published,
        "runs": own,
        "time": clock(own["seconds"].sum()),
        "accuracies": accuracies.set_axis(["data set", "network", "test accuracy (%)", "settings"], axis=1),
        "tables": {preset: shown for preset in PRESETS if (shown := _table3(runs, preset))},
        "questions": _questions(folders),
        "figures": _figures(figures),
        "pages": [(path.stem, write_page(path, out / f"notebooks/{path.stem}.html")) for path in executed],
        "files": _copy_records(records, out / "records"),
    }
    html = templates().get_template("report.html").render(content)
    return atomic_write(out / "index.html", lambda file: file.write_text(html, encoding="utf-8"))


def newest_records() -> Path:
    """The records of the profile that was run last on this machine; the committed ones where none was."""
    written = [path for profile in (*PRESETS, "controls") for path in (paths.RUNS / profile / "records").glob("*.json")]
    return max(written, key=lambda path: path.stat().st_mtime).parent if written else paths.RESULTS


def _table3(runs: dict[str, pd.DataFrame], preset: str) -> dict[str, pd.DataFrame]:
    """Table 3 at a preset by whose runs there are."""
    tables = {who: table3(records, preset).reset_index() for who, records in runs.items()}
    return {who: table for who, table in tables.items() if len(table.columns) > 1}


def _questions(folders: dict[str, Path]) -> dict[str, dict[str, pd.DataFrame]]:
    """What was measured to each question at each protocol, one's own runs above the published ones."""
    table = pd.concat([claim_table(folder).assign(runs=who) for who, folder in folders.items()])
    columns = ["claim", *(["runs"] if len(folders) > 1 else []), *TEXTS]
    questions: dict[str, dict[str, pd.DataFrame]] = {}
    for (question, protocol), rows in table.groupby(["question", "words"], observed=True):
        text = rows.iloc[pd.factorize(rows["claim"])[0].argsort(kind="stable")][columns]  # claims as they first appear
        questions.setdefault(ALL_QUESTIONS[question], {})[protocol] = text.loc[:, (text != "").any()]
    return questions


def _copy_records(records: Path, target: Path) -> list[str]:
    """Put a copy of each record beside the page, so that the report can be moved as one folder."""
    names = [path.relative_to(records) for path in sorted(records.rglob("*.json"))]
    for name in names:
        atomic_write(target / name, partial(shutil.copyfile, records / name))
    return [name.as_posix() for name in names]


def _figures(folder: Path) -> list[tuple[str, str, str]]:
    """Name, caption and picture of each figure, in the order of the captions."""
    figures = []
    for path in sorted(folder.glob("*.svg"), key=lambda path: (caption_of(path.stem), path.stem)):
        picture = base64.b64encode(path.read_bytes()).decode()
        figures.append((path.stem, caption_of(path.stem)[1], f"data:image/svg+xml;base64,{picture}"))
    return figures
