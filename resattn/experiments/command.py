"""The verb ``run``: the notebooks of a profile, which run_all.sh calls, or a list of trainings without notebooks."""

import fnmatch
import os
from pathlib import Path
from typing import Any

from resattn import paths
from resattn.config import TrainConfig
from resattn.experiments.engine import Engine, Run, default_jobs, n_cores, trainings, visible_gpus
from resattn.experiments.notebooks import check_names, list_jobs
from resattn.experiments.protocols import list_runs
from resattn.progress import clock

LISTS = {"controls": "shapes", "short": "cifar10"}  # and their data sets
_DECIDED = {"dataset", "seed", "model", "form", "a", "base", "widths", "depths"}  # by a list itself
_LONG = 24 * 3600  # seconds on the CPU that nobody starts without saying so


def run(options: dict[str, Any]) -> tuple[int, Path | None]:
    """Run what the options of the command ask for: how many runs failed, and the folder that is worth a report."""
    if options["cpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    gpus = visible_gpus()
    cuda = bool(gpus) and _has_cuda()
    found = "a CUDA GPU is present" if cuda else "torch cannot use the GPU that is here" if gpus else "no CUDA GPU here"
    profile = options["profile"] or ("paper" if cuda else "demo")
    if not options["profile"] or (gpus and not cuda):
        print(f"Profile {profile}: {found} (--profile chooses another).")
    folder, runs = _list(profile, options)
    todo = [run for run in runs if not run.finished()]
    seconds = 0.0 if cuda else seconds_on(options["jobs"] or default_jobs(), todo)
    if options["dry_run"]:
        for run in runs:
            cost = "to do" if cuda else f"about {clock(core_seconds(run))} on one core"
            print(f"{run.name:40s} {cost if run in todo else 'finished'}")
        whole = "not measured yet on a GPU" if cuda else f"about {clock(seconds)}"
        print(f"{len(runs)} runs, {len(runs) - len(todo)} finished; the rest takes {whole}.")
        return 0, None
    if seconds > _LONG and not options["cpu"] and not options["scheduler"]:
        how = "--cpu runs it all the same, --profile demo takes minutes"
        raise ValueError(f"{found}, and on the CPU this takes about {clock(seconds)}; {how}")
    with Engine(folder, options["jobs"], options["scheduler"]) as engine:
        _fetch_weights(todo)
        failed = [run for run, failure in engine.run(runs) if failure]
    print(f"\n{len(runs) - len(failed)} of {len(runs)} runs done.")
    for run in failed:
        print(f"FAILED {run.name}; its log: {run.log}")
    return len(failed), None if profile in LISTS else folder


def _has_cuda() -> bool:
    import torch  # slow: only where there is a GPU

    return torch.cuda.is_available()


def core_seconds(run: Run) -> float:
    """About how long one core takes for a notebook or a training: on an AMD EPYC without AVX-512; a rough guide elsewhere."""
    if not (config := run.config):
        return 40
    images = {"shapes": 5_400}.get(config.dataset, 45_000)
    rate = 85 if config.uses_maps and config.a else 195  # images a second at 224 pixels
    return 16 + 1.05 * config.epochs * images / rate * (config.image_size / 224) ** 2


def seconds_on(jobs: int, runs: list[Run]) -> float:
    """About how long this machine takes for the runs, so many at a time."""
    cores = n_cores()
    busy = min(cores, min(jobs, len(runs)) * max(1, cores // jobs))
    return sum(map(core_seconds, runs)) / max(1, busy)


def _list(profile: str, options: dict[str, Any]) -> tuple[Path, list[Run]]:
    """The folder of a profile or list, and the runs that are wanted."""
    changes, root, dataset = dict(options["set"]), options["data"] and str(options["data"]), options["dataset"]
    here = bool(dataset) and any(Path(dataset, part).is_dir() for part in ("train", "test"))
    if here and dataset != "shapes" and not Path(root or paths.DATA, dataset).is_dir():
        dataset = str(Path(dataset).resolve())  # runs have a working directory of their own
    if profile in LISTS:
        check_names(changes, TrainConfig.__dataclass_fields__.keys() - _DECIDED)
        part = {} if profile == "controls" else {"part": "table3", "preset": profile}
        changes = {"root": root} | part | changes
        configs = list_runs(dataset or LISTS[profile], options["seeds"] or 3, **changes)
        folder = options["out"] or paths.RUNS / profile / "records"
        runs: list[Run] = trainings(configs, folder)
    else:
        folder = paths.RUNS / profile
        runs = list_jobs(profile, dataset, options["seeds"], root, changes)
    chosen = [run for run in runs if fnmatch.fnmatch(run.name, options["only"])]
    if not chosen:
        names = ", ".join(run.name for run in runs[:4])
        raise ValueError(f"--only {options['only']!r} matches no run; names are {names}, ...")
    return folder, chosen


def _fetch_weights(runs: list[Run]) -> None:
    """Fetch what the runs' ViTs need once, before each run tries to."""
    configs = [run.config for run in runs if run.config and run.config.uses_maps]
    if any((config.source, config.weights) == ("dino", "pretrained") for config in configs):
        from resattn.attention.vit import load_vit

        print("Looking for the weights of the paper's ViT (343 MB, kept once they are fetched)", flush=True)
        load_vit()
    if any(config.source.startswith("vit-s14") for config in configs):
        from resattn.attention.vit_s14 import load_vit_s14

        load_vit_s14()
