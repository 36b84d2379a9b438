"""Training runs: what they record, that they repeat and resume bit for bit, and how they end when something is wrong."""

import contextlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Hostile, write_image
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from resattn import ResAttnNet, TrainConfig, attention_maps, load_dataset, paths, train
from resattn.__main__ import main
from resattn.config import DEMO
from resattn.data.datasets import Dataset, Split, channel_stats
from resattn.files import digest, write_json
from resattn.models.checkpoints import build_model, load_trained
from resattn.training import environment as environment_module
from resattn.training.checkpoint import load_checkpoint, save_checkpoint
from resattn.training.trainer import Trainer, evaluate, learning_rate

train_module = sys.modules["resattn.training.trainer"]
ZERO, ONE = torch.zeros(3), torch.ones(3)


def quiet(_history: list[dict]) -> None:
    """Prints no line."""


@pytest.fixture
def tiny(make_folder):
    """Settings of a run that takes a second: 90 noise images of 16x16, 9 of them for validation."""
    root = make_folder(train=30, test=10).parent
    return TrainConfig(dataset="birds", root=root, epochs=3, image_size=16, batch_size=16, lr=0.01)


def comparable(record: dict) -> dict:
    """What two runs of the same settings must agree on: all but the time they took."""
    metrics = json.loads(json.dumps(record["metrics"]))
    for entry in metrics["epochs"]:
        del entry["seconds"]
    return {"config": record["config"], "metrics": metrics, "parameters": record["parameters"]}


# The record


def test_a_record_has_the_agreed_keys_is_json_and_names_no_path_of_this_machine(tiny, tmp_path):
    record = train(tiny, on_epoch=quiet)
    assert str(tmp_path) not in json.dumps(record)
    folder = paths.RUNS / "training" / tiny.slug
    assert os.listdir(folder) == ["weights.safetensors"], "weights are kept and the checkpoint is not"
    assert load_file(folder / "weights.safetensors").keys() == build_model(tiny, 3).state_dict().keys()
    assert json.loads(write_json(tmp_path / "record.json", record).read_text()) == record
    assert record["config"].keys() >= {
        *("dataset", "model", "form", "a", "source", "seed", "epochs", "image_size", "batch_size", "lr")
    }
    assert record["metrics"].keys() >= {"test_acc", "test_acc_at_best_val", "epochs"}
    assert len(record["metrics"]["epochs"]) == 3
    for entry in record["metrics"]["epochs"]:
        assert entry.keys() >= {"train_loss", "val_loss", "val_acc"}
    assert record["environment"].keys() >= {"device", "versions", "revision", "peak_memory_mb", "finished", "seconds"}
    assert record["parameters"] == sum(p.numel() for p in build_model(tiny, 3).parameters())


def test_progress_is_reported_after_each_epoch(tiny, capsys):
    lengths = []
    record = train(tiny, on_epoch=lambda history: lengths.append(len(history)))
    assert lengths == [1, 2, 3]
    assert capsys.readouterr().out == ""
    train(replace(tiny, seed=1))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all("val acc" in line for line in lines)
    assert record["metrics"]["epochs"][0]["seconds"] > 0


def test_the_best_validation_epoch_is_the_first_of_equals(tiny, monkeypatch):
    """Scripted validation accuracies; the two tests at the end must see the last and the best epoch's weights."""
    accuracies, seen = iter([0.2, 0.5, 0.5, 0.9, 0.7]), []

    def scripted(model, *_):
        seen.append(digest(*(value.numpy() for value in model.state_dict().values())))
        return 1.0, next(accuracies)

    monkeypatch.setattr(train_module, "evaluate", scripted)
    metrics = train(tiny, on_epoch=quiet)["metrics"]
    assert len(set(seen[:3])) == 3
    assert seen[3:] == [seen[2], seen[1]]
    assert (metrics["test_acc"], metrics["test_acc_at_best_val"], metrics["best_val_epoch"]) == (0.9, 0.7, 2)


@pytest.mark.parametrize("changes", [{}, {"form": "gated", "a": 1, "seed": 1}, {"model": "resnet8"}], ids=str)
def test_the_saved_weights_give_the_recorded_test_accuracy(tiny, changes):
    config = replace(tiny, **changes)
    record = train(config, on_epoch=quiet)
    net = load_trained(paths.RUNS / "training" / config.slug / "weights.safetensors", num_classes=3)
    data = load_dataset("birds", config.root)
    maps = attention_maps(data.test.images, "saliency")
    loss, accuracy = evaluate(
        net, data.test, maps, *channel_stats(data.train.images), record["environment"]["precision"]
    )
    assert not net.training
    assert accuracy == record["metrics"]["test_acc"]
    assert loss == pytest.approx(record["metrics"]["test_loss"])


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match=f"path must be weights that training wrote, .*got {tmp_path}"):
        load_trained(tmp_path / "weights.safetensors", num_classes=3)


