"""The least time one training step could take on this machine: its arithmetic and its memory traffic at the rates seen here.

A step must do its multiplications, and must write and later read again what it keeps for the backward pass. Both are counted on
the real network; the rates are those of a large matrix product and of a large copy, measured in the same process.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import synchronise


def step_floor(model: nn.Module, batch_size: int, device: torch.device, precision: str) -> dict[str, float]:
    """The floor of a step on ``batch_size`` CIFAR-sized images.

    Returns:
        "gflop" and "kept_mb" of a step (10^9 operations, 2^20 bytes), "gflop_per_second" and "mb_per_second" of this machine, and
        "seconds", the larger of the two times.
    """
    images = torch.randn(batch_size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    maps = torch.rand(batch_size, 1, 28, 28, device=device)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with bfloat16:
            loss = F.cross_entropy(model(images, maps).float(), labels)
        loss.backward()
    gflop, kept_mb = counter.get_total_flops() / 1e9, sum(kept.values()) / 2**20
    gflop_rate, mb_rate = _product_rate(device, precision), _copy_rate(device)
    seconds = max(gflop / gflop_rate, 2 * kept_mb / mb_rate)
    return {
        "gflop": gflop,
        "kept_mb": kept_mb,
        "gflop_per_second": gflop_rate,
        "mb_per_second": mb_rate,
        "seconds": seconds,
    }


def _product_rate(device: torch.device, precision: str) -> float:
    side = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(side, side, device=device, dtype=getattr(torch, precision))
    return 2 * side**3 / 1e9 / _best_seconds(lambda: matrix @ matrix, device)


def _copy_rate(device: torch.device) -> float:
    """Bytes read and bytes written count alike."""
    source = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / 2**20 / _best_seconds(lambda: target.copy_(source), device)


def _best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
