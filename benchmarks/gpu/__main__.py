"""Table 3 at the paper's settings on a GPU that is lent for minutes: packed before on a CPU, worked off in pieces that resume.

    python -m benchmarks.gpu prepare | receive | measure | table3 | precision

What is finished is kept below runs/gpu/ (RESATTN_HOME moves it) and copied to --out as soon as it is there. ``--device cpu --tiny`` is
the dry run: the same code, small sizes.
"""

import argparse
import functools
import io
import json
import lzma
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import together
from resattn import TrainConfig, paths
from resattn.attention.maps import dataset_maps
from resattn.attention.vit import DINO_MODEL
from resattn.data.datasets import load_dataset
from resattn.experiments.engine import Run, trainings
from resattn.experiments.protocols import list_runs
from resattn.files import atomic_write, digest, file_name, load_arrays, save_arrays, write_json
from resattn.training.environment import code_revision, describe_environment, find_device

STRIP = 100  # images in one WebP picture, one below the other: fewer or more took more bytes
PIECE = 52.5 * 2**20  # bytes: all that travels has 64 MiB, and the working tree takes 11 of them
TINY = {"image_size": 16, "batch_size": 8, "epochs": 1}
BATCH = 128
SUMS = ("images_per_second", "peak_memory_mb")  # of several processes at the same time
TRAIN = "import json, sys, pathlib, resattn; resattn.train(resattn.TrainConfig(**json.loads(sys.argv[1])), records=pathlib.Path(sys.argv[2]))"


def prepare(options: argparse.Namespace) -> None:
    """Pack a data set and its maps into files small enough to travel, each with a checksum."""
    data = load_dataset(options.dataset, options.data)
    splits = {"train": data.train, "test": data.test}
    about = {"dataset": data.name, "source": options.source, "classes": data.classes}
    about["counts"] = {name: split.labels.bincount().tolist() for name, split in splits.items()}
    about["digest"] = {name: digest(split.images.numpy()) for name, split in splits.items()}
    parts: dict[str, np.ndarray] = {}
    for name, maps in zip(splits, dataset_maps(data, options.source), strict=True):
        file = _map_file(f"{data.name}-{name}", options.source, maps)
        parts[f"maps/{file.name}"] = np.frombuffer(lzma.compress(file.read_bytes()), np.uint8)
    for name, split in splits.items():
        if (split.labels.diff() < 0).any():
            raise ValueError(f"dataset must be a tree of class folders, whose order is kept, got {options.dataset!r}")
        with ThreadPoolExecutor() as pool:
            strips = pool.map(_webp, split.images.split(STRIP))
            parts |= {f"{name}/{i * STRIP:06d}": strip for i, strip in enumerate(strips)}
    sizes = np.array([part.nbytes for part in parts.values()])
    n = math.ceil(sizes.sum() / options.piece_bytes)
    pieces = (sizes.cumsum() - sizes) * n // sizes.sum()
    for i in range(n):
        chosen = {name: part for (name, part), piece in zip(parts.items(), pieces, strict=True) if piece == i}
        path = options.out / f"{file_name(data.name)}-{i + 1}of{n}.safetensors"
        save_arrays(path, chosen, about | {"piece": i + 1, "pieces": n})
        print(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB")


def _webp(images: Tensor) -> np.ndarray:
    file = io.BytesIO()
    pixels = images.permute(0, 2, 3, 1).flatten(0, 1).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "WEBP", lossless=True, quality=75, method=4)
    return np.frombuffer(file.getvalue(), np.uint8)


def _map_file(name: str, source: str, maps: Tensor) -> Path:
    """The cache file that these maps came from; its name is the key under which another machine will look for it."""
    for path in sorted((paths.CACHE / "maps").glob(f"{file_name(name)}-{source}-*.safetensors")):
        kept = torch.from_numpy(load_arrays(path)[0]["maps"])
        if torch.equal(kept / 255 if kept.dtype == torch.uint8 else kept, maps):
            return path
    raise ValueError(f"source must be one whose maps are kept on disk, got {source!r}")


