"""How time and memory of a training step grow with the batch and the image, and how long a run takes to start.

    python -m benchmarks.scaling [--repeats 3]

Each point is a process of its own; writes a record, and figures/scaling.png and .svg from it.
"""

import argparse

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.measure import in_turn, median, write_record
from resattn import paths
from resattn.plots.style import save_figure, use_style

BATCHES = (32, 64, 128, 256, 512, 1024)
SIZES = (64, 112, 224, 336, 448)


def main() -> None:
    """Measure every point and draw them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    points = [(batch, 224) for batch in BATCHES] + [(128, size) for size in SIZES if size != 224]
    sides = {f"{batch}x{size}": _options(batch, size) for batch, size in points}
    seen = in_turn("benchmarks.train_step", sides, repeats)
    rows = []
    for batch, size in points:
        runs = seen[f"{batch}x{size}"]
        figures = [median(runs, key) for key in ("images_per_second", "peak_memory_mb", "seconds_to_first_step")]
        rows.append((batch, size, batch / figures[0], figures[1], figures[2]))
        print(
            f"batch {batch:5d}, {size} pixels: {rows[-1][2]:7.3f} s a step, {rows[-1][3]:6.0f} MB, first step after {rows[-1][4]:.1f} s"
        )
    use_style()
    save_figure(_draw(rows), paths.FIGURES / "scaling")
    print(f"record: {write_record('scaling', {'steps': 3, 'a': 1.0}, seen).name}")


def _options(batch: int, size: int) -> list[str]:
    return ["ours", "--batch-size", str(batch), "--image-size", str(size), "--steps", "3"]


def _draw(rows: list[tuple]) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.4))
    by_batch = [row for row in rows if row[1] == 224]
    by_size = sorted((row for row in rows if row[0] == 128), key=lambda row: row[1])
    for ax, chosen, column, label in (
        (axes[0], by_batch, 0, "batch size (224 pixels)"),
        (axes[1], by_size, 1, "image side in pixels (batch 128)"),
    ):
        x = [row[column] for row in chosen]
        ax.plot(x, [row[2] for row in chosen], marker="o", color="#0072b2")
        ax.set(xlabel=label, ylabel="seconds a step")
        ax.set_xticks(x, ["" if value == 64 and column == 0 else str(value) for value in x])
        ax.set_ylim(bottom=0)
        memory = ax.twinx()
        memory.plot(x, [row[3] / 1024 for row in chosen], marker="s", linestyle="--", color="#d55e00")
        memory.set_ylabel("peak memory (GB)", color="#d55e00")
        memory.set_ylim(bottom=0)
        memory.grid(visible=False)
        memory.spines["right"].set_visible(True)
        ax.yaxis.label.set_color("#0072b2")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
