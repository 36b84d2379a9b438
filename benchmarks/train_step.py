"""Training steps with data loading: the straightforward pipeline and ours, in turn, on one machine.

    python -m benchmarks.train_step [--image-size 224] [--batch-size 128] [--steps 8] [--repeats 3]

Images a second count everything a step needs: reading, augmenting, scaling up, forward, backward, update.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import in_turn, median, peak_memory_mb, peak_tree_memory_mb, synchronise, write_record
from resattn.config import TrainConfig


def main() -> None:
    """Measure both sides in turn and print medians, or be one side (--child)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=main.__doc__)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--a", type=float, default=1.0)
    parser.add_argument("--network", choices=("printed", "gated", "residual", "resnet8"), default="printed")
    parser.add_argument("--steps", type=int, default=8, help="steps timed in each repeat, after two that are not")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=("plain", "ours", "floor"), help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=("default", "eager", "graph", "graph-fused"), help=argparse.SUPPRESS)
    parser.add_argument("--meet", nargs=2, metavar=("FOLDER", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = {
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "a": options.a,
        "network": options.network,
        "steps": options.steps,
    }
    if options.child == "floor":
        print(json.dumps(_floor(settings)))
        return
    if options.child:
        print(json.dumps(_measure(options.child, settings | {"way": options.way}, options.started, options.meet)))
        return
    arguments = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    sides = {side: [side, *arguments] for side in ("plain", "ours")}
    seen = in_turn("benchmarks.train_step", sides, options.repeats)
    memory = {side: peak_tree_memory_mb("benchmarks.train_step", sides[side]) for side in sides}
    for side, runs in seen.items():
        speed, own, start = (
            median(runs, key) for key in ("images_per_second", "peak_memory_mb", "seconds_to_first_step")
        )
        print(
            f"{side:6s} {speed:8.1f} images/s  {own:7.0f} MB ({memory[side]:.0f} MB on the host, with all its processes)  "
            f"{start:5.1f} s from import to the end of the first step"
        )
    faster = median(seen["ours"], "images_per_second") / median(seen["plain"], "images_per_second")
    smaller = median(seen["ours"], "peak_memory_mb") / median(seen["plain"], "peak_memory_mb")
    print(
        f"ours is {faster:.2f} times as fast and takes {smaller:.2f} of the memory "
        f"({memory['ours'] / memory['plain']:.2f} on the host with all processes)"
    )
    floor = in_turn("benchmarks.train_step", {"floor": ["floor", *arguments]}, 1)["floor"][0]
    reached = floor["seconds"] * median(seen["ours"], "images_per_second") / settings["batch_size"]
    print(
        f"a step does {floor['gflop']:.1f} GFLOP (this machine: {floor['gflop_per_second']:.0f} a second in a matrix product) and keeps "
        f"{floor['kept_mb']:.0f} MB for the backward pass (copies run at {floor['mb_per_second']:.0f} MB/s): "
        f"at least {floor['seconds']:.4f} s; ours reaches {100 * reached:.0f} % of that speed"
    )
    print(f"record: {write_record('train_step', settings, seen | {'floor': floor, 'host_memory_mb': memory}).name}")


def _measure(side: str, settings: dict, started: float, meet: list[str] | None) -> dict:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = _STEPS[side](settings, device)
    losses = [float(next(steps).detach())]
    first = time.time() - started
    losses.append(float(next(steps).detach()))
    if meet:
        _wait_for_all(Path(meet[0]), int(meet[1]))
    start = time.perf_counter()
    for _ in islice(steps, settings["steps"]):
        pass
    synchronise(device)
    seconds = time.perf_counter() - start
    return {
        "images_per_second": settings["steps"] * settings["batch_size"] / seconds,
        "peak_memory_mb": peak_memory_mb(device),
        "seconds_to_first_step": first,
        "first_losses": losses,
    }


def _wait_for_all(folder: Path, n: int) -> None:
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < n:
        time.sleep(0.01)


def _floor(settings: dict) -> dict[str, float]:
    from benchmarks.floor import step_floor
    from resattn.models.checkpoints import build_model

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(_config(settings), 10).to(device, memory_format=torch.channels_last)
    return step_floor(model, settings["batch_size"], device, _config(settings).precision)


def _plain_steps(settings: dict, device: torch.device) -> Iterator[Tensor]:
    from resattn.attention.maps import attention_maps
    from resattn.data.datasets import channel_stats, load_dataset
    from resattn.models.checkpoints import build_model

    config = _config(settings)
    data = load_dataset("shapes")
    maps = attention_maps(data.train.images, "saliency", name="shapes-train")
    batches = plain.loader(data.train, maps, *channel_stats(data.train.images), config.image_size, config.batch_size)
    model = build_model(config, 10).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    while True:
        for batch in batches:
            yield plain.step(model, optimizer, *batch)


def _our_steps(settings: dict, device: torch.device) -> Iterator[Tensor]:
    from benchmarks.graph import whole_step
    from resattn.data.datasets import load_dataset
    from resattn.training.environment import tune_process
    from resattn.training.trainer import Trainer

    tune_process(device)
    way = settings["way"] or "default"
    config = replace(_config(settings), compile=None if way == "default" else False)
    run = Trainer(config, load_dataset("shapes"), device)
    if way.startswith("graph"):
        run._step = whole_step(run, fused=way == "graph-fused")
    while True:
        yield from run.steps()


def _config(settings: dict) -> TrainConfig:
    network = {"model": "resnet8"} if settings["network"] == "resnet8" else {"form": settings["network"]}
    same = {name: settings[name] for name in ("a", "image_size", "batch_size")}
    return TrainConfig(**network, **same, lr=0.002)


_STEPS = {"plain": _plain_steps, "ours": _our_steps}

if __name__ == "__main__":
    main()
