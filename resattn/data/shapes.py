"""``shapes``: the embedded data set. Ten classes of drawn objects on clutter, 32x32, with the true object masks.

It needs no download, is drawn in seconds, and is the one data set here where the right attention map is known. An image
is a smooth two-tone background, fragments of *other* outlines as distractors, and one object: an outline class (the
label) in random position, size, rotation, colours and stripe texture. Colour, texture and background carry no
information about the label; only the outline does. Objects are lit: on average brighter than what is behind them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

CLASSES = ("arrow", "crescent", "cross", "disc", "heart", "hexagon", "ring", "square", "star", "triangle")
SIZE = 32  # pixels on a side
_SUPERSAMPLING = 2  # each pixel is the mean of 2x2 samples, so outlines are smooth


def make_shapes(n: int, seed: int, side: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw ``n`` images, classes in equal number (to within one), in random order.

    Args:
        n: number of images, at least 1.
        seed: the same seed gives the same images on every machine.
        side: pixels on a side, at least 8.

    Returns:
        images uint8 (n, 3, side, side); labels int64 (n,), an index into ``CLASSES``; masks float32 (n, 1, side, side), the
        share of each pixel the object covers, in [0, 1].
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if side < 8:
        raise ValueError(f"side must be at least 8 pixels, got {side}")
    rng = np.random.default_rng([seed, 0x5AFE])
    labels = rng.permutation(np.arange(n) % len(CLASSES)).astype(np.int64)
    together = max(1, 500 * SIZE**2 // side**2)  # one batch takes the same memory at any size
    batches = [_draw(labels[i : i + together], rng, side) for i in range(0, n, together)]
    images, masks = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return images, labels, masks


def write_shapes(folder: str | Path, side: int, train: int, test: int) -> dict[str, np.ndarray]:
    """Draw images as files ``folder/{train,test}/<class>/<number>.png``, the layout of any image folder.

    Returns the true masks of "train" and "test", float32 (n, 1, side, side), in the order in which ``load_dataset`` reads them.
    """
    from PIL import Image

    masks = {}
    for seed, (split, n) in enumerate({"train": train, "test": test}.items(), 1):
        images, labels, found = make_shapes(n, seed, side)
        for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            path = Path(folder) / split / CLASSES[label] / f"{i:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
        masks[split] = found[labels.argsort(kind="stable")]  # class by class, by name
    return masks


def _draw(labels: np.ndarray, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 3, size, size) and masks float32 (n, 1, size, size) of the given classes."""
    n, side = len(labels), size * _SUPERSAMPLING
    axis = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")

    canvas = _background(n, x, y, rng)
    for _ in range(6):
        canvas = _paint_fragment(canvas, x, y, rng)

    radius = rng.uniform(0.42, 0.72, n).astype(np.float32)
    centre = (rng.uniform(-1, 1, (n, 2)) * (1 - radius)[:, None]).astype(np.float32)
    u, v = _object_frame(x, y, centre, radius, rng.uniform(-0.4, 0.4, n))
    inside = np.empty((n, side, side), bool)
    for k in range(len(CLASSES)):
        chosen = labels == k
        inside[chosen] = _OUTLINES[CLASSES[k]](u[chosen], v[chosen])
    canvas = np.where(inside[:, None], _stripes(n, u, v, rng), canvas)

    canvas = _downsample(canvas)
    mask = _downsample(inside[:, None].astype(np.float32))
    noise = rng.normal(0, 0.035, canvas.shape).astype(np.float32)
    images = (np.clip(canvas + noise, 0, 1) * 255).round().astype(np.uint8)
    return images, mask


