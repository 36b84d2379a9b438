"""The verb ``run``: the notebooks of a profile, which run_all.sh calls, or a list of trainings without notebooks."""

import argparse
import ast
import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

from resattn import paths
from resattn.config import TrainConfig
from resattn.experiments.engine import Engine, Run, Training, default_jobs, trainings
from resattn.experiments.jobs import DATASETS, SEEDS, Job, list_jobs, seconds_on, select
from resattn.experiments.protocols import list_runs
from resattn.progress import clock

_LISTS = {"controls": "shapes", "short": "cifar10"}  # and their data sets
_LONG = 24 * 3600  # seconds on the CPU that nobody starts without saying so


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb ``run``."""
    add = parser.add_argument
    add(
        "--profile",
        choices=(*DATASETS, *_LISTS),
        help="demo: drawn shapes, minutes on two cores. reduced: CIFAR-10 at 64 pixels. paper: CIFAR-10 and CIFAR-100 at the paper's "
        "settings, for a GPU. Without notebooks: controls, what the paper did not compare with; short: five epochs of reduced. "
        "Default: paper where a CUDA GPU is present, else demo",
    )
    add("--dataset", help="this data set only: cifar10, cifar100, shapes, or a folder with train/ and test/")
    add("--seeds", type=_positive, help="seeds 0 to N-1 (demo: 2, else 3)")
    add("--data", metavar="DIR", type=_folder, help="where data sets live or are downloaded to (default: data/)")
    add(
        "--out", metavar="DIR", type=Path, help="folder for the records of controls or short (default: results/PROFILE)"
    )
    add_workers(parser)
    add("--cpu", action="store_true", help="run on the CPU, even if a GPU is here or it takes days")
    add(
        "--only",
        metavar="PATTERN",
        help="only runs whose name matches, for example '*printed-a1*'; --dry-run has the names",
    )
    add(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a setting of every run that has it, for example --set epochs=2; may be repeated",
    )
    add("--dry-run", action="store_true", help="list the runs and about what they cost, run nothing")
    add("--fresh", action="store_true", help="delete this profile's earlier runs and start over")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The options that choose workers, for the verbs whose runs go through the engine."""
    parser.add_argument("--jobs", type=_positive, help="runs at the same time (default: one a core, or one a GPU)")
    parser.add_argument("--scheduler", metavar="ADDRESS|FILE", help="join the Dask cluster of this scheduler instead")


