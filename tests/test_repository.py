"""The README keeps its word, and committed notebooks and files are what the project says they are."""

import importlib.util
import json
import re
import subprocess

import pytest

from resattn import paths
from resattn.__main__ import VERBS
from resattn.analysis.comparisons import control_figures, control_records
from resattn.analysis.records import load_records, main_records
from resattn.plots.results import result_figures, save_figure, use_style
from resattn.report.readme import between_marks, readme_parts

README = paths.CHECKOUT / "README.md"


def readme_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def committed():
    listing = subprocess.run(["git", "ls-files"], cwd=paths.CHECKOUT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [paths.CHECKOUT / name for name in listing.stdout.splitlines()]


def test_the_readmes_commands_exist():
    text = "\n".join(readme_blocks("bash"))
    help_text = subprocess.run(
        ["bash", "run_all.sh", "--help"], cwd=paths.CHECKOUT, capture_output=True, text=True
    ).stdout
    calls = "\n".join(re.findall(r"run_all\.sh.*", text))
    options = set(re.findall(r"(?<=\s)--[a-z-]+", calls))
    assert options, "the README shows options of run_all.sh"
    assert all(option in help_text for option in options)
    scripts = set(re.findall(r"(?:\./|bash )([\w/]+\.sh)", text))
    assert {"run_all.sh", "tests/run.sh"} <= scripts
    assert all((paths.CHECKOUT / script).exists() for script in scripts)
    modules = set(re.findall(r"python -m (resattn[\w.]*)", README.read_text(encoding="utf-8")))
    assert all(importlib.util.find_spec(module) for module in modules)
    verbs = set(re.findall(r"python -m resattn (\w+)", README.read_text(encoding="utf-8")))
    assert verbs <= set(VERBS)


def test_the_readmes_python_runs():
    blocks = readme_blocks("python")
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_readmes_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README.read_text(encoding="utf-8"))
    local = [a or b for a, b in links if not (a or b).startswith("http")]
    assert local
    assert [link for link in local if not (paths.CHECKOUT / link).exists()] == []


@pytest.mark.parametrize("name", readme_parts())
def test_the_readmes_tables_are_made_from_the_records(name):
    text = README.read_text(encoding="utf-8")
    assert between_marks(name, readme_parts()[name]) in text, "run python -m resattn.report.readme"


def test_the_figures_are_made_from_the_records(tmp_path):
    use_style()
    figures = result_figures(main_records(load_records(paths.RESULTS)))
    figures |= control_figures(control_records(paths.RESULTS / "controls"))
    assert {"accuracy-shapes", "controls-shapes"} <= figures.keys()
    for name, figure in figures.items():
        save_figure(figure, tmp_path / name)
        committed_figure = (paths.FIGURES / f"{name}.svg").read_bytes()
        assert (tmp_path / f"{name}.svg").read_bytes() == committed_figure, (
            f"{name} is not what notebooks 04 and 06 draw now"
        )
        assert (paths.FIGURES / f"{name}.png").exists()


@pytest.mark.parametrize("path", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_committed_executed_and_assert_something(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert any("assert " in "".join(cell["source"]) for cell in code)
    assert all(cell["execution_count"] for cell in code), "committed without having been run"
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds
    assert any(kind == "display_data" for kind in kinds)
    assert not any(re.search(r"^\s*class ", "".join(cell["source"]), re.MULTILINE) for cell in code), (
        "import it instead"
    )


def test_nothing_committed_is_large():
    sizes = {path: path.stat().st_size for path in committed() if path.exists()}
    assert max(sizes.values()) < 12e6
    assert sum(sizes.values()) < 60e6


def test_requirements_are_pins_without_addresses():
    lines = (paths.CHECKOUT / "requirements.lock").read_text().splitlines()
    assert all(re.match(r"[\w.\[\]-]+==\S+( ;.*)?$", line) for line in lines if line)
