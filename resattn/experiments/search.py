"""The search of Sec. 5.1: random points over learning rate and weight decay, then a dense grid around the best of them.

Scored by validation accuracy; no trial sees the test split. The trials run on the engine's workers, and an Optuna journal keeps them: stop
and start a search as you like. Also ``python -m resattn search``.
"""

import dataclasses
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resattn.config import PAPER, TrainConfig
from resattn.experiments.engine import Engine
from resattn.files import digest, write_json
from resattn.settings import check, setting

_STAGES = ("random", "paper", "grid", "confirm")


@dataclass(frozen=True)
class Point:
    """One choice of learning rate and weight decay, the seed it is trained with, and the stage of the search that wants it."""

    stage: str
    lr: float
    weight_decay: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.stage}-lr{self.lr:.4g}-wd{self.weight_decay:.4g}-seed{self.seed}"


@dataclass(frozen=True)
class SearchPlan:
    """What to search; the same plan always comes to the same points.

    Attributes:
        config: all settings but the two searched for; its seed also decides the random points.
        trials: number of random points, log-uniform in the ranges.
        grid: points along learning rate and weight decay in the grid around the best random point, which is its centre and is not
            trained twice.
        span: the grid's extent as a share of each range, on the logarithmic scale.
        confirm: train the best point and the paper's again with so many further seeds, from the config's seed + 1 on: the best
            of many is partly luck.
        lr, weight_decay: ranges (low, high) of the random points.

    Raises:
        ValueError: an argument is not as described.
    """

    config: TrainConfig
    trials: int = setting(16, low=1)
    grid: tuple[int, int] = setting((5, 5), low=1)
    span: float = setting(0.25, above=0, high=1)
    confirm: int = setting(3, low=0)
    lr: tuple[float, float] = setting((1e-4, 1.0), above=0)
    weight_decay: tuple[float, float] = setting((1e-5, 1.0), above=0)

    def __post_init__(self):
        check(self)
        for name in ("lr", "weight_decay"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"{name} must be a range of two rising numbers above 0, got {low} and {high}")

    def settings(self) -> dict:
        """The settings all trials share, as a record stores them."""
        return {k: v for k, v in self.config.identity().items() if k not in ("lr", "weight_decay", "seed")}

    @property
    def name(self) -> str:
        """Name of the study. More trials or another grid extend it; other settings, ranges or seed are another study."""
        words = dataclasses.replace(self.config, lr=1.0, weight_decay=0.0).slug.split("-")[:-1]
        code = digest(repr((sorted(self.settings().items()), self.config.seed, self.lr, self.weight_decay)))[:8]
        return "-".join([*words, self.config.schedule, code])

    def random_point(self, k: int) -> Point:
        """The k-th random point: decided by seed and k alone."""
        shares = np.random.default_rng([self.config.seed, k]).random(2)
        ranges = zip((self.lr, self.weight_decay), shares, strict=True)
        return self._point("random", *(low * (high / low) ** share for (low, high), share in ranges))

    def first_points(self) -> list[Point]:
        """The random points, and Table 1's."""
        paper = self._point("paper", PAPER["lr"], PAPER["weight_decay"])
        return [*(self.random_point(k) for k in range(self.trials)), paper]

    def grid_points(self, centre: Point) -> list[Point]:
        """The grid around ``centre``, without it."""
        axes = []
        middle = (centre.lr, centre.weight_decay)
        for n, value, (low, high) in zip(self.grid, middle, (self.lr, self.weight_decay), strict=True):
            reach = (high / low) ** (self.span / 2)
            axes.append([value if 2 * i == n - 1 else value * reach ** (2 * i / (n - 1) - 1) for i in range(n)])
        points = [self._point("grid", lr, decay) for lr in axes[0] for decay in axes[1]]
        return [point for point in points if (point.lr, point.weight_decay) != middle]

    def confirmation_points(self, best: Point) -> list[Point]:
        """``best`` and the paper's point with further seeds."""
        chosen = [(best.lr, best.weight_decay), (PAPER["lr"], PAPER["weight_decay"])]
        seeds = range(self.config.seed + 1, self.config.seed + 1 + self.confirm)
        return [self._point("confirm", *values, seed=seed) for seed in seeds for values in dict.fromkeys(chosen)]

    def _point(self, stage: str, lr: float, weight_decay: float, seed: int | None = None) -> Point:
        """Four digits: what a point is called and printed as is exactly what it is."""
        seed = self.config.seed if seed is None else seed
        return Point(stage, float(f"{lr:.4g}"), float(f"{weight_decay:.4g}"), seed)


