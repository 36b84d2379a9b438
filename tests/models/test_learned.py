"""Maps that a ViT inside the network learns: differentiable, the frozen ViT's at the start, trained by the loss alone."""

import json

import pytest
import torch
from torch.nn import functional as F

from resattn import ResAttnNet, TrainConfig, attention_maps
from resattn.attention.sources import min_max, object_focus
from resattn.attention.tiny import tiny_vit
from resattn.attention.vit import attend, cls_attention
from resattn.data.datasets import Dataset, Split, channel_stats
from resattn.models.checkpoints import build_model, load_trained
from resattn.models.cost import network_cost
from resattn.models.learned import LearnedMap, learned_maps
from resattn.training.trainer import Trainer, train

CONFIG = TrainConfig.preset("demo", source="learned", form="gated", a=1.0, image_size=32, epochs=1)
STATS = (torch.tensor([0.4, 0.5, 0.3]), torch.tensor([0.2, 0.3, 0.25]))


def test_the_map_starts_as_the_frozen_one(shapes):
    images = shapes.test.images[:50]
    net = build_model(CONFIG, 10, channel_stats=channel_stats(shapes.train.images))
    found, frozen = learned_maps(net, images), attention_maps(images, "dino-tiny")
    torch.testing.assert_close(min_max(found), frozen, atol=1e-4, rtol=0)
    assert found.amax((1, 2, 3)).eq(1).all()
    assert found.min() > 0


def test_gradients_reach_the_vit_and_the_frozen_way_has_none():
    net = build_model(CONFIG, 10, channel_stats=STATS)
    F.cross_entropy(net(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    assert net.vit.patch_embed.proj.weight.grad.abs().max() > 0
    assert net.vit.cls_token.grad.abs().max() > 0
    inputs = torch.randn(2, 3, 32, 32)
    assert attend(net.vit, inputs).requires_grad
    assert not cls_attention(net.vit, inputs).requires_grad
    assert torch.equal(attend(net.vit, inputs), cls_attention(net.vit, inputs))


def test_the_gradient_is_that_of_finite_differences():
    net = LearnedMap(torch.nn.Identity(), "random", 0, *STATS).double()
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = net.vit.blocks[0].attn.qkv.weight
    net.map(image)[0, 0, 2, 3].backward()
    i = divmod(int(weight.grad.abs().argmax()), weight.shape[1])
    with torch.no_grad():
        values = []
        for step in (1e-5, -2e-5):
            weight[i] += step
            values.append(float(net.map(image)[0, 0, 2, 3]))
    assert float(weight.grad[i]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_the_classifier_is_the_one_of_every_other_source():
    net, other = (
        build_model(CONFIG, 10),
        build_model(TrainConfig.preset("demo", form="gated", a=1.0, image_size=32), 10),
    )
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.net.state_dict().items())
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.eval()(image), other.eval()(image, net.map(image)))


def test_random_weights_come_from_the_seed():
    first, same, other = (LearnedMap(torch.nn.Identity(), "random", seed, *STATS).vit for seed in (0, 0, 1))
    assert torch.equal(first.cls_token, same.cls_token)
    assert not torch.equal(first.cls_token, other.cls_token)
    assert not torch.equal(first.cls_token, tiny_vit().cls_token)
    with pytest.raises(ValueError, match="start must be one of dino-tiny, random; got 'pretrained'"):
        LearnedMap(torch.nn.Identity(), "pretrained", 0, *STATS)


def test_the_vit_takes_smaller_steps(shapes):
    run = Trainer(CONFIG, shapes, torch.device("cpu"))
    run._step(run.fit.images[:32].float() / 128 - 1, None, run.fit.labels[:32], 0.01)
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.01, 0.001]
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters()}


def test_it_trains_leaves_a_record_and_is_read_back(shapes, tmp_path, monkeypatch):
    few = Dataset(
        "shapes",
        *(Split(part.images[:640], part.labels[:640], part.masks[:640]) for part in (shapes.train, shapes.test)),
        shapes.classes,
    )
    monkeypatch.setattr("resattn.training.trainer.load_dataset", lambda *_, **__: few)
    config = TrainConfig.preset(
        "demo", source="learned", weights="random", form="gated", a=1.0, image_size=32, epochs=1
    )
    record = train(config, folder=tmp_path, on_epoch=lambda _: None)
    written = json.loads(json.dumps(record))["config"]
    assert (written["source"], written["weights"]) == ("learned", "random")
    assert "heads" not in written
    net = load_trained(tmp_path / "weights.safetensors")
    start = build_model(config, 10, channel_stats=channel_stats(few.train.images))
    assert torch.equal(net.mean, start.mean)
    before, after = (learned_maps(each, few.test.images) for each in (start, net))
    assert (after - before).abs().mean() > 0.01, "the loss alone moved the map"
    assert record["metrics"]["map_focus"] == object_focus(after, few.test.masks)


def test_the_vit_is_counted():
    frozen = network_cost(TrainConfig.preset("demo", form="gated", a=1.0))
    learned = network_cost(TrainConfig.preset("demo", form="gated", a=1.0, source="learned"))
    assert learned.parameters > frozen.parameters + 50_000
    assert learned.macs > frozen.macs + 64 * 50_000


def test_any_network_that_takes_a_map_will_do():
    net = LearnedMap(ResAttnNet(3, 0.5, "residual", depths=(2, 1, 1), image_size=32), "random", 0, *STATS)
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 3)
