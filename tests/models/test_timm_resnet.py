"""Gates in timm's ResNets: the untouched network at a = 0, the equations by hand at a > 0, and what timm's networks can do."""

import copy

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from resattn import TrainConfig, gate_residuals
from resattn.data.shapes import CLASSES, write_shapes
from resattn.models.checkpoints import build_model, load_trained
from resattn.models.cost import network_cost
from resattn.training.trainer import train

SIDE = 48


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(n: int = 2, channels: int = 1, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = seeded(1)
    return torch.randn(n, 3, side, side, generator=generator), torch.rand(n, channels, 9, 9, generator=generator)


def backbone(name: str = "resnet18", **options) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=5, **{"zero_init_last": False} | options)


def gradients(net: torch.nn.Module, *given: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    scores = net(*given)
    F.cross_entropy(scores, torch.arange(len(scores))).backward()
    return scores, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("form", ["gated", "residual"])
@pytest.mark.parametrize(
    "name", ["resnet18", "resnet26", "resnet26d", pytest.param("resnext50_32x4d", marks=pytest.mark.slow)]
)
def test_at_zero_it_is_the_untouched_network_bit_for_bit(name, form):
    net = backbone(name)
    gated = gate_residuals(net, 0.0, form)
    image, attention = inputs()
    for training in (True, False):
        untouched = copy.deepcopy(net).train(training)
        expected, its = gradients(untouched, image)
        for given in ((image,), (image, attention)):
            again = copy.deepcopy(gated).train(training)
            scores, ours = gradients(again, *given)
            assert torch.equal(scores, expected)
            assert ours.keys() == its.keys()
            assert all(torch.equal(ours[key], its[key]) for key in its)
            assert all(torch.equal(again.state_dict()[key], value) for key, value in untouched.state_dict().items())


@pytest.mark.parametrize("form", ["gated", "residual"])
@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
def test_the_equations_by_hand(name, form):
    """Sec. 3.5 written again with the blocks' own layers; the branch too."""
    a = 0.3
    net = gate_residuals(backbone(name), a, form).eval()
    image, attention = inputs()
    x = net.maxpool(F.relu(net.bn1(net.conv1(image))))
    m = net.attention_stem(F.interpolate(attention, (SIDE, SIDE), mode="bicubic", align_corners=False))
    blocks = [block for i in range(1, 5) for block in getattr(net, f"layer{i}")]
    for i, block in enumerate(blocks):
        feature = F.relu(block.bn1(block.conv1(x)))
        feature = block.bn2(block.conv2(feature))
        if hasattr(block, "conv3"):
            feature = block.bn3(block.conv3(F.relu(feature)))
        skip = x
        following = net.attention_blocks[i](m) if i < len(net.attention_blocks) else None
        if form == "gated":
            skip = x * (1 - a + a * m)
        else:
            feature = feature * (1 - a + a * following)
        if block.downsample is not None and len(block.downsample._modules):
            for child, layer in block.downsample.named_children():
                skip = skip if child == "gate" else layer(skip)
        x, m = F.relu(feature + skip), following
    torch.testing.assert_close(net(image, attention), net.fc(x.mean((2, 3))))
    assert not torch.allclose(net(image, attention), net(image, 1 - attention))


def test_only_the_residual_form_has_the_last_attention_block():
    assert [len(gate_residuals(backbone(), 1, form).attention_blocks) for form in ("gated", "residual")] == [7, 8]


def test_bottlenecks_have_bottlenecks_beside_them():
    blocks = gate_residuals(backbone("resnet50"), 1).attention_blocks
    kernels = [[layer.kernel_size[0] for layer in block if isinstance(layer, torch.nn.Conv2d)] for block in blocks]
    assert kernels == [[1, 3, 1]] * 15
    assert [block[3].out_channels for block in blocks] == [16] * 3 + [32] * 4 + [64] * 6 + [128] * 2


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("resnet18", (0.80, 0.92)),
        ("resnet34", (0.90, 0.96)),
        ("resnet50", (0.13, 0.14)),
        ("resnext50_32x4d", (0.12, 0.13)),
    ],
)
def test_the_branch_costs_its_stated_share(name, stated):
    """Gated and residual, as notebook 07 shows them."""
    whole, *masked = (
        network_cost(TrainConfig(model=name, form=form, a=a, image_size=64), 1000).macs
        for form, a in (("gated", 0.0), ("gated", 1.0), ("residual", 1.0))
    )
    assert [cost / whole - 1 for cost in masked] == pytest.approx(stated, abs=0.006)