@dataclass(frozen=True)
class Trial:
    """The training of one point: a run of the engine, whose outcome lies in ``folder`` until the search is complete."""

    config: TrainConfig
    point: Point
    folder: Path
    stage: int = 0

    @property
    def name(self) -> str:
        return self.point.name

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def outcome(self) -> Path:
        return self.folder / f"{self.name}.json"

    def finished(self) -> bool:
        return self.outcome.exists()

    def execute(self) -> None:
        """Train from the checkpoint where there is one; a loss that is not finite is an outcome, not a failure."""
        from resattn.data.datasets import Split, load_dataset
        from resattn.training.checkpoint import save_checkpoint
        from resattn.training.environment import describe_environment
        from resattn.training.trainer import Trainer, find_device

        point, checkpoint, diverged = self.point, self.folder / f"{self.name}.pt", None
        config = dataclasses.replace(self.config, lr=point.lr, weight_decay=point.weight_decay, seed=point.seed)
        data = load_dataset(config.dataset, config.root, size=config.size, skip_unreadable=config.skip_unreadable)
        masks = None if data.train.masks is None else data.train.masks[:2]
        unseen = Split(data.train.images[:2], data.train.labels[:2], masks)  # no trial can look at the test split
        run = Trainer(config, dataclasses.replace(data, test=unseen), find_device(config.device))
        run.resume(checkpoint)
        try:
            while run.epoch < config.epochs:
                run.train_epoch()
                save_checkpoint(checkpoint, run.state())
        except FloatingPointError as error:
            diverged = str(error)
        about = {"device": describe_environment(run.device, run.revision)["device"], "precision": run.precision}
        about |= {"revision": run.revision, "seconds": round(run.seconds, 2)}
        write_json(self.outcome, {"epochs": run.history, "diverged": diverged} | about)
        checkpoint.unlink(missing_ok=True)

    def result(self) -> str:
        outcome = json.loads(self.outcome.read_text(encoding="utf-8"))
        return "diverged" if outcome["diverged"] else f"val acc {100 * outcome['epochs'][-1]['val_acc']:.1f} %"


def search(
    plan: SearchPlan, journal: Path, *, out: Path | None = None, jobs: int | None = 0, scheduler: str | None = None
) -> dict:
    """Run a search until it is complete, from where an earlier call stopped.

    Args:
        journal: Optuna's journal file; studies may share one. Beside it lies a folder of the same name with checkpoints and logs.
        out: where the record goes, anew after each trial.
        jobs, scheduler: as for :class:`resattn.experiments.engine.Engine`; by default the trials run in this process.

    Returns:
        The record: "study"; "config", what all trials share; "search", the plan; "trials", a list with "stage" ("random",
        "paper", "grid" or "confirm"), "lr", "weight_decay", "seed", "epochs" as in a training record, "diverged" (None, or what happened),
        "seconds", "device", "precision", "revision"; "environment". Accuracies are fractions in [0, 1].

    Raises:
        ValueError: the settings or the data set are not as they must be, or every random point diverged.
        OSError: as :class:`resattn.experiments.engine.Engine`.
        RuntimeError: trials failed; the message names one.
    """
    import optuna

    from resattn.data.datasets import load_dataset

    shared = plan.config  # decoded once, before each trial tries to
    load_dataset(shared.dataset, shared.root, size=shared.size, skip_unreadable=shared.skip_unreadable)
    journal = Path(journal).resolve()
    folder = journal.parent / f"{journal.stem}.trials" / plan.name
    with Engine(folder, jobs, scheduler) as engine:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        study = optuna.create_study(study_name=plan.name, storage=storage, direction="maximize", load_if_exists=True)
        for stage in (
            lambda: plan.first_points(),
            lambda: plan.grid_points(best_point(study, ("random",))),
            lambda: plan.confirmation_points(best_point(study, ("random", "grid", "paper"))),
        ):
            ended = _ended(study)
            trials = [Trial(plan.config, point, folder) for point in stage() if point.name not in ended]
            failures = []
            for trial, failure in engine.run(trials):
                if failure:
                    failures.append(f"{trial.name}: {failure}")
                    continue
                _keep(study, trial)
                _record(plan, study, out)
            if failures:
                raise RuntimeError(f"{len(failures)} of {len(trials)} trials failed; {failures[0]}")
        for outcome in folder.glob("*.json"):
            outcome.unlink()
        return _record(plan, study, out)