def receive(options: argparse.Namespace) -> None:
    """Unpack what has come into data/ and cache/maps/; once all pieces are there, load the data set and check it."""
    start = time.perf_counter()
    for path in options.pieces:
        if (kept := load_arrays(path)) is None:
            raise ValueError(f"piece {path} is missing or damaged; carry it again")
        parts, about = kept
        with ThreadPoolExecutor() as pool:
            list(pool.map(functools.partial(_unpack, about), parts, parts.values()))
        write_json(_kept("received") / f"{about['dataset']}-{about['piece']}.json", about)
    notes = [json.loads(path.read_text()) for path in sorted(_kept("received").glob("*.json"))]
    for name in sorted({about["dataset"] for about in notes}):
        here = [about for about in notes if about["dataset"] == name]
        missing = set(range(1, here[0]["pieces"] + 1)) - {about["piece"] for about in here}
        if missing:
            print(f"{name}: left: pieces {sorted(missing)} of {here[0]['pieces']}")
            continue
        data = load_dataset(name)
        if {part: digest(getattr(data, part).images.numpy()) for part in ("train", "test")} != here[0]["digest"]:
            raise ValueError(f"dataset {name!r} is not what was packed; remove {paths.DATA / name}, receive it again")
        maps = dataset_maps(data, here[0]["source"])
        print(f"{name}: whole, {len(data.train)} + {len(data.test)} images, maps {tuple(maps[0].shape)}; left: nothing")
    print(f"{time.perf_counter() - start:.1f} s")


def _unpack(about: dict, name: str, part: np.ndarray) -> None:
    kind, _, rest = name.partition("/")
    if kind == "maps":
        content = lzma.decompress(part.tobytes())
        atomic_write(paths.CACHE / "maps" / rest, lambda partial: partial.write_bytes(content))
        return
    pixels = np.asarray(Image.open(io.BytesIO(part.tobytes())))
    ends = np.cumsum(about["counts"][kind])
    side = pixels.shape[1]  # images are square
    for i, image in enumerate(pixels.reshape(-1, side, side, 3), int(rest)):
        label = about["classes"][int(np.searchsorted(ends, i, side="right"))]
        path = paths.DATA / about["dataset"] / kind / label / f"{i:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=0)  # read once more, then never


def measure(options: argparse.Namespace) -> None:
    """Images a second and memory of every way to train a step and to make maps; one process each, written as it ends."""
    end = time.monotonic() + options.seconds
    device = find_device(options.device)
    path = _kept() / f"measure-{device.type}.json"
    record = json.loads(path.read_text()) if path.exists() else {"items": {}}
    items = {name: item for name, item in _items(options.tiny).items() if name.startswith(options.only)}
    todo = [name for name in items if "error" in record["items"].get(name, {"error": ""})]
    while todo and time.monotonic() < end:
        module, arguments, n = items[name := todo.pop(0)]
        try:
            with tempfile.TemporaryDirectory() as folder:
                seen = together(module, [*arguments, *(["--meet", folder, str(n)] if n > 1 else [])], n)
            found = seen[0] | {key: sum(each[key] for each in seen) for key in SUMS if key in seen[0]}
        except RuntimeError as error:  # one that fails is a finding, and the others may still run
            found = {"error": str(error)[-2000:]}
        record["items"][name] = {"module": module, "options": arguments, "processes": n} | found
        print(f"{name:24s}", _line(name, record["items"]), flush=True)
        record["environment"] = describe_environment(device, code_revision())
        for folder in filter(None, (path.parent, options.out)):
            write_json(folder / path.name, record)
    print(f"left: {', '.join(todo) or 'nothing'}")


