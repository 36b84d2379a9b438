"""The search of Sec. 5.1: random points over learning rate and weight decay, then a dense grid around the best of them.

Scored by validation accuracy; no trial sees the test split. The trials run on the engine's workers, and an Optuna journal keeps them: stop
and start a search as you like. Also ``python -m resattn search``.
"""

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resattn.config import PAPER, TrainConfig
from resattn.experiments.engine import Engine, Run
from resattn.files import digest, write_json
from resattn.settings import check, setting

_STAGES = ("random", "paper", "grid", "confirm")
_PAPER = (PAPER["lr"], PAPER["weight_decay"])


class Point(NamedTuple):
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
    """What to search; the same plan always comes to the same points. ValueError where an argument is not as described.

    Attributes:
        config: all settings but the two searched for; its seed also decides the random points.
        trials: random points, log-uniform in the ranges.
        grid: points along learning rate and weight decay around the best random point, which is not trained twice.
        span: the grid's extent as a share of each range, on the logarithmic scale.
        confirm: further seeds for the best point and the paper's: the best of many is partly luck.
        lr_range, weight_decay_range: (low, high) of the random points.
    """

    config: TrainConfig
    trials: int = setting(16, low=1)
    grid: tuple[int, int] = setting((5, 5), low=1)
    span: float = setting(0.25, above=0, high=1)
    confirm: int = setting(3, low=0)
    lr_range: tuple[float, float] = setting((1e-4, 1.0), above=0)
    weight_decay_range: tuple[float, float] = setting((1e-5, 1.0), above=0)

    def __post_init__(self) -> None:
        check(self)

    def settings(self) -> dict:
        """The settings all trials share, as a record stores them."""
        return {k: v for k, v in self.config.identity().items() if k not in ("lr", "weight_decay", "seed")}

    @property
    def name(self) -> str:
        """Name of the study. More trials or another grid extend it; other settings, ranges or seed are another study."""
        words = replace(self.config, lr=1.0, weight_decay=0.0).slug.split("-")[:-1]
        about = (sorted(self.settings().items()), self.config.seed, self.lr_range, self.weight_decay_range)
        about += (self.config.folder,) if self.config.folder else ()
        return "-".join([*words, self.config.schedule, digest(repr(about))[:8]])

    def first_points(self) -> list[Point]:
        """The random points, each decided by the seed and its number alone, and Table 1's."""
        low, high = np.array([self.lr_range, self.weight_decay_range]).T
        shares = (np.random.default_rng([self.config.seed, k]).random(2) for k in range(self.trials))
        return [
            *(self._point("random", *low * (high / low) ** share) for share in shares),
            self._point("paper", *_PAPER),
        ]

    def grid_points(self, centre: Point) -> list[Point]:
        """The grid around ``centre``, without it."""

        def axis(n: int, value: float, ends: tuple[float, float]) -> list[float]:
            reach = (ends[1] / ends[0]) ** (self.span / 2)
            return [value if 2 * i == n - 1 else value * reach ** (2 * i / (n - 1) - 1) for i in range(n)]

        axes = map(axis, self.grid, centre[1:3], (self.lr_range, self.weight_decay_range))
        points = (self._point("grid", *values) for values in itertools.product(*axes))
        return [point for point in points if point[1:3] != centre[1:3]]

    def confirmation_points(self, best: Point) -> list[Point]:
        """``best`` and the paper's point with further seeds."""
        seeds = range(self.config.seed + 1, self.config.seed + 1 + self.confirm)
        chosen = dict.fromkeys((best[1:3], _PAPER))
        return [self._point("confirm", *values)._replace(seed=seed) for seed in seeds for values in chosen]

    def _point(self, stage: str, lr: float, weight_decay: float) -> Point:
        """Four digits: what a point is called and printed as is exactly what it is."""
        return Point(stage, float(f"{lr:.4g}"), float(f"{weight_decay:.4g}"), self.config.seed)


