"""Data sets as whole arrays of uint8, and the stratified split (Sec. 4)."""

from dataclasses import dataclass
from pathlib import Path

import filelock
import torch
from torch import Tensor

from resattn import paths
from resattn.config import LARGEST_SIDE
from resattn.data import shapes
from resattn.data.images import decode_images, list_images
from resattn.files import digest, file_name, load_arrays, save_arrays

_OFFICIAL_SIZES = {"cifar10": (10, 50_000, 10_000), "cifar100": (100, 50_000, 10_000)}
_SHAPES_SIZES = {"train": (6_000, 1), "test": (2_000, 2)}  # number of images, seed


@dataclass(frozen=True)
class Split:
    """One part of a data set: images uint8 (N, 3, H, W), labels int64 (N,), object masks float (N, 1, H, W) or None."""

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A named data set with its train and test split and its class names (a label is an index into them).

    ``unreadable`` is how many image files were left out.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    unreadable: int = 0


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    size: int | None = None,
    cache: Path | None = None,
    skip_unreadable: bool = False,
) -> Dataset:
    """Load a data set; a folder's images are decoded once, into arrays on disk, and read from there when they are used.

    So a folder may be larger than memory. What is interrupted goes on at the next call; each call checks the arrays.

    Args:
        name: "shapes" (drawn on the spot); "cifar10" or "cifar100" (torchvision downloads them and checks their MD5,
            unless ``root/name`` is a class-folder tree); any other folder ``root/name``, or a path, that holds
            ``{train,test}/<class>/*.png|jpg``, subfolders included.
        root: where data sets live; None means ``data/``.
        size: resize the shorter side to this many pixels and cut out the centre square. None keeps images as they are, and
            then all of a folder's images must have one size.
        cache: folder for the decoded arrays; None means ``cache/datasets``.
        skip_unreadable: leave out images that cannot be read, and name them, instead of raising an error.

    Raises:
        ValueError: unknown name, or a folder that is empty, incomplete, or holds unreadable images (the message names each).
    """
    root = Path(root) if root is not None else paths.DATA
    cache = Path(cache) if cache is not None else paths.CACHE / "datasets"
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_SIDE):
        raise ValueError(f"size must be a whole number of pixels in [1, {LARGEST_SIDE}], or None, got {size!r}")
    folder = None if name == "shapes" else _find_folder(name, root)
    if folder is None and size is not None:
        raise ValueError(f"size applies to image folders only, not to {name!r} (got size={size})")
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / f"{file_name(Path(name).name)}.lock"):  # one process fetches or decodes, others wait
        if folder is None:
            return _load_shapes(cache) if name == "shapes" else _download_cifar(name, root)
        return _load_folder(folder, name if name in _OFFICIAL_SIZES else folder.name, size, cache, skip_unreadable)


