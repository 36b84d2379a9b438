"""Which notebooks make up the paper, in which order, with which parameters, and about how long each takes."""

import fnmatch
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resattn import paths
from resattn.config import TrainConfig
from resattn.files import file_name

DATASETS = {"demo": ["shapes"], "paper": ["cifar10", "cifar100"]}
SEEDS = {"demo": 2, "paper": 3}
VARIANTS = [{"model": "resnet8"}] + [
    {"model": "resattn", "form": form, "a": a} for form in ("printed", "gated") for a in (0.0, 0.5, 1.0)
]
_PARAMETERS_OF_A_RUN = (
    "dataset", "root", "model", "form", "a", "source", "weights", "seed", "epochs", "image_size", "batch_size", "lr", "schedule",
    "precision", "compile",
)  # fmt: skip
_FILLED_IN = ("preset", "records", "figures")
# Training images a second at 224 pixels, batch 128, on two cores of an AMD EPYC without AVX-512 (seen; a rough guide elsewhere).
_CPU_RATE = {"masked": 170, "plain": 390}
_OTHER_SECONDS = {
    "01_attention_maps": 12,
    "02_architecture": 12,
    "04_figures": 12,
    "05_hyperparameters": 25,
    "06_controls": 30,
}


@dataclass(frozen=True)
class Job:
    """One notebook with its parameters; ``stage`` s starts when all of stage s - 1 have ended."""

    name: str
    notebook: str
    stage: int
    parameters: dict[str, Any]
    config: TrainConfig | None = None
    folder: Path = field(default=paths.RUNS, compare=False)

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

    def needs_published_vit(self) -> bool:
        """Whether this run looks at maps of the ViT that the model hub has."""
        c = self.config
        return c is not None and c.uses_maps and (c.source, c.weights) == ("dino", "pretrained")

    def finished(self) -> bool:
        """A training job by its record; another by its executed notebook, unless notebook or parameters changed since."""
        try:
            if self.record:
                return "metrics" in json.loads(self.record.read_text(encoding="utf-8"))
            if json.loads(self.executed.read_text(encoding="utf-8"))["metadata"]["resattn"]["key"] != self.key():
                return False
        except (OSError, ValueError, KeyError):
            return False
        newest = max((p.stat().st_mtime for p in (self.folder / "records").glob("*.json")), default=0)
        return self.notebook != "04_figures" or self.executed.stat().st_mtime >= newest

    def estimated_seconds(self, cuda: bool) -> float | None:
        """Wall time of the job on its own; None where nothing like it has been measured."""
        if not self.config:
            return _OTHER_SECONDS[self.notebook]
        if cuda:
            return None
        images = {"shapes": 5_400, "cifar10": 45_000, "cifar100": 45_000}.get(self.config.dataset, 45_000)
        plain = not self.config.uses_maps or self.config.a == 0
        rate = _CPU_RATE["plain" if plain else "masked"] * (224 / self.config.image_size) ** 2
        return 8 + 1.05 * self.config.epochs * images / rate


def list_jobs(profile: str, dataset: str | None, seeds: int, root: str | None, changes: dict[str, Any]) -> list[Job]:
    """All jobs of a profile in the order they run. A relative path of weights among the ``changes`` is made absolute.

    Args:
        profile: "demo" or "paper".
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
            parameters["seed"] = parameters.get("seed", 0)
            merged = defaults[notebook] | parameters
            config = TrainConfig.from_parameters(profile, **{key: merged[key] for key in _PARAMETERS_OF_A_RUN})
        return Job(name, notebook, stage, parameters, config, folder)

    jobs = [job(f"01-{file_name(Path(name).name)}", "01_attention_maps", 0, dataset=name) for name in datasets]
    jobs.append(job("02", "02_architecture", 0))
    for seed in range(seeds):
        for name in datasets:
            for variant in VARIANTS:
                label = variant["model"] if variant["model"] == "resnet8" else f"{variant['form']}-a{variant['a']:g}"
                jobs.append(
                    job(
                        f"03-{file_name(Path(name).name)}-{label}-seed{seed}",
                        "03_training",
                        1,
                        dataset=name,
                        seed=seed,
                        **variant,
                    )
                )
    jobs += [job("04", "04_figures", 2), job("05", "05_hyperparameters", 2), job("06", "06_controls", 2)]
    return _without_doubles(jobs)


def _without_doubles(jobs: list[Job]) -> list[Job]:
    """One job a record: ``changes`` can make several runs the same one."""
    kept = {job.record or job.name: job for job in reversed(jobs)}
    return [job for job in jobs if kept[job.record or job.name] is job]


def _below_root(path: Path) -> str:
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else str(path)


def select_jobs(jobs: list[Job], pattern: str | None) -> list[Job]:
    """The jobs whose name matches; ValueError where none does."""
    chosen = [job for job in jobs if pattern is None or fnmatch.fnmatch(job.name, pattern)]
    if not chosen:
        raise ValueError(f"--only {pattern!r} matches no job; names are {', '.join(job.name for job in jobs[:4])}, ...")
    return chosen


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and defaults in a notebook's ``parameters`` cell, which holds literals only."""
    import ast

    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"notebook {path} must have one cell tagged parameters, found {len(tagged)}")
    statements = ast.parse("".join(tagged[0]["source"])).body
    return {statement.targets[0].id: ast.literal_eval(statement.value) for statement in statements}


def check_changes(changes: dict[str, Any], defaults: dict[str, dict[str, Any]]) -> None:
    """ValueError for a parameter no notebook has or that run_all.sh fills in itself, or a value of another type than the default's."""
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
