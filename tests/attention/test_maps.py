"""[CLS] attention against timm's own extraction, the other map sources, and a cache that forgets nothing and trusts nothing."""

import subprocess
import sys

import pytest
import timm
import torch
from conftest import Hostile
from timm.models import Eva, VisionTransformer
from timm.utils import AttentionExtract

from resattn import ATTENTION_SOURCES, attention_maps, paths
from resattn.attention import maps as attention_module
from resattn.attention.maps import aggregate_heads, dataset_maps
from resattn.attention.sources import SQUARE_SIDE, border_contrast, bounding_box, min_max, object_focus
from resattn.attention.tiny import WEIGHTS
from resattn.attention.vit import cls_attention, load_vit, vit_input
from resattn.experiments.protocols import FOUR_HEADS
from resattn.files import load_arrays

TINY = "vit_tiny_patch16_224"  # 3 heads, maps of 14x14


def images_of(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def small_vit(**options) -> VisionTransformer:
    """Three blocks of three heads on 32x32 pixels, with weights large enough for uneven attention."""
    defaults = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0}
    vit = VisionTransformer(**defaults | options)
    generator = torch.Generator().manual_seed(0)
    for name, p in vit.named_parameters():
        p.data.normal_(1 if "norm" in name and name.endswith("weight") else 0, 0.2, generator=generator)
    vit.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return vit.eval().requires_grad_(False)


# Eq. 1 for the [CLS] query

