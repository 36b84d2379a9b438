"""The README keeps its word, and committed notebooks and files are what the project says they are."""

import ast
import importlib.util
import json
import re
import statistics
import subprocess

import pytest
import timm
import torch
from IPython.core.inputtransformer2 import TransformerManager
from scipy import stats

from resattn import paths
from resattn.__main__ import VERBS
from resattn.analysis.records import NOT_MEASURED, load_records, main_records
from resattn.models.hub import register
from resattn.plots.results import control_figures, result_figures
from resattn.plots.style import save_figure, use_style
from resattn.report.readme import fill_in

README = paths.CHECKOUT / "README.md"
DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "REPRODUCIBILITY.md",
    "benchmarks/README.md",
    "benchmarks/gpu/README.md",
    "resattn/weights/README.md",
    "results/README.md",
)
# Differences the README names: (file pattern of one network, of the other), in results/.
DIFFERENCES = [
    *((f"short/cifar10-{form}-a1-vit-s14-", "short/cifar10-resnet8-seed") for form in ("printed", "gated", "residual")),
    ("short/cifar10-printed-a0-vit-s14-", "short/cifar10-resnet8-seed"),
    *(
        ("short/cifar10-gated-a1-vit-s14-", f"controls/cifar10-gated-a1-{maps}-seed")
        for maps in ("shuffled-vit-s14", "uniform", "center")
    ),
    ("recipe/cifar10-printed-a0-", "recipe/cifar10-resnet8-"),
]


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
    calls = "\n".join(re.findall(r"run_all\.sh[^`\n]*", README.read_text(encoding="utf-8")))
    options = set(re.findall(r"(?<=\s)--[a-z-]+", calls))
    assert options, "the README shows options of run_all.sh"
    assert all(option in help_text for option in options)
    scripts = set(re.findall(r"(?:\./|bash )([\w/]+\.sh)", text))
    assert {"run_all.sh", "tests/run.sh"} <= scripts
    assert all((paths.CHECKOUT / script).exists() for script in scripts)
    calls = re.findall(r"python -m (resattn[\w.]*)((?: [|a-z]+)*)", README.read_text(encoding="utf-8"))
    verbs = {verb.strip() for module, said in calls if module == "resattn" for verb in said.split("|")}
    assert verbs
    assert verbs <= VERBS.keys()
    assert all(importlib.util.find_spec(module) for module, _ in calls)


def test_the_readme_is_short_and_shows_its_commands_early():
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) <= 9 * 1024
    assert {"./run_all.sh", "bash tests/run.sh"} <= {line.split("  ")[0] for line in text.splitlines()[:40]}, (
        "both commands stand on the first forty lines"
    )
    cells = [cell for line in text.splitlines() if line.startswith("|") for cell in line.split("|")]
    assert max(map(len, cells)) < 120, "a table's cell that takes more than two lines"


def test_the_readmes_python_runs():
    blocks = readme_blocks("python")
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_networks_that_the_readme_names_can_be_had():
    text = README.read_text(encoding="utf-8")
    names = re.findall(r'timm\.create_model\("(\w+)"', text)
    assert "resnet50" in names
    register()
    assert [name for name in names if not timm.is_model(name)] == []
    (in_hub,) = re.findall(r"torch\.hub finds `(\w+)` and `resnet8`", text)
    torch.hub.load(str(paths.CHECKOUT), in_hub, source="local", a=0.0)
    torch.hub.load(str(paths.CHECKOUT), "resnet8", source="local")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = paths.CHECKOUT / document
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("http") and not (path.parent / link).exists()] == []
    assert links or document == "CHANGELOG.md"


def paired(one, other):
    """Mean difference of test accuracy in points over the seeds both have, and the half-width of its 95 % interval."""

    def accuracies(pattern):
        records = [json.loads(path.read_text()) for path in paths.RESULTS.glob(f"{pattern}*.json")]
        return {record["config"]["seed"]: 100 * record["metrics"]["test_acc"] for record in records}

    first, second = accuracies(one), accuracies(other)
    gains = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    half = stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    return f"{statistics.mean(gains):+.2f} ± {half:.2f}".replace("-", "−")


def test_the_differences_in_the_readme_follow_from_the_records():
    named = set(re.findall(r"[+−]\d+\.\d+ ± \d+\.\d+", README.read_text(encoding="utf-8")))
    measured = {paired(one, other) for one, other in DIFFERENCES}
    assert measured <= named
    sources = [paths.RESULTS / "CLAIMS.md", paths.CHECKOUT / "benchmarks" / "README.md"]  # made from records themselves
    elsewhere = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert {number for number in named - measured if number not in elsewhere} == set()


def test_each_cell_of_the_first_table_follows_from_its_records():
    """Without the package's own reader and arithmetic."""
    table = re.search(
        r"<!-- table 3 at reduced and short.*?\n(.*?)\n<!--", README.read_text(encoding="utf-8"), re.DOTALL
    )
    header, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]
    columns = [
        (i, *name.rstrip(")").split(" (")) for i, name in enumerate(header) if "(" in name and "(paper)" not in name
    ]
    assert len(columns) == 3
    for row in rows:
        for column, dataset, preset in columns:
            maps = {"cifar10": "vit-s14", "cifar100": "saliency"}[dataset]
            network = row[0].lower().replace(" a=", "-a") + ("" if row[0] == "ResNet8" else f"-{maps}")
            found = (paths.RESULTS / preset).glob(f"{dataset}-{network}-seed*.json")
            values = [100 * json.loads(path.read_text())["metrics"]["test_acc"] for path in found]
            if not values:
                assert row[column] == NOT_MEASURED
                continue
            said = f"{statistics.mean(values):.2f}"
            if len(values) > 1:
                half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
                said += f" ± {half:.2f}"
            assert row[column] == f"{said} ({len(values)})", (row[0], dataset, preset)


def test_the_readmes_tables_are_made_from_the_records():
    text = README.read_text(encoding="utf-8")
    assert fill_in(text) == text, "run python -m resattn.report.readme"
    wrong = re.sub(r"\d\d\.\d\d ± ", "99.99 ± ", text)
    assert re.findall(r"<!-- table 3 at ([\w ]+), ", wrong) == ["reduced and short"]
    assert "| 99.99" not in fill_in(wrong), "every table is between marks"


def test_the_figures_are_made_from_the_records(tmp_path):
    use_style()
    records = load_records(paths.RESULTS)
    figures = result_figures(main_records(records)) | control_figures(records)
    assert {"accuracy-shapes-demo", "controls-shapes"} <= figures.keys()
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


@pytest.mark.parametrize("path", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_notebooks_import_is_there(path):
    """In seconds, where running them takes minutes: a name may move after a notebook was executed and committed."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    trees = [ast.parse(TransformerManager().transform_cell("".join(cell["source"]))) for cell in cells]
    lines = [ast.unparse(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [line for line in lines if line.startswith("from resattn")]
    assert ours
    for line in ours:
        exec(line, {})


def test_nothing_committed_is_large():
    sizes = {path: path.stat().st_size for path in committed() if path.exists()}
    assert max(sizes.values()) < 12e6
    assert sum(sizes.values()) < 60e6


def test_requirements_are_pins_without_addresses():
    lines = (paths.CHECKOUT / "requirements.lock").read_text().splitlines()
    assert all(re.match(r"[\w.\[\]-]+==\S+( ;.*)?$", line) for line in lines if line)
