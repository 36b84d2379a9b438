"""A run on two processes (gloo, on the CPU) is the run of one, as far as batch normalization lets it be."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from conftest import write_image

from resattn import TrainConfig, load_dataset, paths, train
from resattn.training import distributed
from resattn.training.inputs import batches
from resattn.training.trainer import Trainer

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def quiet(_history: list[dict]) -> None:
    """Prints no line."""


@pytest.fixture
def colours(tmp_path) -> TrainConfig:
    """Three classes told apart by their colours."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 40), ("test", 20)):
        for k, label in enumerate("abc"):
            for i in range(n):
                pixels = rng.integers(60, 160, (16, 16, 3))
                pixels[..., k] += 60
                write_image(tmp_path / "colours" / split / label / f"{i}.png", pixels)
    return colour_config(str(tmp_path))


def colour_config(root: str) -> TrainConfig:
    return TrainConfig("colours", root, epochs=4, image_size=16, batch_size=24, lr=0.01, a=1.0, device="cpu")


def frozen_gradients(config: TrainConfig) -> dict[str, torch.Tensor]:
    """Gradients of the first two batches' losses, batch normalization in evaluation mode."""
    run = Trainer(config, load_dataset(config.dataset, config.root), torch.device("cpu"))
    order = torch.randperm(len(run.fit), generator=run.order)[: 2 * config.batch_size]
    for batch in run._augmented(*next(batches(run.fit, run.fit_maps, [order]))):
        run.model.eval()
        run._loss(run.forward, *batch).backward()
    return {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}


CHANGES = [
    {},
    {"form": "residual"},
    {"a": 0.0},
    {"model": "resnet8"},
    {"model": "resnet18", "form": "gated", "a": 0.0},
    {"source": "learned"},
]


def worker(root: str, path: str) -> None:
    distributed.join("cpu")
    assert distributed.n_processes() == 2
    gradients = [frozen_gradients(replace(colour_config(root), **changes)) for changes in CHANGES]
    if distributed.rank() == 0:
        torch.save(gradients, path)


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(colours, tmp_path, home):
    command = [*TORCHRUN, __file__, colours.root, str(tmp_path / "gradients.pt")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(home))
    assert done.returncode == 0, done.stderr[-3000:]
    for changes, two in zip(CHANGES, torch.load(tmp_path / "gradients.pt"), strict=True):
        one = frozen_gradients(replace(colours, **changes))
        assert two.keys() == one.keys(), changes
        for name, gradient in one.items():
            torch.testing.assert_close(two[name], gradient, atol=1e-6, rtol=1e-5, msg=f"{changes}: {name}")


def environment(home) -> dict[str, str]:
    folders = os.pathsep.join([str(paths.CHECKOUT), str(paths.CHECKOUT / "tests")])
    return os.environ | {"RESATTN_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": folders}


def train_command(config: TrainConfig, *more: str) -> list[str]:
    """The command that trains ``colours`` on two processes, with ``more`` options of torchrun."""
    options = {"dataset": "colours", "root": config.root, "epochs": config.epochs, "image-size": 16, "batch-size": 24}
    options |= {"lr": 0.01, "a": 1, "device": "cpu"}
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [*TORCHRUN, *more, "-m", "resattn", "train", *given]


@pytest.mark.slow
def test_a_run_begun_by_one_process_is_ended_by_two_and_learns_as_well(colours, home, tmp_path):
    alone = train(colours, folder=tmp_path / "alone", on_epoch=quiet)

    def stop(_history):
        raise KeyboardInterrupt

    folder = home / "runs" / "training" / colours.slug
    with pytest.raises(KeyboardInterrupt):
        train(colours, folder=folder, on_epoch=stop)
    command = train_command(colours)
    done = subprocess.run(command, capture_output=True, text=True, env=environment(home))
    assert done.returncode == 0, done.stderr[-3000:]
    printed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert printed == ["2/4", "3/4", "4/4"], "one process prints, and no epoch is trained again"
    (path,) = (home / "runs" / "records").iterdir()
    record = json.loads(path.read_text())
    assert path.stem == colours.slug
    assert record["config"] == alone["config"]
    assert record["environment"]["processes"] == 2
    assert record["metrics"]["test_acc"] > 0.9 < alone["metrics"]["test_acc"]
    first, second = (r["metrics"]["epochs"] for r in (alone, record))
    assert first[0]["train_loss"] == second[0]["train_loss"]
    assert second[3]["train_loss"] < 0.5 * second[0]["train_loss"], (
        "near, not equal: each process has batch statistics of its own"
    )


@pytest.mark.slow
def test_torchrun_restarts_after_a_killed_process_and_ends_as_if_nothing_had_happened(colours, home):
    config = replace(colours, epochs=8)
    records = home / "runs" / "records"
    undisturbed = subprocess.run(train_command(config), capture_output=True, text=True, env=environment(home))
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    (expected,) = (json.loads(path.read_text()) for path in records.iterdir())
    shutil.rmtree(records)

    command, pipes = train_command(config, "--max-restarts=1"), {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, env=environment(home), **pipes) as torchrun:
        lines = [next(line for line in torchrun.stdout if line.startswith("epoch   3"))]
        ranks = {int(child.environ()["RANK"]): child for child in psutil.Process(torchrun.pid).children()}
        ranks[1].kill()
        lines += torchrun.stdout
    assert torchrun.returncode == 0, "".join(lines)[-3000:]
    assert not any(child.is_running() for child in ranks.values()), "both were started again"
    epochs = [int(line.split()[1].split("/")[0]) for line in lines if line.startswith("epoch")]
    assert epochs == sorted(set(epochs)), "no epoch is trained again"
    assert epochs[-1] == 8
    (record,) = (json.loads(path.read_text()) for path in records.iterdir())
    losses = [[entry["train_loss"] for entry in each["metrics"]["epochs"]] for each in (record, expected)]
    assert losses[0] == losses[1]
    assert record["metrics"]["test_acc"] == expected["metrics"]["test_acc"]


def test_each_process_takes_its_own_gpu_before_it_touches_any(monkeypatch):
    calls = []
    for name in ("is_torchelastic_launched", "is_initialized"):
        monkeypatch.setattr(distributed.dist, name, lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(distributed, "find_device", lambda name: calls.append(name) or torch.device("cpu"))
    monkeypatch.setenv("LOCAL_RANK", "3")
    for name in (None, "cuda", "cuda:0", "cpu"):
        distributed.join(name)
    assert calls == [3, "cuda:3"] * 3 + ["cpu"]


def test_a_batch_that_does_not_divide_is_refused(colours, monkeypatch):
    monkeypatch.setattr(distributed, "n_processes", lambda: 5)
    monkeypatch.setattr(distributed.dist, "barrier", lambda: None)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 5 processes, got 24"):
        Trainer(colours, load_dataset("colours", colours.root), torch.device("cpu"))


if __name__ == "__main__":
    worker(*sys.argv[1:])
