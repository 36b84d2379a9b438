"""Eq. 3-4 recomputed from the weights alone, both forms against ResNet8, the masks, and the initial weights."""

import math

import pytest
import torch
from torch.nn import functional as F

from resattn import ResAttnNet, resnet8
from resattn.config import DEPTHS
from resattn.data.shapes import make_shapes
from resattn.models.cost import cost_table
from resattn.models.resattn import coefficients

SIZE = 32  # pixels: everything here holds for any size


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(n: int = 4, channels: int = 1, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and maps of different sizes, as in use."""
    generator = seeded(1)
    image = torch.randn(n, 3, 16, 16, generator=generator, dtype=dtype)
    return image, torch.rand(n, channels, 14, 14, generator=generator, dtype=dtype)


def lively(net: torch.nn.Module) -> torch.nn.Module:
    """In evaluation mode, with every batch normalization away from the identity it starts at."""
    generator = seeded(2)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


# The equations


class ByHand:
    """The network of Sec. 3.3-3.5 written again, from its weights and torch.nn.functional alone."""

    def __init__(self, net: ResAttnNet):
        self.weights = net.state_dict()
        self.a, self.form = net.a, net.form

    def conv(self, x, name, stride):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, x, name):
        mean, var, weight, bias = (
            self.weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def stem(self, x, name):
        x = F.interpolate(x, (SIZE, SIZE), mode="bicubic", align_corners=False)
        return self.norm(F.conv2d(x, self.weights[f"{name}.0.weight"], stride=4), f"{name}.1")

    def feature(self, x, i, stride):
        x = F.relu(self.norm(self.conv(x, f"blocks.{i}.conv1", stride), f"blocks.{i}.bn1"))
        return self.norm(self.conv(x, f"blocks.{i}.conv2", 1), f"blocks.{i}.bn2")

    def project(self, x, i, stride):
        """P_i: a strided 1x1 convolution with batch normalization where the shape changes."""
        if f"blocks.{i}.projection.0.weight" not in self.weights:
            return x
        return self.norm(self.conv(x, f"blocks.{i}.projection.0", stride), f"blocks.{i}.projection.1")

    def next_mask(self, m, i, stride):
        m = F.relu(self.norm(self.conv(m, f"attention_blocks.{i}.0", stride), f"attention_blocks.{i}.1"))
        return torch.sigmoid(self.norm(self.conv(m, f"attention_blocks.{i}.3", 1), f"attention_blocks.{i}.4"))

    def run(self, image, attention, strides=(1, 2, 2)):
        """Every x_i and every mask that is used, then the scores."""
        a, x, m = self.a, F.relu(self.stem(image, "stem")), torch.sigmoid(self.stem(attention, "attention_stem"))
        features, masks = [x], [m]
        for i, stride in enumerate(strides):
            f = self.feature(x, i, stride)
            if self.form == "printed":  # Eq. 3, then Eq. 4
                residual = a * self.project(x * m, i, stride) + a * f
                x = F.relu(residual + f)
            elif self.form == "scaled":
                x = F.relu((1 + a) * f)
            elif self.form == "unmasked":
                x = F.relu((1 + a) * f + a * self.project(x, i, stride))
            elif self.form == "residual":  # the mask of Eq. 4's index, which has this block's shape
                x = F.relu(f * (1 - a + a * self.next_mask(m, i, stride)) + self.project(x, i, stride))
            else:
                x = F.relu(f + self.project(x * (1 - a + a * m), i, stride))
            features.append(x)
            if i + 1 < len(strides) or self.form == "residual":
                m = self.next_mask(m, i, stride)
                masks.append(m)
        if self.form == "residual":
            masks = masks[1:]
        scores = x.mean((2, 3)) @ self.weights["fc.weight"].T + self.weights["fc.bias"]
        return features, masks, scores


@pytest.mark.parametrize("a", [0, 0.3, 1])
@pytest.mark.parametrize("form", ["printed", "gated", "residual", "scaled", "unmasked"])
def test_features_masks_and_scores_follow_the_equations(form, a):
    net = lively(ResAttnNet(7, a, form, image_size=SIZE, generator=seeded()).double())
    image, attention = inputs(dtype=torch.float64)
    hooked = []
    for part in (net.stem, *net.blocks):
        part.register_forward_hook(lambda _module, _inputs, output: hooked.append(output))
    scores = net(image, attention)

    features, masks, expected = ByHand(net).run(image, attention)
    for ours, theirs in zip([*hooked, *net.masks(attention), scores], [*features, *masks, expected], strict=True):
        assert theirs.std() > 1e-3
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("form", ["printed", "gated", "residual", "scaled", "unmasked"])
def test_gradients_follow_the_equations(form):
    net = lively(ResAttnNet(7, 0.6, form, image_size=SIZE, generator=seeded()).double())
    image, attention = inputs(dtype=torch.float64)
    labels = torch.tensor([3, 1, 4, 1])
    F.cross_entropy(net(image, attention), labels).backward()
    by_hand = ByHand(net)
    by_hand.weights |= {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    F.cross_entropy(by_hand.run(image, attention)[2], labels).backward()
    for name, p in net.named_parameters():
        expected = by_hand.weights[name].grad
        assert (p.grad is None) == (expected is None), name
        if expected is not None:
            assert expected.abs().max() > 0, name
            torch.testing.assert_close(p.grad, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("form", ["scaled", "unmasked"])
def test_the_controls_look_at_no_map(form):
    net = lively(ResAttnNet(10, 1, form, image_size=SIZE, generator=seeded()))
    image, attention = inputs()
    assert net(image).equal(net(image, attention))


def test_the_unmasked_form_is_the_printed_one_with_masks_of_one(monkeypatch):
    image, attention = inputs()
    nets = {f: lively(ResAttnNet(10, 0.5, f, image_size=SIZE, generator=seeded())) for f in ("printed", "unmasked")}
    masks = [torch.ones_like(mask) for mask in nets["printed"].masks(attention)]
    monkeypatch.setattr(nets["printed"], "masks", lambda _: masks)
    assert nets["printed"](image, attention).equal(nets["unmasked"](image))


@pytest.mark.parametrize("form", ["printed", "gated"])
def test_eq_3_and_4_from_the_hooked_parts(form):
    """x_i from the block's own f_i, P_i and m_{i-1}, caught on their way, in training mode."""
    net = ResAttnNet(5, 0.6, form, image_size=SIZE, generator=seeded()).double()
    image, attention = inputs(dtype=torch.float64)
    caught: dict[str, torch.Tensor] = {}
    for i, block in enumerate(net.blocks):
        for name, part in (("f", block.bn2), ("x", block), ("skip", block.projection)):
            part.register_forward_hook(lambda _m, _i, output, key=f"{name}{i}": caught.update({key: output.clone()}))
        block.projection.register_forward_hook(lambda _m, given, _o, key=f"gated{i}": caught.update({key: given[0]}))
        block.register_forward_hook(lambda _m, given, _o, key=f"before{i}": caught.update({key: given[0]}))
    for i, part in enumerate((net.attention_stem, *net.attention_blocks)):
        part.register_forward_hook(lambda _m, _i, output, key=f"m{i}": caught.update({key: output}))
    net(image, attention)
    for i in range(3):
        f, skip, before, m = (caught[f"{name}{i}"] for name in ("f", "skip", "before", "m"))
        printed = form == "printed"
        gate = m if printed else 1 - 0.6 + 0.6 * m
        torch.testing.assert_close(caught[f"gated{i}"], before * gate, atol=1e-10, rtol=0)
        expected = F.relu(1.6 * f + 0.6 * skip if printed else f + skip)
        torch.testing.assert_close(caught[f"x{i}"], expected, atol=1e-10, rtol=0)


# Against the standard network


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("with_map", [True, False])
@pytest.mark.parametrize("form", ["gated", "residual"])
def test_without_strength_it_is_resnet8_bit_for_bit(form, mode, with_map):
    base = lively(resnet8(10, image_size=SIZE, generator=seeded())).train(mode == "train")
    net = ResAttnNet(10, 0, form, image_size=SIZE, generator=seeded(9)).train(mode == "train")
    loaded = net.load_state_dict(base.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    assert all(key.startswith("attention_") for key in loaded.missing_keys)

    image, attention = inputs()
    labels = torch.tensor([3, 1, 4, 1])
    scores, expected = net(image, attention if with_map else None), base(image)
    assert scores.equal(expected)
    F.cross_entropy(scores, labels).backward()
    F.cross_entropy(expected, labels).backward()
    ours = dict(net.named_parameters())
    for name, parameter in base.named_parameters():
        assert parameter.grad.abs().max() > 0
        assert ours[name].grad.equal(parameter.grad), name
    assert all(p.grad is None for name, p in ours.items() if name.startswith("attention_"))
    buffers = dict(net.named_buffers())
    for name, buffer in base.named_buffers():
        assert buffers[name].equal(buffer), name


@pytest.mark.parametrize("form", ["gated", "residual"])
def test_it_tends_to_resnet8_through_the_masks(form):
    base = lively(resnet8(10, image_size=SIZE, generator=seeded()))
    net = ResAttnNet(10, 1e-9, form, image_size=SIZE).eval()
    net.load_state_dict(base.state_dict(), strict=False)
    image, attention = inputs()
    torch.testing.assert_close(net(image, attention), base(image), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("widths", [(8, 8, 8), (8, 16, 16), (12, 24, 48)])
def test_other_widths_agree_with_resnet8_too(widths):
    base = lively(resnet8(10, widths=widths, image_size=SIZE, generator=seeded()))
    net = ResAttnNet(10, 0, "gated", widths=widths, image_size=SIZE).eval()
    net.load_state_dict(base.state_dict(), strict=False)
    image, _ = inputs()
    torch.testing.assert_close(net(image), base(image), atol=0, rtol=0)


def test_printed_without_strength_has_no_skip():
    """With f_1 = 0, block 1 of the printed form forgets its input; the gated form, a standard ResNet, hands it on."""
    image, _ = inputs()
    outputs = {}
    for form in ("printed", "gated"):
        net = lively(ResAttnNet(10, 0, form, image_size=SIZE, generator=seeded()))
        torch.nn.init.zeros_(net.blocks[0].bn2.weight)
        torch.nn.init.zeros_(net.blocks[0].bn2.bias)
        outputs[form] = net.blocks[0](net.stem(image), None, coefficients(form, net.a)), net(image)
    assert (outputs["printed"][0] == 0).all()
    assert outputs["printed"][1].std(0).max() == 0
    assert outputs["gated"][0].std(0).max() > 0
    assert outputs["gated"][1].std(0).max() > 0


def test_the_residual_form_alone_has_the_last_attention_block():
    nets = {form: ResAttnNet(10, 1, form, image_size=SIZE, generator=seeded()) for form in ("gated", "residual")}
    assert [len(net.attention_blocks) for net in nets.values()] == [2, 3]
    shared = nets["gated"].state_dict()
    weights = nets["residual"].state_dict()
    assert all(weights[name].equal(value) for name, value in shared.items()), "one seed, the same weights"
    with pytest.raises(ValueError, match="form must not become 'residual'"):
        nets["gated"].form = "residual"
    image, attention = inputs()
    nets["residual"].form = "gated"
    assert nets["residual"](image, attention).equal(nets["gated"](image, attention))


def test_resnet8_ignores_the_attention_map():
    base = resnet8(10, image_size=SIZE).eval()
    image, attention = inputs()
    assert base(image, attention).equal(base(image))


def test_resnet8_has_the_size_of_the_resnet8_in_the_literature():
    """6n + 2 with n = 1: seven 3x3 or patch convolutions and one fully connected layer, about 0.08 million weights."""
    base = resnet8(10)
    convolutions = [p for p in base.parameters() if p.ndim == 4 and p.shape[-1] > 1]
    assert len(convolutions) == 7
    assert 70_000 < sum(p.numel() for p in base.parameters()) < 85_000


# Known attention modules in the standard network


def squeeze_excite(x, w):
    squeezed = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), w["fc1.weight"], w["fc1.bias"]))
    return x * torch.sigmoid(F.conv2d(squeezed, w["fc2.weight"], w["fc2.bias"]))


