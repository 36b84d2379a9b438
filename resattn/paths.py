"""Every directory the project reads or writes, in one place.

In a checkout they hang below the repository; for an installed package, below the current directory. The environment
variable RESATTN_HOME overrides both.
"""

import os
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent


def _root() -> Path:
    if home := os.environ.get("RESATTN_HOME"):
        return Path(home).expanduser().resolve()
    return _CHECKOUT if (_CHECKOUT / "pyproject.toml").exists() else Path.cwd()


ROOT = _root()
DATA = ROOT / "data"  # downloads and class-folder trees
CACHE = ROOT / "cache"  # decoded data sets and attention maps
RUNS = ROOT / "runs"  # executed notebooks, records, checkpoints and figures of this machine
RESULTS = ROOT / "results"  # committed reference records and tables
FIGURES = ROOT / "figures"  # committed figures, rebuilt from RESULTS
NOTEBOOKS = ROOT / "notebooks"