VARIANTS = {
    "plain": {},
    "registers": {"reg_tokens": 2},
    "registers without positions": {"reg_tokens": 4, "no_embed_class": True},
    "norms": {"qk_norm": True, "pre_norm": True},
    "no bias": {"qkv_bias": False},
    "layer scale": {"init_values": 1.0},
    "oblong": {"img_size": (16, 40)},
    "one block": {"depth": 1},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_cls_attention_is_timms(options):
    vit = small_vit(**options)
    batch = torch.randn(2, 3, *vit.patch_embed.img_size)
    attention = cls_attention(vit, batch)

    vit.blocks[-1].attn.fused_attn = False
    name = f"blocks.{len(vit.blocks) - 1}.attn.softmax"
    extracted = AttentionExtract(vit, names=[name], method="fx")(batch)[name]
    expected = extracted[:, :, 0, vit.num_prefix_tokens :].unflatten(-1, vit.patch_embed.grid_size)
    assert expected.std() > 1e-3
    torch.testing.assert_close(attention, expected, atol=1e-6, rtol=0)


EVAS = {
    "DINOv3": {"rope_type": "dinov3", "rope_rotate_half": True, "use_abs_pos_emb": False, "qkv_bias": False},
    "rotations mixed anew in each block": {"rope_type": "mixed"},
    "separate projections": {"qkv_fused": False, "qk_norm": True},
    "biases": {"rope_type": "cat", "rope_rotate_half": True, "attn_type": "rope"},
}


@pytest.mark.parametrize("options", EVAS.values(), ids=EVAS)
def test_cls_attention_is_timms_with_rotary_embeddings(options):
    defaults = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0}
    vit = Eva(**defaults | {"num_reg_tokens": 4, "use_rot_pos_emb": True} | options)
    generator = torch.Generator().manual_seed(0)
    for name, p in vit.named_parameters():
        p.data.normal_(1 if "norm" in name and name.endswith("weight") else 0, 0.3, generator=generator)
    vit.double().eval().requires_grad_(False).blocks[-1].attn.fused_attn = False
    batch = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator)
    extract = AttentionExtract(vit, names=["blocks.2.attn.attn_drop"], method="hook")
    expected = extract(batch)["blocks.2.attn.attn_drop"][:, :, 0, 5:].unflatten(-1, (4, 4))
    assert expected.std() > 1e-2
    torch.testing.assert_close(cls_attention(vit, batch), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("model", ["vit_small_patch16_dinov3", "vit_small_patch14_reg4_dinov2"])
def test_dinos_successors_by_name(model):
    vit = load_vit(model, "random")
    batch = torch.randn(1, 3, *vit.patch_embed.img_size)
    vit.blocks[-1].attn.fused_attn = False
    name = "blocks.11.attn.attn_drop"
    expected = AttentionExtract(vit, names=[name], method="hook")(batch)[name][:, :, 0, 5:]
    torch.testing.assert_close(cls_attention(vit, batch).flatten(2), expected, atol=1e-6, rtol=0)
    assert attention_maps(images_of(1), "dino", model=model, weights="random").shape[1:] == (
        1,
        *vit.patch_embed.grid_size,
    )


def test_attention_shares_sum_to_at_most_one():
    attention = cls_attention(small_vit(reg_tokens=2), torch.randn(2, 3, 32, 32))
    assert attention.shape == (2, 3, 4, 4)
    sums = attention.sum((2, 3))
    assert (sums < 1).all()
    assert sums.max() > 0.3


def test_the_vit_sees_bicubic_images_in_its_own_normalization():
    vit = small_vit()
    images = images_of(2)
    expected = torch.nn.functional.interpolate(images / 255, (32, 32), mode="bicubic").clamp(0, 1)
    torch.testing.assert_close(vit_input(vit, images), (expected - 0.5) / 0.5)
    assert vit_input(vit, torch.full((1, 3, 5, 9), 255, dtype=torch.uint8)).allclose(torch.ones(1, 3, 32, 32))


@pytest.mark.parametrize("shape", [(64, 64), (64, 16)])
def test_images_larger_than_the_vits_are_antialiased(shape):
    rows, columns = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    chequers = (255 * ((rows + columns) % 2)).to(torch.uint8).expand(1, 3, -1, -1)
    inner = vit_input(small_vit(img_size=24), chequers)[..., 4:-4, 4:-4]
    assert inner.abs().max() < 0.2


# Heads


def test_heads_become_maps_as_asked():
    attention = torch.rand(2, 3, 4, 4)

    def scaled(channel: torch.Tensor) -> torch.Tensor:
        low, high = channel.amin((1, 2), keepdim=True), channel.amax((1, 2), keepdim=True)
        return (channel - low) / (high - low)

    torch.testing.assert_close(aggregate_heads(attention)[:, 0], scaled(attention.mean(1)))
    torch.testing.assert_close(aggregate_heads(attention, "max")[:, 0], scaled(attention.max(1).values))
    every = aggregate_heads(attention, "all")
    assert every.shape == attention.shape
    for head in range(3):
        torch.testing.assert_close(aggregate_heads(attention, head)[:, 0], scaled(attention[:, head]))
        torch.testing.assert_close(every[:, head], scaled(attention[:, head]))


@pytest.mark.parametrize("heads", ["median", -1, True, 1.0, None])
def test_heads_that_are_none_are_refused(heads):
    with pytest.raises(ValueError, match="heads must be 'mean', 'max', 'all' or a whole number at least 0, got"):
        attention_maps(images_of(2), "dino", heads=heads, model=TINY, weights="random")


def test_a_head_beyond_the_last_is_refused():
    with pytest.raises(ValueError, match="heads must be below 3, the number of heads, got 3"):
        attention_maps(images_of(2), "dino", heads=3, model=TINY, weights="random")


def test_min_max_spans_zero_to_one_and_a_constant_map_becomes_zero():
    maps = torch.stack([torch.rand(2, 5, 5) * 1e-3 + 3, torch.full((2, 5, 5), 0.7)])
    scaled = min_max(maps)
    assert scaled[0].amin((1, 2)).tolist() == [0, 0]
    assert scaled[0].amax((1, 2)).tolist() == [1, 1]
    assert (scaled[1] == 0).all()


# Sources


@pytest.mark.parametrize(("heads", "channels"), [("mean", 1), ("max", 1), (2, 1), ("all", 3)])
def test_dino_maps_of_any_timm_vit(heads, channels):
    images = images_of(3)
    maps = attention_maps(images, "dino", heads=heads, model=TINY, weights="random", batch_size=2)
    assert (maps.shape, maps.dtype) == ((3, channels, 14, 14), torch.float32)
    assert (maps.amin((2, 3)) == 0).all()
    assert (maps.amax((2, 3)) == 1).all()
    vit = load_vit(TINY, "random")
    torch.testing.assert_close(maps, aggregate_heads(cls_attention(vit, vit_input(vit, images)), heads))


@pytest.mark.parametrize("source", ["saliency", "uniform", "center", "shuffled", "oracle"])
def test_every_other_source_gives_one_map_an_image(source):
    maps = attention_maps(images_of(5), source, masks=torch.rand(5, 1, 28, 28))
    assert source in ATTENTION_SOURCES
    assert (maps.shape, maps.dtype) == ((5, 1, 28, 28), torch.float32)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_uniform_is_ones():
    assert (attention_maps(images_of(2), "uniform") == 1).all()


def test_center_falls_off_evenly_from_the_middle():
    maps = attention_maps(images_of(2), "center")
    assert maps[0].equal(maps[1])
    for mirrored in (maps.flip(2), maps.flip(3), maps.transpose(2, 3)):
        torch.testing.assert_close(maps, mirrored)
    middle_row = maps[0, 0, 14, 14:]
    assert middle_row[0] == 1
    assert (middle_row.diff() < 0).all()
    assert maps[0, 0, 0, 0] == 0


def test_center_maps_are_not_one_map_in_disguise():
    """Writing to one image's map must not change another's."""
    maps = attention_maps(images_of(2), "center")
    maps[0] = 0
    assert maps[1].max() == 1


@pytest.mark.parametrize("n", [2, 3, 50])
def test_shuffled_gives_every_map_to_another_image(n):
    images = images_of(n)
    own, shuffled = attention_maps(images, "saliency"), attention_maps(images, "shuffled", seed=4)
    same = (own[:, None] == shuffled[None]).flatten(2).all(2)  # same[i, j]: image j has the map of image i
    assert (same.sum(0) == 1).all()
    assert (same.sum(1) == 1).all()
    assert not same.diagonal().any()


def test_the_seed_decides_the_shuffle():
    first, again, other = (attention_maps(images_of(20), "shuffled", seed=seed) for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)


def test_shuffled_can_start_from_another_source():
    masks = torch.rand(4, 1, 32, 32)
    shuffled = attention_maps(images_of(4), "shuffled", base="oracle", masks=masks)
    assert sorted(map(float, shuffled.sum((1, 2, 3)))) == sorted(map(float, masks.sum((1, 2, 3))))


def test_box_is_the_rectangle_around_the_mask():
    masks = torch.zeros(2, 1, 6, 6)
    masks[0, 0, 1, 2] = masks[0, 0, 3, 4] = 1
    masks[0, 0, 5, 5] = 0.4  # less than half of the pixel: outside
    masks[1, 0, 2, 0] = 1
    boxes = attention_maps(images_of(2), "box", masks=masks)
    expected = torch.zeros(2, 1, 6, 6)
    expected[0, 0, 1:4, 2:5] = 1
    expected[1, 0, 2, 0] = 1
    assert torch.equal(boxes, expected)
    with pytest.raises(ValueError, match="source='box'"):
        attention_maps(images_of(2), "box")


def test_square_has_one_side_and_stays_inside():
    masks = torch.zeros(4, 1, 8, 8)
    masks[0, 0, 2:4, 3:7] = 1
    masks[1, 0, 0, 7] = 1  # in a corner: shifted back inside, not cropped
    masks[2, 0, 1:8, 2:6] = 1  # 7 high: as large a square as any
    squares = attention_maps(images_of(4), "square", masks=masks)
    expected = torch.zeros(4, 1, 8, 8)
    expected[0, 0, 1:5, 3:7] = expected[1, 0, 0:4, 4:8] = expected[2, 0, 2:6, 2:6] = 1
    assert torch.equal(squares, expected)  # the last mask is empty, and so is its map
    with pytest.raises(ValueError, match="source='square'"):
        attention_maps(images_of(4), "square")


def test_square_is_as_large_as_most_objects_and_tells_nothing_of_their_size(shapes):
    masks = shapes.train.masks
    boxes, squares = bounding_box(masks), attention_maps(shapes.train.images, "square", masks=masks)
    sides = torch.cat([boxes.amax(dim).sum((1, 2)) for dim in (2, 3)])
    assert sides.median() == SQUARE_SIDE * 32
    for dim in (2, 3):
        assert (squares.amax(dim).sum((1, 2)) == 16).all()
    assert (squares * boxes).sum() > 0.8 * squares.sum()


def test_oracle_is_the_masks(shapes):
    _, test = dataset_maps(shapes, "oracle")
    assert test.equal(shapes.test.masks)


@pytest.mark.parametrize(
    "masks",
    [
        torch.zeros(4, 28, 28),
        torch.zeros(4, 2, 28, 28),
        torch.full((4, 1, 8, 8), float("nan")),
        1.1 * torch.ones(4, 1, 8, 8),
    ],
    ids=["rank", "channels", "nan", "above one"],
)
@pytest.mark.parametrize("source", ["oracle", "box", "square"])
def test_masks_that_are_none_are_refused(masks, source):
    with pytest.raises(ValueError, match=r"masks must be \(N, 1, h, w\) in \[0, 1\]"):
        attention_maps(images_of(4), source, masks=masks)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_a_batch_of_nothing_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number at least 1, got {batch_size}"):
        attention_maps(images_of(2), "dino", model=TINY, weights="random", batch_size=batch_size)


def test_weights_that_are_not_finite_give_no_maps(tmp_path):
    """Scaled to [0, 1], NaN would be a map of exactly 0, and kept like a good one."""
    vit = timm.create_model(TINY, num_classes=0)
    vit.blocks[3].mlp.fc1.weight.data[0, 0] = float("nan")
    torch.save(vit.state_dict(), tmp_path / "broken.pth")
    for _ in range(2):  # the second time must not find them on disk
        with pytest.raises(
            ValueError, match=r"weights '.*broken.pth' of source 'dino' give attention that is not finite"
        ):
            attention_maps(images_of(2), "dino", model=TINY, weights=tmp_path / "broken.pth")


def test_random_weights_are_not_replaced_by_trained_ones():
    with pytest.raises(ValueError, match=r"weights must be 'pretrained' or a file .*'random'"):
        attention_maps(images_of(2), "dino-tiny", weights="random")


def test_saliency_of_an_image_is_its_own():
    """What else is in the batch does not matter."""
    images = images_of(4)
    torch.testing.assert_close(border_contrast(images)[2:3], border_contrast(images[2:3]))


def test_saliency_finds_what_differs_from_the_border():
    images = torch.full((1, 3, 32, 32), 60, dtype=torch.uint8)
    images[:, 0, 10:16, 18:26] = 220
    maps = border_contrast(images)
    assert maps.shape == (1, 1, 28, 28)
    row, column = divmod(int(maps.argmax()), 28)
    assert 10 <= (row + 0.5) * 32 / 28 <= 16
    assert 18 <= (column + 0.5) * 32 / 28 <= 26
    assert maps[..., :4, :8].max() < 0.05


@pytest.mark.parametrize("colour", [(0, 0, 0), (13, 77, 201), (45, 45, 45), (255, 255, 255)])
def test_an_image_of_one_colour_has_no_salient_place(colour):
    """Rounding errors must not be stretched to a map that spans [0, 1]."""
    image = torch.tensor(colour, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 32, 32)
    assert border_contrast(image).max() == 0


def test_saliency_finds_the_drawn_objects_better_than_the_controls(shapes):
    images, masks = shapes.test.images[:500], shapes.test.masks[:500]
    focus = {
        source: object_focus(attention_maps(images, source, masks=masks), masks)
        for source in ("saliency", "uniform", "center", "shuffled", "oracle")
    }
    for control in ("uniform", "center", "shuffled"):
        for measure in ("energy_ratio", "pointing_game"):
            assert focus["saliency"][measure] > 1.3 * focus[control][measure], (control, measure)
    assert focus["oracle"]["pointing_game"] == 1
    assert focus["oracle"]["energy_ratio"] > focus["saliency"]["energy_ratio"]
    assert focus["uniform"]["energy_ratio"] == pytest.approx(1)


def test_object_focus_by_hand():
    masks = torch.zeros(2, 1, 4, 4)
    masks[:, :, :2, :2] = 1  # a quarter of the area
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 0, 0] = 1  # all mass on the object
    maps[1, 0, 0, 0], maps[1, 0, 3, 3] = 1, 3  # a quarter of it
    assert object_focus(maps, masks) == {"energy_ratio": pytest.approx((4 + 1) / 2), "pointing_game": 0.5}


