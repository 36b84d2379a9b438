"""The report: one offline page of everything that was measured, made from the records alone. Also ``python -m resattn report``."""

import base64
import contextlib
import re
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup, escape

from resattn import paths
from resattn.analysis.claims import claim_table
from resattn.analysis.comparisons import control_records
from resattn.analysis.records import NOT_MEASURED, PAPER_TABLE3, load_records, main_records, table3
from resattn.analysis.search import answers, load_searches
from resattn.config import PRESETS
from resattn.files import atomic_write, file_name
from resattn.plots.captions import PARTS, Caption, caption_of, figure_order
from resattn.report.pages import notebook_title, templates, write_page
from resattn.report.summary import comparisons_of, facts_of, groups_of


def build_report(records: Path | str, figures: Path | str, notebooks: Path | str, out: Path | str) -> Path:
    """Write ``out/index.html``, and beside it what it links to: ``notebooks/*.html`` and a copy of every record.

    Args:
        records: folder of run records; those in folders below it get a part of their own. Missing or empty: the page says so.
        figures: every SVG and PNG here is shown, the SVG where both are there.
        notebooks: executed notebooks.
        out: where to write; files of other names in it are left alone.

    Returns:
        The page. It loads nothing and needs no script, and is the same for the same input.

    Raises:
        ValueError: a record or a notebook is damaged; the message names it.
    """
    records, figures, notebooks, out = map(Path, (records, figures, notebooks, out))
    runs = load_records(records)
    groups, parts = groups_of(runs), _parts(records, out)
    pages, pictures = _write_pages(notebooks, out), _pictures(figures)
    targets = {f"notebooks/{page['name'][:2]}": page["href"] for page in reversed(pages)} | {"results": "#records"}
    targets |= {f"figures/{path.stem}": f"#{path.stem}" for path in pictures}
    targets |= {f"results/{part['name']}": f"#part-{i}" for i, part in enumerate(parts, 1)}
    content = {
        "name": _shown(records),
        "runs": _listed(runs, records, out),
        "facts": facts_of(runs),
        "groups": groups,
        "table3": table3(runs),
        "paper": list(PAPER_TABLE3),
        "datasets": list(dict.fromkeys(column.rpartition(" (")[0] for column in table3(runs))),
        "not_measured": NOT_MEASURED,
        "claims": _claims(records, targets),
        "parts": parts,
        "figures": [_figure(path, records, runs, out) for path in pictures],
        "pages": pages,
    }
    html = templates().get_template("report.html").render(content)
    return atomic_write(out / "index.html", lambda partial: partial.write_text(html, encoding="utf-8"))


def newest_records() -> Path:
    """The records of the profile that was run last on this machine; the committed ones where none was."""
    folders = [paths.RUNS / profile / "records" for profile in PRESETS]
    ages = {folder: max((p.stat().st_mtime for p in folder.glob("*.json")), default=0.0) for folder in folders}
    newest = max(ages, key=ages.get)
    return newest if ages[newest] else paths.RESULTS


def _claims(records: Path, targets: dict[str, str]) -> list[dict]:
    """The rows of the claim table; a link in them leads into the report where that holds what it leads to, by ``targets``."""

    def link(match: re.Match) -> str:
        path = Path(match[2])
        name = f"notebooks/{path.stem[:2]}" if path.suffix == ".ipynb" else path.with_suffix("").as_posix()
        return f'<a href="{escape(targets[name])}">{match[1]}</a>' if name in targets else match[1]

    def html(text: str) -> Markup:
        text = re.sub(r"\*([^*]+)\*", r"<i>\1</i>", str(escape(text)))
        return Markup(re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", link, text).replace("\n", "<br>"))

    rows = claim_table(records).reset_index().to_dict("records")
    return [{name: html(text) for name, text in row.items()} for row in rows]


def _parts(records: Path, out: Path) -> list[dict]:
    """What folders below the main one hold: runs, or searches; other files, and runs nobody can group, are only linked."""
    parts = []
    for folder in sorted({path.parent for path in records.rglob("*.json")} - {records}):
        name = folder.relative_to(records).as_posix()
        part = {"name": name, "text": PARTS.get(name, ""), "groups": [], "comparisons": [], "searches": [], "runs": []}
        part["files"] = [_copy_record(path, records, out) for path in sorted(folder.glob("*.json"))]
        with contextlib.suppress(ValueError):
            runs = load_records(folder)
            part["runs"] = _listed(runs, records, out)
            part["groups"] = groups_of(runs)
            part["comparisons"] = comparisons_of(control_records(folder)) if name == "controls" else []
        with contextlib.suppress(ValueError):
            groups = load_searches(folder).groupby(["dataset", "protocol"])
            part["searches"] = [
                {"dataset": dataset, "protocol": protocol, "trials": len(trials), "answers": answers(trials)}
                for (dataset, protocol), trials in groups
            ]
        parts.append(part)
    return parts


def _listed(runs: pd.DataFrame, base: Path, out: Path) -> list[dict]:
    """The rows of a table of records, with a link to each."""
    return runs.assign(file=[_copy_record(path, base, out) for path in runs["path"]]).to_dict("records")


def _pictures(folder: Path) -> list[Path]:
    """One file a figure, SVG before PNG, in the order of their captions."""
    found = {path.stem: path for suffix in ("png", "svg") for path in folder.glob(f"*.{suffix}")}
    return [found[name] for name in sorted(found, key=figure_order)]


def _figure(path: Path, records: Path, runs: pd.DataFrame, out: Path) -> dict:
    caption, subject = caption_of(path.stem) or (Caption(path.stem, ""), "")
    if caption.evidence == "main":
        files = sorted(map(Path, main_records(runs[runs["dataset"].map(file_name) == subject])["path"]))
        base = records
    else:
        base = records if caption.evidence and any(records.glob(caption.evidence)) else paths.CHECKOUT
        files = sorted(base.glob(caption.evidence)) if caption.evidence else []
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    return {
        "name": path.stem,
        "caption": caption,
        "files": [_copy_record(file, base, out) for file in files],
        "source": f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}",
    }


def _write_pages(notebooks: Path, out: Path) -> list[dict]:
    """Render the executed notebooks; name, title and link of each."""
    pages = []
    for path in sorted(notebooks.glob("*.ipynb")):
        if not path.name.endswith(".partial.ipynb"):
            page = write_page(path, out / "notebooks" / f"{path.stem}.html")
            pages.append(
                {"name": path.stem, "title": notebook_title(path), "href": quote(page.relative_to(out).as_posix())}
            )
    return pages


def _copy_record(path: Path | str, base: Path, out: Path) -> dict:
    """Put a copy beside the page, so that the report can be moved as one folder; returns name and link."""
    name = Path(path).relative_to(base).as_posix()
    target, content = out / "records" / name, Path(path).read_bytes()
    atomic_write(target, lambda partial: partial.write_bytes(content))
    return {"name": name, "href": quote(f"records/{name}")}


def _shown(path: Path) -> str:
    """A path without the machine's part."""
    for root in (paths.ROOT, paths.CHECKOUT):
        if path.resolve().is_relative_to(root):
            return path.resolve().relative_to(root).as_posix()
    return path.name
