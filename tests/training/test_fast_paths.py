"""The fast paths give what the plain ones give: compiled and bfloat16 steps, and the straightforward pipeline beside ours."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import torch

from benchmarks import measure, plain
from benchmarks.floor import step_floor
from resattn import ResAttnNet, TrainConfig, load_dataset, paths
from resattn.attention.maps import attention_maps
from resattn.data.datasets import Split, channel_stats
from resattn.training.environment import tune_process
from resattn.training.trainer import Trainer, train

SETTINGS = {"epochs": 1, "image_size": 16, "batch_size": 10, "lr": 1e-3, "n_val": 6, "a": 1.0, "form": "gated"}


@pytest.fixture
def birds(make_folder):
    return {"dataset": "birds", "root": str(make_folder(train=20).parent)}


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")


@pytest.fixture
def own_inductor_cache(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")  # set and unset, so that it is unset again afterwards
    torch._dynamo.reset()


@needs_compiler
def test_compiled_training_gives_the_eager_losses_and_compiles_once(birds, own_inductor_cache):
    torch._dynamo.utils.counters.clear()
    losses = {}
    tune_process(torch.device("cpu"))
    for compiled in (False, True):
        config = TrainConfig(**SETTINGS | {"image_size": 48}, **birds, compile=compiled)
        run = Trainer(config, load_dataset(config.dataset, config.root), torch.device("cpu"))
        ready = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        losses[compiled] = torch.stack([*run.steps(), *run.steps()])
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == ready, "nothing is compiled once it trains"
    assert len(losses[True]) == 10
    assert ready == 1
    assert any((paths.CACHE / "inductor").rglob("*")), "compiled code is kept for the next run"
    torch.testing.assert_close(losses[True], losses[False], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("image_size", "map_side"), [(224, 28), (64, 8)])
@pytest.mark.parametrize(
    ("form", "backend"),
    [
        *((form, "aot_eager") for form in ("printed", "gated", "residual")),
        pytest.param("gated", "inductor", marks=[needs_compiler, pytest.mark.slow]),
    ],
)
def test_compiled_networks_equal_eager_ones_at_the_sizes_in_use(form, backend, image_size, map_side):
    """Training step and evaluation, image and map of different sizes, in one graph each; code is generated for one form alone."""
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 32, 32, generator=generator)
    attention = torch.rand(2, 1, map_side, map_side, generator=generator)
    nets = [
        ResAttnNet(10, 0.5, form, image_size=image_size, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    ]
    forwards = [nets[0], torch.compile(nets[1], backend=backend, dynamic=False, fullgraph=True)]
    for net, forward in zip(nets, forwards, strict=True):
        torch.nn.functional.cross_entropy(forward(image, attention), torch.tensor([3, 7])).backward()
        net.eval()
    grads = [torch.cat([p.grad.flatten() for p in net.parameters()]) for net in nets]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(forwards[1](image, attention), nets[0](image, attention), rtol=1e-4, atol=1e-4)


def test_a_compiler_that_fails_costs_a_line_not_the_run(birds, capsys, monkeypatch, own_inductor_cache):
    """The compiler is one that is not there, so this is what a machine without one sees."""
    records = {}
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    for compiled in (False, True):
        records[compiled] = train(TrainConfig(**SETTINGS, **birds, compile=compiled))
    said = [line for line in capsys.readouterr().out.splitlines() if "torch.compile failed" in line]
    assert len(said) == 1
    assert "goes on without it" in said[0]
    assert records[True]["metrics"]["test_loss"] == records[False]["metrics"]["test_loss"]


def test_bfloat16_runs_on_the_cpu_and_stays_close(birds):
    records = {
        precision: train(TrainConfig(**SETTINGS, **birds, precision=precision)) for precision in ("float32", "bfloat16")
    }
    exact, rough = (record["metrics"]["epochs"][0]["train_loss"] for record in records.values())
    assert exact != rough, "bfloat16 must really be in use"
    assert rough == pytest.approx(exact, rel=0.05)
    assert records["bfloat16"]["environment"]["precision"] == "bfloat16"


def test_the_straightforward_pipeline_feeds_the_same_data(birds):
    """Averaged over many draws, both pipelines show the network the same pixels, so their speeds compare like with like."""
    data = load_dataset(birds["dataset"], birds["root"])
    maps = attention_maps(data.train.images, "saliency")
    mean, std = channel_stats(data.train.images)
    one = Split(data.train.images[:1].expand(2000, -1, -1, -1), data.train.labels[:1].expand(2000))
    slow = plain.AugmentedImages(one, maps[:1].expand(2000, -1, -1, -1), mean, std, image_size=16)
    torch.manual_seed(0)
    images, moved, _ = zip(*(slow[i] for i in range(2000)), strict=True)
    run = Trainer(TrainConfig(**SETTINGS, **birds), data, torch.device("cpu"))
    drawn = run._augmented(one.images, maps[:1].expand(2000, -1, -1, -1), one.labels)
    fast, fast_maps = (torch.cat(parts) for parts in list(zip(*drawn, strict=True))[:2])
    assert (torch.stack(images).mean(0) - fast.mean(0)).abs().max() < 0.15
    shrunk = torch.nn.functional.interpolate(fast_maps, (16, 16), mode="bicubic", align_corners=False)
    assert (torch.stack(moved).mean(0) - shrunk.mean(0)).abs().mean() < 0.05


@pytest.mark.slow
def test_the_floor_counts_what_a_step_does_and_keeps():
    """One 1x1 convolution without bias, by hand: three products a step but for the input's gradient, and two tensors kept."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 10, 1, bias=False)

        def forward(self, images, maps):
            return self.conv(images).flatten(2).sum(2)

    floor = step_floor(Net(), 4, torch.device("cpu"), "float32")
    assert floor["gflop"] == pytest.approx(2 * (2 * 4 * 32 * 32 * 3 * 10) / 1e9)
    inputs = 4 * 3 * 32 * 32 * 4
    assert inputs <= floor["kept_mb"] * 2**20 < inputs + 2000
    assert floor["seconds"] >= floor["gflop"] / floor["gflop_per_second"] > 0


