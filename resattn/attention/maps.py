"""Attention maps x_a: where to look in an image, from a self-supervised ViT or from simpler sources (Sec. 3.1, 5.2).

:func:`attention_maps` is the one door. Maps that take time are kept on disk under a key of everything they depend on.
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from resattn import paths
from resattn.attention.sources import MAP_SIZE, border_contrast, from_masks, gaussian_map, min_max, shuffle
from resattn.attention.tiny import WEIGHTS, tiny_vit
from resattn.attention.vit import DINO_MODEL, cls_attention, load_vit, vit_input
from resattn.attention.vit_s14 import SHA256, decoded_saliency, load_vit_s14
from resattn.config import ATTENTION_SOURCES, CLS_SOURCES, FROM_MASKS, SHUFFLED_SOURCES
from resattn.data.datasets import Dataset
from resattn.files import digest, file_digest, file_name, load_arrays, save_arrays
from resattn.progress import track
from resattn.settings import check_choice, checked

PART = 512  # images between two saved steps of an extraction
_check_heads = functools.partial(checked, "heads", hint=str | int, choices=("mean", "max", "all"), low=0)


def attention_maps(
    images: Tensor,
    source: str = "dino",
    *,
    heads: str | int = "mean",
    masks: Tensor | None = None,
    base: str = "saliency",
    model: str = DINO_MODEL,
    weights: str | Path = "pretrained",
    seed: int = 0,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    name: str = "images",
    cache: Path | None = None,
    mapped: bool = False,
) -> Tensor:
    """One attention map for each image.

    Args:
        images: uint8 (N, 3, H, W).
        source: "dino", the [CLS] attention of a ViT's last block; "dino-tiny", of a small ViT in the package, self-distilled on
            ``shapes``, 8x8; "vit-s14", of a ViT-S/14 fine-tuned on saliency, 16x16, and "vit-s14-saliency", its decoder's map,
            28x28, nearly a segmentation; "saliency", colour contrast against the image's border, without any training; controls
            "uniform" (ones), "center" (a Gaussian), "shuffled" (another image's map of source ``base``); "oracle", the true
            object masks; "box", the upright rectangle around each; and "square", of one fixed side in its place.
        heads: how a ViT's heads become one map: "mean", "max", an index, or "all" for one channel a head.
        masks: float (N, 1, h, w), needed by "oracle", "box" and "square" alone.
        base: the source that "shuffled" shuffles.
        model: name of any timm VisionTransformer (DINO, DINOv2) or Eva (DINOv3) with a class token, for "dino" alone.
        weights: for "dino": "pretrained" (fetched by timm on first use), "random" (to try the path, not for results), or a checkpoint
            file for ``model``; for "dino-tiny" another file that :mod:`resattn.dino.pretrain` wrote.
        seed: for "shuffled" and for random weights.
        batch_size, device: how many images go through the ViT at a time, and where; None means CUDA if present, else the CPU.
        name: what to call the images in file names and progress, for example "cifar10-train".
        cache: folder for finished and half-finished maps; None means ``cache/maps``.
        mapped: give maps that are on disk as they are there, read as needed: those of "vit-s14" as uint8, 255 times as large. Those of
            "uniform" and "center" are then one map for all, not to be written to.

    Returns:
        float32 (N, K, h, w) in [0, 1]. Maps of a ViT and of "saliency" are scaled, each channel of each image, to span that range (a
        constant one becomes 0). K is 1, or the number of heads for ``heads="all"``.

    Raises:
        ValueError: an argument is not as described.
        ConnectionError: pretrained weights cannot be fetched; the message says what else can be done.
    """
    check_choice("source", source, ATTENTION_SOURCES)
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        given = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a uint8 tensor (N, 3, H, W), got {given}")
    if not len(images):
        raise ValueError("images must not be empty")
    images = images.cpu()  # batches of them go to ``device``
    if source == "shuffled":
        check_choice("base", base, SHUFFLED_SOURCES)
        options = {"heads": heads, "masks": masks, "model": model, "weights": weights, "batch_size": batch_size}
        maps = attention_maps(images, base, seed=seed, device=device, name=name, cache=cache, mapped=mapped, **options)
        return shuffle(maps, seed)
    _check_heads(heads)
    if heads != "mean" and source not in CLS_SOURCES:
        raise ValueError(f"heads must be 'mean' for source={source!r}, which has none, got {heads!r}")
    if str(weights) != "pretrained" and source not in ("dino", "dino-tiny"):
        raise ValueError(f"weights must be 'pretrained' for source={source!r}, got {str(weights)!r}")
    if source in ("uniform", "center"):
        one = gaussian_map() if source == "center" else torch.ones(1, 1, MAP_SIZE, MAP_SIZE)
        maps = one.expand(len(images), -1, -1, -1)
        return maps if mapped else maps.contiguous()
    if source in FROM_MASKS:
        return from_masks(source, masks, len(images))
    cache = Path(cache) if cache is not None else paths.CACHE / "maps"
    if source == "saliency":
        settings = {"source": source, "size": MAP_SIZE, "version": 2}
        return _stored_maps(images, cache, name, settings, border_contrast, 256, mapped)

    checked("batch_size", batch_size, int, low=1)
    about, load = _choose_vit(source, model, weights, seed)
    settings = {"source": source, "heads": heads, "version": 1} | about
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    read = decoded_saliency if source == "vit-s14-saliency" else cls_attention
    vit = functools.cache(lambda: load().to(device))  # only once a map has to be made

    def extract(batch: Tensor) -> Tensor:
        attention = read(vit(), vit_input(vit(), batch.to(device)))
        if not attention.isfinite().all():  # scaled, it would be maps of exactly 0
            raise ValueError(f"weights {str(weights)!r} of source {source!r} give attention that is not finite")
        maps = aggregate_heads(attention, heads).float()
        # In bytes: a quarter of the disk, and rounding hides most differences between devices.
        return ((255 * maps).round().to(torch.uint8) if source.startswith("vit-s14") else maps).cpu()

    return _stored_maps(images, cache, name, settings, extract, batch_size, mapped)


def dataset_maps(data: Dataset, source: str, **options: Any) -> tuple[Tensor, Tensor]:
    """Maps of a data set's train and test images; ``options`` as for :func:`attention_maps`."""
    return tuple(
        attention_maps(part.images, source, masks=part.masks, name=f"{data.name}-{split}", **options)
        for split, part in (("train", data.train), ("test", data.test))
    )


def aggregate_heads(attention: Tensor, heads: str | int = "mean") -> Tensor:
    """(B, heads, h, w) to one map (B, 1, h, w), or all of them for "all"; then min-max to [0, 1] per image and channel."""
    _check_heads(heads)
    if heads == "mean":
        attention = attention.mean(1, keepdim=True)
    elif heads == "max":
        attention = attention.amax(1, keepdim=True)
    elif heads != "all":
        if heads >= attention.shape[1]:
            raise ValueError(f"heads must be below {attention.shape[1]}, the number of heads, got {heads}")
        attention = attention[:, heads : heads + 1]
    return min_max(attention)


def _stored_maps(
    images: Tensor,
    cache: Path,
    name: str,
    settings: dict,
    extract: Callable[[Tensor], Tensor],
    batch_size: int,
    mapped: bool,
) -> Tensor:
    """Maps from disk where they are whole and undamaged; else ``extract`` makes them of batches, and each part is saved."""
    key = digest(images.numpy(), json.dumps(settings, sort_keys=True))[:20]
    path = cache / f"{file_name(name)}-{settings['source']}-{key}.safetensors"
    maps = _whole(path, len(images))
    if maps is None:
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")):  # one process makes them, others that want them wait
            maps = _whole(path, len(images))
            if maps is None:
                maps = _made(images, path, name, settings, extract, batch_size)
    if mapped:
        with safe_open(path, "pt") as file:  # which maps it into memory
            return file.get_tensor("maps")
    maps = torch.from_numpy(maps)
    return maps / 255 if maps.dtype == torch.uint8 else maps


def _whole(path: Path, n: int) -> np.ndarray | None:
    maps = (load_arrays(path) or ({}, {}))[0].get("maps")
    return maps if maps is not None and len(maps) == n else None


def _made(
    images: Tensor, path: Path, name: str, settings: dict, extract: Callable[[Tensor], Tensor], batch_size: int
) -> np.ndarray:
    """Make the maps part by part, from the parts that an interrupted call left."""
    folder, maps, pieces = path.with_suffix(".parts"), None, images.split(PART)
    for i, piece in enumerate(track(pieces, len(pieces), f"{settings['source']} maps of {name}")):
        file = folder / f"{i * PART:08d}.safetensors"
        part = _whole(file, len(piece))
        if part is None:
            part = np.concatenate([extract(batch).numpy() for batch in piece.split(batch_size)])
            save_arrays(file, {"maps": part})
        if maps is None:
            maps = np.empty((len(images), *part.shape[1:]), part.dtype)
        maps[i * PART : (i + 1) * PART] = part
    save_arrays(path, {"maps": maps}, settings)
    shutil.rmtree(folder, ignore_errors=True)
    return maps


def _choose_vit(source: str, model: str, weights: str | Path, seed: int) -> tuple[dict, Callable[[], nn.Module]]:
    """What tells the maps of one ViT from another's on disk, and how to load it."""
    if source.startswith("vit-s14"):
        return {"weights": SHA256}, load_vit_s14
    if source == "dino-tiny":
        path, wanted = WEIGHTS if weights == "pretrained" else Path(weights), "a file that resattn.dino.pretrain wrote"
        if not path.is_file():
            raise ValueError(f"weights must be 'pretrained' or {wanted}, got {str(weights)!r}")
        return {"weights": file_digest(path)}, lambda: tiny_vit(weights=path)
    if weights == "random":
        identity = f"random, seed {seed}"
    elif weights == "pretrained" or Path(weights).is_file():
        identity = weights if weights == "pretrained" else file_digest(weights)
    else:
        raise ValueError(f"weights must be 'pretrained', 'random' or a checkpoint file, got {str(weights)!r}")
    return {"model": model, "weights": identity}, lambda: load_vit(model, weights, seed)