def efficient_channel_attention(x, w):
    across = F.conv1d(x.mean((2, 3))[:, None], w["conv.weight"], padding=w["conv.weight"].shape[-1] // 2)
    return x * torch.sigmoid(across)[:, 0, :, None, None]


def cbam(x, w):
    """Channels by their mean and maximum, then places by the mean and maximum over channels."""
    pooled = (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))
    first, second = w["channel.fc1.weight"], w["channel.fc2.weight"]
    x = x * torch.sigmoid(sum(F.conv2d(F.relu(F.conv2d(part, first)), second) for part in pooled))
    seen = F.conv2d(torch.stack((x.mean(1), x.amax(1)), 1), w["spatial.conv.conv.weight"], padding=3)
    norm = [w[f"spatial.conv.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    return x * torch.sigmoid(F.batch_norm(seen, *norm))


MODULES = {"se": squeeze_excite, "eca": efficient_channel_attention, "cbam": cbam}


@pytest.mark.parametrize("name", MODULES)
def test_known_modules_weigh_what_the_convolutions_found(name):
    net = lively(resnet8(10, image_size=SIZE, attention=name, generator=seeded())).double()
    x = torch.randn(2, 16, 8, 8, generator=seeded(3), dtype=torch.float64, requires_grad=True)
    block = net.blocks[1]  # with a projection
    weights = {key: value.detach().clone() for key, value in block.attention.state_dict().items()}
    f = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    expected = F.relu(MODULES[name](f, weights) + block.projection(x))
    assert not expected.allclose(F.relu(f + block.projection(x)))
    torch.testing.assert_close(block(x), expected, atol=1e-10, rtol=0)
    wanted, got = (torch.autograd.grad(output.square().sum(), x)[0] for output in (expected, block(x)))
    torch.testing.assert_close(got, wanted, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", MODULES)
def test_known_modules_start_as_their_seed_says_not_the_global_one(name):
    def build(global_seed, seed):
        torch.manual_seed(global_seed)
        state = resnet8(10, attention=name, generator=seeded(seed)).state_dict()
        return {key: value for key, value in state.items() if ".attention." in key and value.ndim > 1}

    first = build(0, 5)
    assert first
    assert all(value.equal(first[key]) for key, value in build(1, 5).items())
    assert not any(value.equal(first[key]) for key, value in build(0, 6).items())


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="attention must be None or one of se, eca, cbam; got 'gather'"):
        resnet8(10, attention="gather")


# The masks


@pytest.mark.parametrize(
    ("widths", "depths"), [((16, 32, 64), (1, 1, 1)), ((8,), (1,)), ((8, 16), (2, 3)), ((8, 8, 12, 16), (1, 1, 2, 1))]
)
def test_every_mask_has_the_shape_of_what_it_masks(widths, depths):
    net = ResAttnNet(10, 1, widths=widths, depths=depths, image_size=SIZE)
    image, attention = inputs()
    shapes = []
    for block in net.blocks:
        block.register_forward_hook(lambda _module, given, _output: shapes.append(given[0].shape))
    scores = net(image, attention)
    masks = net.masks(attention)
    assert scores.shape == (4, 10)
    assert [mask.shape for mask in masks] == shapes
    assert len(masks) == len(net.blocks) == sum(depths)


def test_masks_lie_between_zero_and_one():
    net = ResAttnNet(10, 1, image_size=SIZE, generator=seeded())
    for mask in net.masks(inputs()[1]):
        assert mask.min() >= 0
        assert mask.max() <= 1
        assert mask.std() > 0.01


def test_the_last_attention_block_would_feed_nothing_and_is_not_built():
    net = ResAttnNet(10, 1, image_size=SIZE)
    assert len(net.attention_blocks) == len(net.blocks) - 1 == 2
    net(*inputs()).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("form", ["printed", "gated", "residual"])
def test_the_map_matters_exactly_where_a_is_positive(form):
    image, attention = inputs()
    net = lively(ResAttnNet(10, 0.5, form, image_size=SIZE, generator=seeded()))
    assert not net(image, attention).allclose(net(image, 1 - attention))
    net.a = 0
    assert net(image, attention).equal(net(image, 1 - attention))


def test_maps_may_have_several_channels():
    net = lively(ResAttnNet(10, 1, image_size=SIZE, attention_channels=12, generator=seeded()))
    image, attention = inputs(channels=12)
    other = attention.clone()
    other[:, 11] = 0
    assert not net(image, attention).allclose(net(image, other))


@pytest.mark.parametrize(("image_side", "map_side"), [(32, 28), (224, 224), (37, 14)])
def test_any_input_size_goes(image_side, map_side):
    net = ResAttnNet(10, 0.5)
    assert net(torch.randn(2, 3, image_side, image_side), torch.rand(2, 1, map_side, map_side)).shape == (2, 10)


def test_strides_halve_the_resolution_at_each_later_stage():
    net = ResAttnNet(10, 1)
    assert [mask.shape[-1] for mask in net.masks(torch.rand(2, 1, 28, 28))] == [56, 56, 28]


# Initial weights


def classification_weights(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in net.state_dict().items() if not name.startswith("attention_")}


@pytest.mark.parametrize("source", ["generator", "global seed"])
def test_one_seed_gives_every_network_the_same_classification_branch(source):
    def build(make):
        torch.manual_seed(5)
        return classification_weights(make(generator=seeded(5) if source == "generator" else None))

    reference = build(lambda **options: resnet8(10, **options))
    assert len(reference) > 30
    for name in ("se", "eca", "cbam"):
        weights = build(lambda name=name, **options: resnet8(10, attention=name, **options))
        assert reference.keys() < weights.keys()
        assert all(weights[key].equal(reference[key]) for key in reference), name
    for a in (0, 0.5, 1):
        for form in ("printed", "gated", "residual", "scaled", "unmasked"):
            weights = build(lambda a=a, form=form, **options: ResAttnNet(10, a, form, **options))
            assert weights.keys() == reference.keys()
            assert all(weights[name].equal(reference[name]) for name in reference), (a, form)


def test_another_seed_gives_other_weights():
    first, second = (ResAttnNet(10, generator=seeded(seed)).state_dict() for seed in (0, 1))
    same = [name for name, value in first.items() if value.ndim > 1 and value.equal(second[name])]
    assert same == []


def test_two_calls_without_a_generator_differ():
    assert not ResAttnNet(10).fc.weight.equal(ResAttnNet(10).fc.weight)


@pytest.mark.parametrize("make", [ResAttnNet, resnet8])
def test_initial_weights_are_kaiming_normal(make):
    """Standard deviation sqrt(2 / fan_out) to within four standard errors, mean zero, biases zero (Sec. 5.1)."""
    for name, p in make(10, widths=(32, 64, 128), generator=seeded()).named_parameters():
        p = p.detach()
        if p.ndim > 1:
            expected = math.sqrt(2 / (p.shape[0] * p[0, 0].numel()))
            error = expected / math.sqrt(p.numel())
            assert abs(float(p.std()) - expected) < 4 * error, name
            assert abs(float(p.mean())) < 4 * error, name
        else:
            assert (p == (1 if name.endswith("weight") else 0)).all(), name


# Depth


@pytest.mark.slow
@pytest.mark.parametrize("form", ["printed", "gated", "residual"])
def test_fifty_six_layers_train_from_the_initial_weights(form):
    """6n + 2 layers with n = 9: in 30 steps the loss on 32 images falls by a third, and below that of guessing."""
    net = ResAttnNet(10, 0.5, form, depths=DEPTHS[56], image_size=SIZE, generator=seeded())
    convolutions = [m for m in net.blocks.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 2 == 56
    images, labels, masks = map(torch.from_numpy, make_shapes(32, 0))
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(net(images / 127.5 - 1, masks), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < min(2 * losses[0] / 3, math.log(10)), losses


@pytest.mark.parametrize("depths", [(3, 3, 3), (2, 1, 4)])
def test_deeper_networks_agree_with_the_standard_one_too(depths):
    base = lively(resnet8(10, depths=depths, image_size=SIZE, generator=seeded()))
    net = ResAttnNet(10, 0, "gated", depths=depths, image_size=SIZE).eval()
    net.load_state_dict(base.state_dict(), strict=False)
    assert torch.equal(net(inputs()[0]), base(inputs()[0]))
    with pytest.raises(ValueError, match="widths and depths must be equally long and positive"):
        resnet8(10, depths=(3, 3))


def test_the_cost_table_counts_layers_and_masks():
    rows = cost_table((8, 20), image_size=SIZE, repeats=1)
    assert [(row["depth"], row["form"]) for row in rows] == [
        (depth, form) for depth in (8, 20) for form in (None, "gated", "residual")
    ]
    plain, gated, residual = (row["parameters"] for row in rows[3:])
    assert plain == sum(p.numel() for p in resnet8(10, depths=DEPTHS[20]).parameters())
    assert plain < gated < residual < 2 * plain
    assert all(row["images_per_second"] > 0 for row in rows)
    assert rows[3]["macs"] > 2.5 * rows[0]["macs"]


# Bad arguments


@pytest.mark.parametrize("a", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None])
def test_a_strength_that_is_none_is_refused(a):
    with pytest.raises(ValueError, match=r"a must be a number in \[0, 1\], got"):
        ResAttnNet(10, a)
    net = ResAttnNet(10, 0.25, image_size=SIZE)
    with pytest.raises(ValueError, match=r"a must be a number in \[0, 1\], got"):
        net.a = a
    assert net.a == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "both"}, "form must be one of printed, gated, residual, scaled, unmasked; got 'both'"),
        ({"widths": (16, 32)}, "widths and depths must be equally long"),
        ({"widths": (), "depths": ()}, "widths and depths must be equally long and positive"),
        ({"depths": (1, 0, 1)}, "widths and depths must be equally long and positive"),
        ({"num_classes": 1}, "num_classes must be at least 2"),
        ({"attention_channels": 0}, "attention_channels at least 1"),
        ({"image_size": "224"}, "image_size must be a positive multiple of patch"),
        ({"image_size": 30}, "image_size must be a positive multiple of patch"),
    ],
)
def test_an_argument_that_is_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        ResAttnNet(**options)


def test_a_map_is_needed_where_a_is_positive():
    with pytest.raises(ValueError, match="attention must be given where a > 0"):
        ResAttnNet(10, 0.5, image_size=SIZE)(inputs()[0])


@pytest.mark.parametrize("a", [0, 0.5])
def test_one_map_an_image_is_needed(a):
    image, attention = inputs()
    with pytest.raises(ValueError, match="attention must hold one map an image: got 3 maps for 4 images"):
        ResAttnNet(10, a, image_size=SIZE)(image, attention[:3])


def test_an_image_with_other_than_three_channels_is_refused():
    image, attention = inputs()
    with pytest.raises(ValueError, match=r"image must be \(B, 3, h, w\)"):
        ResAttnNet(10, 0.5, image_size=SIZE)(image[:, :1], attention)


def test_a_map_with_the_wrong_channels_is_refused_by_its_own_name():
    image, attention = inputs(channels=12)
    with pytest.raises(ValueError, match=r"attention must be \(B, 1, h, w\)"):
        ResAttnNet(10, 0.5, image_size=SIZE)(image, attention)