def test_dataset_maps_takes_both_splits(shapes, monkeypatch):
    monkeypatch.setattr(attention_module, "border_contrast", lambda batch: batch[:, :1, :28, :28] / 255)
    train, test = dataset_maps(shapes, "saliency")
    assert train.equal(shapes.train.images[:, :1, :28, :28] / 255)
    assert test.equal(shapes.test.images[:, :1, :28, :28] / 255)


# The cache


class Counter:
    """Stands in for the saliency: a map that tells images apart, a count of those it made, and a failure on demand."""

    def __init__(self, fail_after: float = float("inf")):
        self.images, self.fail_after = 0, fail_after

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self.images >= self.fail_after:
            raise KeyboardInterrupt
        self.images += len(images)
        return images[:, :1] / 255


@pytest.fixture
def counter(monkeypatch):
    counter = Counter()
    monkeypatch.setattr(attention_module, "border_contrast", counter)
    return counter


def expected_maps(images: torch.Tensor) -> torch.Tensor:
    return images[:, :1] / 255


def test_the_second_call_extracts_nothing(counter):
    images = images_of(10)
    first = attention_maps(images, "saliency")
    assert counter.images == 10
    assert attention_maps(images, "saliency").equal(first)
    assert counter.images == 10
    assert first.equal(expected_maps(images))


