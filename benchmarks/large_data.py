"""Images a second that reach the network at 224 pixels, and what the maps of 100,000 images cost.

    python -m benchmarks.large_data [--images 1024] [--maps 100000] [--repeats 3] [--folder DIR]

Draws a class folder of JPEG files, then in turn, in fresh processes: resattn from memory, resattn from the array on disk, and
torchvision's ImageFolder with a DataLoader of two workers; the same crop, flip, erasing and normalization, no network. All files
are in the system's cache. Decoding once is timed too.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.measure import in_turn, median, peak_memory_mb, write_record
from resattn.attention.maps import attention_maps
from resattn.config import TrainConfig
from resattn.data.datasets import load_dataset
from resattn.data.shapes import CLASSES, make_shapes
from resattn.training.environment import tune_process
from resattn.training.inputs import batches
from resattn.training.trainer import Trainer

SIDE, BATCH = 224, 128
SIDES = ("memory", "disk", "imagefolder")


def main() -> None:
    """Measure all sides in turn and print medians, or be one of them (--child)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_data", description=main.__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--maps", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to draw, and find what is drawn; default a temporary one")
    parser.add_argument("--draw-only", action="store_true")
    parser.add_argument("--child", choices=(*SIDES, "decode", "maps"), help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_MEASURE.get(options.child, _input)(options.folder, options.child)))
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    _draw(folder, options.images, options.maps)
    if options.draw_only:
        return
    sides = {side: [side, "--folder", str(folder)] for side in (*SIDES, "decode", "maps")}
    seen = {side: in_turn("benchmarks.large_data", {side: sides[side]}, 1)[side] for side in ("decode", "maps")}
    seen |= in_turn("benchmarks.large_data", {side: sides[side] for side in SIDES}, options.repeats)
    for side in ("decode", *SIDES):
        print(f"{side:12s} {median(seen[side], 'images_per_second'):8.1f} images/s")
    print("maps", seen["maps"][0])
    settings = {"side": SIDE, "batch_size": BATCH, "images": options.images, "maps": options.maps}
    print(f"record: {write_record('large_data', settings, seen).name}")
    if not options.folder:
        shutil.rmtree(folder)


def _draw(folder: Path, n_images: int, n_maps: int) -> None:
    if not (folder / "small.npy").exists():
        for split, n in (("train", n_images + BATCH), ("test", 20)):
            images, labels, _ = make_shapes(n, seed=n, side=SIDE)
            for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
                path = folder / "large" / split / CLASSES[label] / f"{i:06d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.transpose(1, 2, 0)).save(path, quality=90)
        parts = (make_shapes(min(5_000, n_maps - start), seed=start)[0] for start in range(0, n_maps, 5_000))
        np.save(folder / "small.npy", np.concatenate(list(parts)))


def _input(folder: Path, side: str) -> dict:
    os.environ["RESATTN_IN_MEMORY_MB"] = "100000" if side == "memory" else "1"
    feed = _plain_batches(folder) if side == "imagefolder" else _our_batches(folder)
    seconds = []
    for _ in range(3):  # in the first pass threads and workers start
        start, n = time.perf_counter(), 0
        for images in next(feed):
            n += len(images)
        seconds.append(time.perf_counter() - start)
    return {"images_per_second": 2 * n / sum(seconds[1:]), "peak_memory_mb": peak_memory_mb(torch.device("cpu"))}


def _our_batches(folder: Path) -> Iterator[Iterator[torch.Tensor]]:
    data = load_dataset("large", folder, size=SIDE, cache=folder / "cache")
    config = TrainConfig("large", model="resnet8", batch_size=BATCH, n_val=BATCH, device="cpu")
    tune_process(torch.device("cpu"))
    run = Trainer(config, data, torch.device("cpu"))
    while True:
        order = torch.randperm(len(run.fit)).split(4 * BATCH)  # as many as are augmented together
        chunks = batches(run.fit, run.fit_maps, order)
        yield (images for chunk in chunks for images, _, _ in run._augmented(*chunk))


def _plain_batches(folder: Path) -> Iterator[Iterator[torch.Tensor]]:
    steps = [transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps += [transforms.Normalize([0.5] * 3, [0.25] * 3), transforms.RandomErasing(0.2, value="random")]
    files = ImageFolder(folder / "large" / "train", transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(
        files, BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )
    while True:
        yield (images for images, _ in loader)


def _decode(folder: Path, _: str) -> dict:
    cache = Path(tempfile.mkdtemp(dir=folder))
    seconds = []
    for _ in range(2):  # decoding, then only checking
        start = time.perf_counter()
        data = load_dataset("large", folder, size=SIDE, cache=cache)
        seconds.append(time.perf_counter() - start)
    shutil.rmtree(cache)
    n = len(data.train) + len(data.test)
    return {"images_per_second": n / seconds[0], "checked_per_second": n / seconds[1]}


def _maps(folder: Path, _: str) -> dict:
    images, cache = torch.from_numpy(np.load(folder / "small.npy", mmap_mode="r+")), Path(tempfile.mkdtemp(dir=folder))
    seconds = []
    for mapped in (False, True):  # making them, then finding them on disk
        start = time.perf_counter()
        attention_maps(images, "saliency", cache=cache, mapped=mapped)
        seconds.append(time.perf_counter() - start)
    mb = sum(path.stat().st_size for path in cache.iterdir()) / 2**20
    shutil.rmtree(cache)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "images": len(images),
        "seconds": seconds[0],
        "seconds_from_disk": seconds[1],
        "mb": mb,
        "peak_memory_mb": peak,
    }


_MEASURE = {"decode": _decode, "maps": _maps}

if __name__ == "__main__":
    main()
