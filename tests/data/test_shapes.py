"""The embedded data set: the same on every call, balanced, and with masks that are where the objects are."""

import numpy as np
import pytest
import torch

from resattn.data.shapes import CLASSES, make_shapes
from resattn.files import digest


def test_one_seed_gives_one_set_of_images():
    first = digest(*make_shapes(40, 0))
    np.random.seed(1)
    torch.manual_seed(1)
    assert digest(*make_shapes(40, 0)) == first
    assert digest(*make_shapes(40, 1)) != first


def test_shapes_types_and_ranges():
    images, labels, masks = make_shapes(40, 0)
    assert (images.shape, images.dtype) == ((40, 3, 32, 32), np.uint8)
    assert (labels.shape, labels.dtype) == ((40,), np.int64)
    assert (masks.shape, masks.dtype) == ((40, 1, 32, 32), np.float32)
    assert masks.min() == 0
    assert masks.max() == 1


@pytest.mark.parametrize("n", [1, 40, 47, 1010])
def test_classes_are_balanced_to_within_one(n):
    counts = np.bincount(make_shapes(n, 3)[1], minlength=len(CLASSES))
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_classes_come_in_random_order():
    labels = make_shapes(200, 0)[1]
    assert 0.05 < (np.diff(labels) == 0).mean() < 0.2


def test_pixels_are_what_they_were():
    """Records stand for these images: a change here would make them another data set."""
    images, labels, masks = make_shapes(700, 1)
    assert labels[:12].tolist() == [6, 4, 6, 9, 3, 4, 2, 4, 5, 6, 3, 1]
    assert images[500:].mean() == pytest.approx(102.7785, abs=1e-3)  # processors round differently
    assert masks[500:].mean(dtype=np.float64) == pytest.approx(0.1550513, abs=1e-6)


def test_larger_images_show_the_same_kind_of_object():
    images, labels, masks = make_shapes(30, 0, 96)
    assert (images.shape, masks.shape) == ((30, 3, 96, 96), (30, 1, 96, 96))
    assert abs(masks.mean() - make_shapes(400, 0)[2].mean()) < 0.05
    ring, disc = (masks[labels == CLASSES.index(name)].mean() for name in ("ring", "disc"))
    assert ring < disc
    with pytest.raises(ValueError, match="side must be at least 8 pixels, got 4"):
        make_shapes(1, 0, 4)


def test_n_below_one_is_refused():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        make_shapes(0, 0)


def test_the_mask_lies_on_the_object():
    """Colours inside and outside a mask differ far more under the image's own mask than under another image's."""
    images, _, masks = make_shapes(400, 0)
    images = images / 255

    def contrast(masks: np.ndarray) -> float:
        inside = (images * masks).sum((2, 3)) / masks.sum((2, 3))
        outside = (images * (1 - masks)).sum((2, 3)) / (1 - masks).sum((2, 3))
        return float(np.linalg.norm(inside - outside, axis=1).mean())

    assert contrast(masks) > 2 * contrast(np.roll(masks, 1, axis=0))


def test_objects_are_brighter_than_the_background_on_average():
    images, _, masks = make_shapes(400, 0)
    brightness = images.mean(1, keepdims=True) / 255
    inside, outside = brightness[masks == 1].mean(), brightness[masks == 0].mean()
    assert inside > outside + 0.1


def test_the_mask_has_the_outline_of_the_label():
    """A ring is hollow where a disc is full; the two differ in nothing else."""
    _, labels, masks = make_shapes(400, 0)
    rows, columns = np.mgrid[:32, :32]

    def middle(name: str) -> np.ndarray:
        chosen = masks[labels == CLASSES.index(name), 0]
        weight = chosen.sum((1, 2))
        y = ((chosen * rows).sum((1, 2)) / weight).round().astype(int)
        x = ((chosen * columns).sum((1, 2)) / weight).round().astype(int)
        return chosen[np.arange(len(chosen)), y, x]

    assert middle("ring").max() == 0
    assert middle("disc").min() == 1


def test_objects_cover_a_fair_share_of_the_image():
    shares = make_shapes(400, 0)[2].mean((1, 2, 3))
    assert shares.min() > 0.02
    assert shares.max() < 0.5


def test_load_dataset_shapes(shapes):
    assert shapes.name == "shapes"
    assert shapes.classes == CLASSES
    for split, n in ((shapes.train, 6000), (shapes.test, 2000)):
        assert split.images.shape == (n, 3, 32, 32)
        assert split.masks.shape == (n, 1, 32, 32)
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert torch.bincount(split.labels).tolist() == [n // 10] * 10


def test_no_image_is_in_train_and_test(shapes):
    train = {image.tobytes() for image in shapes.train.images.numpy()}
    assert not any(image.tobytes() in train for image in shapes.test.images.numpy())
