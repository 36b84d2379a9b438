"""Does the fast path reach the accuracy of eager float32? The same runs both ways, paired by seed.

    python -m benchmarks.accuracy [--dataset shapes] [--root DIR] [--epochs 10] [--image-size 32] [--seeds 3]

The fast path is what a GPU gets: bfloat16, and on CUDA the compiled network replayed as CUDA graphs. A CPU that does not multiply in
bfloat16 emulates it: slow, but with the same rounding.
"""

import argparse
from typing import Any

import torch

from benchmarks.measure import write_record
from resattn.analysis.statistics import mean_interval
from resattn.config import TrainConfig
from resattn.training.trainer import train


def main() -> None:
    """Train both ways, print each seed's accuracies and the paired difference, and write a record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=main.__doc__)
    parser.add_argument("--dataset", default="shapes")
    parser.add_argument("--root")
    parser.add_argument("--source", default="saliency")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=3)
    settings = vars(parser.parse_args())
    n_seeds, root = settings["seeds"], settings.pop("root")
    common = {name: value for name, value in settings.items() if name != "seeds"} | {"a": 1.0, "root": root}
    sides: dict[str, dict[str, Any]] = {
        "float32": {"precision": "float32", "compile": False},
        "fast": {"precision": "bfloat16", "compile": torch.cuda.is_available()},
    }
    seen: dict[str, list[dict]] = {side: [] for side in sides}
    for seed in range(n_seeds):
        for side, changes in sides.items():
            record = train(TrainConfig(**common, **changes, seed=seed))
            metrics = record["metrics"]
            seen[side].append(
                {
                    "seed": seed,
                    "test_acc": metrics["test_acc"],
                    "train_loss": metrics["epochs"][-1]["train_loss"],
                    "seconds": record["environment"]["seconds"],
                }
            )
            print(f"seed {seed}, {side}: {100 * metrics['test_acc']:.2f} %", flush=True)
    pairs = zip(seen["fast"], seen["float32"], strict=True)
    mean, half = mean_interval(100 * (fast["test_acc"] - exact["test_acc"]) for fast, exact in pairs)
    print(f"fast - float32: {mean:+.2f} ± {half:.2f} points (95 %, {n_seeds} seeds)")
    print(f"record: {write_record('accuracy', settings, seen | {'difference': [mean, half]}).name}")


if __name__ == "__main__":
    main()