@pytest.mark.parametrize("form", ["gated", "residual"])
def test_weights_load_both_ways_by_timms_names(form, tmp_path):
    net, gated = backbone("resnet26"), gate_residuals(backbone("resnet26"), 0.0, form)
    torch.nn.init.normal_(net.conv1.weight)
    problems = gated.load_state_dict(net.state_dict(), strict=False)
    assert problems.unexpected_keys == []
    assert {key.split(".")[0] for key in problems.missing_keys} == {"attention_stem", "attention_blocks"}
    image, attention = inputs()
    assert torch.equal(gated.eval()(image), net.eval()(image))

    save_file(gated.state_dict(), tmp_path / "gated.safetensors")
    other = gate_residuals(backbone("resnet26"), 0.7, form, generator=seeded(3)).eval()
    other.load_state_dict(load_file(tmp_path / "gated.safetensors"))
    gated.a = 0.7
    assert torch.equal(other(image, attention), gated(image, attention))
    assert net.load_state_dict(gated.state_dict(), strict=False).missing_keys == []


def test_features_and_a_new_classifier():
    net = gate_residuals(backbone(), 0.5).eval()
    image, attention = inputs()
    features = net.forward_features(image, attention)
    assert features.shape == (2, 512, 2, 2)
    assert torch.equal(net.forward_head(features), net(image, attention))
    last, every = net.forward_intermediates(image, attention=attention)
    assert torch.equal(last, features)
    assert [tuple(each.shape[1:]) for each in every[1:]] == [(64, 12, 12), (128, 6, 6), (256, 3, 3), (512, 2, 2)]
    net.reset_classifier(3)
    assert net(image, attention).shape == (2, 3)
    net.reset_classifier(0)
    assert net(image, attention).shape == (2, 512)
    assert copy.deepcopy(net)(image, attention).equal(net(image, attention))


@pytest.mark.parametrize("side", [37, 64])
def test_any_size_of_image_and_every_stem(side):
    image, attention = inputs(side=side, channels=2)
    assert gate_residuals(backbone(), 0.5, attention_channels=2)(image, attention).shape == (2, 5)
    small = backbone()
    small.conv1, small.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    net = gate_residuals(small, 0.5, attention_channels=2)
    assert net(image, attention).shape == (2, 5)
    assert net.masks(attention, (side, side))[0].shape == (2, 64, side, side)
    dilated = gate_residuals(backbone(output_stride=8), 0.5, attention_channels=2)
    assert dilated.forward_features(image, attention).shape[-1] == -(-side // 8)


def test_images_are_resized_first_where_asked():
    net = gate_residuals(backbone(), 0.5, image_size=SIDE).eval()
    image, attention = inputs(side=24)
    resized = F.interpolate(image, (SIDE, SIDE), mode="bicubic", align_corners=False)
    assert torch.equal(net(image, attention), net(resized, attention))


@pytest.mark.parametrize("form", ["gated", "residual"])
def test_it_compiles_to_one_graph_and_channels_last_agrees(form):
    net = gate_residuals(backbone(), 0.5, form).eval()
    image, attention = inputs()
    expected = net(image, attention)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image, attention), expected)
    last = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(image.contiguous(memory_format=torch.channels_last), attention), expected)
    torch._dynamo.reset()


def test_the_branch_trains_and_one_seed_gives_one_branch():
    first, second = (gate_residuals(backbone(), 0.5, generator=seeded()) for _ in range(2))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    _, found = gradients(first, *inputs(5, side=64))
    branch = {key for key, _ in first.named_parameters() if key.startswith("attention")}
    assert branch <= found.keys()
    assert all(found[key].abs().max() > 0 for key in branch if key.endswith("weight"))