def test_the_second_call_loads_no_vit(monkeypatch):
    loads = []
    monkeypatch.setattr(attention_module, "load_vit", lambda *_: loads.append(1) or small_vit())
    images = images_of(3)
    first, second = (attention_maps(images, "dino", weights="random") for _ in range(2))
    assert loads == [1]
    assert first.equal(second)
    assert first.std() > 0.1


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def swap(path):
    path.write_text("something else")


@pytest.mark.parametrize("damage", [cut, flip_bit, swap])
def test_a_damaged_file_is_made_anew(counter, tmp_path, damage):
    images, cache = images_of(10), tmp_path / "maps"
    attention_maps(images, "saliency", cache=cache)
    (path,) = cache.glob("*.safetensors")
    damage(path)
    assert attention_maps(images, "saliency", cache=cache).equal(expected_maps(images))
    assert counter.images == 20
    assert load_arrays(path) is not None


def test_other_images_have_maps_of_their_own(counter):
    images = images_of(10)
    changed = images.clone()
    changed[3, 1, 4, 5] ^= 1
    for each in (images, changed, images[:9], images.flip(0)):
        assert attention_maps(each, "saliency").equal(expected_maps(each))
    assert counter.images == 10 + 10 + 9 + 10


def test_every_setting_has_maps_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(attention_module, "load_vit", lambda *_: small_vit())
    checkpoints = [tmp_path / name for name in ("a.pth", "b.pth")]
    for i, path in enumerate(checkpoints):
        path.write_bytes(bytes([i]))
    cache = tmp_path / "maps"
    settings = [
        {},
        {"heads": "max"},
        {"heads": 0},
        {"heads": 1},
        {"heads": "all"},
        {"model": TINY},
        {"weights": "pretrained"},
        {"seed": 1},
        *({"weights": path} for path in checkpoints),
    ]
    for n, changes in enumerate(settings, 1):
        for _ in range(2):
            attention_maps(images_of(2), "dino", cache=cache, **{"weights": "random"} | changes)
        assert len(list(cache.glob("*.safetensors"))) == n, changes


