"""One run on several processes, as torchrun starts them; without it everything here does nothing.

Order and augmentation are drawn for the global batch by every process, which then takes its share: so a run may go on from its
checkpoint with another number of processes.
"""

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from resattn.training.environment import find_device


def rank() -> int:
    """The number of this process; the first, 0, writes what is written."""
    return dist.get_rank() if dist.is_initialized() else 0


def n_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def join(name: str | None) -> torch.device:
    """Join the processes that torchrun started, once, and give the device of that name; where they have GPUs, this one's own."""
    if not dist.is_torchelastic_launched():
        return find_device(name)
    if (name or "cuda").startswith("cuda") and torch.cuda.is_available():
        # First, or each process would take memory on the first GPU.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    device = find_device(name)
    if not dist.is_initialized():
        if int(os.environ["RANK"]):
            os.environ["RESATTN_HEADLESS"] = "1"  # one progress bar is enough
        patience = timedelta(days=2)  # the others wait while the first makes maps, which may take hours
        store, number, n = next(dist.rendezvous("env://", timeout=patience))
        # After a restart torchrun's store still holds the addresses of the processes before (PyTorch issue 135712).
        store = dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=n, timeout=patience)
        atexit.register(dist.destroy_process_group)
    return device


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block before the others, so that they find on disk what it made."""
    if n_processes() > 1 and rank():
        dist.barrier()
    yield
    if n_processes() > 1 and not rank():
        dist.barrier()


def share(values: Tensor) -> Tensor:
    """This process's part of the rows."""
    return values if n_processes() == 1 else values[rank() :: n_processes()]


def total(value: Tensor) -> Tensor:
    """The sum over processes, in place."""
    if n_processes() > 1:
        dist.all_reduce(value)
    return value


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Without synchronized batch normalization (on the CPU) each process has statistics of its own: the first one's count."""
    if n_processes() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
