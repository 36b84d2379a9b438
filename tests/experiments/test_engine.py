"""The engine with real processes: workers and commands that are killed, clusters that are joined and left, runs that fail."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from resattn import TrainConfig, load_dataset, paths
from resattn.analysis.records import load_records
from resattn.experiments import engine
from resattn.experiments.engine import Engine, trainings, visible_gpus
from resattn.files import write_json
from resattn.training.checkpoint import save_checkpoint
from resattn.training.trainer import Trainer, train

DASK = str(Path(sys.executable).with_name("dask"))
RUN = [sys.executable, "-m", "resattn", "run", "--profile", "short", "--dataset", "birds"]
TINY = ["image_size=16", "batch_size=16", "source=saliency", "lr=0.01"]


def wait_for(condition, seconds=90):
    """The first true value of ``condition()``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def children(process):
    """The processes in which a command's or a worker's runs are executed."""
    found = []
    with contextlib.suppress(psutil.Error):
        for each in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "_child()" in " ".join(each.cmdline()):
                    found.append(each)
    return found


def gone(processes, seconds=20):
    return psutil.wait_procs(processes, timeout=seconds)[1] == []


class Place:
    """A home with a data set of its own, and a way to start commands there."""

    def __init__(self, home, data):
        self.home, self.data, self.started = home, data, []

    def start(self, *command, cwd=paths.CHECKOUT, **options):
        environment = os.environ | {"RESATTN_HOME": str(self.home), "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = str(paths.CHECKOUT)
        environment.pop("OMP_NUM_THREADS", None)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=cwd, env=environment, **pipes, **options)
        self.started.append(process)
        return process

    def run(self, *more, epochs=2, only="*resnet8*", **options):
        """The command that trains a few networks on the folder of birds."""
        settings = [text for each in (*TINY, f"epochs={epochs}") for text in ("--set", each)]
        out = ["--out", str(self.home / "records"), "--only", only]
        return self.start(*RUN, "--data", str(self.data), *out, *settings, *more, **options)

    def records(self):
        """Records by name, without what differs from one execution to the next."""
        found = {}
        for path in sorted((self.home / "records").glob("*.json")):
            record = json.loads(path.read_text())
            del record["environment"]
            for entry in record["metrics"]["epochs"]:
                del entry["seconds"]
            found[path.stem] = record
        return found

    def threads(self):
        """The numbers of threads that the records say."""
        records = (json.loads(path.read_text()) for path in (self.home / "records").glob("*.json"))
        return {record["environment"]["threads"] for record in records}

    def checkpoint(self):
        return next(self.home.glob("runs/training/*seed0*/checkpoint.pt"), None)


@pytest.fixture(scope="session")
def birds(tmp_path_factory):
    """A class folder of noise, made once."""
    import numpy as np
    from PIL import Image

    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("engine") / "data"
    for split, n in (("train", 60), ("test", 10)):
        for label in ("crow", "duck", "finch"):
            (folder / "birds" / split / label).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "birds" / split / label / f"{i:03d}.png")
    return folder


@pytest.fixture
def make_place(tmp_path, birds):
    places = []

    def make(name="here"):
        places.append(Place(tmp_path / name, birds))
        return places[-1]

    yield make
    for process in (process for place in places for process in place.started):
        process.kill()
        process.communicate()


EPOCHS = 16


