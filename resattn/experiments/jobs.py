"""Which notebooks make up the paper, in which order, with which parameters, and about how long each takes."""

import ast
import dataclasses
import fnmatch
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resattn import paths
from resattn.config import TrainConfig
from resattn.experiments.engine import Run, accuracy, is_record
from resattn.experiments.protocols import TABLE3
from resattn.files import file_name

DATASETS = {"demo": ["shapes"], "reduced": ["cifar10"], "paper": ["cifar10", "cifar100"]}
SEEDS = {"demo": 2, "reduced": 3, "paper": 3}
NETWORKS = {"demo": TABLE3, "reduced": [network for network in TABLE3 if network.a != 0.5], "paper": TABLE3}
_FILLED_IN = ("preset", "records", "figures")
# Training images a second at 224 pixels, batch 128, on one core of an AMD EPYC without AVX-512 (seen; a rough guide elsewhere).
_CPU_RATE = {"masked": 85, "plain": 195}
_OTHER_SECONDS = {"01_attention_maps": 24, "02_architecture": 24, "04_figures": 24, "05_hyperparameters": 50, "06_controls": 60}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One notebook with its parameters: a run of the engine."""

    name: str
    notebook: str
    stage: int
    parameters: dict[str, Any]
    config: TrainConfig | None
    folder: Path

    @property
    def executed(self) -> Path:
        return self.folder / "notebooks" / f"{self.name}.ipynb"

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def record(self) -> Path | None:
        return self.folder / "records" / f"{self.config.slug}.json" if self.config else None

    def key(self) -> str:
        """Changes when the notebook or its parameters do."""
        source = (paths.NOTEBOOKS / f"{self.notebook}.ipynb").read_bytes()
        return hashlib.sha256(source + json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()[:16]

    def finished(self) -> bool:
        """A training job by its record; another by its executed notebook, unless notebook or parameters changed since."""
        if self.record:
            return is_record(self.record)
        try:
            if json.loads(self.executed.read_text(encoding="utf-8"))["metadata"]["resattn"]["key"] != self.key():
                return False
        except (OSError, ValueError, KeyError):
            return False
        newest = max((p.stat().st_mtime for p in (self.folder / "records").glob("*.json")), default=0)
        return self.notebook != "04_figures" or self.executed.stat().st_mtime >= newest

    def execute(self) -> None:
        """Run the notebook in a kernel; the executed copy appears when all went well."""
        import papermill

        partial = self.executed.with_suffix(".partial.ipynb")
        partial.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(3):
            try:
                notebook = papermill.execute_notebook(
                    paths.NOTEBOOKS / f"{self.notebook}.ipynb",
                    partial,
                    parameters=self.parameters,
                    kernel_name="python3",
                    cwd=str(paths.ROOT),
                    progress_bar=False,
                    extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
                    stdout_file=sys.stdout,
                    stderr_file=sys.stderr,
                )
                break
            except RuntimeError as error:  # kernels that start at the same moment can pick the same port
                if attempt == 2 or "before replying to kernel_info" not in str(error):
                    raise
        notebook.metadata["resattn"] = {"key": self.key()}
        papermill.iorw.write_ipynb(notebook, str(partial))
        os.replace(partial, self.executed)

    def result(self) -> str:
        return accuracy(self.record) if self.record else "done"


def list_jobs(profile: str, dataset: str | None, seeds: int, root: str | None, changes: dict[str, Any]) -> list[Job]:
    """All jobs of a profile in the order they run. A relative path of weights among the ``changes`` is made absolute.

    Args:
        profile: "demo", "reduced" or "paper".
        dataset: only this one instead of the profile's own.
        seeds: how many seeds, from 0.
        root: where data sets live; None means ``data/``.
        changes: parameters to set in every notebook that has them, by name.

    Raises:
        ValueError: a parameter does not exist, or a value is not allowed.
    """
    defaults = {path.stem: notebook_parameters(path) for path in sorted(paths.NOTEBOOKS.glob("0*.ipynb"))}
    check_changes(changes, defaults)
    if changes.get("weights") not in (None, "pretrained", "random"):
        file = Path(str(changes["weights"])).expanduser()
        if not file.is_file():
            raise ValueError(f"--set weights: must be 'pretrained', 'random' or a checkpoint file, got {str(file)!r}")
        changes = changes | {"weights": str(file.resolve())}
    folder = paths.RUNS / profile
    where = {"records": _below_root(folder / "records"), "figures": _below_root(folder / "figures")}
    where["controls"] = _below_root(paths.RESULTS)
    datasets = [dataset] if dataset else DATASETS[profile]

    def job(name: str, notebook: str, stage: int, **parameters: Any) -> Job:
        wanted = {"preset": profile, "root": root, **where, **parameters, **changes}
        parameters = {key: value for key, value in wanted.items() if key in defaults[notebook]}
        config = None
        if notebook == "03_training":
            merged = defaults[notebook] | parameters
            fields = {field.name for field in dataclasses.fields(TrainConfig)}
            config = TrainConfig.preset(profile, **{key: merged[key] for key in merged if key in fields})
            parameters["precision"] = (
                config.precision
            )  # decided here, or a worker with another device names its record otherwise
        return Job(name, notebook, stage, parameters, config, folder)

    names = {name: file_name(Path(name).name) for name in datasets}
    jobs = [job(f"01-{names[name]}", "01_attention_maps", 0, dataset=name) for name in datasets]
    jobs.append(job("02", "02_architecture", 0))
    for seed in range(seeds):
        for name in datasets:
            for network in NETWORKS[profile]:
                label = f"{network.form}-a{network.a:g}" if network.form else network.model
                settings = {"dataset": name, "seed": seed} | network.settings()
                jobs.append(job(f"03-{names[name]}-{label}-seed{seed}", "03_training", 1, **settings))
    jobs += [job("04", "04_figures", 2), job("05", "05_hyperparameters", 2), job("06", "06_controls", 2)]
    first = {job.record or job.name: job for job in reversed(jobs)}
    return [job for job in jobs if first[job.record or job.name] is job]  # changes can make several runs the same one


def _below_root(path: Path) -> str:
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else str(path)


def core_seconds(run: Run) -> float:
    """About how long one core of a CPU takes for a notebook or a training."""
    config = run.config
    if not config:
        return _OTHER_SECONDS[run.notebook]
    images = {"shapes": 5_400}.get(config.dataset, 45_000)
    plain = not config.uses_maps or config.a == 0
    rate = _CPU_RATE["plain" if plain else "masked"] * (224 / config.image_size) ** 2
    return 16 + 1.05 * config.epochs * images / rate


def seconds_on(n_workers: int, runs: Iterable[Run]) -> float:
    """About how long so many workers, which share this machine's cores, take for the runs, stage by stage."""
    threads = max(1, (os.cpu_count() or 1) // n_workers)
    stages: dict[int, list[float]] = {}
    for run in runs:
        stages.setdefault(run.stage, []).append(core_seconds(run) / threads)
    return sum(max(max(seconds), sum(seconds) / n_workers) for seconds in stages.values())


def select(names: dict[str, Any], pattern: str | None) -> list[Any]:
    """The values whose name matches; ValueError where none does."""
    chosen = [value for name, value in names.items() if pattern is None or fnmatch.fnmatch(name, pattern)]
    if not chosen:
        raise ValueError(f"--only {pattern!r} matches no run; names are {', '.join(list(names)[:4])}, ...")
    return chosen


@functools.cache
def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and defaults in a notebook's ``parameters`` cell, which holds literals only."""
    import papermill

    found = papermill.inspect_notebook(str(path))
    if not found:
        raise ValueError(f"notebook {path} must have a cell tagged parameters with at least one")
    return {name: ast.literal_eval(about["default"]) for name, about in found.items()}


def check_changes(changes: dict[str, Any], defaults: dict[str, dict[str, Any]]) -> None:
    """ValueError for a parameter no notebook has or that the profile fills in, or a value of another type than the default's."""
    known = {name: value for parameters in defaults.values() for name, value in parameters.items()}
    for name, value in changes.items():
        if name in _FILLED_IN:
            raise ValueError(
                f"--set {name}: cannot be changed; --profile chooses it, RESATTN_HOME moves what is written"
            )
        if name not in known:
            raise ValueError(f"--set {name}: no notebook has this parameter; they have {', '.join(sorted(known))}")
        default = known[name]
        fits = default is None or value is None or isinstance(value, type(default))
        if not fits and not (isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)):
            raise ValueError(
                f"--set {name}: must be of type {type(default).__name__} like its default {default!r}, got {value!r}"
            )
