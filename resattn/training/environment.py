"""What a record says about the machine and the code that made it."""

import contextlib
import ctypes
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from resattn import paths

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_PACKAGES = ("torch", "torchvision", "timm", "numpy")


def find_device(name: str | None) -> torch.device:
    """The named device, or for None CUDA if present, else the CPU; ValueError where there is no such device."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("not a device to train on")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        message = f"device must be None or one this machine has, such as 'cpu', got {name!r} ({error})"
        raise ValueError(message) from error
    return device


def describe_environment(device: torch.device, revision: str | None) -> dict:
    """Device, threads, versions, the given code revision, peak memory of this process and the time, ready for JSON."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor("model name") or platform.processor(),
        "instruction_set": instruction_set(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "revision": revision,
        "peak_memory_mb": round(peak / 2**20, 1) if (peak := _peak_memory(device)) else None,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def tune_process(device: torch.device) -> None:
    """What an entry point does once for its whole process: compiled code is kept once a machine, and freed memory for the next step.

    A training step on the CPU allocates some 25 MB at a time; handing those back to the system and faulting them in anew costs about
    a tenth of the step, so glibc is told to keep them. Other C libraries have no ``mallopt``.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(paths.CACHE / "inductor"))
    if device.type != "cpu":
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(option, value)


def instruction_set() -> str:
    """What the run could use of the CPU: PyTorch's own kernels, oneDNN's limit where one is set, and units for bfloat16.

    Processors of one name differ in it, and so do the numbers a run ends with: "AVX512, bfloat16", "AVX2", ...
    """
    parts = [torch.backends.cpu.get_cpu_capability()]
    if limit := os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA")):
        parts.append(f"oneDNN limited to {limit}")
    if {"amx_bf16", "avx512_bf16"} & set(_processor("flags").split()):
        parts.append("bfloat16")
    return ", ".join(parts)


def _processor(field: str) -> str:
    """The first value of a field in /proc/cpuinfo; empty where there is no such file or field."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def code_revision() -> str | None:
    """The commit of the checkout as ``git describe`` names it, with "-dirty" where tracked files differ; None outside a checkout."""
    if not (paths.CHECKOUT / ".git").exists():  # installed, perhaps below another repository
        return None
    command = ["git", "-C", str(paths.CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _peak_memory(device: torch.device) -> int | None:
    """Bytes that this process has held at most, on the GPU if it is one; None where the system does not tell (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