def test_images_of_any_size_are_unified_and_the_record_says_how(tiny, tmp_path):
    for path in (tmp_path / "data" / "birds" / "test").glob("*/*.png"):
        Image.open(path).resize((24, 20)).save(path)
    with pytest.raises(ValueError, match="pass size=32"):
        train(tiny, on_epoch=quiet)
    config = replace(tiny, size=12, epochs=1)
    record = train(config, on_epoch=quiet)
    assert record["config"]["size"] == 12
    assert config.slug != replace(config, size=13).slug
    assert "size" not in tiny.identity(), "records made without a size keep their names"
    for size in (0, 4097):
        with pytest.raises(ValueError, match=rf"size must be a whole number in \[1, 4096\] or None, got {size}"):
            replace(tiny, size=size)


# The same again


def test_one_seed_gives_one_record_and_the_global_generator_plays_no_part(tiny, tmp_path):
    records = []
    for i, config in enumerate((tiny, tiny, replace(tiny, seed=1))):
        torch.manual_seed(i)
        records.append(train(config, folder=tmp_path / str(i), on_epoch=quiet))
    first, again, other = records
    assert comparable(first) == comparable(again)
    assert comparable(first)["metrics"] != comparable(other)["metrics"]
    first, again = (load_file(tmp_path / str(i) / "weights.safetensors") for i in range(2))
    assert all(first[name].equal(again[name]) for name in first)


def test_every_model_sees_the_same_images_in_the_same_order(tiny, monkeypatch):
    """Split, order and augmentation do not depend on a, the form, the source or the model: seeds are paired."""
    seen, augment = [], train_module.augment

    def watched(images, maps, *arguments, **options):
        after = augment(images, maps, *arguments, **options)
        seen.extend(digest(*pair) for pair in zip(images.numpy(), after[0].numpy(), strict=True))
        return after

    monkeypatch.setattr(train_module, "augment", watched)
    sequences = []
    for changes in ({"a": 0}, {"a": 1}, {"form": "gated"}, {"source": "center"}, {"model": "resnet8"}):
        train(replace(tiny, epochs=2, **changes), on_epoch=quiet)
        sequences.append(seen.copy())
        seen.clear()
    assert len(set(sequences[0])) == len(sequences[0]) == 2 * 80
    assert all(sequence == sequences[0] for sequence in sequences)
    train(replace(tiny, epochs=2, seed=1), on_epoch=quiet)
    assert seen != sequences[0]


def test_training_and_validation_images_are_apart_and_none_is_a_test_image(tiny, monkeypatch):
    fitted, validated = set(), []
    augment, evaluate = train_module.augment, train_module.evaluate

    def watch_fit(images, *arguments, **options):
        fitted.update(image.tobytes() for image in images.numpy())
        return augment(images, *arguments, **options)

    def watch_evaluation(model, split, *arguments):
        validated.append({image.tobytes() for image in split.images.numpy()})
        return evaluate(model, split, *arguments)

    monkeypatch.setattr(train_module, "augment", watch_fit)
    monkeypatch.setattr(train_module, "evaluate", watch_evaluation)
    train(tiny, on_epoch=quiet)
    val, test = validated[0], validated[-1]
    assert (len(fitted), len(val), len(test)) == (81, 9, 30)
    assert not fitted & val
    assert not (fitted | val) & test


def test_maps_stay_with_their_images(tiny, monkeypatch):
    """A map that is the image's own first channel is still that in every batch and every evaluation."""
    augment, evaluate, checked = train_module.augment, train_module.evaluate, []

    def first_channels(_config, data, *_):
        return tuple(part.images[:, :1] / 255 for part in (data.train, data.test))

    def watch_fit(images, maps, *arguments, **options):
        assert maps.equal(images[:, :1] / 255)
        return augment(images, maps, *arguments, **options)

    def watch_evaluation(model, split, maps, *arguments):
        assert maps.equal(split.images[:, :1] / 255)
        checked.append(len(maps))
        return evaluate(model, split, maps, *arguments)

    monkeypatch.setattr(train_module, "network_maps", first_channels)
    monkeypatch.setattr(train_module, "augment", watch_fit)
    monkeypatch.setattr(train_module, "evaluate", watch_evaluation)
    train(replace(tiny, epochs=1), on_epoch=quiet)
    assert checked == [9, 30, 30]


