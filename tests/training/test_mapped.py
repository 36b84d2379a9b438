"""Data that stays on disk: the numbers are those of data in memory, and a run lives within a memory limit."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_image
from safetensors.torch import load_file

from resattn import TrainConfig, attention_maps, load_dataset, paths, train
from resattn.__main__ import main
from resattn.attention import maps as maps_module
from resattn.training.inputs import Rows, batches, take
from resattn.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def tiny(make_folder):
    root = make_folder(train=30, test=10).parent
    return TrainConfig(dataset="birds", root=root, epochs=2, image_size=16, batch_size=8, lr=0.01, device="cpu")


def outcome(config, folder, on_epoch=lambda _: None):
    metrics = json.loads(json.dumps(train(config, folder=folder, on_epoch=on_epoch)["metrics"]))
    for entry in metrics["epochs"]:
        del entry["seconds"]
    return metrics, load_file(folder / "weights.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"source": "dino-tiny", "heads": "all"},
        {"source": "shuffled"},
        {"source": "uniform"},
        {"source": "center"},
        {"model": "resnet8"},
    ],
    ids=str,
)
def test_a_run_from_disk_ends_with_the_same_numbers_and_weights(tiny, changes, tmp_path, monkeypatch):
    config = replace(tiny, **changes)
    metrics, weights = outcome(config, tmp_path / "memory")
    monkeypatch.setenv("RESATTN_IN_MEMORY_MB", "0.01")
    data = load_dataset("birds", config.root)
    run = Trainer(config, data, CPU)
    assert {type(each) for each in (run.fit.images, run.val.images, run.fit.labels)} == {Rows}
    assert run.fit.images.source is data.train.images
    from_disk, same_weights = outcome(config, tmp_path / "disk")
    assert from_disk == metrics
    assert all(same_weights[name].equal(value) for name, value in weights.items())


def test_a_run_goes_on_from_memory_to_disk(tiny, tmp_path, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    alone = outcome(tiny, tmp_path / "alone")
    with pytest.raises(KeyboardInterrupt):
        train(tiny, folder=tmp_path / "moved", on_epoch=stop)
    monkeypatch.setenv("RESATTN_IN_MEMORY_MB", "0.01")
    moved = outcome(tiny, tmp_path / "moved")
    assert moved[0] == alone[0]
    assert all(moved[1][name].equal(value) for name, value in alone[1].items())


def test_maps_in_bytes_stay_so_on_disk_and_become_numbers_in_a_batch(tiny, monkeypatch):
    monkeypatch.setattr(maps_module, "_choose_vit", lambda *_: ({}, torch.nn.Identity))
    monkeypatch.setattr(maps_module, "vit_input", lambda _, images: images)
    monkeypatch.setattr(maps_module, "cls_attention", lambda _, images: images[:, :2].float())
    part = load_dataset("birds", tiny.root).train
    floats, mapped = (attention_maps(part.images, "vit-s14", mapped=mapped) for mapped in (False, True))
    assert (floats.dtype, mapped.dtype) == (torch.float32, torch.uint8)
    index = torch.randperm(90)
    orders = list(torch.arange(90).split(20))
    for streamed, held in zip(
        batches(*take(part, mapped, CPU, index, mapped=True), orders),
        batches(*take(part, floats, CPU, index), orders),
        strict=True,
    ):
        assert all(one.equal(other) for one, other in zip(streamed, held, strict=True))
        assert len(streamed[1].unique()) > 100


@pytest.mark.parametrize("source", ["uniform", "center"])
def test_one_map_for_all_images_is_kept_once(source):
    images = torch.zeros(50, 3, 8, 8, dtype=torch.uint8)
    held, mapped = (attention_maps(images, source, mapped=mapped) for mapped in (False, True))
    assert held.equal(mapped)
    assert [each.untyped_storage().nbytes() for each in (held, mapped)] == [50 * 28 * 28 * 4, 28 * 28 * 4]


def test_an_error_while_reading_ahead_ends_the_run(tiny, monkeypatch):
    monkeypatch.setenv("RESATTN_IN_MEMORY_MB", "0.01")
    run = Trainer(tiny, load_dataset("birds", tiny.root), CPU)
    run.fit.images.source = run.fit.images.source[:50]
    with pytest.raises(IndexError):
        run.train_epoch()


def test_unreadable_images_are_counted_in_the_record(tiny, tmp_path, capsys):
    folder = tmp_path / "data" / "birds"
    assert "unreadable_images" not in train(tiny)["environment"]
    for name in ("train/crow/003.png", "test/duck/000.png"):
        (folder / name).write_bytes(b"no picture")
    command = ["train", "--dataset", str(folder), "--epochs", "1", "--image-size", "16", "--batch-size", "8"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "train/crow/003.png: cannot identify" in said
    assert "test/duck/000.png: cannot identify" in said
    assert "--skip-unreadable" in said
    assert main([*command, "--skip-unreadable"]) == 0
    (path,) = (paths.RUNS / "records").glob("*.json")
    record = json.loads(path.read_text())
    assert record["environment"]["unreadable_images"] == 2
    assert "skip_unreadable" not in record["config"]


LIMITED = """
import os, resource, sys, torch
from resattn import TrainConfig, load_dataset
from resattn.training import trainer

trainer._IMAGES_AUGMENTED_TOGETHER["cpu"] = 32  # as few as the memory is small
small, large = (load_dataset(name, sys.argv[1]) for name in ("small", "large"))

def run(data):
    settings = {"epochs": 1, "image_size": 16, "batch_size": 32, "n_val": 32, "source": "center"}
    run = trainer.Trainer(TrainConfig("large", sys.argv[1], device="cpu", **settings), data, torch.device("cpu"))
    run.train_epoch()
    return run.finish()

os.environ["RESATTN_IN_MEMORY_MB"] = "0.01"
run(small)  # threads, kernels and the optimizer are not what is measured
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
limit = large.train.images.nbytes // 4
resource.setrlimit(resource.RLIMIT_DATA, (held + limit, held + limit))
print("from disk:", len(run(large)["metrics"]["epochs"]))
os.environ["RESATTN_IN_MEMORY_MB"] = "100000"
run(large)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_a_folder_four_times_the_memory_limit_trains_within_it(tmp_path):
    rng = np.random.default_rng(0)
    for name, side, sizes in (("small", 8, (40, 20)), ("large", 128, (2_600, 20))):
        for split, n in zip(("train", "test"), sizes, strict=True):
            for label in ("crow", "duck"):
                first = tmp_path / name / split / label / "0000.png"
                write_image(first, rng.integers(0, 256, (8, 8, 3)).repeat(side // 8, 0).repeat(side // 8, 1))
                for i in range(1, n):
                    os.link(first, first.with_name(f"{i:04d}.png"))
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    environment = os.environ | {"RESATTN_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    environment["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # a large block goes back to the system when it is freed
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "from disk: 1\n", done.stderr
    assert "can't allocate memory" in done.stderr, "the limit would hold a run in memory"
