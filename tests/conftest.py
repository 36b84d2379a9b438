"""What the tests share: a home of their own, the drawn shapes, and small image folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resattn import load_dataset, paths


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home for each test, so that none writes into the repository or sees what another one left."""
    folder = tmp_path / "home"
    for name in ("DATA", "CACHE", "RUNS"):
        monkeypatch.setattr(paths, name, folder / name.lower())
    monkeypatch.setenv("RESATTN_HEADLESS", "1")
    return folder


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


def write_image(path: Path, pixels: np.ndarray, **options) -> None:
    """Write (H, W, 3) pixels in the format that the path's ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
