"""Every directory the project reads or writes, in one place.

What is committed lies in the checkout. What is made hangs below ROOT: the checkout, or, for a package installed without one,
the current directory. The environment variable RESATTN_HOME overrides ROOT.
"""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
_USUAL = CHECKOUT if (CHECKOUT / "pyproject.toml").exists() else Path.cwd()
ROOT = Path(os.environ.get("RESATTN_HOME") or _USUAL).expanduser().resolve()
DATA = ROOT / "data"  # downloads and class-folder trees
CACHE = ROOT / "cache"  # decoded data sets and attention maps
RUNS = ROOT / "runs"  # executed notebooks, records, checkpoints and figures of this machine
REPORT = ROOT / "report"  # the page run_all.sh ends with
NOTEBOOKS = CHECKOUT / "notebooks"
RESULTS = CHECKOUT / "results"  # committed reference records
FIGURES = CHECKOUT / "figures"  # committed figures, rebuilt from RESULTS
