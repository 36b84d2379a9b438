"""The search of Sec. 5.1: random points over learning rate and weight decay, then a dense grid around the best of them.

Scored by validation accuracy; no trial sees the test split. Also ``python -m resattn.experiments.search``: start it as often as there are
workers, on one machine or several, with the same ``--storage``; stop and start them as you like.
"""

import argparse
import dataclasses
import importlib.metadata
import math
import time
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from resattn import paths
from resattn.config import TrainConfig, add_settings, chosen_settings
from resattn.data.datasets import Dataset, Split, load_dataset
from resattn.experiments.search_plan import SearchPlan
from resattn.experiments.search_queue import Point, PointQueue
from resattn.files import write_json
from resattn.progress import clock
from resattn.training.checkpoint import save_checkpoint
from resattn.training.environment import code_revision, describe_environment, tune_process
from resattn.training.trainer import Trainer, find_device

_WAIT = 1.0  # seconds between two looks at the journal while others finish the points of a stage


def search(
    plan: SearchPlan, journal: Path, *, out: Path | None = None, minutes: float = math.inf, patience: float = 60.0
) -> dict:
    """Work on a search until it is complete, alone or beside other workers.

    Args:
        journal: Optuna's journal file; all workers of all studies may share one.
        out: where the record goes, anew after each trial.
        minutes: begin no trial after this time.
        patience: seconds without a sign of life after which another worker's trial is taken over, from its last checkpoint.

    Returns:
        The record so far: "study"; "config", what all trials share; "search", the plan; "trials", a list with "stage" ("random",
        "paper", "grid" or "confirm"), "lr", "weight_decay", "seed", "epochs" as in a training record, "diverged" (None, or what happened),
        "seconds", "device", "precision", "revision"; "environment". Accuracies are fractions in [0, 1].

    Raises:
        ValueError: the settings or the data set are not as they must be, or every random point diverged.
    """
    deadline = time.monotonic() + 60 * minutes
    tune_process(find_device(plan.config.device))
    data = _without_test(load_dataset(plan.config.dataset, plan.config.root))
    queue = PointQueue(Path(journal), plan.name, patience)
    stages = (
        lambda: plan.first_points(),
        lambda: plan.grid_points(best_point(queue.done().values(), ("random",))),
        lambda: plan.confirmation_points(best_point(queue.done().values(), ("random", "grid", "paper"))),
    )
    for stage in stages:
        points = stage()
        while missing := [point for point in points if point.name not in queue.done()]:
            if time.monotonic() > deadline:
                return _record(plan, queue, out)
            if claimed := queue.claim(missing):
                _measure(plan, data, queue, *claimed)
                _record(plan, queue, out)
                done = sum(point.name in queue.done() for point in points)
                print(f"  ({done} of {len(points)})", flush=True)
            else:
                time.sleep(_WAIT)
    return _record(plan, queue, out)


def best_point(trials: list[FrozenTrial], stages: tuple[str, ...]) -> Point:
    """The point with the highest validation accuracy after the last epoch; of equals, the one with the lower validation loss."""
    chosen = [t for t in trials if t.user_attrs["point"]["stage"] in stages and t.state == TrialState.COMPLETE]
    if not chosen:
        raise ValueError("every random point diverged; lower the lr range")
    best = max(chosen, key=lambda trial: (trial.value, -trial.user_attrs["epochs"][-1]["val_loss"]))
    return Point(**{name: value for name, value in best.user_attrs["point"].items() if name != "name"})


def _measure(plan: SearchPlan, data: Dataset, queue: PointQueue, trial: Trial, point: Point) -> None:
    """Train one point, from its checkpoint where there is one, and tell the queue how it ended."""
    config = dataclasses.replace(plan.config, lr=point.lr, weight_decay=point.weight_decay, seed=point.seed)
    what = f"{point.stage:8s} lr {point.lr:<9.4g} weight decay {point.weight_decay:<9.4g} seed {point.seed}"
    print(what, end="  ", flush=True)
    start = time.monotonic()
    try:
        with queue.alive(trial):
            outcome = _train(config, data, queue.checkpoint(point))
            for name, value in outcome.items():
                trial.set_user_attr(name, value)
            if outcome["diverged"]:
                trial.report(0.0, config.epochs)
                queue.study.tell(trial, state=TrialState.PRUNED)
            else:
                for epoch, entry in enumerate(outcome["epochs"], 1):
                    trial.report(entry["val_acc"], epoch)
                queue.study.tell(trial, outcome["epochs"][-1]["val_acc"])
    except UpdateFinishedTrialError:
        print("given to another worker, because this one was silent for too long", end="")
        return
    except BaseException:
        queue.give_up(trial)
        raise
    queue.checkpoint(point).unlink(missing_ok=True)
    result = "diverged" if outcome["diverged"] else f"val acc {100 * outcome['epochs'][-1]['val_acc']:5.1f} %"
    print(f"{result}  {clock(time.monotonic() - start)}", end="")


