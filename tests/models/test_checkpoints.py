"""The trained networks that travel with the package, and getting trained ones back."""

import hashlib
import json

import pytest
import torch

from resattn import TrainConfig, attention_maps, paths
from resattn.data.datasets import channel_stats
from resattn.models.checkpoints import build_model, load_trained, save_weights, trained_config, weights_file
from resattn.training.trainer import evaluate


@pytest.mark.parametrize("form", ["printed", "gated"])
def test_the_shipped_networks_are_what_their_records_say(form, shapes):
    record = json.loads(weights_file(f"shapes-{form}-a1").with_suffix(".json").read_text(encoding="utf-8"))
    assert hashlib.sha256(weights_file(f"shapes-{form}-a1").read_bytes()).hexdigest() == record["sha256"]
    assert trained_config(weights_file(f"shapes-{form}-a1")) == TrainConfig.preset("demo", form=form, a=1.0)
    assert record["config"] == trained_config(weights_file(f"shapes-{form}-a1")).identity()

    net = load_trained(weights_file(f"shapes-{form}-a1"))
    assert not net.training
    assert (net.form, net.a) == (form, 1.0)
    assert sum(p.numel() for p in net.parameters()) == record["parameters"]
    maps = attention_maps(shapes.test.images, "dino-tiny")
    _, accuracy = evaluate(net, shapes.test, maps, *channel_stats(shapes.train.images))
    assert accuracy == pytest.approx(record["metrics"]["test_acc"], abs=0.002)  # processors round differently


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet8", {"model": "resnet8"}),
        ("printed-a1", {"form": "printed", "a": 1.0}),
        ("gated-a1", {"form": "gated", "a": 1.0}),
        ("residual-a1", {"form": "residual", "a": 1.0}),
    ],
)
def test_the_cifar_networks_are_those_of_the_records(name, settings):
    file = weights_file(f"cifar10-{name}")
    record = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record.pop("sha256")
    config = TrainConfig.preset("reduced", dataset="cifar10", **settings)
    assert trained_config(f"cifar10-{name}").identity() == config.identity()
    assert record == json.loads((paths.RESULTS / "reduced" / f"{config.slug}.json").read_text(encoding="utf-8"))
    net = load_trained(f"cifar10-{name}")
    assert net(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 16, 16)).shape == (1, 10)


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(
        ValueError, match=r"or one of cifar10-.*, shapes-gated-a1, shapes-printed-a1; got shapes-Gated-a1"
    ):
        load_trained("shapes-Gated-a1")


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
        load_trained("shapes-gated-a1", num_classes=3)
    with pytest.raises(ValueError, match="path must be weights that training wrote"):
        load_trained("shapes-gated-a1", attention_channels=2)
    with pytest.raises(ValueError, match="path must be weights that training wrote"):
        trained_config(tmp_path / "missing.safetensors")