def _items(tiny: bool) -> dict[str, tuple[str, list[str], int]]:
    """What is measured, what decides most first: (module, options of its child, how many of them at the same time)."""
    shape = ["--image-size", "16", "--batch-size", "8"] if tiny else ["--image-size", "224", "--batch-size", str(BATCH)]
    steps = [*shape, "--steps", "4" if tiny else "640"]
    items: dict[str, tuple[str, list[str], int]] = {}

    def add(network: str, *ways: str) -> None:
        about = ["--network", network, *steps]
        for way in ways:
            child = ["floor", *about] if way == "floor" else ["ours", *about, "--way", way]
            items[f"{network} {way}"] = ("benchmarks.train_step", child, 1)

    add("gated", "floor", "eager", "default")
    for n in (2,) if tiny else (2, 4, 8):
        items[f"gated default x{n}"] = (*items["gated default"][:2], n)
    about = ["plain", "--network", "gated", *shape, "--steps", "2" if tiny else "24"]
    items["gated straightforward"] = ("benchmarks.train_step", about, 1)
    add("gated", "graph-fused", "graph")
    models = {"vit-b8": DINO_MODEL, "vit-s14": "vit_small_patch14_dinov2"}
    models = {"vit-ti16": "vit_tiny_patch16_224"} if tiny else models
    work = ["--images", "1", "--batches", "1"] if tiny else ["--images", "128", "--batches", "8"]
    for name, model in models.items():
        for side, precision in (("ours", "float32"), ("usual", "float32"), ("ours", "tf32"), ("ours", "bfloat16")):
            about = [side, "--model", model, "--precision", precision, *work]
            items[f"{name} {side} {precision}"] = ("benchmarks.attention", about, 1)
    add("resnet8", "floor", "eager", "default", "graph-fused", "graph")
    return items


def _line(name: str, items: dict[str, dict]) -> str:
    """A measurement in words: beside its speed the part of the floor's, and how far its numbers are from the first of its kind."""
    found, kind = items[name], name.split()[0]
    if "error" in found:
        return f"FAILED: {found['error'].strip().splitlines()[-1]}"
    if "gflop" in found:
        return f"{1e3 * found['seconds']:.3f} ms a step at least: {found['gflop']:.1f} GFLOP, {found['kept_mb']:.0f} MB kept"
    text = f"{found['images_per_second']:9.1f} images/s {found['peak_memory_mb']:7.0f} MB"
    if found["options"][0] in ("plain", "usual"):
        return text
    alike = [item for other, item in items.items() if other.split()[0] == kind and "error" not in item]
    if "gflop" in alike[0]:
        batch = int(found["options"][found["options"].index("--batch-size") + 1])
        text += f", {100 * alike[0]['seconds'] * found['images_per_second'] / batch:.0f} % of the floor's speed"
    key = "first_losses" if "first_losses" in found else "first_map"
    first = next(item[key] for item in alike if key in item)
    return f"{text}, {max(abs(a - b) for a, b in zip(found[key], first, strict=True)):.1e} apart from the first"


def _best_jobs() -> int:
    """The fewest runs at the same time with 95 % of the most images a second that were measured; 1 where nothing was."""
    path = _kept() / "measure-cuda.json"
    items = json.loads(path.read_text())["items"] if path.exists() else {}
    rates = {
        item["processes"]: item["images_per_second"]
        for name, item in items.items()
        if name.startswith("gated default") and "error" not in item
    }
    return min((n for n, rate in rates.items() if rate >= 0.95 * max(rates.values())), default=1)


def table3(options: argparse.Namespace) -> None:
    """Train Table 3's networks at the paper's settings: data set by data set, rate by rate, seed by seed."""
    _work_off(_networks(options), options)


def precision(options: argparse.Namespace) -> None:
    """Train one network in bfloat16 and in float32, seed by seed; what table3 has trained counts."""
    gated = [config for config in _networks(options) if (config.form, config.a) == ("gated", 1.0)]
    _work_off([replace(config, precision=kind) for config in gated for kind in ("bfloat16", "float32")], options)


def _networks(options: argparse.Namespace) -> list[TrainConfig]:
    settings = {"part": "table3", "preset": "paper", "source": options.source, "device": options.device}
    settings |= TINY if options.tiny else {}
    lists = [list_runs(name, options.seeds, lr=lr, **settings) for name in options.datasets for lr in options.lrs]
    return [config for runs in lists for config in runs.values()]