def main(options: dict[str, Any]) -> int:
    """Run a profile; the exit status is 0 if every run ended well, else 1."""
    if options["cpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    cuda, found = find_cuda()
    profile = options["profile"] or ("paper" if cuda else "demo")
    if not options["profile"]:
        print(f"Profile {profile}: {found} (--profile chooses another).")
    elif found.startswith("nvidia-smi"):
        print(f"On the CPU: {found}.")
    changes = dict(_parse_change(text) for text in options["set"])
    if profile in _LISTS:
        runs = _list_trainings(profile, options, changes)
        folder = runs[0].records
    else:
        jobs = list_jobs(profile, options["dataset"], options["seeds"] or SEEDS[profile], options["data"], changes)
        runs = select({job.name: job for job in jobs}, options["only"])
        folder = runs[0].folder
    if options["dry_run"]:
        _print_plan(runs, cuda, options["jobs"] or default_jobs())
        return 0
    costs = [run for run in runs if isinstance(run, Job) and not run.finished()]
    n_workers = min(options["jobs"] or default_jobs(), max(1, len(costs)))
    seconds = 0.0 if cuda or options["scheduler"] else seconds_on(costs, n_workers, _threads(n_workers))
    if seconds > _LONG and not options["cpu"]:
        raise ValueError(
            f"{found}, and on the CPU this takes about {clock(seconds)} on {n_workers} workers; --cpu runs it all the same, "
            "--profile demo takes minutes"
        )
    with Engine(folder, options["jobs"], options["scheduler"]) as engine:
        _fetch_weights(runs)
        if options["fresh"]:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
        failed = [run for run, failure in engine.run(runs) if failure]
    print(f"\n{len(runs) - len(failed)} of {len(runs)} runs done.")
    for run in failed:
        print(f"FAILED {run.name}; its log: {_relative(run.log)}")
    reported = profile in _LISTS or _report(folder)
    return 0 if reported and not failed else 1


def _list_trainings(profile: str, options: dict[str, Any], changes: dict[str, Any]) -> list[Training]:
    """The chosen runs of a list that needs no notebooks."""
    dataset, seeds = options["dataset"] or _LISTS[profile], options["seeds"] or 3
    settings = changes | ({"root": options["data"]} if options["data"] else {})
    known = TrainConfig.__dataclass_fields__
    if unknown := set(settings) - {*known, "dino"}:
        raise ValueError(f"--set {min(unknown)}: no such setting; there are {', '.join(known)}")
    if options["fresh"]:
        raise ValueError("--fresh is for profiles with notebooks; give another folder with --out")
    part, preset = ("controls", None) if profile == "controls" else ("table3", profile)
    configs = list_runs(dataset, seeds, part=part, preset=preset, **settings)
    records = options["out"] or paths.RESULTS / profile
    return select({run.name: run for run in trainings(configs, records)}, options["only"])


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _folder(text: str) -> str:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder that exists, got {text}")
    return str(Path(text).resolve())


def _parse_change(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set wants NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _threads(n_workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // n_workers)


def _print_plan(runs: list[Run], cuda: bool, n_workers: int) -> None:
    todo = [run for run in runs if not run.finished()]
    for run in runs:
        cost = "to do" if cuda or isinstance(run, Training) else f"about {clock(run.core_seconds())} on one core"
        print(f"{run.name:40s} {cost if run in todo else 'finished'}")
    whole = "not measured yet"
    if not cuda and all(isinstance(run, Job) for run in todo):
        n_workers = min(n_workers, max(1, len(todo)))
        whole = f"about {clock(seconds_on(todo, n_workers, _threads(n_workers)))}"
    print(f"{len(runs)} runs, {len(runs) - len(todo)} finished; the rest on {n_workers} workers: {whole}.")


def _report(folder: Path) -> bool:
    """Make the report of what there is by now, even if only some runs ended well; returns whether it could be made."""
    from resattn.report.page import build_report

    for name in ("records", "figures", "notebooks"):
        if (folder / name).is_dir():
            print(f"  {name + ':':11s}{_relative(folder / name)}")
    try:
        page = build_report(folder / "records", folder / "figures", folder / "notebooks", paths.REPORT)
    except (ValueError, OSError) as error:
        print(f"FAILED report: {error}")
        return False
    print(f"  {'report:':11s}{_relative(page)}")
    return True


def _fetch_weights(runs: list[Run]) -> None:
    """Fetch what the runs' ViTs need once, before each run tries to; an error says in one line what can be done instead."""
    configs = [run.config for run in runs if run.config and run.config.uses_maps and not run.finished()]
    if any((config.source, config.weights) == ("dino", "pretrained") for config in configs):
        from resattn.attention.vit import DINO_MODEL, load_vit

        print(f"Looking for the weights of {DINO_MODEL} (343 MB, kept once they are fetched)", flush=True)
        try:
            load_vit()
        except ConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            raise ValueError(
                f"the weights of {DINO_MODEL} are not here and cannot be fetched ({cause}); name a checkpoint file with "
                "--set weights=PATH, or take maps that need none with --set source=saliency --set vit=dino-tiny"
            ) from error
    if any(config.source.startswith("vit-s14") for config in configs):
        from resattn.attention.vit_s14 import load_vit_s14

        load_vit_s14()


def find_cuda() -> tuple[bool, str]:
    """Whether torch can use a CUDA GPU, and what was found, in words. Torch is slow to import: it is asked only where there is a GPU."""
    none = False, "no CUDA GPU here"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not shutil.which("nvidia-smi"):
        return none
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return none
    if answer.returncode or "GPU" not in answer.stdout:
        return none
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return True, "a CUDA GPU is present"
    if torch.version.cuda is None:
        reason = "it was built without CUDA"
    else:
        reason = str(said[-1].message).split(". ")[0] if said else "its driver does not answer, or the GPU is hidden"
    return False, f"nvidia-smi lists a GPU, but torch {torch.__version__} cannot use it ({' '.join(reason.split())})"


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
