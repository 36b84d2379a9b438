"""The controls the paper never ran: which networks, in which order, and a queue that processes can share.

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
from typing import Any, NamedTuple

from resattn import paths
from resattn.config import ATTENTION_MODULES, DEMO, TrainConfig

# Small images and few epochs, so that dozens of networks fit; for CIFAR the learning rate comes from the search (notebook 05).
REDUCED = {"image_size": 64, "epochs": 5, "batch_size": 128, "source": "saliency"}
PROTOCOLS = {"shapes": DEMO | {"epochs": 6, "source": "saliency"}}
# A ResNet8 with as many parameters as ResAttnNet at a > 0, and one with as many multiply-adds: cost.matched_widths finds them.
SAME_PARAMETERS, SAME_COMPUTE = (18, 36, 71), (21, 42, 83)
# Made by python -m resattn.dino.pretrain --heads 4: dino-tiny itself has one head.
FOUR_HEADS = str(Path(__file__).parent.parent / "weights" / "dino-tiny-4heads.safetensors")
_ONLY_SHAPES = {"dino-tiny", "learned", "oracle", "box"}  # a ViT that saw nothing else, and the true masks


class Control(NamedTuple):
    """One network to train: the question it helps to answer, and how its settings differ from the protocol."""

    question: str
    changes: dict[str, Any]


def _with_masks(form: str, source: str, **more: Any) -> dict[str, Any]:
    return {"form": form, "a": 1.0, "source": source, **more}


# In order of priority.
CONTROLS = [
    Control("content", {"model": "resnet8"}),
    Control("content", {"form": "printed", "a": 0.0}),
    *(
        Control("content", _with_masks(form, source))
        for form in ("gated", "printed")
        for source in ("uniform", "center", "shuffled", "saliency", "dino-tiny", "dino", "oracle")
    ),
    Control("parts", {"form": "scaled", "a": 1.0}),
    Control("parts", {"form": "unmasked", "a": 1.0}),
    *(Control("content", _with_masks(form, "box")) for form in ("gated", "printed")),
    *(Control("modules", {"model": f"resnet8-{name}"}) for name in ATTENTION_MODULES),
    Control("size", {"model": "resnet8", "widths": SAME_PARAMETERS}),
    Control("size", {"model": "resnet8", "widths": SAME_COMPUTE}),
    *(
        Control("heads", _with_masks(form, "dino-tiny", weights=FOUR_HEADS, heads=heads))
        for form in ("gated", "printed")
        for heads in ("mean", "all")
    ),
    *(Control("heads", _with_masks(form, "dino", heads="all")) for form in ("gated", "printed")),
    # Beside the frozen dino-tiny, saliency, uniform and oracle of the first question.
    *(
        Control("learned", _with_masks(form, "learned", weights=start))
        for form in ("gated", "printed")
        for start in ("dino-tiny", "random")
    ),
]


def list_runs(dataset: str, seeds: int, *, dino: bool = False, **settings: Any) -> dict[str, TrainConfig]:
    """All runs on a data set by name ("content/shapes-resnet8-seed0-..."): question by question, and in each seed by seed.

    Args:
        dataset: as for :func:`resattn.load_dataset`.
        seeds: how many, from 0.
        dino: also the networks that look at maps of the published ViT-B/8.
        settings: changes to the protocol, for all networks.
    """
    protocol = PROTOCOLS.get(dataset, REDUCED) | {"dataset": dataset} | settings
    left_out = (set() if dataset == "shapes" else _ONLY_SHAPES) | (set() if dino else {"dino"})
    controls = [control for control in CONTROLS if control.changes.get("source") not in left_out]
    runs = {}
    for question in dict.fromkeys(control.question for control in controls):
        for seed in range(seeds):
            for control in controls:
                if control.question == question:
                    config = TrainConfig(**protocol | control.changes, seed=seed)
                    runs[f"{question}/{config.slug}"] = config
    return runs


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