def _background(n: int, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two colours blended by a few low-frequency waves: (n, 3, side, side) in [0, 1]."""
    waves = np.zeros((n, *x.shape), np.float32)
    for _ in range(3):
        spans = ((-2.5, 2.5), (-2.5, 2.5), (0, 6.3))
        fx, fy, phase = (rng.uniform(*span, (n, 1, 1)).astype(np.float32) for span in spans)
        waves += np.sin(fx * x + fy * y + phase)
    blend = (1 / (1 + np.exp(-1.5 * waves)))[:, None]
    low, high = (rng.uniform(0.05, 0.6, (n, 3, 1, 1)).astype(np.float32) for _ in range(2))
    return low * (1 - blend) + high * blend


def _paint_fragment(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint one distractor on each image: a small bar or blob in its own colour."""
    n = len(canvas)
    centre = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    u, v = _object_frame(x, y, centre, np.ones(n, np.float32), rng.uniform(-np.pi, np.pi, n))
    length, width = (rng.uniform(*span, (n, 1, 1)).astype(np.float32) for span in ((0.12, 0.45), (0.04, 0.13)))
    round_ended = rng.random((n, 1, 1)) < 0.5
    blob, bar = (u / length) ** 2 + (v / (2 * width)) ** 2 < 1, (np.abs(u) < length) & (np.abs(v) < width)
    inside = np.where(round_ended, blob, bar)
    colour = rng.uniform(0.1, 0.9, (n, 3, 1, 1)).astype(np.float32)
    return np.where(inside[:, None], colour, canvas)


def _stripes(n: int, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The object's surface: two related colours in soft stripes, (n, 3, side, side)."""
    base = rng.uniform(0.45, 1, (n, 3, 1, 1)).astype(np.float32)
    change = rng.choice([-1, 1], (n, 1, 1, 1)) * rng.uniform(0.1, 0.35, (n, 3, 1, 1))
    other = np.clip(base + change, 0, 1).astype(np.float32)
    frequency, angle = rng.uniform(2, 6, (n, 1, 1)), rng.uniform(0, np.pi, (n, 1, 1))
    wave = np.sin((frequency * (np.cos(angle) * u + np.sin(angle) * v)).astype(np.float32))
    blend = (0.5 + 0.5 * np.tanh(3 * wave))[:, None]
    return base * (1 - blend) + other * blend


def _object_frame(
    x: np.ndarray, y: np.ndarray, centre: np.ndarray, radius: np.ndarray, angle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates as the object sees them: moved, turned and scaled so that it fills the unit disc. (n, side, side)"""
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    scale = radius[:, None, None]
    return (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) / scale


def _downsample(canvas: np.ndarray) -> np.ndarray:
    n, channels, side, _ = canvas.shape
    k = _SUPERSAMPLING
    return canvas.reshape(n, channels, side // k, k, side // k, k).mean((3, 5), dtype=np.float32)


def _polygon(sides: int, turn: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A regular polygon inscribed in the unit circle: inside every one of its edges."""

    def inside(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        directions = turn + 2 * np.pi * np.arange(sides) / sides
        apothem = np.cos(np.pi / sides)
        return np.logical_and.reduce([u * np.cos(t) + v * np.sin(t) < apothem for t in directions])

    return inside


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    angle = np.arctan2(v, u) + np.pi / 2
    sector = 2 * np.pi / 5
    folded = np.abs((angle + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    tip, notch, half = 1.05, 0.45, sector / 2
    # The edge runs straight from the tip (angle 0) to the notch (angle `half`).
    edge = tip * notch * np.sin(half) / (notch * np.sin(half - folded) + tip * np.sin(folded))
    return radius < edge


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    p, q = 1.15 * u, -1.15 * v + 0.12
    return (p**2 + q**2 - 0.75) ** 3 - 1.6 * p**2 * q**3 < 0


_OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "arrow": lambda u, v: (
        ((np.abs(v) < 0.24) & (u > -0.95) & (u < 0.2)) | ((u >= 0.05) & (np.abs(v) < 0.85 * (1 - u) / 0.95))
    ),
    "crescent": lambda u, v: (u**2 + v**2 < 0.95) & ((u - 0.45) ** 2 + v**2 > 0.5),
    "cross": lambda u, v: (np.maximum(np.abs(u), np.abs(v)) < 0.92) & (np.minimum(np.abs(u), np.abs(v)) < 0.3),
    "disc": lambda u, v: u**2 + v**2 < 0.8,
    "heart": _heart,
    "hexagon": _polygon(6, 0.0),
    "ring": lambda u, v: (u**2 + v**2 < 0.95) & (u**2 + v**2 > 0.27),
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.76,
    "star": _star,
    "triangle": _polygon(3, np.pi / 2),
}
