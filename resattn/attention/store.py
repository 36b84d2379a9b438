"""Maps on disk: a file for each set of images and settings, saved in parts while it is made, so that nothing is made twice."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from resattn.files import digest, file_name, load_arrays, save_arrays
from resattn.progress import track

Extract = Callable[[Tensor], Tensor]
PART = 512  # images between two saved steps of an extraction


def stored_maps(
    images: Tensor,
    cache: Path,
    name: str,
    settings: dict,
    extractor: Callable[[], Extract],
    batch_size: int,
    mapped: bool = False,
) -> Tensor:
    """Maps from disk where they are whole and undamaged; else extract them, saving a part at a time.

    ``settings`` and the images are what the maps depend on; ``extractor()`` gives what makes maps, float or in bytes, of a batch.
    ``mapped`` gives them as they are in the file, read as needed.
    """
    key = digest(images.numpy(), json.dumps(settings, sort_keys=True))[:20]
    path = cache / f"{file_name(name)}-{settings['source']}-{key}.safetensors"
    kept = load_arrays(path)
    if kept is None or len(kept[0]["maps"]) != len(images):
        parts = path.with_suffix(".parts")
        array = _extract(images, parts, extractor, batch_size, f"{settings['source']} maps of {name}")
        kept = {"maps": array}, settings
        save_arrays(path, *kept)
        shutil.rmtree(parts, ignore_errors=True)
    if mapped:
        with safe_open(path, "pt") as file:  # which maps it into memory
            return file.get_tensor("maps")
    maps = torch.from_numpy(kept[0]["maps"])
    return maps / 255 if maps.dtype == torch.uint8 else maps


def _extract(images: Tensor, parts: Path, extractor: Callable[[], Extract], batch_size: int, title: str) -> np.ndarray:
    files = {start: parts / f"{start:08d}.safetensors" for start in range(0, len(images), PART)}
    done = {start: kept[0]["maps"] for start, path in files.items() if (kept := load_arrays(path)) is not None}
    todo = {start: images[start : start + PART].split(batch_size) for start in files if start not in done}

    def extract() -> Iterator[None]:
        extract_batch = extractor()
        for start, batches in todo.items():
            maps = []
            for batch in batches:
                maps.append(extract_batch(batch).numpy())
                yield
            done[start] = np.concatenate(maps)
            save_arrays(files[start], {"maps": done[start]})

    if todo:
        for _ in track(extract(), sum(map(len, todo.values())), title):
            pass
    return np.concatenate([done[start] for start in files])