@pytest.mark.parametrize(("source", "stays"), [("uniform", True), ("center", False)])
def test_a_uniform_map_stays_one_in_training_and_the_others_move(source, stays, tiny, monkeypatch):
    seen, forward = [], ResAttnNet.forward

    def watched(self, images, maps):
        seen.append(maps.detach().clone())
        return forward(self, images, maps)

    monkeypatch.setattr(ResAttnNet, "forward", watched)
    train(replace(tiny, epochs=1, source=source), on_epoch=quiet)
    maps = torch.cat(seen)
    assert len(maps) > 2 * 30
    assert all(each.equal(maps[-1]) for each in maps) == stays
    assert (maps == 1).all() == stays


# Killed and started again


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights_as_one_left_alone(make_folder, home):
    root = make_folder(train=60, test=10).parent
    config = TrainConfig(dataset="birds", root=root, epochs=6, image_size=48, batch_size=16, lr=0.01)
    folder = home / "runs" / "training" / config.slug
    command = [sys.executable, "-m", "resattn", "train", "--dataset", "birds", "--root", str(root)]
    command += ["--epochs", "6", "--image-size", "48", "--batch-size", "16", "--lr", "0.01"]
    environment = os.environ | {"RESATTN_HOME": str(home), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not (folder / "checkpoint.pt").exists():
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "weights.safetensors").exists(), "the run was over before it could be killed"

    lengths = []
    resumed = train(config, on_epoch=lambda history: lengths.append(len(history)))
    assert lengths[0] > 1, "the run started over"
    alone = train(config, folder=home / "alone", on_epoch=quiet)
    assert comparable(resumed) == comparable(alone)
    weights = [load_file(path / "weights.safetensors") for path in (folder, home / "alone")]
    assert all(weights[0][name].equal(value) for name, value in weights[1].items())


@pytest.mark.parametrize(
    ("changes", "stop_after"),
    [
        ({}, 1),
        ({}, 2),
        ({}, 3),
        ({"model": "resnet8"}, 1),
        ({"schedule": "constant", "precision": "bfloat16"}, 2),
    ],
    ids=str,
)
def test_a_run_stopped_after_any_epoch_goes_on_to_the_same_end(tiny, tmp_path, changes, stop_after):
    config = replace(tiny, **changes)
    lengths = []

    def stop(history):
        lengths.append(len(history))
        if len(lengths) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path / "stopped", on_epoch=stop)
    resumed = train(config, folder=tmp_path / "stopped", on_epoch=stop)
    alone = train(config, folder=tmp_path / "alone", on_epoch=quiet)
    assert lengths == [1, 2, 3], "no epoch is trained twice"
    assert comparable(resumed) == comparable(alone)
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("stopped", "alone")]
    assert all(weights[0][name].equal(value) for name, value in weights[1].items())


def interrupt(config: TrainConfig, folder) -> None:
    """Leave a checkpoint of one epoch in ``folder``."""

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, folder=folder, on_epoch=stop)


def test_a_damaged_checkpoint_is_named(tiny, tmp_path):
    interrupt(tiny, tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"checkpoint {path} cannot be read or continued"):
        train(tiny, folder=tmp_path, on_epoch=quiet)


def test_a_checkpoint_with_one_flipped_bit_is_refused(tiny, tmp_path):
    """Without a checksum 145 of 150 such flips were loaded as they were."""
    interrupt(tiny, tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole, about = path.read_bytes(), tiny.identity() | {"folder": tiny.folder}
    rng = np.random.default_rng(0)
    for bit in rng.integers(0, 8 * len(whole), 100).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"checkpoint {path} cannot be read or continued"):
            load_checkpoint(path, about, torch.device("cpu"))
    path.write_bytes(whole)
    assert load_checkpoint(path, about, torch.device("cpu"))["history"]


