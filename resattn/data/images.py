"""Image files of a class-folder tree: finding them, and reading them as one array."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def list_images(folder: Path, split: str) -> dict[str, list[tuple[str, int, int]]]:
    """{class: [(path, bytes, modification time), ...]}, both in alphabetical order."""
    from torchvision.datasets.folder import make_dataset

    if not (folder / split).is_dir():
        raise ValueError(f"dataset folder {folder} has no {split}/; expected {split}/<class>/*.png or *.jpg")
    classes = sorted(p.name for p in (folder / split).iterdir() if p.is_dir() and not p.name.startswith("."))
    numbers = {label: k for k, label in enumerate(classes)}
    found: dict[str, list] = {label: [] for label in classes}
    if classes:  # which make_dataset insists on
        for path, k in make_dataset(folder / split, numbers, is_valid_file=_is_image, allow_empty=True):
            found[classes[k]].append(_about(path))
    for label, images in found.items():
        if not images:
            raise ValueError(f"dataset folder {folder / split / label} holds no image; expected *.png or *.jpg")
    if len(found) < 2:
        wanted = "at least 2 class folders with images"
        raise ValueError(f"dataset folder {folder / split} must hold {wanted}, found {len(found)}")
    return found


def decode_images(files: list[str], size: int | None) -> np.ndarray:
    """uint8 (N, 3, H, W) from image files, in the order given."""
    from tqdm.auto import tqdm

    images: np.ndarray | None = None
    for i, path in enumerate(tqdm(files, desc="decoding images", unit="img", disable=len(files) < 5000, mininterval=1)):
        try:
            pixels = _read_rgb(path)
            if size is not None:
                pixels = ImageOps.fit(pixels, (size, size), Image.Resampling.BICUBIC)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and struct.error on damaged files
            raise ValueError(f"dataset image {path} cannot be read: {error}") from error
        array = np.asarray(pixels).transpose(2, 0, 1)
        if images is None:
            images = np.empty((len(files), *array.shape), np.uint8)
        if array.shape != images.shape[1:]:
            sizes = f"{array.shape[2]}x{array.shape[1]}, the first one {images.shape[3]}x{images.shape[2]}"
            remedy = "all must have one size: pass size=32 (or another) to resize them"
            raise ValueError(f"dataset image {path} is {sizes}; {remedy}")
        images[i] = array
    return images


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in (".png", ".jpg", ".jpeg") and not Path(path).name.startswith(".")


def _about(path: str) -> tuple[str, int, int]:
    try:
        about = os.stat(path)
    except OSError as error:  # a dangling link
        raise ValueError(f"dataset image {path} cannot be read: {error}") from error
    return path, about.st_size, about.st_mtime_ns


def _read_rgb(path: str) -> Image.Image:
    """An image file, turned as its camera says, with three channels of 8 bits.

    ValueError where the pixels have a range that nobody knows: Pillow would cut them off at 0 and 255.
    """
    with Image.open(path) as picture:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16"):  # 16 bits of grey
            picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
        if picture.mode in ("I", "F"):
            raise ValueError("its pixels are neither 8 nor 16 bits deep, so of unknown range; save it as 8-bit RGB")
        return picture.convert("RGB")
