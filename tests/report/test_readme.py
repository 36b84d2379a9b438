"""Asking how the maker of the README is used writes nothing."""

import subprocess
import sys

from resattn import paths


def test_help_leaves_the_readme_and_the_claims_alone():
    files = [paths.CHECKOUT / "README.md", paths.RESULTS / "CLAIMS.md"]
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    command = [sys.executable, "-m", "resattn.report.readme", "--help"]
    said = subprocess.run(command, cwd=paths.CHECKOUT, capture_output=True, text=True)
    assert said.returncode == 0
    assert said.stdout.startswith("usage: python -m resattn.report.readme")
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files] == before