@dataclass(frozen=True, kw_only=True)
class Trial(Run):
    """The training of one point. Its record holds what became of it, and goes once the study has that."""

    point: Point

    @classmethod
    def of(cls, point: Point, config: TrainConfig, folder: Path) -> "Trial":
        """The run of a point with the shared settings."""
        config = replace(config, lr=point.lr, weight_decay=point.weight_decay, seed=point.seed)
        return cls(point.name, config, folder / f"{point.name}.json", folder / f"{point.name}.log", point=point)

    def finished(self) -> bool:
        return self.record.exists()

    def execute(self) -> None:
        """Train from the checkpoint where there is one; a loss that is not finite is an outcome, not a failure."""
        from resattn.data.datasets import Split, load_dataset
        from resattn.training.checkpoint import save_checkpoint
        from resattn.training.environment import find_device, tune_process
        from resattn.training.trainer import Trainer

        device = find_device(self.config.device)
        tune_process(device)
        checkpoint, diverged = self.record.with_suffix(".pt"), None
        data = load_dataset(
            self.config.dataset, self.config.root, size=self.config.size, skip_unreadable=self.config.skip_unreadable
        )
        few = Split(*(None if each is None else each[:2] for each in vars(data.train).values()))
        unseen = replace(data, test=few)  # no trial can look at the test split
        run = Trainer(self.config, unseen, device)
        run.resume(checkpoint)
        try:
            while len(run.history) < self.config.epochs:
                run.train_epoch()
                save_checkpoint(checkpoint, run.state())
        except FloatingPointError as error:
            diverged = str(error)
        outcome = {"epochs": run.history, "diverged": diverged, "seconds": round(run.seconds, 2)}
        write_json(self.record, self.point._asdict() | outcome)
        checkpoint.unlink(missing_ok=True)

    def result(self) -> str:
        outcome = json.loads(self.record.read_text(encoding="utf-8"))
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
        "seconds"; "environment". Accuracies are fractions in [0, 1].

    ValueError where every random point diverged, ChildProcessError where trials failed; OSError as the engine.
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
        for find_points in (
            plan.first_points,
            lambda: plan.grid_points(_best(study, "random")),
            lambda: plan.confirmation_points(_best(study, "random", "grid", "paper")),
        ):
            ended, failures = {_point(trial) for trial in _trials(study)}, []
            trials = [Trial.of(point, plan.config, folder) for point in find_points() if point not in ended]
            for trial, failure in engine.run(trials):
                if failure:
                    failures.append(f"{trial.name}: {failure}")
                else:
                    _keep(study, json.loads(trial.record.read_text(encoding="utf-8")))
                    _record(plan, study, out)
            if failures:
                raise ChildProcessError(f"{len(failures)} of {len(trials)} trials failed; {failures[0]}")
        for outcome in folder.glob("*.json"):  # the study has them all
            outcome.unlink()
        return _record(plan, study, out)


def _best(study: Any, *stages: str) -> Point:
    """The point with the highest validation accuracy after the last epoch; of equals, the one with the lower loss."""
    chosen = [trial for trial in _trials(study) if trial["stage"] in stages and not trial["diverged"]]
    if not chosen:
        raise ValueError("every random point diverged; lower the range of lr")
    return _point(max(chosen, key=lambda trial: (trial["epochs"][-1]["val_acc"], -trial["epochs"][-1]["val_loss"])))


def _point(trial: dict) -> Point:
    return Point(**{name: trial[name] for name in Point._fields})


def _trials(study: Any) -> list[dict]:
    """The trials that ended, as the record has them; those that diverged count."""
    attributes = (trial.user_attrs for trial in study.get_trials(deepcopy=False))
    trials = [trial for trial in attributes if "stage" in trial]  # earlier versions wrote others
    return sorted(trials, key=lambda trial: (_STAGES.index(trial["stage"]), _point(trial)))


def _keep(study: Any, trial: dict) -> None:
    """Put a trial into the study, in one write."""
    from optuna import create_trial
    from optuna.distributions import FloatDistribution

    values = {name: trial[name] for name in ("lr", "weight_decay")}
    accuracy = 0.0 if trial["diverged"] else trial["epochs"][-1]["val_acc"]
    ranges = {name: FloatDistribution(min(x, 1e-6), max(x, 1.0), log=True) for name, x in values.items()}
    study.add_trial(create_trial(value=accuracy, params=values, distributions=ranges, user_attrs=trial))


def _record(plan: SearchPlan, study: Any, out: Path | None) -> dict:
    from resattn.training.environment import code_revision, describe_environment, find_device

    about = {"seed": plan.config.seed} | {name: value for name, value in vars(plan).items() if name != "config"}
    record = {"study": plan.name, "config": plan.settings(), "search": about, "trials": _trials(study)}
    record["environment"] = describe_environment(find_device(plan.config.device), code_revision())
    if out is not None:
        write_json(out, record)
    return record