def test_a_record_that_cannot_be_written_costs_no_epoch(tiny, tmp_path):
    (tmp_path / "file").write_text("in the place of a folder")
    lengths = []
    for records in (tmp_path / "file" / "records", tmp_path / "file"):
        with pytest.raises(OSError, match="file"):
            train(tiny, folder=tmp_path / "run", records=records, on_epoch=lambda history: lengths.append(len(history)))
        assert (tmp_path / "run" / "checkpoint.pt").exists()
    record = train(tiny, folder=tmp_path / "run", records=tmp_path / "records", on_epoch=lengths.append)
    assert lengths == [1, 2, 3], "no epoch is trained again"
    assert json.loads((tmp_path / "records" / f"{tiny.slug}.json").read_text()) == record
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("changes", [{"a": 1}, {"seed": 1}], ids=str)
def test_a_checkpoint_of_other_settings_is_not_continued(tiny, tmp_path, changes):
    """Half a run of one kind and half of another would be recorded as a whole run of the second."""
    interrupt(tiny, tmp_path)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        train(replace(tiny, **changes), folder=tmp_path, on_epoch=quiet)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint.pt", {"config": {}, "x": Hostile(tmp_path / "ran")})
    with pytest.raises(ValueError, match="cannot be read or continued"):
        load_checkpoint(path, {}, torch.device("cpu"))
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_is_named_when_a_checkpoint_is_written(tiny, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root): " + mounted.stderr.decode().strip())
    try:
        with pytest.raises(OSError, match=f"no space left on the device that holds {folder / 'checkpoint.pt'}"):
            train(tiny, folder=folder, on_epoch=quiet)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# Arithmetic


def test_the_cosine_schedule_falls_to_zero():
    config = TrainConfig(lr=0.2, schedule="cosine")
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == 0.2
    assert rates[25] == pytest.approx(0.1 * (1 + math.sqrt(0.5)))
    assert rates[50] == pytest.approx(0.1)
    assert rates[99] == pytest.approx(0.2 * math.sin(math.pi / 200) ** 2)
    assert rates == sorted(rates, reverse=True)


def test_the_constant_schedule_is_constant():
    config = TrainConfig(lr=0.2, schedule="constant")
    assert {learning_rate(config, step, 100) for step in (0, 50, 99)} == {0.2}


