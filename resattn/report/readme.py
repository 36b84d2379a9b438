"""What is made from records for readers: tables in the README, each between two marks, and ``results/CLAIMS.md``.

``python -m resattn.report.readme`` writes them anew.
"""

import argparse
import re

from resattn import paths
from resattn.analysis.claims import claims_page
from resattn.analysis.records import load_records
from resattn.analysis.tables import table3, to_markdown
from resattn.files import atomic_write

_TABLE = re.compile(r"(<!-- table 3 at (\w+(?: and \w+)*), made by [\w .-]+ -->\n).*?(?=<!-- end -->)", re.DOTALL)


def fill_in(text: str) -> str:
    """The text with Table 3, at the presets that a pair of marks names, between them."""
    records = load_records(paths.RESULTS)
    return _TABLE.sub(lambda marks: f"{marks[1]}{to_markdown(table3(records, *marks[2].split(' and ')))}\n", text)


def main() -> None:
    """Write the tables into the README, and ``results/CLAIMS.md``."""
    readme = paths.CHECKOUT / "README.md"
    made = {readme: fill_in(readme.read_text(encoding="utf-8")), paths.RESULTS / "CLAIMS.md": claims_page()}
    for path, text in made.items():
        atomic_write(path, lambda partial, text=text: partial.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m resattn.report.readme", description=main.__doc__).parse_args()
    main()
