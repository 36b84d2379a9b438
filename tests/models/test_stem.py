"""The joint convolution equals the two steps it replaces: values, gradients, borders, oblong images."""

import pytest
import torch
from torch.nn import functional as F

from resattn import ResizedPatchStem

UPSCALED = [  # image_size, patch, (h, w): ratios with a short period
    (224, 4, (32, 32)),
    (224, 4, (28, 28)),
    (224, 4, (32, 56)),
    (224, 8, (28, 14)),
    (64, 4, (32, 32)),
    (48, 4, (32, 32)),
    (60, 4, (25, 45)),
    (56, 7, (16, 14)),
    (32, 1, (8, 16)),
    (16, 16, (4, 8)),
    (8, 4, (1, 2)),
]
TWO_STEP = [  # image already there, odd ratio, or scaled down
    (32, 4, (32, 32)),
    (32, 4, (37, 37)),
    (64, 4, (37, 37)),
    (32, 4, (64, 96)),
    (32, 4, (16, 64)),
    (32, 4, (32, 16)),
]


def two_steps(image: torch.Tensor, weight: torch.Tensor, image_size: int, patch: int, mode: str) -> torch.Tensor:
    size = (image_size, image_size)
    options = {}
    if mode != "nearest":
        options = {"align_corners": False, "antialias": max(image.shape[-2:]) > image_size}
    if image.shape[-2:] != size:
        image = F.interpolate(image, size, mode=mode, **options)
    return F.conv2d(image, weight, stride=patch)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize(("image_size", "patch", "shape"), UPSCALED + TWO_STEP)
def test_values_and_gradients_are_those_of_the_two_steps(image_size, patch, shape, mode):
    generator = torch.Generator().manual_seed(0)
    stem = ResizedPatchStem(2, 3, patch, image_size, mode).double()
    image = torch.rand(2, 2, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    joint = stem(image)
    reference = two_steps(image, stem.weight, image_size, patch, mode)
    assert joint.shape == (2, 3, image_size // patch, image_size // patch)
    torch.testing.assert_close(joint, reference, atol=1e-10, rtol=0)

    probe = torch.randn(joint.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(joint, (image, stem.weight), probe),
        torch.autograd.grad(reference, (image, stem.weight), probe),
        strict=True,
    ):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
def test_every_size_of_image_is_exact(mode):
    stem = ResizedPatchStem(1, 1, 4, 48, mode).double()
    for side in range(1, 60):
        image = torch.rand(1, 1, side, 60 - side, dtype=torch.float64)
        reference = two_steps(image, stem.weight, 48, 4, mode)
        torch.testing.assert_close(stem(image), reference, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("image_size", "patch", "shape"), [case for case in UPSCALED if case[2] != (1, 2)])
def test_the_large_image_is_never_made(image_size, patch, shape, monkeypatch):
    def fail(*_):
        raise AssertionError("resized")

    stem = ResizedPatchStem(1, 1, patch, image_size)
    monkeypatch.setattr(stem, "resize", fail)
    stem(torch.rand(1, 1, *shape))


def test_float32_is_exact_to_rounding():
    stem, image = ResizedPatchStem(3, 16), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(stem(image), two_steps(image, stem.weight, 224, 4, "bicubic"), atol=1e-5, rtol=0)


def test_the_joint_kernel_is_made_in_full_precision_under_autocast():
    """bfloat16 rounds the kernel once: the error stays near that of the bfloat16 convolution on the large image."""
    stem, image = ResizedPatchStem(3, 16), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        exact = stem(image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = stem(image)
    assert rounded.dtype == torch.bfloat16
    assert float((rounded - exact).abs().max() / exact.abs().max()) < 0.02


def test_a_first_call_in_inference_mode_does_not_spoil_training():
    stem, image = ResizedPatchStem(1, 1, 4, 52).double(), torch.rand(1, 1, 26, 26, dtype=torch.float64)
    with torch.inference_mode():
        stem(image)
    stem(image).sum().backward()
    assert stem.weight.grad is not None


def test_resize_is_the_first_step():
    stem, image = ResizedPatchStem(3, 4, 4, 64), torch.rand(1, 3, 32, 24)
    expected = F.interpolate(image, (64, 64), mode="bicubic", align_corners=False)
    torch.testing.assert_close(stem.resize(image), expected)


@pytest.mark.parametrize("shape", [(64, 64), (16, 64)])
def test_scaling_down_is_antialiased(shape):
    """A one-pixel chequerboard becomes grey, not stripes."""
    rows, columns = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    chequers = ((rows + columns) % 2).float()[None, None]
    small = ResizedPatchStem(1, 1, 4, 20).resize(chequers)
    assert small.shape == (1, 1, 20, 20)
    inner = small[..., 4:-4, 4:-4]
    assert (inner - 0.5).abs().max() < 0.1


def test_there_is_one_parameter():
    stem = ResizedPatchStem(3, 16, patch=8, image_size=64)
    assert {name: tuple(p.shape) for name, p in stem.named_parameters()} == {"weight": (16, 3, 8, 8)}


def test_the_initial_weights_are_kaiming_normal():
    weight = ResizedPatchStem(64, 64).weight.detach()
    assert abs(float(weight.std()) / (2 / (64 * 16)) ** 0.5 - 1) < 0.02


@pytest.mark.parametrize(("patch", "image_size"), [(4, 30), (4, 0), (8, 4), (0, 8)])
def test_an_image_size_that_is_no_multiple_of_patch_is_refused(patch, image_size):
    with pytest.raises(ValueError, match="image_size must be a positive multiple of patch"):
        ResizedPatchStem(3, 16, patch, image_size)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode must be one of bicubic, bilinear, nearest; got 'area'"):
        ResizedPatchStem(3, 16, mode="area")


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 4, 32, 32)])
def test_an_image_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"image must be \(B, 3, h, w\)"):
        ResizedPatchStem(3, 16)(torch.rand(shape))