def best_point(study: Any, stages: tuple[str, ...]) -> Point:
    """The point with the highest validation accuracy after the last epoch; of equals, the one with the lower validation loss."""
    trials = [t for t in _ended(study).values() if t.user_attrs["point"]["stage"] in stages]
    chosen = [trial for trial in trials if not trial.user_attrs["diverged"]]
    if not chosen:
        raise ValueError("every random point diverged; lower the lr range")
    best = max(chosen, key=lambda trial: (trial.value, -trial.user_attrs["epochs"][-1]["val_loss"]))
    return Point(**{name: value for name, value in best.user_attrs["point"].items() if name != "name"})


def _ended(study: Any) -> dict[str, Any]:
    """The trials that ended, by the name of their point; those that diverged count."""
    trials = study.get_trials(deepcopy=False)
    return {t.user_attrs["point"]["name"]: t for t in trials if "diverged" in t.user_attrs and t.state.is_finished()}


def _keep(study: Any, trial: Trial) -> None:
    """Put the point and its outcome into the study, in one write."""
    import optuna
    from optuna.distributions import FloatDistribution

    outcome, point = json.loads(trial.outcome.read_text(encoding="utf-8")), asdict(trial.point)
    values = {name: point[name] for name in ("lr", "weight_decay")}
    ranges = {name: FloatDistribution(min(value, 1e-6), max(value, 1.0), log=True) for name, value in values.items()}
    accuracies = [0.0] if outcome["diverged"] else [entry["val_acc"] for entry in outcome["epochs"]]
    study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState.PRUNED if outcome["diverged"] else optuna.trial.TrialState.COMPLETE,
            value=accuracies[-1],
            params=values,
            distributions=ranges,
            user_attrs={"point": point | {"name": trial.name}} | outcome,
            intermediate_values=dict(enumerate(accuracies, 1)),
        )
    )


def _record(plan: SearchPlan, study: Any, out: Path | None) -> dict:
    import importlib.metadata

    from resattn.training.environment import code_revision, describe_environment, find_device

    kept = ("epochs", "diverged", "seconds", "device", "precision", "revision")
    trials = [
        {name: t.user_attrs["point"][name] for name in ("stage", "lr", "weight_decay", "seed")}
        | {name: t.user_attrs[name] for name in kept}
        for t in _ended(study).values()
    ]
    trials.sort(key=lambda t: (_STAGES.index(t["stage"]), t["lr"], t["weight_decay"], t["seed"]))
    environment = describe_environment(find_device(plan.config.device), code_revision())
    environment["versions"]["optuna"] = importlib.metadata.version("optuna")
    about = {"seed": plan.config.seed} | {name: getattr(plan, name) for name in ("trials", "grid", "span", "confirm")}
    about["ranges"] = {"lr": plan.lr, "weight_decay": plan.weight_decay}
    record = {
        "study": plan.name,
        "config": plan.settings(),
        "search": about,
        "trials": trials,
        "environment": environment,
    }
    if out is not None:
        write_json(out, record)
    return record
