"""The parts of the README that are made from records, each between two marks. ``python -m resattn.report.readme`` writes them anew."""

from resattn import paths
from resattn.analysis.records import load_records, main_records, reduced_table, table3, to_markdown
from resattn.files import atomic_write


def readme_parts() -> dict[str, str]:
    """Each made part of the README by its name, as Markdown."""
    records = main_records(load_records(paths.RESULTS))
    return {
        "table 3": to_markdown(table3(records)),
        "reduced table": to_markdown(reduced_table(records)),
    }


def between_marks(name: str, part: str) -> str:
    """A made part with the two marks that say where it begins and ends."""
    return f"<!-- {name}, made by python -m resattn.report.readme -->\n{part}\n<!-- end of {name} -->"


def main() -> None:
    """Write the made parts into the README.

    Raises:
        ValueError: the README lacks the marks of a part.
    """
    parts = readme_parts()
    readme = paths.CHECKOUT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, part in parts.items():
        first, last = between_marks(name, "\n").split("\n\n\n")
        if first not in text or last not in text:
            raise ValueError(f"README.md must hold the marks {first!r} and {last!r}")
        before, _, rest = text.partition(first)
        text = before + between_marks(name, part) + rest.partition(last)[2]
    atomic_write(readme, lambda partial: partial.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