@pytest.fixture
def call(monkeypatch, capsys):
    """Call a benchmark with options; gives what it prints."""

    def run(module: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", [module, *options])
        importlib.import_module(f"benchmarks.{module}").main()
        return capsys.readouterr().out

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("train_step", ["plain", "--image-size", "16", "--batch-size", "8", "--steps", "2"]),
        ("attention", ["usual", "--model", "vit_tiny_patch16_224", "--images", "1", "--batches", "1"]),
    ],
)
def test_benchmarks_run(module, options, call, shapes, shapes_cache, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", shapes_cache)
    assert json.loads(call(module, "--child", *options, "--started", "0").splitlines()[-1])["images_per_second"] > 0


@pytest.mark.slow
def test_the_benchmark_of_large_data_runs(tmp_path, call, monkeypatch):
    monkeypatch.setenv("RESATTN_IN_MEMORY_MB", "1")  # which it sets: so that it is unset again afterwards
    monkeypatch.setattr("benchmarks.large_data.SIDE", 32)
    monkeypatch.setattr("benchmarks.large_data.BATCH", 8)
    sides = [["--draw-only", "--images", "16", "--maps", "50"]]
    sides += [["--child", side] for side in ("memory", "disk", "imagefolder", "decode", "maps")]
    for options in sides:
        answer = call("large_data", "--folder", str(tmp_path), *options)
    assert json.loads(answer)["images"] == 50


def test_memory_of_a_run_counts_its_workers_and_leaves_out_those_that_ended():
    hold = "block = bytearray(b'x' * 2**26); print('ready', flush=True); time.sleep(60)"
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', \"import time; {hold}\"])\n{hold}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        for _ in range(2):
            assert process.stdout.readline() == b"ready\n"
        (worker,) = psutil.Process(process.pid).children()
        together = measure.tree_memory_mb(process.pid)
        worker.kill()  # nobody waits for it, so it stays as a zombie
        while worker.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        alone = measure.tree_memory_mb(process.pid)
        process.kill()
    assert alone > 64
    assert together > alone + 64
    assert measure.tree_memory_mb(process.pid) == 0


def test_a_process_that_ends_while_it_is_looked_at_counts_as_nothing(monkeypatch):
    def ended(process):
        raise psutil.ZombieProcess(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", ended)
    assert measure.tree_memory_mb(os.getpid()) == 0