def birds_config(data, seed, epochs):
    """What ``Place.run`` trains."""
    settings = {"dataset": "birds", "root": str(data), "model": "resnet8", "image_size": 16, "batch_size": 16}
    return TrainConfig.preset("short", **settings, lr=0.01, epochs=epochs, seed=seed)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, birds):
    """The records of two runs that were left alone, in this process, on as many threads as they have on one of two workers."""
    place, threads = Place(tmp_path_factory.mktemp("undisturbed"), birds), torch.get_num_threads()
    torch.set_num_threads(max(1, engine.n_cores() // 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", place.home / "cache")
        for seed in (0, 1):
            config = birds_config(birds, seed, EPOCHS)
            train(config, folder=place.home / config.slug, records=place.home / "records", on_epoch=lambda _: None)
    torch.set_num_threads(threads)
    return place.records()


@pytest.mark.slow
def test_the_run_of_a_killed_worker_goes_on_from_its_checkpoint_elsewhere(make_place, undisturbed):
    place = make_place()
    command = place.run("--seeds", "2", "--jobs", "2", epochs=EPOCHS)
    wait_for(place.checkpoint)
    time.sleep(0.1)  # into the middle of an epoch
    child = next(each for each in children(command) if "seed0" in _slug(each, place))
    worker = child.parent()
    worker.kill()
    assert gone([child]), "no run outlives its worker"
    out, errors = command.communicate(timeout=300)
    assert command.returncode == 0, out + errors
    assert place.records() == undisturbed
    log = next(place.home.glob("runs/training/*seed0*/log.txt")).read_text()
    assert int(log.split()[1].partition("/")[0]) > 1, "it went on, it did not start over"


def _slug(child, place):
    """Which run a process is executing: the one whose log it has open."""
    logs = [Path(f"/proc/{child.pid}/fd/1").resolve()]
    return logs[0].parent.name


@pytest.mark.slow
def test_a_killed_command_goes_on_when_it_is_called_again(make_place, undisturbed):
    place = make_place()
    command = place.run("--seeds", "2", "--jobs", "2", epochs=EPOCHS)
    wait_for(place.checkpoint)
    below = psutil.Process(command.pid).children(recursive=True)
    command.kill()
    assert gone(below), "neither workers nor runs outlive the command"
    again = place.run("--seeds", "2", "--jobs", "2", epochs=EPOCHS)
    out, errors = again.communicate(timeout=300)
    assert again.returncode == 0, out + errors
    assert place.records() == undisturbed
    assert place.threads() == {max(1, engine.n_cores() // 2)}, "workers share the cores"


@pytest.mark.slow
def test_a_cluster_is_joined_while_workers_come_and_go(make_place, undisturbed, tmp_path, monkeypatch):
    """The workers live in folders and homes of their own; the home of the command is all they share."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION", "1.0")  # no run waits at a busy worker
    place, file = make_place(), tmp_path / "scheduler.json"
    place.start(DASK, "scheduler", "--scheduler-file", str(file), "--port", "0", "--no-dashboard")
    wait_for(file.exists)

    def start_worker(name):
        (tmp_path / name).mkdir()
        own = Place(tmp_path / name / "home", None)
        worker = own.start(DASK, "worker", "--scheduler-file", str(file), "--nthreads", "1", cwd=tmp_path / name)
        place.started.append(worker)
        return worker

    first = start_worker("first")
    command = place.run("--seeds", "2", "--scheduler", str(file), epochs=EPOCHS)
    (run,) = wait_for(lambda: children(first))
    wait_for(place.checkpoint)
    run.suspend()  # or it ends, and takes the other run, before the second worker is there
    second = start_worker("second")
    wait_for(lambda: children(second))
    run.resume()
    first.terminate()
    assert gone([run])
    out, errors = command.communicate(timeout=300)
    assert command.returncode == 0, out + errors
    assert place.records() == undisturbed
    assert not list(tmp_path.glob("*/home/runs")), "nothing was written outside the command's home"


@pytest.mark.slow
def test_a_joined_cluster_drops_the_runs_of_a_command_that_was_killed(make_place, tmp_path):
    place, file = make_place(), tmp_path / "scheduler.json"
    place.start(DASK, "scheduler", "--scheduler-file", str(file), "--port", "0", "--no-dashboard")
    worker = place.start(DASK, "worker", "--scheduler-file", str(file), "--nthreads", "1")
    command = place.run("--seeds", "1", "--scheduler", str(file), epochs=5000)
    runs = wait_for(lambda: children(worker))
    command.kill()
    assert gone(runs)
    again = place.run("--seeds", "1", "--scheduler", json.loads(file.read_text())["address"], epochs=1)
    out, errors = again.communicate(timeout=300)
    assert again.returncode == 0, out + errors


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_the_others_finish(make_place):
    place = make_place()
    name = birds_config(place.data, 0, 1).slug
    damaged = place.home / "runs/training" / name / "checkpoint.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    command = place.run("--seeds", "2", "--jobs", "1", epochs=1)
    out, _ = command.communicate(timeout=300)
    assert command.returncode == 1
    assert f"{name}: FAILED: ValueError: checkpoint " in out
    assert f"FAILED accuracy/{name}; its log: " in out
    assert "1 of 2 runs done" in out
    assert len(place.records()) == 1
    assert place.threads() == {engine.n_cores()}, "one worker has all cores"
    assert sum("test accuracy" in line and line.startswith("[") for line in out.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "handling"), [(signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)])
def test_a_signal_leaves_no_process_and_two_commands_in_one_folder_are_refused(make_place, number, handling):
    """Ctrl-C also where it was ignored before, as in jobs that a shell starts in the background."""
    place = make_place()
    command = place.run("--seeds", "2", epochs=5000, preexec_fn=lambda: signal.signal(signal.SIGINT, handling))
    wait_for(lambda: len(children(command)) == min(2, engine.n_cores()))
    second = place.run("--seeds", "2", epochs=5000)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "another command is already running in" in errors
    assert "Traceback" not in errors
    below = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(number)
    out, errors = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "the same command goes on from there" in out
    assert "Traceback" not in errors
    assert gone(below)
    assert place.records() == {}


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_ends_with_one_line(make_place, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "3s")
    command = make_place().run("--scheduler", "tcp://127.0.0.1:9", epochs=1)
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 2
    assert errors.splitlines()[-1].startswith("python -m resattn run: ")
    assert "127.0.0.1:9" in errors.splitlines()[-1]


@pytest.mark.parametrize("file", ["scheduler.json", r"C:\cluster\scheduler.json"])
def test_a_scheduler_file_that_nobody_writes_is_an_error(tmp_path, runs, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "_PATIENCE", 0.3)
    with (
        Engine(tmp_path / "records", scheduler=file) as joined,
        pytest.raises(OSError, match=rf"no scheduler wrote {re.escape(file)} within"),
    ):
        list(joined.run(runs))


@pytest.mark.slow
def test_a_run_that_the_system_kills_is_reported_as_such(make_place):
    place = make_place()
    command = place.run("--seeds", "1", epochs=5000)
    (run,) = wait_for(lambda: children(command))
    wait_for(place.checkpoint)
    run.kill()
    out, _ = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "FAILED: its process was killed by signal 9" in out


# Without Dask: one after the other in this process


@pytest.fixture
def runs(make_folder, tmp_path):
    config = TrainConfig("birds", make_folder(train=30, test=10).parent, model="resnet8", epochs=1, image_size=16)
    seeds = {
        f"seed{seed}": TrainConfig(**vars(config) | {"batch_size": 16, "lr": 0.01, "seed": seed}) for seed in (0, 1)
    }
    return trainings(seeds | {"too large": config}, tmp_path / "records")


def test_finished_runs_are_skipped_and_half_a_record_is_made_again(runs, tmp_path, capsys):
    with Engine(tmp_path / "records", jobs=0) as here:
        failures = {run.name: failure for run, failure in here.run(runs)}
    assert failures == {"seed0": None, "seed1": None, "too large": failures["too large"]}
    assert "batch_size must be at most" in failures["too large"]
    out = capsys.readouterr().out
    assert "[1/3] seed0: test accuracy" in out
    assert "[3/3] too large: FAILED: ValueError: batch_size must be" in out
    whole = runs[0].record.read_text()
    runs[0].record.write_text(whole[:40])
    with Engine(tmp_path / "records", jobs=0) as here:
        assert [run.name for run, _ in here.run(runs[:2])] == ["seed1", "seed0"]
    assert "1 of 2 finished earlier, skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.pop("config"),
        lambda record: record["config"].update(lr=0.5),
        lambda record: record["metrics"].pop("test_acc"),
        lambda record: record["metrics"]["epochs"].pop(),
        lambda record: record.update(metrics={}),
        lambda record: record.update(metrics=None),
    ],
)
def test_a_record_counts_only_if_it_is_whole_and_of_this_run(runs, damage):
    config = runs[0].config
    metrics = {"test_acc": 0.5, "epochs": [{"val_acc": 0.5}]}
    record = {"config": config.identity(), "metrics": metrics, "environment": {"folder": config.folder}}
    write_json(runs[0].record, record)
    assert runs[0].finished()
    damage(record)
    write_json(runs[0].record, record)
    assert not runs[0].finished()
    runs[0].record.write_text("[]")
    assert not runs[0].finished()


def test_another_folder_of_the_same_name_is_another_run(runs, tmp_path):
    """Its record has the same name, so it must not count as this one's, nor its checkpoint."""
    here = runs[0]
    here.execute()
    assert here.finished()
    elsewhere = shutil.copytree(Path(here.config.root, "birds"), tmp_path / "elsewhere" / "birds")
    config = replace(here.config, root=str(elsewhere.parent))
    assert config.slug == here.config.slug
    assert not replace(here, config=config).finished()
    state = Trainer(here.config, load_dataset("birds", here.config.root), torch.device("cpu")).state()
    path = save_checkpoint(tmp_path / "checkpoint.pt", state)
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        Trainer(config, load_dataset("birds", config.root), torch.device("cpu")).resume(path)
    whole = here.record.read_text()
    with pytest.raises(ValueError, match=f"records must be a folder without {here.record.name}, which is of another"):
        replace(here, config=config).execute()
    assert here.record.read_text() == whole, "it is not written over"
    train(config, folder=tmp_path / "run", records=tmp_path / "others", on_epoch=lambda _: None)
    both = load_records(tmp_path / "records", tmp_path / "others")
    assert both["protocol"].nunique() == len(both) == 2


def test_a_run_that_leaves_no_record_failed(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_PATIENCE", 0.0)
    monkeypatch.setattr(engine.Run, "execute", lambda run: None)
    with Engine(tmp_path / "records", jobs=0) as here:
        assert [failure for _, failure in here.run(runs[:1])] == ["its record did not appear"]


def test_one_engine_a_folder(runs, tmp_path):
    with Engine(tmp_path / "records", jobs=0):
        with pytest.raises(OSError, match=r"another command is already running in .*records; wait for it or stop it"):
            Engine(tmp_path / "records", jobs=0).__enter__()
        with Engine(tmp_path / "others", jobs=0):
            pass
    with Engine(tmp_path / "records", jobs=0):
        pass


def test_a_bar_where_someone_watches(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine, "interactive", lambda: True)
    with Engine(tmp_path / "records", jobs=0) as here:
        list(here.run(runs[:1]))
    assert "1/1" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "devices"), [("", []), ("-1", []), ("2", ["2"]), ("0,3", ["0", "3"])])
def test_gpus_are_those_that_may_be_used(monkeypatch, given, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == devices


def test_gpus_are_those_that_the_driver_names(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listed = "GPU 0: H200 (UUID: a)\n  MIG 1g.18gb Device 0: (UUID: c)\nGPU 1: H200 (UUID: b)"
    monkeypatch.setattr(subprocess, "getoutput", lambda _: listed)
    assert (visible_gpus(), engine.default_jobs()) == (["0", "1"], 2)
    monkeypatch.setattr(subprocess, "getoutput", lambda _: "sh: 1: nvidia-smi: not found")
    assert visible_gpus() == []
