"""Measuring in fresh processes, in turn, and writing down what was seen."""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from resattn import paths
from resattn.environment import code_revision, describe_environment
from resattn.files import write_json


def in_turn(module: str, sides: dict[str, list[str]], repeats: int) -> dict[str, list[dict]]:
    """Run ``python -m module --child ...`` for each side, A B A B ..., each in a process of its own that prints one JSON line."""
    seen: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, options in sides.items():
            command = [sys.executable, "-m", module, "--child", *options, "--started", str(time.time())]
            answer = subprocess.run(command, cwd=paths.CHECKOUT, capture_output=True, text=True)
            if answer.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{answer.stderr}")
            seen[side].append(json.loads(answer.stdout.splitlines()[-1]))
    return seen


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
