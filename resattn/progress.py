"""One way to show progress: a bar where somebody watches, a line now and then where nobody does."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def interactive() -> bool:
    """Whether a person watches: a live notebook or a terminal, unless RESATTN_HEADLESS is set (as in every run's process)."""
    return not os.environ.get("RESATTN_HEADLESS") and ("ipykernel" in sys.modules or sys.stderr.isatty())


def track(steps: Iterable[T], total: int, description: str, every: float = 30.0) -> Iterator[T]:
    """Yield from ``steps`` with a bar; where nobody watches it is written first after ``every`` seconds, and as often (infinite: never)."""
    from tqdm import auto, tqdm

    show, pace = (auto.tqdm, {}) if interactive() else (tqdm, {"delay": every, "mininterval": every})
    yield from show(steps, total=total, desc=description, leave=False, **pace)


def print_epoch(history: list[dict], n_epochs: int) -> None:
    """A line about the last epoch of a training run, and how long the rest will take."""
    done, entry = len(history), history[-1]
    left = clock(entry["seconds"] * (n_epochs - done))
    print(
        f"epoch {done:3d}/{n_epochs}  train loss {entry['train_loss']:.3f}  val loss {entry['val_loss']:.3f}  "
        f"val acc {100 * entry['val_acc']:5.1f} %  {clock(entry['seconds'])}, {left} left",
        flush=True,
    )


def clock(seconds: float) -> str:
    """Seconds as a person reads them: 8 s, 2:05 min, 3:20 h."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes}:{seconds:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