def test_the_schedule_reaches_the_optimizer(tiny, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    record = train(tiny, on_epoch=quiet)
    assert rates == [learning_rate(tiny, i, 15) for i in range(15)]
    assert [entry["lr"] for entry in record["metrics"]["epochs"]] == rates[4::5]


def test_the_optimizer_is_adamw_with_the_settings_given(tiny, monkeypatch):
    given = []
    adamw = torch.optim.AdamW

    def watched(parameters, lr, betas, weight_decay, **options):
        parameters = list(parameters)
        given.append((len(parameters), lr, betas, weight_decay))
        return adamw(parameters, lr, betas, weight_decay=weight_decay, **options)

    monkeypatch.setattr(torch.optim, "AdamW", watched)
    config = replace(tiny, epochs=1, lr=0.03, beta1=0.8, beta2=0.99, weight_decay=0.1)
    train(config, on_epoch=quiet)
    assert given == [(len(list(build_model(config, 3).parameters())), 0.03, (0.8, 0.99), 0.1)]


class FirstPixel(torch.nn.Module):
    """Scores are the colours of the first pixel."""

    def forward(self, image, attention=None):
        scores = image[:, :, 0, 0].float()
        return scores if attention is None else scores + attention[:, 0, 0]


def test_evaluate_by_hand():
    pixels = torch.tensor([[0, 0, 255], [255, 0, 0], [51, 204, 0], [0, 0, 255]], dtype=torch.uint8)
    split = Split(pixels[:, :, None, None], torch.tensor([2, 0, 0, 1]))  # right, right, wrong, wrong
    scores = [[0, 0, 1], [1, 0, 0], [0.2, 0.8, 0], [0, 0, 1]]
    losses = [math.log(sum(map(math.exp, row))) - row[k] for row, k in zip(scores, split.labels.tolist(), strict=True)]
    loss, accuracy = evaluate(FirstPixel(), split, None, ZERO, ONE)
    assert accuracy == 0.5
    assert loss == pytest.approx(sum(losses) / 4)


@pytest.mark.parametrize("n", [1, 250, 251, 700])
def test_evaluate_counts_every_image_once(n):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 2, 2), dtype=torch.uint8, generator=rng)
    split = Split(images, torch.randint(0, 3, (n,), generator=rng))
    maps = torch.rand(n, 1, 1, 3, generator=rng)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    scores = (images[:, :, 0, 0] / 255 - mean) / std + maps[:, 0, 0]
    loss, accuracy = evaluate(FirstPixel(), split, maps, mean, std)
    assert loss == pytest.approx(float(F.cross_entropy(scores, split.labels)), rel=1e-5)
    assert accuracy == pytest.approx(float((scores.argmax(1) == split.labels).float().mean()))


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_leaves_the_model_as_it_was(mode, tiny):
    net = build_model(tiny, 3).train(mode)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    split = Split(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    evaluate(net, split, torch.rand(4, 1, 28, 28), ZERO, ONE)
    assert net.training is mode
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


# Learning


@pytest.mark.parametrize(
    "changes", [{"form": "printed", "a": 1}, {"form": "gated", "a": 1}, {"model": "resnet8"}], ids=str
)
def test_a_tiny_run_learns(tmp_path, changes):
    """Colours that tell three classes apart are learnt in seconds; chance is a third."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 20)):
        for k, label in enumerate("abc"):
            for i in range(n):
                pixels = rng.integers(60, 160, (16, 16, 3))
                pixels[..., k] += 60
                write_image(tmp_path / "colours" / split / label / f"{i}.png", pixels)
    config = TrainConfig("colours", str(tmp_path), epochs=4, image_size=16, batch_size=16, lr=0.01, **changes)
    record = train(config, on_epoch=quiet)
    assert record["metrics"]["test_acc"] > 0.9
    losses = [entry["train_loss"] for entry in record["metrics"]["epochs"]]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_two_epochs_on_the_shapes_beat_chance(shapes_cache, shapes, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", shapes_cache)
    config = TrainConfig.preset("demo", epochs=2, image_size=32)
    metrics = train(config, on_epoch=quiet)["metrics"]
    assert metrics["test_acc"] > 0.2  # chance is 0.1, with a standard error of 0.007
    assert metrics["epochs"][1]["train_loss"] < metrics["epochs"][0]["train_loss"] < math.log(10) + 0.2


# Going wrong


def test_a_loss_that_is_not_finite_stops_the_run_at_once(tiny, monkeypatch):
    steps, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: steps.append(1) or step(self))
    with pytest.raises(FloatingPointError, match=r"loss became (nan|inf) in epoch 1, step 2\b.*lr=1e\+30"):
        train(replace(tiny, lr=1e30, device="cpu"), on_epoch=quiet)
    assert len(steps) <= 2


def test_a_run_that_ends_in_nothing_finite_is_not_recorded(tiny):
    """One step an epoch: its loss is finite, the network it leaves behind is not."""
    with pytest.raises(FloatingPointError, match=r"lr=1e\+30"):
        train(replace(tiny, lr=1e30, epochs=1, batch_size=81), on_epoch=quiet)


def test_a_batch_larger_than_the_training_split_is_refused(tiny):
    with pytest.raises(ValueError, match="batch_size must be at most the 81 training images, got 82"):
        train(replace(tiny, batch_size=82))


def test_a_validation_split_larger_than_the_data_is_refused(tiny):
    with pytest.raises(ValueError, match="n_val must lie between 1 and 89 for 90 labels, got 90"):
        train(replace(tiny, n_val=90))


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dataset must be 'shapes'.*'mnist' is none of them"):
        train(TrainConfig("mnist", str(tmp_path)))


@pytest.mark.parametrize("device", ["abacus", "meta", "cuda:99"])
def test_a_device_that_cannot_train_is_refused(tiny, device):
    with pytest.raises(ValueError, match=rf"device must be .*{device!r}"):
        train(replace(tiny, device=device))


def test_the_oracle_needs_a_data_set_with_masks(tiny):
    with pytest.raises(ValueError, match="masks must hold one true mask an image"):
        train(replace(tiny, source="oracle"))


# TrainConfig


def test_the_paper_preset_is_table_1():
    config = TrainConfig.preset("paper", dataset="cifar10")
    assert (config.epochs, config.lr, config.weight_decay) == (100, 0.2, 5e-4)
    assert (config.beta1, config.beta2) == (0.9, 0.999)
    assert (config.batch_size, config.image_size, config.source) == (128, 224, "dino")


def test_a_preset_can_be_changed():
    config = TrainConfig.preset("demo", epochs=7, a=1)
    assert (config.epochs, config.a, config.lr) == (7, 1, DEMO["lr"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "resnet9"},
            "model must be one of resattn, resnet8, resnet8-se, .*; got 'resnet9'",
        ),
        ({"form": "both"}, "form must be one of printed, gated, residual, scaled, unmasked; got 'both'"),
        ({"source": "grad-cam"}, "source must be one of .*; got 'grad-cam'"),
        ({"schedule": "linear"}, "schedule must be one of cosine, constant; got 'linear'"),
        ({"precision": "float16"}, "precision must be one of auto, float32, bfloat16; got 'float16'"),
        ({"a": 1.5}, r"a must be a number in \[0, 1\], got 1.5"),
        ({"a": -0.5}, r"a must be a number in \[0, 1\], got -0.5"),
        ({"a": True}, r"a must be a number in \[0, 1\], got True"),
        ({"a": "0.5"}, r"a must be a number in \[0, 1\], got '0.5'"),
        ({"a": float("nan")}, r"a must be a number in \[0, 1\], got nan"),
        ({"lr": 0}, "lr must be a number above 0, got 0"),
        ({"lr": float("inf")}, "lr must be a number above 0, got inf"),
        ({"weight_decay": -1e-4}, "weight_decay must be a number at least 0, got -0.0001"),
        ({"beta1": 1}, r"beta1 must be a number in \[0, 1\), got 1"),
        ({"beta2": 1.0}, r"beta2 must be a number in \[0, 1\), got 1.0"),
        ({"seed": -1}, r"seed must be a whole number in \[0, 9223372036854775807\], got -1"),
        ({"seed": 0.5}, r"seed must be a whole number in \[0, 9223372036854775807\], got 0.5"),
        ({"epochs": 0}, "epochs must be a whole number at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be a whole number at least 2, got 1"),
        ({"image_size": 30}, "image_size must be a whole number at least 4 and a multiple of 4, got 30"),
        ({"image_size": "224"}, "image_size must be a whole number at least 4 .*, got '224'"),
        *(
            ({"source": own, "weights": "my.pth"}, f"weights must be 'pretrained' for source='{own}', got 'my.pth'")
            for own in ("vit-s14", "vit-s14-saliency")
        ),
        ({"source": "dino-tiny", "weights": "random"}, "weights must be 'pretrained' or a file .*got 'random'"),
        ({"image_size": 0}, "image_size must be a whole number at least 4 .*, got 0"),
        ({"n_val": 0}, "n_val must be a whole number at least 1 or None, got 0"),
        ({"compile": "no"}, "compile must be .*got 'no'"),
        ({"heads": "median"}, "heads must be .*got 'median'"),
        ({"heads": -1}, "heads must be .*got -1"),
        ({"widths": (16, 32)}, r"widths must be 3 numbers, got \(16, 32\)"),
        ({"widths": (16, 32, 0)}, "widths must be a whole number at least 1, got 0"),
        ({"depths": (3, 3)}, r"depths must be 3 numbers, got \(3, 3\)"),
        ({"source": "learned", "weights": "dino"}, "weights must be one of dino-tiny, random; got 'dino'"),
        ({"model": "resnet18"}, "form must be one of gated, residual; got 'printed'"),
        (
            {"model": "resnet18", "form": "gated", "depths": (3, 3, 3)},
            r"widths and depths must be left alone for resnet18, got .*\(3, 3, 3\)",
        ),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of paper, reduced, short, demo; got 'full'"):
        TrainConfig.preset("full")


DIFFERENT = [
    {"dataset": "cifar10"},
    {"model": "resnet8"},
    {"model": "resnet8-se"},
    {"model": "resnet8", "widths": (18, 36, 71)},
    {"form": "gated"},
    {"form": "scaled"},
    {"form": "unmasked"},
    {"form": "unmasked", "a": 0.25},
    {"widths": (18, 36, 71)},
    {"depths": (3, 3, 3)},
    {"model": "resnet8", "depths": (3, 3, 3)},
    {"model": "resnet18", "form": "gated"},
    {"model": "resnet18", "form": "residual"},
    {"model": "resnet34", "form": "gated", "a": 0.0},
    {"source": "learned"},
    {"source": "learned", "weights": "random"},
    {"a": 0.25},
    {"source": "center"},
    {"source": "dino"},
    {"source": "dino", "heads": "max"},
    {"source": "dino", "heads": 0},
    {"source": "dino", "weights": "random"},
    {"seed": 1},
    {"epochs": 99},
    {"image_size": 64},
    {"batch_size": 64},
    {"lr": 0.1},
    {"weight_decay": 0.0},
    {"beta1": 0.8},
    {"beta2": 0.99},
    {"schedule": "constant"},
    {"n_val": 100},
    {"precision": "bfloat16"},
]
SAME = [
    ({}, {"root": "/elsewhere", "device": "cpu", "compile": False, "skip_unreadable": True}),
    ({}, {"heads": "max", "weights": "random"}),  # the saliency has no heads
    ({"dataset": "birds"}, {"dataset": "/elsewhere/birds"}),
    ({"a": 1}, {"a": 1.0}),
    ({"lr": 1}, {"lr": 1.0}),
    ({}, {"widths": [16, 32, 64], "depths": [1, 1, 1]}),
    ({"source": "learned"}, {"source": "learned", "weights": "dino-tiny", "heads": "max"}),
    ({"model": "resnet8"}, {"model": "resnet8", "source": "learned", "weights": "random"}),
    ({"form": "scaled"}, {"form": "scaled", "source": "dino", "heads": "max"}),  # it looks at no map
    ({"model": "resnet8-eca"}, {"model": "resnet8-eca", "a": 1, "form": "gated", "source": "dino"}),
    ({"weight_decay": 0}, {"weight_decay": 0.0}),
    ({"model": "resnet8"}, {"model": "resnet8", "a": 1, "form": "gated", "source": "dino", "heads": 3}),
]


def test_runs_that_differ_have_different_names():
    slugs = [TrainConfig(**changes).slug for changes in [{}, *DIFFERENT]]
    assert len(set(slugs)) == len(slugs)


@pytest.mark.parametrize(("first", "second"), SAME, ids=str)
def test_runs_that_do_not_differ_have_one_name(first, second):
    first, second = TrainConfig(**first), TrainConfig(**second)
    assert first.identity() == second.identity()
    assert first.slug == second.slug


def test_a_name_is_readable():
    assert TrainConfig(a=0.5, seed=3).slug.startswith("shapes-printed-a0.5-saliency-seed3-")
    assert TrainConfig(model="resnet8").slug.startswith("shapes-resnet8-seed0-")
    assert TrainConfig(model="resnet8", widths=(18, 36, 71)).slug.startswith("shapes-resnet8-w18-36-71-seed0-")
    assert TrainConfig(form="unmasked", a=1).slug.startswith("shapes-unmasked-a1-seed0-")
    assert TrainConfig(depths=(9, 9, 9)).slug.startswith("shapes-printed-a0.5-saliency-d9-9-9-seed0-")
    assert TrainConfig(model="resnet18", form="gated").slug.startswith("shapes-resnet18-gated-a0.5-saliency-seed0-")
    assert TrainConfig(source="learned", weights="random").slug.startswith("shapes-printed-a0.5-learned-random-seed0-")


def test_the_identity_holds_no_path(tmp_path):
    weights = tmp_path / "vit.pth"
    weights.write_bytes(b"weights")
    config = TrainConfig(str(tmp_path / "birds"), tmp_path, source="dino", weights=str(weights))
    assert str(tmp_path) not in json.dumps(config.identity())


# What surrounds a run


def test_constructing_a_trainer_changes_nothing_outside_it(tiny, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("memory options were set"))
    before = dict(os.environ), torch.get_rng_state(), random.getstate()
    Trainer(replace(tiny, device="cpu"), load_dataset("birds", tiny.root), torch.device("cpu"))
    assert (dict(os.environ), random.getstate()) == (before[0], before[2])
    assert torch.get_rng_state().equal(before[1])


def test_a_record_is_written_where_the_system_tells_no_memory(monkeypatch):
    """``resource`` exists on Unix alone."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert environment_module.describe_environment(torch.device("cpu"), None)["peak_memory_mb"] is None


def test_the_package_is_imported_without_modules_of_one_system():
    """Looked at by importing the heart in a process where they are missing."""
    heart = "resattn.training.trainer, resattn.dino.pretrain, resattn.attention.maps, resattn.data.datasets"
    code = f"import sys; sys.modules |= dict.fromkeys(('fcntl', 'resource')); import {heart}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_revision_says_whether_files_differ(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    monkeypatch.setattr(paths, "CHECKOUT", tmp_path)
    assert environment_module.code_revision() is None
    (tmp_path / "file").write_text("one")
    for arguments in (["init"], ["add", "file"], ["commit", "-m", "first"]):
        git(*arguments)
    commit = git("rev-parse", "HEAD")[:12]
    assert environment_module.code_revision() == commit
    (tmp_path / "file").write_text("two")
    assert environment_module.code_revision() == f"{commit}-dirty"
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "site-packages")
    (tmp_path / "site-packages").mkdir()
    assert environment_module.code_revision() is None, "the package's, not that of a repository around it"


