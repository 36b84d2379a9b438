"""One way to show progress: a bar where somebody watches, plain lines where nobody does."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def interactive() -> bool:
    """Whether a person watches: a live notebook or a terminal, unless RESATTN_HEADLESS is set (run_all.sh sets it)."""
    if os.environ.get("RESATTN_HEADLESS"):
        return False
    in_notebook = "ipykernel" in sys.modules
    return in_notebook or sys.stderr.isatty()


def track(steps: Iterable[T], total: int, description: str, every: float = 30.0) -> Iterator[T]:
    """Yield from ``steps``, showing a bar when interactive, else a line each time ``every`` seconds have passed (infinite: none)."""
    if interactive():
        from tqdm.auto import tqdm

        yield from tqdm(steps, total=total, desc=description, leave=False)
        return
    start = said = time.monotonic()
    for done, step in enumerate(steps, 1):
        yield step
        if (now := time.monotonic()) - said > every:
            said = now
            left = (now - start) / done * (total - done)
            print(f"{description}: {done} of {total}, {clock(left)} left", flush=True)


class Forecast:
    """How long a list of jobs still takes, learnt from those that ended.

    A job has ``name``, ``notebook``, ``stage`` and ``estimated_seconds(cuda)``. Stages follow one another, within one up to
    ``n_workers`` jobs run at the same time. What a job really took corrects the estimates of its notebook, and until one has ended
    those of all; where there is none for a GPU, the CPU's tell how the jobs of one notebook compare.
    """

    def __init__(self, n_workers: int, cuda: bool):
        self.n_workers, self.cuda = n_workers, cuda
        self.started: dict[str, float] = {}
        self.guessed: dict[str, float] = {}
        self.taken: dict[str, float] = {}

    def start(self, job: Any) -> None:
        self.started[job.name] = time.monotonic()

    def end(self, job: Any, seconds: float) -> None:
        """Learn from a job that ended well."""
        known = job.estimated_seconds(self.cuda) is not None
        for kind in (job.notebook, "") if known else (job.notebook,):
            self.guessed[kind] = self.guessed.get(kind, 0) + job.estimated_seconds(cuda=False)
            self.taken[kind] = self.taken.get(kind, 0) + seconds

    def seconds_left(self, jobs: Iterable[Any]) -> float | None:
        """For jobs that run or wait; None where nothing comparable has ended yet."""
        stages: dict[int, list[float]] = {}
        for job in jobs:
            if not self.taken or (job.notebook not in self.taken and job.estimated_seconds(self.cuda) is None):
                return None
            kind = job.notebook if job.notebook in self.taken else ""
            factor = self.taken[kind] / self.guessed[kind] if kind in self.taken else 1.0
            gone = time.monotonic() - self.started[job.name] if job.name in self.started else 0.0
            stages.setdefault(job.stage, []).append(max(0.0, job.estimated_seconds(cuda=False) * factor - gone))
        return sum(max(max(left), sum(left) / self.n_workers) for left in stages.values())


def clock(seconds: float) -> str:
    """Seconds as a person reads them: 8 s, 2:05 min, 3:20 h."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes}:{seconds:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