def test_settings_that_change_nothing_share_their_maps(counter):
    images = images_of(10)
    for changes in ({}, {"batch_size": 3}, {"seed": 5}, {"device": "cpu"}):
        attention_maps(images, "saliency", **changes)
    assert counter.images == 10


def test_processes_that_want_the_same_maps_make_them_once(tmp_path):
    code = """
import sys, time, torch
from pathlib import Path
from resattn.attention import maps

made = maps.border_contrast
maps.PART = 8
maps.border_contrast = lambda batch: print("made", flush=True) or time.sleep(0.1) or made(batch)
print("ready", flush=True)
sys.stdin.readline()
images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
print(float(maps.attention_maps(images, "saliency", cache=Path(sys.argv[1])).sum()))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=paths.CHECKOUT, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == 3 * ["ready\n"]
    for process in processes:  # together
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({output[-1] for output in outputs}) == 1
    assert sum(output.count("made") for output in outputs) == 8


def test_an_interrupted_extraction_goes_on_where_it_stopped(monkeypatch, tmp_path):
    images, cache = images_of(22), tmp_path / "maps"
    monkeypatch.setattr(attention_module, "PART", 4)
    first = Counter(fail_after=12)
    monkeypatch.setattr(attention_module, "border_contrast", first)
    with pytest.raises(KeyboardInterrupt):
        attention_maps(images, "saliency", cache=cache)
    assert first.images == 12

    second = Counter()
    monkeypatch.setattr(attention_module, "border_contrast", second)
    assert attention_maps(images, "saliency", cache=cache).equal(expected_maps(images))
    assert second.images == 22 - 12
    assert {path.suffix for path in cache.iterdir()} == {".safetensors", ".lock"}, "saved parts are cleared away"


def test_a_damaged_part_is_extracted_anew(monkeypatch, tmp_path):
    images, cache = images_of(12), tmp_path / "maps"
    monkeypatch.setattr(attention_module, "PART", 4)
    monkeypatch.setattr(attention_module, "border_contrast", Counter(fail_after=8))
    with pytest.raises(KeyboardInterrupt):
        attention_maps(images, "saliency", cache=cache)
    first, second = sorted(cache.rglob("*.safetensors"))
    cut(first)

    again = Counter()
    monkeypatch.setattr(attention_module, "border_contrast", again)
    assert attention_maps(images, "saliency", cache=cache).equal(expected_maps(images))
    assert again.images == 8
    assert not second.exists()


# The ViT's weights


def test_random_weights_come_from_the_seed_alone():
    before = torch.random.get_rng_state()
    first, again, other = (load_vit(TINY, "random", seed).blocks[0].attn.qkv.weight for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    assert torch.random.get_rng_state().equal(before), "the global generator is left alone"


def test_a_checkpoint_file_gives_its_weights(tmp_path):
    path = tmp_path / "vit.pth"
    vit = load_vit(TINY, "random", seed=7)
    torch.save(vit.state_dict(), path)
    loaded = load_vit(TINY, path).state_dict()
    assert all(loaded[name].equal(value) for name, value in vit.state_dict().items())


def test_a_checkpoint_file_may_hold_a_classifier(tmp_path):
    """The attention has no use for it, and files meant for the model often do."""
    path = tmp_path / "vit.pth"
    vit = timm.create_model(TINY, num_classes=10)
    torch.save(vit.state_dict(), path)
    assert load_vit(TINY, path).blocks[0].attn.qkv.weight.equal(vit.blocks[0].attn.qkv.weight)


def test_a_weights_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save({"x": Hostile(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match="does not fit"):
        load_vit(TINY, path)
    assert not (tmp_path / "ran").exists()


def test_weights_that_cannot_be_fetched_come_with_advice(monkeypatch):
    def fail(*_args, **_options):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConnectionError, match=r"'vit_base_patch8_224.dino' could not be fetched") as caught:
        attention_maps(images_of(2), "dino")
    assert "weights=PATH" in str(caught.value)
    assert "source='saliency'" in str(caught.value)


@pytest.mark.parametrize("weights", ["random", "pretrained"])
@pytest.mark.parametrize("model", ["vit_of_nobody", "vit_base_patch8_224.nobody"])
def test_an_unknown_model_is_named(model, weights):
    with pytest.raises(ValueError, match=f"model must be a timm model name such as .*, got '{model}'"):
        attention_maps(images_of(2), "dino", model=model, weights=weights)


def test_a_model_that_is_no_vision_transformer_is_refused():
    with pytest.raises(ValueError, match=r"model must be a timm VisionTransformer with a class token.*got 'resnet18'"):
        attention_maps(images_of(2), "dino", model="resnet18", weights="random")


def test_a_model_without_a_class_token_is_refused(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: small_vit(class_token=False, global_pool="avg"))
    with pytest.raises(ValueError, match="model must be a timm VisionTransformer with a class token"):
        attention_maps(images_of(2), "dino", model="vit_small_gap", weights="random")


def test_missing_weights_are_named(tmp_path):
    path = tmp_path / "none.pth"
    with pytest.raises(ValueError, match=f"weights must be 'pretrained', 'random' or a checkpoint file, got '{path}'"):
        attention_maps(images_of(2), "dino", model=TINY, weights=path)


def test_dino_tiny_takes_other_weights_of_its_kind(tmp_path):
    images = images_of(3)
    packaged = attention_maps(images, "dino-tiny")
    assert attention_maps(images, "dino-tiny", weights=WEIGHTS).equal(packaged)
    heads = attention_maps(images, "dino-tiny", weights=FOUR_HEADS, heads="all")
    assert heads.shape[:2] == (3, 4)
    assert not attention_maps(images, "dino-tiny", weights=FOUR_HEADS).equal(packaged)
    missing = tmp_path / "none.safetensors"
    with pytest.raises(
        ValueError, match=f"weights must be 'pretrained' or a file that resattn.dino.pretrain wrote, got '{missing}'"
    ):
        attention_maps(images, "dino-tiny", weights=missing)


def test_weights_that_are_none_are_named(tmp_path):
    path = tmp_path / "notes.pth"
    path.write_text("no weights")
    with pytest.raises(ValueError, match=f"weights .*{path}"):
        attention_maps(images_of(2), "dino", model=TINY, weights=path)


def test_weights_of_another_model_are_named(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match=f"weights file {path} does not fit '{TINY}'"):
        attention_maps(images_of(2), "dino", model=TINY, weights=path)


# Bad arguments


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"source must be one of dino, .*; got 'grad-cam'"):
        attention_maps(images_of(2), "grad-cam")


@pytest.mark.parametrize(
    "images",
    [torch.rand(2, 3, 8, 8), images_of(2)[0], images_of(2)[:, :1], images_of(2).numpy()],
    ids=["float", "one image", "one channel", "array"],
)
def test_images_that_are_none_are_refused(images):
    with pytest.raises(ValueError, match=r"images must be a uint8 tensor \(N, 3, H, W\), got"):
        attention_maps(images, "saliency")
    with pytest.raises(ValueError, match="images must not be empty"):
        attention_maps(images_of(2)[:0], "saliency")


@pytest.mark.parametrize("masks", [None, torch.rand(3, 1, 8, 8)])
def test_oracle_needs_one_mask_an_image(masks):
    with pytest.raises(ValueError, match="masks must hold one true mask an image"):
        attention_maps(images_of(2), "oracle", masks=masks)


@pytest.mark.parametrize("base", ["uniform", "center", "shuffled", "grad-cam"])
def test_shuffled_refuses_a_base_that_is_none(base):
    with pytest.raises(ValueError, match=f"base must be .*'{base}'"):
        attention_maps(images_of(2), "shuffled", base=base)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "random"}, "weights must be 'pretrained' for source='saliency', got 'random'"),
        ({"heads": "all"}, "heads must be 'mean' for source='saliency', which has none, got 'all'"),
    ],
)
@pytest.mark.parametrize("source", ["saliency", "shuffled"])
def test_what_a_source_has_not_is_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        attention_maps(images_of(2), source, **options)


def test_shuffled_hands_heads_and_weights_on_to_its_base():
    images, options = images_of(2), {"weights": FOUR_HEADS, "heads": "all"}
    shuffled = attention_maps(images, "shuffled", base="dino-tiny", **options)
    assert shuffled.equal(attention_maps(images, "dino-tiny", **options).flip(0))


def test_one_image_cannot_be_shuffled():
    with pytest.raises(ValueError, match="images must be at least 2 for source='shuffled', got 1"):
        attention_maps(images_of(1), "shuffled")
