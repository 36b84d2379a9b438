"""The verb ``run``: the notebooks of a profile, which run_all.sh calls, or a list of trainings without notebooks."""

import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resattn import paths
from resattn.config import TrainConfig
from resattn.experiments.engine import Engine, Run, Training, default_jobs, trainings
from resattn.experiments.jobs import SEEDS, core_seconds, list_jobs, seconds_on, select
from resattn.experiments.protocols import list_runs
from resattn.progress import clock

LISTS = {"controls": "shapes", "short": "cifar10"}  # and their data sets
_LONG = 24 * 3600  # seconds on the CPU that nobody starts without saying so


def main(options: dict[str, Any], report: Callable[[Path], bool]) -> int:
    """Run a profile, then ``report`` on its folder; the exit status is 0 if every run and the report ended well, else 1."""
    if options["cpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    cuda, found = find_cuda()
    profile = options["profile"] or ("paper" if cuda else "demo")
    if not options["profile"]:
        print(f"Profile {profile}: {found} (--profile chooses another).")
    elif found.startswith("nvidia-smi"):
        print(f"On the CPU: {found}.")
    root, changes = options["data"] and str(options["data"]), dict(options["set"])
    if profile in LISTS:
        runs = _list_trainings(profile, options, changes | ({"root": root} if root else {}))
        folder = runs[0].records
    else:
        jobs = list_jobs(profile, options["dataset"], options["seeds"] or SEEDS[profile], root, changes)
        runs = select({job.name: job for job in jobs}, options["only"])
        folder = runs[0].folder
    todo = [run for run in runs if not run.finished()]
    n_workers = min(options["jobs"] or default_jobs(), max(1, len(todo)))
    seconds = 0.0 if cuda else seconds_on(n_workers, todo)
    if options["dry_run"]:
        for run in runs:
            cost = "to do" if cuda else f"about {clock(core_seconds(run))} on one core"
            print(f"{run.name:40s} {cost if run in todo else 'finished'}")
        whole = "not measured yet on a GPU" if cuda else f"about {clock(seconds)}"
        print(f"{len(runs)} runs, {len(runs) - len(todo)} finished; the rest on {n_workers} workers: {whole}.")
        return 0
    if seconds > _LONG and not options["cpu"] and not options["scheduler"]:
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
        print(f"FAILED {run.name}; its log: {run.log}")
    reported = profile in LISTS or report(folder)
    return 0 if reported and not failed else 1


def _list_trainings(profile: str, options: dict[str, Any], settings: dict[str, Any]) -> list[Training]:
    """The chosen runs of a list that needs no notebooks."""
    dataset, seeds = options["dataset"] or LISTS[profile], options["seeds"] or 3
    known = TrainConfig.__dataclass_fields__
    if unknown := set(settings) - {*known, "dino"}:
        raise ValueError(f"--set {min(unknown)}: no such setting; there are {', '.join(known)}")
    if options["fresh"]:
        raise ValueError("--fresh is for profiles with notebooks; give another folder with --out")
    part, preset = ("controls", None) if profile == "controls" else ("table3", profile)
    configs = list_runs(dataset, seeds, part=part, preset=preset, **settings)
    records = options["out"] or paths.RUNS / profile / "records"
    return select({run.name: run for run in trainings(configs, records)}, options["only"])


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
