"""Which notebooks make up the paper, in which order and with which parameters."""

import ast
import functools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resattn import paths
from resattn.config import TrainConfig
from resattn.experiments.engine import Run
from resattn.experiments.protocols import TABLE3
from resattn.files import file_name
from resattn.settings import given

DATASETS = {"demo": ["shapes"], "reduced": ["cifar10"], "paper": ["cifar10", "cifar100"]}


@dataclass(frozen=True, kw_only=True)
class Job(Run):
    """One notebook with its parameters. The record is that of its training, else its executed copy."""

    notebook: Path
    parameters: dict[str, Any]
    executed: Path

    def finished(self) -> bool:
        """A training by its record; another by its executed copy, unless notebook, parameters or, for the figures, records changed since."""
        if self.config:
            return super().finished()
        try:
            about = json.loads(self.executed.read_text(encoding="utf-8"))["metadata"]["papermill"]
        except (OSError, ValueError, KeyError):
            return False
        needed = [self.notebook]
        if self.notebook.stem == "04_figures":
            needed += (self.executed.parent.parent / "records").glob("*.json")
        same = about["parameters"] == json.loads(json.dumps(self.parameters))
        return same and self.executed.stat().st_mtime >= max(path.stat().st_mtime for path in needed)

    def execute(self) -> None:
        """Run the notebook in a kernel; the executed copy appears when all went well."""
        import papermill

        partial = self.executed.with_suffix(".partial.ipynb")
        partial.parent.mkdir(parents=True, exist_ok=True)
        options = {"kernel_name": "python3", "cwd": str(paths.ROOT), "progress_bar": False}
        options |= {"stdout_file": sys.stdout, "stderr_file": sys.stderr}
        for further_tries in (2, 1, 0):
            try:
                papermill.execute_notebook(self.notebook, partial, self.parameters, **options)
                break
            except RuntimeError as error:  # kernels that start at the same moment can pick the same port
                if not further_tries or "before replying to kernel_info" not in str(error):
                    raise
        os.replace(partial, self.executed)

    def result(self) -> str:
        return super().result() if self.config else "done"


def list_jobs(
    profile: str, dataset: str | None, seeds: int | None, root: str | None, changes: dict[str, Any]
) -> list[Job]:
    """All jobs of a profile in the order they run; where changes make several the same one, only the first.

    Args:
        dataset: only this one instead of the profile's own.
        seeds: how many, from 0; None means 2 for the demo, else 3.
        root: where data sets live; None means ``data/``.
        changes: parameters to set in every notebook that has them; ValueError where none has, or a value is not allowed.
    """
    notebooks = {path: notebook_parameters(path) for path in sorted(paths.NOTEBOOKS.glob("0*.ipynb"))}
    folder = paths.RUNS / profile
    places = {"records": folder / "records", "figures": folder / "figures", "controls": paths.RESULTS}
    where = {name: os.path.relpath(path, paths.ROOT) for name, path in places.items()}
    check_names(changes, {name for parameters in notebooks.values() for name in parameters} - {"preset", *where})
    if (weights := changes.get("weights") or "pretrained") not in ("pretrained", "random"):
        file = Path(weights).expanduser().resolve()
        if not file.is_file():
            raise ValueError(f"--set weights: must be 'pretrained', 'random' or a checkpoint file, got {weights!r}")
        changes = changes | {"weights": str(file)}
    jobs: dict[Path, Job] = {}

    def add(number: str, *words: str, stage: int, **own: Any) -> None:
        (notebook,) = (path for path in notebooks if path.stem.startswith(number))
        defaults, wanted = notebooks[notebook], {"preset": profile, "root": root} | where | own | changes
        parameters = {key: value for key, value in wanted.items() if key in defaults}
        name = "-".join([number, *words])
        record = executed = folder / "notebooks" / f"{name}.ipynb"
        config = None
        if number == "03":
            config = TrainConfig.preset(profile, **given(defaults | parameters, TrainConfig))
            parameters["precision"] = config.precision  # or a worker with another device names its record otherwise
            record = folder / "records" / f"{config.slug}.json"
        log = folder / "logs" / f"{name}.log"
        about = {"notebook": notebook, "parameters": parameters, "executed": executed}
        jobs.setdefault(record, Job(name, config, record, log, stage, **about))

    datasets = {name: file_name(Path(name).name) for name in ([dataset] if dataset else DATASETS[profile])}
    for name, word in datasets.items():
        add("01", word, stage=0, dataset=name)
    add("02", stage=0)
    for seed in range(seeds or (2 if profile == "demo" else 3)):
        for name, word in datasets.items():
            for network in TABLE3:
                if profile != "reduced" or network.a != 0.5:
                    label = f"{network.form}-a{network.a:g}" if network.form else network.model
                    add("03", word, label, f"seed{seed}", stage=1, dataset=name, seed=seed, **network.settings())
    for number in ("04", "05", "06"):
        add(number, stage=2)
    return list(jobs.values())


@functools.cache
def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and defaults in a notebook's ``parameters`` cell, which holds literals only."""
    import papermill

    return {name: ast.literal_eval(about["default"]) for name, about in papermill.inspect_notebook(str(path)).items()}


def check_names(changes: dict[str, Any], known: set[str]) -> None:
    """ValueError for a change of a setting that does not exist, or that the profile fills in."""
    if unknown := changes.keys() - known:
        raise ValueError(f"--set {min(unknown)}: no such setting; there are {', '.join(sorted(known))}")
