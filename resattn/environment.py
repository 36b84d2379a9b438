"""What a record says about the machine and the code that made it."""

import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path

import torch

from resattn import paths

_PACKAGES = ("torch", "torchvision", "timm", "numpy")


def describe_environment(device: torch.device, revision: str | None) -> dict:
    """Device, threads, versions, the given code revision and peak memory of this process, ready for JSON."""
    cuda = device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated(device) if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "device": torch.cuda.get_device_name(device) if cuda else processor_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "revision": revision,
        "peak_memory_mb": round(peak / 2**20, 1),
    }


def processor_name() -> str:
    """The processor as /proc/cpuinfo names it, else as Python does."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or sys.platform


def code_revision() -> str | None:
    """The commit of the checkout, with "+" where tracked files differ from it; None outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(paths.CHECKOUT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
