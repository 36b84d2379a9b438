"""What the engine costs a run, and how much more two workers do than one.

    python -m benchmarks.engine [--runs 4] [--epochs 3] [--workers 1 2]

For each number of workers so many runs *a worker*, one thread each: with perfect scaling all take the same time. Wants an idle machine.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import write_record
from resattn import TrainConfig, load_dataset
from resattn.experiments.engine import Engine, trainings


def measure(n_workers: int, n_runs: int, config: TrainConfig) -> dict[str, float]:
    """Wall time of a worker's runs, of which how much was not training, and of the first line on the screen."""
    with tempfile.TemporaryDirectory() as folder:
        configs = {f"seed{seed}": replace(config, seed=seed) for seed in range(n_workers * n_runs)}
        runs = [replace(run, log=Path(folder) / run.name / "log.txt") for run in trainings(configs, Path(folder))]
        start = time.perf_counter()
        with Engine(Path(folder), n_workers) as engine:
            failures = [failure for _, failure in engine.run(runs) if failure]
        seconds = time.perf_counter() - start
        if failures:
            raise RuntimeError(failures[0])
        trained = [json.loads(run.record.read_text())["environment"]["seconds"] for run in runs]
    return {"seconds": seconds, "overhead_per_run": seconds / n_runs - sum(trained) / len(trained)}


def main() -> None:
    """Measure each number of workers in turn and write a record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=4, help="runs a worker")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    load_dataset("shapes")  # drawn once, before anything is timed
    config = TrainConfig.preset("demo", model="resnet8", epochs=options.epochs)
    seen = {n: measure(n, options.runs, config) for n in options.workers}
    for n, row in seen.items():
        rate = seen[options.workers[0]]["seconds"] / row["seconds"]
        print(f"{n} workers, {n * options.runs} runs: {row['seconds']:.1f} s ({100 * rate:.0f} % of perfect), ", end="")
        print(f"{row['overhead_per_run']:.1f} s a run beside its training")
    print(f"record: {write_record('engine', vars(options), {str(n): [row] for n, row in seen.items()}).name}")


if __name__ == "__main__":
    main()
