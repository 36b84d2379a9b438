"""Normalization, and augmentation against torchvision's one image at a time (Sec. 4)."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F
from torchvision import transforms

from resattn.data.augment import augment, normalize
from resattn.data.datasets import channel_stats

ZERO, ONE = torch.zeros(3), torch.ones(3)  # mean and standard deviation that leave pixels on [0, 1]


# Normalization


def test_channel_stats_are_numpys():
    images = torch.randint(0, 256, (11, 3, 5, 7), dtype=torch.uint8)
    mean, std = channel_stats(images)
    scaled = images.numpy() / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-6)


def test_normalized_images_have_mean_zero_and_deviation_one(shapes):
    images = shapes.test.images
    normalized = normalize(images, *channel_stats(images))
    torch.testing.assert_close(normalized.mean((0, 2, 3)), ZERO, atol=1e-3, rtol=0)
    torch.testing.assert_close(normalized.std((0, 2, 3)), ONE, atol=1e-3, rtol=0)


# Crop and flip

ROWS, COLUMNS = np.mgrid[:32, :32]
INDEX_IMAGE = torch.from_numpy(np.stack([ROWS + 1, COLUMNS + 1, 0 * ROWS + 1]).astype(np.uint8))  # black is outside


def read_moves(images: torch.Tensor) -> torch.Tensor:
    """(dy, dx, flipped) of each augmented index image, from the two pixels at its centre."""
    row, column, neighbour = images[:, 0, 16, 16], images[:, 1, 16, 16], images[:, 1, 16, 17]
    flipped = neighbour < column
    dy, dx = row - 1 - 16, column - 1 - torch.where(flipped, 15, 16)
    return torch.stack([dy, dx, flipped], 1).round().long()


def our_moves(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = INDEX_IMAGE.expand(n, -1, -1, -1)
    moved, _ = augment(images, None, ZERO, ONE, torch.Generator().manual_seed(0), erase=0)
    moved = (moved * 255).round()
    return moved, read_moves(moved)


def test_crop_and_flip_are_those_of_a_padded_image():
    moved, moves = our_moves(200)
    padded = F.pad(INDEX_IMAGE, (4,) * 4)
    for image, (dy, dx, flipped) in zip(moved, moves.tolist(), strict=True):
        expected = padded[:, 4 + dy : 36 + dy, 4 + dx : 36 + dx]
        assert image.equal((expected.flip(2) if flipped else expected).float())


def test_crop_and_flip_are_distributed_as_torchvisions():
    """81 shifts times 2, each equally likely, here and there."""
    n = 162 * 50
    theirs = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()])
    torch.manual_seed(0)
    counts = []
    for moves in (our_moves(n)[1], read_moves(torch.stack([theirs(INDEX_IMAGE) for _ in range(n)]).long())):
        assert moves[:, :2].abs().max() == 4
        cell = (moves[:, 0] + 4) * 18 + (moves[:, 1] + 4) * 2 + moves[:, 2]
        counts.append(torch.bincount(cell, minlength=162).numpy())
        assert stats.chisquare(counts[-1]).pvalue > 0.001
    assert stats.chi2_contingency(counts).pvalue > 0.001


# Random erasing


def read_rectangles(images: torch.Tensor) -> np.ndarray:
    """(top, left, height, width) of the erased rectangle of each image that has one; all else in the images is zero."""
    found = []
    for mask in (images != 0).any(1).numpy():
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        if len(rows):
            assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            found.append((rows[0], columns[0], len(rows), len(columns)))
    return np.array(found)


def our_erasing(n: int, probability: float, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    images = torch.zeros(n, 3, *size, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    return augment(images, None, ZERO, ONE, generator, padding=0, flip=0, erase=probability)[0]


def their_erasing(n: int, probability: float) -> torch.Tensor:
    erasing = transforms.RandomErasing(p=probability, scale=(0.02, 0.33), ratio=(0.3, 3.3), value="random")
    torch.manual_seed(0)
    return torch.stack([erasing(torch.zeros(3, 32, 32)) for _ in range(n)])


def test_a_fifth_of_the_images_is_erased_by_default():
    images = torch.zeros(4000, 3, 32, 32, dtype=torch.uint8)
    erased, _ = augment(images, None, ZERO, ONE, torch.Generator().manual_seed(0), padding=0)
    for share in (len(read_rectangles(result)) / 4000 for result in (erased, their_erasing(4000, 0.2))):
        assert abs(share - 0.2) < 0.02  # three standard deviations


def test_erased_rectangles_are_distributed_as_torchvisions():
    ours, theirs = read_rectangles(our_erasing(4000, 1)), read_rectangles(their_erasing(4000, 1))
    assert len(ours) == len(theirs) == 4000
    measures = {
        "top": lambda r: r[:, 0],
        "left": lambda r: r[:, 1],
        "height": lambda r: r[:, 2],
        "width": lambda r: r[:, 3],
        "area": lambda r: r[:, 2] * r[:, 3],
        "aspect": lambda r: r[:, 2] / r[:, 3],
        "bottom margin": lambda r: 32 - r[:, 0] - r[:, 2],
        "right margin": lambda r: 32 - r[:, 1] - r[:, 3],
    }
    for name, measure in measures.items():
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 0.001, name


def test_rectangles_cover_2_to_33_percent_of_an_oblong_image():
    rectangles = read_rectangles(our_erasing(2000, 1, (24, 48)))
    area = rectangles[:, 2] * rectangles[:, 3] / (24 * 48)
    assert area.min() > 0.01  # rounding to whole pixels
    assert area.max() < 0.36
    assert (rectangles[:, 1] > 24).any()


def test_erased_pixels_are_unit_normal_noise():
    erased = our_erasing(500, 1)
    values = erased[(erased != 0).all(1, keepdim=True).expand_as(erased)].numpy()
    assert len(values) > 50_000
    assert stats.kstest(values, "norm").pvalue > 0.001
    red, green = (erased[:, channel][erased[:, 0] != 0] for channel in (0, 1))
    assert abs(np.corrcoef(red, green)[0, 1]) < 0.02


def test_noise_is_added_after_normalization():
    """Erased pixels are unit normal for any mean and deviation of the images."""
    images = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    mean, std = 0.5 * ONE, 0.01 * ONE  # the rest of each image is at 50
    erased, _ = augment(images, None, mean, std, torch.Generator().manual_seed(0), padding=0, erase=1)
    assert abs(float(erased[erased < 25].std()) - 1) < 0.02
    assert abs(float(erased[erased < 25].mean())) < 0.02


# Image and map together


def augment_both(
    image_size: tuple[int, int], map_size: tuple[int, int], blob: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented images and maps of the same picture, at the image's and at the map's resolution."""

    def picture(height: int, width: int) -> torch.Tensor:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        if blob:
            return torch.exp(-((y - 0.4) ** 2 + (x - 0.6) ** 2) / (2 * 0.06**2))
        return 0.2 + 0.3 * y + 0.5 * x

    images = (255 * picture(*image_size)).round().to(torch.uint8).expand(100, 3, -1, -1)
    maps = (picture(*map_size) if blob else images[0, 0] / 255).expand(100, 1, -1, -1)
    return augment(images, maps, ZERO, ONE, torch.Generator().manual_seed(0), erase=0)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_a_map_at_image_resolution_is_cropped_and_flipped_exactly_as_the_image(size):
    images, maps = augment_both(size, size, blob=False)
    assert len({image.numpy().tobytes() for image in images}) > 50
    torch.testing.assert_close(maps, images[:, :1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("map_size", [(28, 28), (14, 14), (28, 20)])
def test_a_coarser_map_moves_by_the_same_fraction(map_size):
    def centre(maps: torch.Tensor) -> torch.Tensor:
        height, width = maps.shape[-2:]
        mass = maps[:, 0] / maps[:, 0].sum((1, 2), keepdim=True)
        y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
        return torch.stack([(mass.sum(2) * y).sum(1), (mass.sum(1) * x).sum(1)], 1)

    images, maps = augment_both((32, 32), map_size, blob=True)
    assert maps.shape == (100, 1, *map_size)
    assert centre(images).std(0).min() > 0.05
    torch.testing.assert_close(centre(maps), centre(images), atol=0.005, rtol=0)


def test_every_channel_of_a_map_moves():
    images = INDEX_IMAGE.expand(20, -1, -1, -1)
    moved, maps = augment(images, images / 255, ZERO, ONE, torch.Generator().manual_seed(0), erase=0)
    torch.testing.assert_close(maps, moved, atol=1e-4, rtol=0)


def test_a_map_is_not_erased():
    maps = torch.rand(50, 1, 28, 28)
    images = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    _, after = augment(images, maps, ZERO, ONE, torch.Generator().manual_seed(0), padding=0, flip=0, erase=1)
    torch.testing.assert_close(after, maps)


# The whole


def test_nothing_to_do_is_normalization_alone():
    images, maps = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8), torch.rand(9, 1, 28, 28)
    stats_ = channel_stats(images)
    after, maps_after = augment(images, maps, *stats_, torch.Generator().manual_seed(0), padding=0, flip=0, erase=0)
    assert after.equal(normalize(images, *stats_))
    torch.testing.assert_close(maps_after, maps)


def test_the_generator_decides_everything():
    images, maps = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8), torch.rand(64, 1, 28, 28)

    def run(seed: int, global_seed: int) -> list[torch.Tensor]:
        torch.manual_seed(global_seed)
        return augment(images, maps, ZERO, ONE, torch.Generator().manual_seed(seed))

    first, again, other = run(0, 1), run(0, 2), run(1, 1)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not any(a.equal(b) for a, b in zip(first, other, strict=True))


def test_images_move_alike_with_and_without_maps():
    images, maps = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.rand(8, 1, 28, 28)
    with_maps, without = (augment(images, m, ZERO, ONE, torch.Generator().manual_seed(0))[0] for m in (maps, None))
    assert with_maps.equal(without)


def test_the_originals_are_left_alone():
    images, maps = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.rand(8, 1, 28, 28)
    kept = images.clone(), maps.clone()
    augment(images, maps, ZERO, ONE, torch.Generator().manual_seed(0), erase=1)
    assert images.equal(kept[0])
    assert maps.equal(kept[1])


def test_maps_can_be_left_where_they_are():
    """As a uniform map must be; the images are moved as ever."""
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    maps = torch.rand(8, 1, 7, 7)
    (moved, kept), (again, moved_maps) = (
        augment(images, maps, ZERO, ONE, torch.Generator().manual_seed(0), move_maps=move) for move in (False, True)
    )
    assert kept.equal(maps)
    assert not moved_maps.equal(maps)
    assert moved.equal(again)


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(ValueError, match="std must be above 0 in each channel"):
        normalize(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), ZERO, torch.tensor([0.2, 0.0, 0.2]))
