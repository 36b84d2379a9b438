"""Image files of a class-folder tree: finding them, and decoding them once into an array on disk."""

import os
import zlib
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from resattn.files import atomic_write
from resattn.progress import track


def list_images(folder: Path) -> tuple[tuple[str, ...], list[str], list[int]]:
    """Class names, each image's path below ``folder``, and its class, all in alphabetical order."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(folder, is_valid_file=_is_image)
    except FileNotFoundError as error:  # no folder, no class, or a class without images
        raise ValueError(f"dataset folder {folder} must hold <class>/*.png or *.jpg: {error}") from error
    return tuple(found.classes), [os.path.relpath(path, folder) for path, _ in found.samples], found.targets


def decode_images(folder: Path, files: list[str], size: int | None, store: Path) -> tuple[np.ndarray, list[int], dict]:
    """Decode files on all cores into an array on disk; a row whose checksum says that it is this file stays as it is.

    So what was interrupted goes on, and rows that were damaged, or whose file was replaced, are decoded anew. The last files take
    the rows of those that cannot be read.

    Args:
        size: side of the centre square that is resized; None for files that all have one size.
        store: the array's path without its ending.

    Returns:
        uint8 (M, 3, H, W), mapped into memory; the number of the file in each row; {file: why it cannot be read}.

    Raises:
        ValueError: no file can be read, or an image has another size than the first.
    """

    def read(number: int) -> np.ndarray | str:
        try:
            picture = _read_rgb(folder / files[number])
            if size is not None:
                picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
            return np.asarray(picture).transpose(2, 0, 1)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and struct.error on damaged files
            return str(error) or type(error).__name__

    shape = next((first.shape for first in map(read, range(len(files))) if isinstance(first, np.ndarray)), None)
    if shape is None:
        raise ValueError(f"dataset folder {folder}: none of its {len(files)} images can be read, the first: {read(0)}")
    images = _open_array(store.with_suffix(".npy"), (len(files), *shape), np.uint8)
    checksums = _open_array(store.with_suffix(".crc32.npy"), (len(files),), np.uint32)
    unreadable: dict[int, str] = {}

    def fill(row: int, number: int) -> None:
        path = folder / files[number]
        about = path.stat() if path.exists() else None  # a dangling link
        file = zlib.crc32(f"{files[number]} {about and (about.st_size, about.st_mtime_ns)}".encode())
        if checksums[row] == zlib.crc32(images[row], file):
            return
        pixels = read(number)
        if isinstance(pixels, str):
            unreadable[number] = pixels
            return
        if pixels.shape != shape:
            sizes = f"{pixels.shape[2]}x{pixels.shape[1]}, the first one {shape[2]}x{shape[1]}"
            remedy = "all must have one size: pass size=32 (or another) to resize them"
            raise ValueError(f"dataset image {path} is {sizes}; {remedy}")
        images[row] = pixels
        checksums[row] = zlib.crc32(images[row], file)

    with ThreadPool() as pool:  # Pillow decodes without Python's lock
        steps = pool.imap_unordered(lambda number: fill(number, number), range(len(files)), 64)
        for _ in track(steps, len(files), f"images of {folder}"):
            pass
    good = len(files) - len(unreadable)
    last = (number for number in range(good, len(files)) if number not in unreadable)
    rows = [next(last) if number in unreadable else number for number in range(good)]
    for row, number in enumerate(rows):
        if row != number:
            fill(row, number)
    return images[:good], rows, {files[number]: why for number, why in sorted(unreadable.items())}


def _open_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """The array at ``path``, mapped into memory; one of zeros where there is none of this shape."""
    try:
        array = np.load(path, mmap_mode="r+")
        if (array.shape, array.dtype) == (shape, dtype):
            return array
    except (OSError, ValueError, EOFError):  # missing, or cut
        pass

    def create(partial: Path) -> None:
        array = np.lib.format.open_memmap(partial, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is noticed now: later it would kill the process
            with partial.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, array.nbytes + array.offset)

    atomic_write(path, create)
    return np.load(path, mmap_mode="r+")


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in (".png", ".jpg", ".jpeg") and not Path(path).name.startswith(".")


def _read_rgb(path: Path) -> Image.Image:
    """An image file, turned as its camera says, with three channels of 8 bits."""
    with Image.open(path) as picture:
        return in_8_bits(ImageOps.exif_transpose(picture)).convert("RGB")


def in_8_bits(picture: Image.Image) -> Image.Image:
    """A picture with 16 bits of grey in 8; any other as it is.

    ValueError where the pixels have a range that nobody knows: Pillow would cut them off at 0 and 255.
    """
    if picture.mode in ("I", "F"):
        raise ValueError("its pixels are neither 8 nor 16 bits deep, so of unknown range; save it as 8-bit RGB")
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
    return picture