# Bad input


def checkpointing_backbone():
    net = backbone()
    net.set_grad_checkpointing()
    return net


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: timm.create_model("convnext_atto"), {}, "net must be a ResNet of timm .resnet18.*got ConvNeXt"),
        (lambda: torch.nn.Linear(2, 2), {}, "net must be a ResNet of timm.*got Linear"),
        (lambda: gate_residuals(backbone()), {}, "not gated yet, got GatedResNet"),
        (lambda: backbone().half(), {}, "backbone in half precision"),
        (lambda: backbone().bfloat16(), {}, "backbone in half precision"),
        (checkpointing_backbone, {}, "net must not compute its blocks a second time"),
        (lambda: timm.create_model("seresnet50"), {"form": "residual"}, "no attention module"),
        (backbone, {"form": "printed"}, "form must be one of gated, residual; got 'printed'"),
        (backbone, {"a": 1.5}, r"a must be a number in \[0, 1\], got 1.5"),
        (backbone, {"attention_channels": 0}, "attention_channels must be a whole number at least 1, got 0"),
        (backbone, {"image_size": 0}, "image_size must be a whole number at least 1 or None, got 0"),
        (backbone, {"image_size": 0.5}, "image_size must be a whole number at least 1 or None, got 0.5"),
    ],
)
def test_what_cannot_be_gated_is_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        gate_residuals(make(), **options)


def test_bad_images_and_maps_are_refused():
    net = gate_residuals(backbone(), 0.5)
    image, attention = inputs()
    with pytest.raises(ValueError, match=r"attention must be \(B, 1, h, w\), got \(2, 3, 9, 9\)"):
        net(image, attention.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="one map an image: got 1 maps for 2 images"):
        net(image, attention[:1])
    with pytest.raises(ValueError, match="attention must be given where a > 0"):
        net(image)
    with pytest.raises(ValueError, match=r"image must be \(B, C, H, W\), sides at least 4, got \(2, 3, 3, 48\)"):
        net(image[:, :, :3], attention)
    with pytest.raises(ValueError, match=r"a must be a number in \[0, 1\], got -1"):
        net.a = -1
    with pytest.raises(ValueError, match="enable must be False"):
        net.set_grad_checkpointing()


# Image folders


def test_a_folder_of_large_images_goes_the_whole_way(tmp_path):
    """Drawn files, decoding, maps, a gated ResNet18, one epoch, record, weights; the masks are in the order of the images."""
    from resattn import attention_maps, load_dataset
    from resattn.attention.sources import object_focus

    masks = write_shapes(tmp_path / "data" / "large", 72, train=40, test=20)
    data = load_dataset("large", tmp_path / "data", cache=tmp_path / "cache")
    assert data.train.images.shape == (40, 3, 72, 72)
    assert data.classes == CLASSES
    maps = attention_maps(data.train.images, "oracle", masks=torch.from_numpy(masks["train"]))
    brighter = [
        (data.train.images.float().mean(1, keepdim=True) * part).sum() / part.sum() for part in (maps, 1 - maps)
    ]
    assert brighter[0] > 1.1 * brighter[1]
    found = attention_maps(data.train.images, "saliency", cache=tmp_path / "cache")
    own, another = (object_focus(found, masks)["energy_ratio"] for masks in (maps, maps.roll(5, 0)))
    assert own > 1.2 * another

    config = TrainConfig.preset(
        "demo", dataset="large", root=tmp_path / "data", model="resnet18", form="gated", a=1.0, source="saliency",
        epochs=1, image_size=64, batch_size=8, lr=0.001,
    )  # fmt: skip
    record = train(config, folder=tmp_path / "run", on_epoch=lambda _: None)
    assert record["config"]["model"] == "resnet18"
    net = load_trained(tmp_path / "run" / "weights.safetensors")
    assert (net.image_size, net.a, net.form, net.fc.out_features) == (64, 1.0, "gated", 10)
    start = build_model(config, 10)
    assert not torch.equal(net.attention_stem[0].weight, start.attention_stem[0].weight)