def test_a_gpu_trains_in_bfloat16_unless_asked(monkeypatch):
    assert TrainConfig(device="cuda:1").precision == "bfloat16" != TrainConfig(device="cpu").precision
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TrainConfig().precision == "bfloat16"


def test_cifar_keeps_5000_images_for_validation():
    images, labels = torch.zeros(5_100, 3, 8, 8, dtype=torch.uint8), torch.arange(5_100) % 10
    for name, n in (("cifar10", 5_000), ("cifar100", 5_000), ("birds", 510)):
        data = Dataset(name, Split(images, labels), Split(images[:10], labels[:10]), tuple("abcdefghij"))
        config = TrainConfig(name, model="resnet8", image_size=8, batch_size=4, device="cpu")
        assert len(Trainer(config, data, torch.device("cpu")).val) == n


def test_a_mac_trains_in_float32():
    assert TrainConfig(device="mps").precision == "float32"
    with pytest.raises(ValueError, match="precision must be 'float32' for device='mps'"):
        TrainConfig(device="mps", precision="bfloat16")


# The names and the command line


def test_train_is_the_function_whatever_is_imported():
    import resattn.training.trainer

    assert resattn.train is resattn.training.trainer.train is train


def test_the_help_names_every_setting(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    wanted = {f"--{name.replace('_', '-')}" for name in TrainConfig.__dataclass_fields__} | {"--preset", "--records"}
    assert wanted <= set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))


