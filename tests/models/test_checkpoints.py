"""The trained networks that travel with the package, and getting trained ones back."""

import hashlib
import json

import pytest
import torch

from resattn import TrainConfig, attention_maps
from resattn.data.datasets import channel_stats
from resattn.models.checkpoints import build_model, demo_weights, load_trained, save_weights, trained_config
from resattn.training.trainer import evaluate


@pytest.mark.parametrize("form", ["printed", "gated"])
def test_the_shipped_networks_are_what_their_records_say(form, shapes):
    record = json.loads(demo_weights(form).with_suffix(".json").read_text(encoding="utf-8"))
    assert hashlib.sha256(demo_weights(form).read_bytes()).hexdigest() == record["sha256"]
    assert trained_config(demo_weights(form)) == TrainConfig.preset("demo", form=form, a=1.0)
    assert record["config"] == trained_config(demo_weights(form)).identity()

    net = load_trained(demo_weights(form))
    assert not net.training
    assert (net.form, net.a) == (form, 1.0)
    assert sum(p.numel() for p in net.parameters()) == record["parameters"]
    maps = attention_maps(shapes.test.images, "dino-tiny")
    _, accuracy = evaluate(net, shapes.test, maps, *channel_stats(shapes.train.images))
    assert accuracy == pytest.approx(record["metrics"]["test_acc"], abs=0.002)  # processors round differently


def test_a_form_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="form must be one of printed, gated; got 'Gated'"):
        demo_weights("Gated")


def test_a_trained_network_comes_back_with_its_own_numbers(tmp_path):
    config = TrainConfig.preset("demo", source="dino", heads="all", a=0.5)
    net = build_model(config, num_classes=4, attention_channels=12).eval()
    path = save_weights(net, tmp_path / "weights.safetensors", config)
    images, maps = torch.randn(2, 3, 32, 32), torch.rand(2, 12, 8, 8)
    assert torch.equal(load_trained(path)(images, maps), net(images, maps))

    baseline = build_model(TrainConfig.preset("demo", model="resnet8"), num_classes=4).eval()
    path = save_weights(baseline, tmp_path / "baseline.safetensors", TrainConfig.preset("demo", model="resnet8"))
    assert torch.equal(load_trained(path)(images), baseline(images))


def test_weights_for_other_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="path must be weights that training wrote"):
        load_trained(demo_weights("gated"), num_classes=3)
    with pytest.raises(ValueError, match="path must be weights that training wrote"):
        load_trained(demo_weights("gated"), attention_channels=2)
    with pytest.raises(ValueError, match="path must be weights that training wrote"):
        trained_config(tmp_path / "missing.safetensors")
