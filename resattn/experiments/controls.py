"""A queue of runs that processes can share.

``python -m resattn.experiments.controls --dataset shapes --seeds 5`` trains what has no record yet. Several of them may run side by side: each
claims one run at a time. All networks share a seed's split, order, augmentation and classification weights.
"""

import argparse
import contextlib
import fcntl
import fnmatch
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from resattn import paths
from resattn.config import DEMO, TrainConfig
from resattn.experiments.protocols import PROTOCOLS, list_runs


def run_queue(runs: dict[str, TrainConfig], out: Path, seconds: float = float("inf")) -> list[str]:
    """Train what has no record in ``out`` yet and nobody else is on; returns the names of runs that failed.

    Args:
        runs: as :func:`list_runs` gives them.
        out: folder of records.
        seconds: after this much time no further run is started.
    """
    from resattn.training.trainer import train  # here, so that looking at the list needs no torch

    start, failed = time.monotonic(), []
    for i, (name, config) in enumerate(runs.items(), 1):
        if time.monotonic() - start >= seconds:
            print(f"{seconds:g} s are over: {len(runs) - i + 1} runs not looked at", flush=True)
            break
        with _claim(config) as claimed:
            if is_finished(out, config) or not claimed:
                continue
            print(f"[{i}/{len(runs)}] {name}", flush=True)
            try:
                record = train(config, records=out)
            except Exception as error:  # whatever one run raises, the others may still be well
                failed.append(name)
                print(f"FAILED: {type(error).__name__}: {error}", flush=True)
                continue
            print(f"test accuracy {100 * record['metrics']['test_acc']:.2f} %", flush=True)
    return failed


def is_finished(out: Path, config: TrainConfig) -> bool:
    """Whether the folder holds the run's record, whole."""
    try:
        return "metrics" in json.loads((out / f"{config.slug}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _claim(config: TrainConfig) -> Iterator[bool]:
    """Whether this process alone may train ``config`` now; the claim ends with the block, or with the process."""
    path = paths.RUNS / "claims" / config.slug
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def main(argv: list[str] | None = None) -> int:
    """Train the controls on one data set; call it again, or several at once, until none is left."""
    parser = argparse.ArgumentParser(prog="python -m resattn.experiments.controls", description=main.__doc__)
    parser.add_argument("--dataset", default="shapes")
    parser.add_argument("--root", help="where data sets live; default data/")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1; default 5")
    parser.add_argument("--lr", type=float, help=f"learning rate; needed but for shapes, which has {DEMO['lr']}")
    parser.add_argument("--epochs", type=int, help="default: 6 for shapes, else 5")
    parser.add_argument("--image-size", type=int, help="default 64")
    parser.add_argument(
        "--dino", action="store_true", help="also with maps of the published ViT-B/8, fetched on first use"
    )
    parser.add_argument("--out", type=Path, default=paths.RESULTS / "controls", help="folder of records")
    parser.add_argument(
        "--only", metavar="PATTERN", default="*", help="runs whose name matches, such as 'content/*seed0*'"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further run after this much time")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, train nothing")
    options = parser.parse_args(argv)
    if options.lr is None and options.dataset not in PROTOCOLS:
        parser.error(f"--lr must be given for {options.dataset}")
    given = {name: getattr(options, name) for name in ("root", "lr", "epochs", "image_size")}
    settings = {name: value for name, value in given.items() if value is not None}
    try:
        runs = list_runs(options.dataset, options.seeds, dino=options.dino, **settings)
    except ValueError as error:
        parser.error(str(error))
    runs = {name: config for name, config in runs.items() if fnmatch.fnmatch(name, options.only)}
    if not runs:
        parser.error(f"--only {options.only!r} matches no run; --dry-run lists them all")
    if not options.dry_run:
        failed = run_queue(runs, options.out, 60 * options.minutes)
        print(*(f"FAILED {name}" for name in failed), sep="\n", end="\n" if failed else "")
        return 1 if failed else 0
    finished = [is_finished(options.out, config) for config in runs.values()]
    for name, done in zip(runs, finished, strict=True):
        print(f"{'finished' if done else 'to do   '}  {name}")
    print(f"{len(runs)} runs, {sum(finished)} finished")
    return 0


if __name__ == "__main__":
    sys.exit(main())