def test_a_run_that_diverges_ends_with_another_status_than_a_bad_option(tiny, capsys):
    options = f"--dataset birds --root {tiny.root} --epochs 1 --image-size 16 --batch-size 16 --lr 1e30 --device cpu"
    assert main(["train", *options.split()]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m resattn train: loss became")


def test_the_command_line_writes_the_record(tiny, capsys):
    options = {"dataset": "birds", "root": tiny.root, "epochs": 3, "image-size": 16, "batch-size": 16, "lr": 0.01}
    assert main(["train"] + [text for name, value in options.items() for text in (f"--{name}", str(value))]) == 0
    path = paths.RUNS / "records" / f"{tiny.slug}.json"
    expected = comparable(train(tiny, folder=paths.RUNS / "again", on_epoch=quiet))
    assert comparable(json.loads(path.read_text())) == expected
    assert f"record: {path}" in capsys.readouterr().out


def test_the_command_line_reads_heads_as_a_number(monkeypatch):
    configs = []

    def stop(config, **_):
        configs.append(config)
        raise ValueError("enough")

    monkeypatch.setattr(train_module, "train", stop)
    for heads in ("3", "max"):
        assert main(["train", "--heads", heads, "--preset", "paper", "--n-val", "7"]) == 2
    assert [config.heads for config in configs] == [3, "max"]
    assert (configs[0].n_val, configs[0].source) == (7, "dino")
    assert main(["train", "--widths", "18", "36", "71"]) == 2
    assert configs[-1].widths == (18, 36, 71)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("a", "2"),
        ("a", "nan"),
        ("lr", "0"),
        ("lr", "fast"),
        ("form", "both"),
        ("epochs", "1.5"),
        ("batch-size", "1"),
        ("image-size", "30"),
        ("dataset", "mnist"),
        ("preset", "full"),
        ("heads", "-1"),
        ("compile", "perhaps"),
        ("widths", "wide"),
        ("device", "abacus"),
    ],
)
def test_a_bad_option_ends_in_one_line_that_names_it(option, value, capsys, monkeypatch):
    if option != "dataset":
        monkeypatch.setattr(train_module, "load_dataset", lambda *_: pytest.fail("the option was taken"))
    with contextlib.suppress(SystemExit):  # argparse's way for what is no number at all
        values = [value, "18", "36"] if option == "widths" else [value]
        assert main(["train", f"--{option}", *values, *(["--epochs=1"] if option != "epochs" else [])]) == 2
    errors = capsys.readouterr().err
    last = errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert last.startswith("python -m resattn train: ")
    assert option.replace("-", "_") in last.replace("-", "_")
    assert value in last


def test_a_full_disk_ends_in_one_line(tiny, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "no space left on the device that holds checkpoint.pt")

    monkeypatch.setattr(train_module, "train", full)
    assert main(["train"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no space left on the device" in line


def test_a_bad_option_shows_no_traceback():
    command = [sys.executable, "-m", "resattn", "train", "--a", "2"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0
    assert result.stderr == "python -m resattn train: a must be a number in [0, 1], got 2.0\n"
