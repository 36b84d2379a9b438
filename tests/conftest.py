"""What the tests share: a home of their own, the drawn shapes, and small image folders."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from PIL import Image

from resattn import TrainConfig, load_dataset, paths
from resattn.analysis.records import load_records
from resattn.analysis.tables import table3, to_markdown
from resattn.config import PRESETS
from resattn.files import write_json
from resattn.plots.results import result_figures
from resattn.plots.style import save_figure
from resattn.report.page import build_report


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh home for each test, so that none writes into the repository or sees what another one left."""
    folder = tmp_path / "home"
    for name in ("DATA", "CACHE", "RUNS"):
        monkeypatch.setattr(paths, name, folder / name.lower())
    monkeypatch.setenv("RESATTN_HEADLESS", "1")
    yield folder
    plt.close("all")


@pytest.fixture(scope="session")
def shapes_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which the embedded data set is drawn once for all tests."""
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(scope="session")
def shapes(shapes_cache: Path):
    """The embedded data set."""
    return load_dataset("shapes", cache=shapes_cache / "datasets")


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a class-folder tree of noise images and return its path, below ``tmp_path / "data"``."""

    def make(
        name: str = "birds",
        *,
        train: int = 4,
        test: int = 2,
        size: int = 16,
        classes: tuple[str, ...] = ("crow", "duck", "finch"),
        test_classes: tuple[str, ...] | None = None,
    ) -> Path:
        rng = np.random.default_rng(0)
        folder = tmp_path / "data" / name
        for split, n, labels in (("train", train, classes), ("test", test, test_classes or classes)):
            for label in labels:
                for i in range(n):
                    write_image(folder / split / label / f"{i:03d}.png", rng.integers(0, 256, (size, size, 3)))
        return folder

    return make


@pytest.fixture
def make_record() -> Callable[..., Path]:
    """Write the record of a run that never was, as training would: the settings decide its name."""

    def make(folder: Path, test_acc: float, history: list[float] | None = None, **settings) -> Path:
        config = TrainConfig(**{"epochs": len(history or [0])} | settings)
        history = history or [test_acc] * config.epochs
        best = history.index(max(history))
        epochs = [{"train_loss": 2 - value, "val_loss": 1.0, "val_acc": value} for value in history]
        metrics = {"test_acc": test_acc, "test_acc_at_best_val": test_acc, "best_val_epoch": best + 1, "epochs": epochs}
        record = {"config": config.identity(), "metrics": metrics, "parameters": 10}
        record["environment"] = {"seconds": 1.0, "device": "test"}
        return write_json(folder / f"{config.slug}.json", record)

    return make


HOSTILE = "q<img src=x onerror=alert(1)>"


@pytest.fixture
def hostile_report(tmp_path: Path, make_record) -> Path:
    """A report whose data set, record fields, figures and notebooks are named by a tag with a script; none of it was escaped before."""
    for seed in range(3):
        for form in ("printed", "gated"):
            demo = PRESETS["demo"] | {"dataset": HOSTILE, "source": "saliency"}
            path = make_record(tmp_path / "records", 0.5, **demo, form=form, a=1.0, seed=seed)
            record = json.loads(path.read_text(encoding="utf-8"))
            record["environment"] |= dict.fromkeys(("device", "revision", "precision"), HOSTILE)
            for folder in ("records", f"records/{HOSTILE}", "records/controls"):
                write_json(tmp_path / folder / path.name, record)
    records = load_records(tmp_path / "records")
    for name, figure in result_figures(records).items():
        save_figure(figure, tmp_path / "figures" / name)
        save_figure(figure, tmp_path / "figures" / HOSTILE)
    outputs = [
        {"text/markdown": to_markdown(table3(records, "demo"))},
        {"text/markdown": f"**{HOSTILE}** <script>alert(2)</script> [link](javascript:alert(3))"},
        {
            "text/html": f"{table3(records, 'demo').to_html()}<svg onload=alert(4)></svg><iframe src='https://example.org'></iframe>"
        },
        {
            "image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(5)</script></svg>",
            "text/plain": "drawing",
        },
    ]
    cells = [
        nbformat.v4.new_markdown_cell(f"# A title {HOSTILE}\n\n<a href='javascript:alert(6)'>here</a>"),
        nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", data) for data in outputs]),
    ]
    (tmp_path / "notebooks").mkdir()
    for name in ("04", f"01-{HOSTILE}"):
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"notebooks/{name}.ipynb")
    return build_report(tmp_path / "records", tmp_path / "figures", tmp_path / "notebooks", tmp_path / "out").parent


def write_image(path: Path, pixels: np.ndarray, **options) -> None:
    """Write (H, W, 3) pixels in the format that the path's ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)