def _work_off(configs: list[TrainConfig], options: argparse.Namespace) -> None:
    """Train what has no record, several at a time; what is not done when the time is up goes on from its checkpoint next time."""
    find_device(options.device)
    records, jobs, start = _kept("records"), options.jobs or _best_jobs(), time.monotonic()
    todo = [config for config in configs if not _ended(records, config)]
    n_todo, ended = len(todo), 0
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    running: dict[subprocess.Popen, tuple[TrainConfig, Path, float]] = {}
    while (todo or running) and (left := start + options.seconds - time.monotonic()) > 0:
        while todo and len(running) < jobs and left > options.reserve:
            log = _kept("logs") / f"{todo[0].slug}.txt"
            command = [sys.executable, "-c", TRAIN, json.dumps(asdict(todo[0])), str(records)]
            with log.open("w") as file:
                child = subprocess.Popen(command, cwd=paths.CHECKOUT, env=environment, stdout=file, stderr=file)
            running[child] = todo.pop(0), log, time.monotonic()
        if not running:
            break
        time.sleep(0.1)
        for child in [child for child in running if child.poll() is not None]:
            config, log, begun = running.pop(child)
            ended += 1
            if child.returncode:
                result = f"FAILED: {log.read_text().strip().rpartition(chr(10))[2]}"
                if "FloatingPointError" in result:
                    shutil.copy(log, records / f"{config.slug}.diverged.txt")
            else:
                result = _run(records, config).result()
            print(f"{config.slug}: {result}  ({time.monotonic() - begun:.0f} s)", flush=True)
            if options.out:
                shutil.make_archive(str(options.out / "records"), "zip", records)
    for child in running:
        child.kill()
        child.wait()
    left = sum(not _ended(records, config) for config in configs)
    rate = (time.monotonic() - start) / ended if ended else math.nan
    print(f"{n_todo - left} of {n_todo} done; left: {left}, one every {rate:.0f} s: {left * rate / 60:.0f} min")


def _ended(records: Path, config: TrainConfig) -> bool:
    """Whether a run has its record, or its loss became infinite, which it would again."""
    return _run(records, config).finished() or (records / f"{config.slug}.diverged.txt").exists()


def _run(records: Path, config: TrainConfig) -> Run:
    return trainings({config.slug: config}, records)[0]


def _kept(name: str = "") -> Path:
    """A folder that the next call finds again, if the machine is still the same."""
    folder = paths.RUNS / "gpu" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(argv: list[str]) -> None:
    """Do one piece of the work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    for act in (prepare, receive, measure, table3, precision):
        verb = verbs.add_parser(act.__name__, description=act.__doc__.splitlines()[0])
        verb.set_defaults(act=act)
        verb.add_argument("--out", type=Path, required=act is prepare, help="folder for what is to be brought back")
        if act is not receive and act is not measure:
            verb.add_argument("--source", default="vit-s14", help="of the maps; default %(default)s")
        if act is prepare:
            verb.add_argument("--data", type=Path, help="where data sets live; default data/")
            verb.add_argument("--dataset", default="cifar10")
            verb.add_argument("--piece-bytes", type=float, default=PIECE, help="default %(default)s")
        elif act is receive:
            verb.add_argument("pieces", type=Path, nargs="+")
        else:
            verb.add_argument("--device", default="cuda")
            verb.add_argument("--tiny", action="store_true", help="small sizes, one epoch: the dry run")
            verb.add_argument("--seconds", type=float, default=540, help="nothing new starts after them; default 540")
        if act is measure:
            verb.add_argument("--only", default="", help="what the names of the items start with")
        elif act in (table3, precision):
            verb.add_argument("--datasets", nargs="+", default=["cifar10"])
            verb.add_argument("--lrs", type=float, nargs="+", default=[0.2, 0.01] if act is table3 else [0.01])
            verb.add_argument("--seeds", type=int, default=3)
            verb.add_argument(
                "--jobs", type=int, help="runs at the same time; default: what was measured to be fastest"
            )
            verb.add_argument("--reserve", type=float, default=30, help="no run starts in the last so many seconds")
    options = parser.parse_args(argv)
    if getattr(options, "device", "") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for those that it starts too
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    options.act(options)


if __name__ == "__main__":
    main(sys.argv[1:])
