"""Measuring in fresh processes, in turn, and writing down what was seen."""

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from resattn import paths
from resattn.files import write_json
from resattn.training.environment import code_revision, describe_environment


def in_turn(module: str, sides: dict[str, list[str]], repeats: int) -> dict[str, list[dict]]:
    """Run ``python -m module --child ...`` for each side, A B A B ..., each in a process of its own that prints one JSON line."""
    seen: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, options in sides.items():
            with _start(module, options) as process:
                seen[side].append(_answer(process))
    return seen


def together(module: str, options: list[str], n: int) -> list[dict]:
    """Run ``n`` such processes at the same time; their answers."""
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(_start(module, options)) for _ in range(n)]
        return [_answer(process) for process in processes]


def peak_tree_memory_mb(module: str, options: list[str], seconds: float = 0.1) -> float:
    """Peak memory of one more such run with all its processes, DataLoader workers too.

    On Linux what several processes share counts as a share in each (PSS); elsewhere only what each has alone counts. To look every ``seconds`` costs the run some speed, so this is no run to take times from.
    """
    peak = 0.0
    with _start(module, options) as process:
        while process.poll() is None:
            peak = max(peak, tree_memory_mb(process.pid))
            time.sleep(seconds)
        _answer(process)
    return peak


def _start(module: str, options: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", module, "--child", *options, "--started", str(time.time())]
    return subprocess.Popen(command, cwd=paths.CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _answer(process: subprocess.Popen) -> dict:
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(process.args)} failed:\n{errors}")
    return json.loads(output.splitlines()[-1])


def tree_memory_mb(pid: int) -> float:
    """Memory that a process and all that it started hold now; those that have just ended hold none."""
    total, processes = 0, []
    with contextlib.suppress(psutil.NoSuchProcess):  # ZombieProcess is one
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            info = process.memory_full_info()
            total += getattr(info, "pss", info.uss)
    return total / 2**20


def median(seen: list[dict], key: str) -> float:
    """Median of one figure over the repeats."""
    return statistics.median(run[key] for run in seen)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory: the GPU's, or on the CPU the resident set of this process (DataLoader workers are not counted)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_record(name: str, settings: dict, seen: dict) -> Path:
    """benchmarks/results/NAME-DEVICE.json: settings, every repeat, hardware and versions."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = describe_environment(device, code_revision())
    del about["peak_memory_mb"]
    path = paths.CHECKOUT / "benchmarks" / "results" / f"{name}-{device.type}.json"
    return write_json(path, {"settings": settings, "environment": about, "repeats": seen})
