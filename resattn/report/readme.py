"""What is made from records for readers: tables in the README, each between two marks, and ``results/CLAIMS.md``.

``python -m resattn.report.readme`` writes them anew.
"""

import argparse

from resattn import paths
from resattn.analysis.claims import claims_page
from resattn.analysis.records import load_records
from resattn.analysis.tables import reduced_table, table3, to_markdown
from resattn.experiments.protocols import PAPER_TABLE3
from resattn.files import atomic_write


def readme_parts() -> dict[str, str]:
    """Markdown of the README's parts by name: Table 3 at "reduced" where that has runs, else at the paper's protocol; and at "short"."""
    records = load_records(paths.RESULTS)
    reduced = records[(records["preset"] == "reduced") & records["dataset"].isin(PAPER_TABLE3)]
    main = table3(reduced, "reduced") if len(reduced) else table3(records)
    return {"table 3": to_markdown(main), "reduced table": to_markdown(reduced_table(records))}


def between_marks(name: str, part: str) -> str:
    """A made part with the two marks that say where it begins and ends."""
    return f"<!-- {name}, made by python -m resattn.report.readme -->\n{part}\n<!-- end of {name} -->"


def main() -> None:
    """Write the made parts into the README, and ``results/CLAIMS.md``; ValueError where the README lacks the marks of a part."""
    readme = paths.CHECKOUT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, part in readme_parts().items():
        first, last = between_marks(name, "\n").split("\n\n\n")
        if first not in text or last not in text:
            raise ValueError(f"README.md must hold the marks {first!r} and {last!r}")
        before, _, rest = text.partition(first)
        text = before + between_marks(name, part) + rest.partition(last)[2]
    for path, content in {readme: text, paths.RESULTS / "CLAIMS.md": claims_page(paths.RESULTS)}.items():
        atomic_write(path, lambda partial, content=content: partial.write_text(content, encoding="utf-8"))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m resattn.report.readme", description=main.__doc__).parse_args()
    main()