def _train(config: TrainConfig, data: Dataset, checkpoint: Path) -> dict:
    run = Trainer(config, data, find_device(config.device))
    run.resume(checkpoint)
    diverged = None
    try:
        while run.epoch < config.epochs:
            run.train_epoch()
            save_checkpoint(checkpoint, run.state())
    except FloatingPointError as error:
        diverged = str(error)
    about = describe_environment(run.device, run.revision)
    return {
        "epochs": run.history,
        "diverged": diverged,
        "seconds": round(run.seconds, 2),
        "device": about["device"],
        "precision": run.precision,
        "revision": run.revision,
    }


def _without_test(data: Dataset) -> Dataset:
    """The data set with two training images in place of its test split, so that no trial can look at that."""
    masks = None if data.train.masks is None else data.train.masks[:2]
    return dataclasses.replace(data, test=Split(data.train.images[:2], data.train.labels[:2], masks))


def _record(plan: SearchPlan, queue: PointQueue, out: Path | None) -> dict:
    stages = ("random", "paper", "grid", "confirm")
    trials = [
        {name: trial.user_attrs["point"][name] for name in ("stage", "lr", "weight_decay", "seed")}
        | {
            name: trial.user_attrs[name]
            for name in ("epochs", "diverged", "seconds", "device", "precision", "revision")
        }
        for trial in queue.done().values()
    ]
    trials.sort(key=lambda t: (stages.index(t["stage"]), t["lr"], t["weight_decay"], t["seed"]))
    environment = describe_environment(find_device(plan.config.device), code_revision())
    environment["versions"]["optuna"] = importlib.metadata.version("optuna")
    record = {
        "study": plan.name,
        "config": plan.settings(),
        "search": {"seed": plan.config.seed}
        | {name: getattr(plan, name) for name in ("trials", "grid", "span", "confirm")}
        | {"ranges": {"lr": plan.lr, "weight_decay": plan.weight_decay}},
        "trials": trials,
        "environment": environment,
    }
    if out is not None:
        write_json(out, record)
    return record


def _grid(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"must be two whole numbers such as 5x5, got {text!r}")
    return int(sides[0]), int(sides[1])


def main(argv: list[str] | None = None) -> None:
    """Search learning rate and weight decay by validation accuracy: random points, a grid around the best, both confirmed."""
    parser = argparse.ArgumentParser(
        prog="python -m resattn.experiments.search",
        allow_abbrev=False,  # --lr is not --lr-range
        description=main.__doc__,
        epilog="Start it several times with the same options to have several workers. A worker that is stopped loses the epoch it was in, no more.",
    )
    defaults = {field.name: field.default for field in dataclasses.fields(SearchPlan)}
    parser.add_argument("--trials", type=int, default=defaults["trials"], help="random points (default %(default)s)")
    parser.add_argument(
        "--grid", type=_grid, default=defaults["grid"], help="learning rates x weight decays (default 5x5)"
    )
    parser.add_argument(
        "--span", type=float, default=defaults["span"], help="grid's share of the ranges (default %(default)s)"
    )
    parser.add_argument(
        "--confirm", type=int, default=defaults["confirm"], help="further seeds for the best (default %(default)s)"
    )
    for name in ("lr", "weight_decay"):
        option = f"--{name.replace('_', '-')}-range"
        low, high = defaults[name]
        parser.add_argument(
            option, type=float, nargs=2, metavar=("LOW", "HIGH"), default=(low, high), help=f"default {low:g} {high:g}"
        )
    parser.add_argument(
        "--storage", type=Path, default=paths.RUNS / "search" / "search.journal", help="journal file that workers share"
    )
    parser.add_argument("--out", type=Path, help="the record (default: STUDY.json beside the journal)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no trial after so many minutes (default: no limit)"
    )
    add_settings(parser, without=("lr", "weight_decay"))
    options = vars(parser.parse_args(argv))
    try:
        plan = SearchPlan(
            config=chosen_settings(options),
            lr=tuple(options["lr_range"]),
            weight_decay=tuple(options["weight_decay_range"]),
            **{name: options[name] for name in ("trials", "grid", "span", "confirm")},
        )
        out = options["out"] or options["storage"].with_name(f"{plan.name}.json")
        search(plan, options["storage"], out=out, minutes=options["minutes"])
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\nInterrupted. The same command goes on from here.\n")
    print(f"record: {out}")


if __name__ == "__main__":
    main()