def stratified_split(labels: Tensor, n_val: int = 5000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split indices so that every class has the same share of validation samples (Sec. 4: 45,000 / 5,000).

    Args:
        labels: int64 (N,).
        n_val: number of validation samples, between 1 and N - 1. Where the shares are not whole numbers they are rounded by
            largest remainder, so exactly ``n_val`` are taken.
        seed: the same seed gives the same split.

    Returns:
        (fit_idx, val_idx): int64, ascending, disjoint, together all of 0..N-1.
    """
    labels = torch.as_tensor(labels)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or (labels < 0).any():
        raise ValueError(f"labels must be whole numbers (N,) at least 0, got {labels.dtype} {tuple(labels.shape)}")
    if not 0 < n_val < len(labels):
        raise ValueError(f"n_val must lie between 1 and {len(labels) - 1} for {len(labels)} labels, got {n_val}")
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(labels)
    quota = counts.double() * n_val / len(labels)
    take = quota.floor().long()
    take[(quota - take).argsort(descending=True, stable=True)[: n_val - int(take.sum())]] += 1
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for k, count in enumerate(take.tolist()):
        members = (labels == k).nonzero().squeeze(1)
        chosen[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)


def channel_stats(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 (N, C, H, W), as float32 (C,) on the scale [0, 1]."""
    histogram = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for chunk in images.split(1_000):
        histogram += torch.stack([channel.flatten().bincount(minlength=256) for channel in chunk.unbind(1)])
    share, level = histogram / histogram.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
    mean = (share * level).sum(1)
    variance = (share * (level - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.clamp_min(1e-12).sqrt().float()


def _load_shapes(cache: Path) -> Dataset:
    source = digest(Path(__file__).with_name("shapes.py").read_bytes(), repr(_SHAPES_SIZES))
    path, kinds = cache / f"shapes-{source[:16]}.safetensors", ("images", "labels", "masks")
    arrays, _ = load_arrays(path) or ({}, {})
    if not arrays:
        for split, (n, seed) in _SHAPES_SIZES.items():
            arrays |= zip([f"{split}_{kind}" for kind in kinds], shapes.make_shapes(n, seed), strict=True)
        save_arrays(path, arrays)
    parts = (Split(*(torch.from_numpy(arrays[f"{split}_{kind}"]) for kind in kinds)) for split in _SHAPES_SIZES)
    return Dataset("shapes", *parts, shapes.CLASSES)


def _find_folder(name: str, root: Path) -> Path | None:
    """The class-folder tree called ``name``, or None where torchvision has to fetch it."""
    for folder in (root / name, Path(name)):
        if (folder / "train").is_dir() or (folder / "test").is_dir():
            return folder
    if name in _OFFICIAL_SIZES:
        return None
    raise ValueError(
        f"dataset must be 'shapes', 'cifar10', 'cifar100', or a folder with train/ and test/; "
        f"{name!r} is none of them: neither {root / name} nor {Path(name)} holds train/ or test/"
    )


def _load_folder(folder: Path, name: str, size: int | None, cache: Path, skip_unreadable: bool) -> Dataset:
    found = {split: list_images(folder / split) for split in ("train", "test")}
    classes = found["train"][0]
    if classes != found["test"][0]:
        odd = sorted(set(classes) ^ set(found["test"][0]))
        wanted = "train/ and test/ must hold the same classes"
        raise ValueError(f"dataset folder {folder}: {wanted}; only one of them has {odd[:5]}")
    if len(classes) < 2:
        raise ValueError(f"dataset folder {folder} must hold at least 2 classes, found {len(classes)}")
    sizes = (len(classes), *(len(files) for _, files, _ in found.values()))
    if sizes != (whole := _OFFICIAL_SIZES.get(name, sizes)):
        numbers = f"expected {whole} classes, training and test images, found {sizes}"
        raise ValueError(f"dataset folder {folder} is not the whole of {name}: {numbers}; rename it to use a part")
    parts, unreadable = {}, []
    for split, (_, files, labels) in found.items():
        store = cache / file_name(name) / f"{split}-{size}-{digest(repr((folder.resolve(), files)))[:16]}"
        images, rows, failed = decode_images(folder / split, files, size, store)
        parts[split] = Split(torch.from_numpy(images), torch.tensor(labels)[rows])
        unreadable += [f"{folder / split / file}: {why}" for file, why in failed.items()]
    if unreadable and not skip_unreadable:
        remedy = "replace them, or leave them out with skip_unreadable=True (--skip-unreadable); the others are decoded"
        bad = f"{len(unreadable)} images that cannot be read: {'; '.join(unreadable)}"
        raise ValueError(f"dataset folder {folder} holds {bad}. What to do: {remedy}")
    for line in unreadable:
        print(f"left out {line}", flush=True)
    if parts["train"].images.shape[1:] != parts["test"].images.shape[1:]:
        remedy = "pass size=32 (or another) to unify"
        raise ValueError(f"dataset folder {folder}: train and test images differ in size; {remedy}")
    return Dataset(name, parts["train"], parts["test"], classes, len(unreadable))


def _download_cifar(name: str, root: Path) -> Dataset:
    from torchvision.datasets import CIFAR10, CIFAR100

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    try:
        parts = {split: source(root, train=split == "train", download=True) for split in ("train", "test")}
    except Exception as error:  # network, disk, and damaged archives all end here
        raise ValueError(
            f"dataset {name!r} could not be fetched into {root}: {error}. Without a network, put the images under "
            f"{root / name}/{{train,test}}/<class>/*.png, or name their parent with root="
        ) from error
    splits = (
        Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts.values()
    )
    return Dataset(name, *splits, tuple(parts["train"].classes))
