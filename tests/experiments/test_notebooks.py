"""run_all.sh and what it runs: options, jobs, one real papermill run, failures, interruptions."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from resattn import paths
from resattn.__main__ import main
from resattn.config import TrainConfig
from resattn.experiments.command import core_seconds, seconds_on
from resattn.experiments.notebooks import list_jobs, notebook_parameters
from resattn.experiments.protocols import TABLE3
from resattn.files import write_json

TINY = ["--set", "epochs=1", "--set", "image_size=16", "--set", "batch_size=500", "--set", "compile=False"]


def run(home, *options, environment=None, **kwargs):
    command = [sys.executable, "-m", "resattn", "run", *options]
    environment = os.environ | {"RESATTN_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""} | (environment or {})
    return subprocess.run(command, cwd=paths.CHECKOUT, env=environment, capture_output=True, text=True, **kwargs)


def status(*options):
    """The exit status of ``python -m resattn run``, in this process."""
    try:
        return main(["run", *options])
    except SystemExit as end:
        return end.code


def names(profile, **options):
    defaults = {"dataset": None, "seeds": 2, "root": None, "changes": {}}
    return [job.name for job in list_jobs(profile, **defaults | options)]


@pytest.mark.parametrize("script", ["./run_all.sh", "tests/run.sh"])
def test_help_answers_at_once_without_an_environment(script):
    start = time.monotonic()
    answer = subprocess.run(
        ["bash", script, "--help"], cwd=paths.CHECKOUT, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert answer.returncode == 0
    assert "usage" in answer.stdout
    assert time.monotonic() - start < 1


def test_planning_imports_no_torch():
    code = "import sys; from resattn.__main__ import main; main(['run', '--dry-run', '--profile', 'demo']); sys.exit('torch' in sys.modules)"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.CHECKOUT, env=environment, capture_output=True)
    assert done.returncode == 0


def test_the_command_helps_at_once_without_torch():
    start = time.monotonic()
    whole = subprocess.run([sys.executable, "-m", "resattn", "--help"], capture_output=True, text=True)
    assert time.monotonic() - start < 2
    verbs = re.findall(r"^    (\w+)  ", whole.stdout, re.MULTILINE)
    assert verbs == ["train", "maps", "dino", "search", "run", "report"]
    for verb in verbs:
        code = f"import sys\nfrom resattn.__main__ import main\ntry: main(['{verb}', '--help'])\nfinally: assert 'torch' not in sys.modules"
        shown = subprocess.run([sys.executable, "-c", code], cwd=paths.CHECKOUT, capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
        assert f"python -m resattn {verb}" in shown.stdout


def test_maps_are_computed_once_and_kept(tmp_path, make_folder, capsys):
    options = ["maps", "--dataset=birds", f"--root={make_folder().parent}", "--source=saliency"]
    assert main(options) == 0
    assert "train: 12x1x28x28 maps of saliency" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in paths.CACHE.rglob("*saliency*.safetensors")}
    assert len(kept) == 2
    assert main(options) == 0
    assert kept == {path: path.stat().st_mtime_ns for path in paths.CACHE.rglob("*saliency*.safetensors")}


def test_maps_that_a_network_makes_cannot_be_computed_without_it(capsys):
    assert main(["maps", "--source=learned"]) == 2
    assert "source must be one of finished maps; the network makes those of 'learned'" in capsys.readouterr().err


def test_a_missing_package_ends_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    options = ["--dataset=shapes", "--model=resnet8", "--epochs=1", "--image-size=8", "--trials=1"]
    assert main(["search", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "python -m resattn search: optuna is missing: pip install 'resattn[notebooks]'"


def test_demo_covers_three_strengths_three_forms_baseline_and_two_seeds():
    jobs = names("demo")
    assert len(jobs) == 2 + 2 * 8 + 3
    assert {
        "01-shapes",
        "02",
        "04",
        "05",
        "06",
        "03-shapes-resnet8-seed1",
        "03-shapes-printed-a0.5-seed0",
        "03-shapes-gated-a1-seed1",
        "03-shapes-residual-a1-seed0",
    } <= set(jobs)


def test_reduced_makes_the_readmes_table():
    """Its records are those that are committed: the same settings under the same names."""
    runs = [job.config for job in list_jobs("reduced", None, 3, None, {}) if job.config]
    assert len(runs) == 5 * 3
    assert {(run.model, run.form, run.a) for run in runs if run.model == "resattn"} == {
        ("resattn", "printed", 0.0), ("resattn", "printed", 1.0), ("resattn", "gated", 1.0), ("resattn", "residual", 1.0),
    }  # fmt: skip
    assert {run.dataset for run in runs} == {"cifar10"}
    assert {path.stem for path in (paths.RESULTS / "reduced").glob("*.json")} <= {run.slug for run in runs}
    assert all(
        run == TrainConfig.preset("reduced", **{n: getattr(run, n) for n in ("dataset", "model", "form", "a", "seed")})
        for run in runs
    )


def test_the_cost_of_the_whole_is_shared_by_the_cores_that_are_busy(monkeypatch):
    jobs = list_jobs("demo", None, 1, None, {})
    whole = sum(map(core_seconds, jobs))
    monkeypatch.setattr("dask.system.CPU_COUNT", 4)
    assert seconds_on(1, jobs) == pytest.approx(whole / 4), "one run has all cores"
    assert seconds_on(2, jobs) == seconds_on(4, jobs) == seconds_on(1000, jobs) == pytest.approx(whole / 4)
    assert seconds_on(4, jobs[:1]) == pytest.approx(core_seconds(jobs[0])), "the others have nothing to do"
    assert seconds_on(4, []) == 0


def test_paper_covers_both_cifars_at_the_papers_settings():
    jobs = list_jobs("paper", None, 3, None, {})
    runs = [job.config for job in jobs if job.config]
    assert len(runs) == 2 * len(TABLE3) * 3
    assert {run.dataset for run in runs} == {"cifar10", "cifar100"}
    assert {(run.epochs, run.image_size, run.lr, run.batch_size, run.source) for run in runs} == {
        (100, 224, 0.2, 128, "dino")
    }


@pytest.mark.parametrize(("name", "place"), [("shapes", "shapes"), ("birds", "{}/birds")])
def test_a_folder_here_is_named_by_its_whole_path_but_the_drawn_shapes_are_no_folder(
    tmp_path, monkeypatch, name, place
):
    asked = []
    monkeypatch.setattr("resattn.experiments.command.list_jobs", lambda _, dataset, *__: asked.append(dataset) or [])
    (tmp_path / name / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert status("--profile", "demo", "--dataset", name, "--dry-run") == 2, "there is no run"
    assert asked == [place.format(tmp_path)]


def test_a_folder_of_images_of_any_size_can_be_run():
    jobs = list_jobs("demo", "birds", 1, None, {"size": 32})
    assert {job.parameters["size"] for job in jobs if job.name.startswith(("01", "03"))} == {32}
    assert {job.config.size for job in jobs if job.config} == {32}


def test_without_profile_the_reason_is_said(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert status("--dry-run") == 0
    assert "Profile demo: no CUDA GPU here" in capsys.readouterr().out


def test_a_gpu_that_torch_cannot_use_is_named_and_the_demo_chosen(tmp_path):
    answer = run(tmp_path, "--dry-run", environment={"CUDA_VISIBLE_DEVICES": "99"})
    assert answer.returncode == 0, answer.stderr
    first = answer.stdout.splitlines()[0]
    assert first == "Profile demo: torch cannot use the GPU that is here (--profile chooses another)."
    assert "21 runs" in answer.stdout


def test_days_on_the_cpu_do_not_start_unasked(monkeypatch, capsys):
    monkeypatch.setattr("resattn.experiments.command._has_cuda", lambda: False)
    for devices, found in (("0", "torch cannot use the GPU that is here"), ("", "no CUDA GPU here")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        assert status("--profile", "paper") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"python -m resattn run: {found}" in line
        assert re.search(r"takes about \d{3}:\d\d h; --cpu runs it all the same", line)
    assert not paths.RUNS.exists()
    assert status("--profile", "paper", "--only", "02", "--dry-run", "--cpu") == 0
    assert capsys.readouterr().out.startswith("02 "), "asked for"


def test_precision_and_compilation_can_be_set():
    changes = {"compile": False, "precision": "bfloat16"}
    runs = [job for job in list_jobs("demo", None, 1, None, changes) if job.config]
    assert {(job.config.compile, job.config.precision) for job in runs} == {(False, "bfloat16")}
    assert all(job.parameters.items() >= changes.items() for job in runs)


def test_dry_run_lists_jobs_and_cost_and_writes_nothing(home, capsys):
    assert status("--profile", "demo", "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.count("about") > 10
    assert "21 runs, 0 finished" in said
    assert not home.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "epcohs=3"], "--set epcohs: no such setting; there are a, "),
        (["--set", "form=7"], "form must be one of printed, gated, residual, scaled, unmasked; got 7"),
        (["--set", "form=gatted"], "form must be one of printed, gated, residual, scaled, unmasked; got 'gatted'"),
        (["--set", "a=1.5"], "a must be a number in [0, 1], got 1.5"),
        (["--set", "a=nan"], "a must be a number in [0, 1], got 'nan'"),
        (["--set", "lr"], "argument --set: must be NAME=VALUE, got 'lr'"),
        (["--only", "nothing*"], "matches no run"),
        (["--set", "weights=no/such/file"], "--set weights: must be 'pretrained', 'random' or a checkpoint file, got"),
        (["--set", "records=elsewhere"], "--set records: no such setting"),
        (["--set", "preset=paper"], "--set preset: no such setting"),
        (["--seeds", "0"], "must be a whole number of at least 1"),
        (["--profile", "fast"], "invalid choice"),
        (["--data", "no/such/folder"], "--data: must be a folder that exists"),
    ],
)
def test_bad_options_end_with_a_clear_line(home, capsys, options, message):
    assert status("--profile", "demo", *options) == 2
    assert message in capsys.readouterr().err
    assert not home.exists()


@pytest.mark.parametrize("change", ["model=resnet18", "depths=(3,3,3)", "form=gated", "a=0.5"])
def test_what_a_list_decides_cannot_be_set(capsys, change):
    assert status("--profile", "short", "--dry-run", "--set", change) == 2
    assert f"--set {change.partition('=')[0]}: no such setting" in capsys.readouterr().err


@pytest.mark.parametrize("home", ["file/home", "/proc/nowhere"])
def test_a_home_that_cannot_be_written_ends_with_one_line(tmp_path, home):
    (tmp_path / "file").write_text("a regular file")
    answer = run(tmp_path / home, "--profile", "demo", "--only", "02")
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert "cannot write in" in line
    assert "set RESATTN_HOME to a folder that can be written" in line


@pytest.mark.parametrize("strict", [{}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["as usual", "ascii"])
def test_a_plain_c_locale_makes_no_difference(tmp_path, make_folder, strict):
    folder = make_folder("größe")
    plain = dict.fromkeys(("LC_ALL", "LANG", "LC_CTYPE"), "C") | strict
    answer = run(
        tmp_path,
        "--profile",
        "demo",
        "--data",
        str(folder.parent),
        "--dataset",
        "größe",
        "--dry-run",
        environment=plain,
    )
    assert answer.returncode == 0, answer.stderr
    assert "21 runs" in answer.stdout


def test_without_hub_it_ends_before_the_first_job_with_the_ways_out(tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch")}
    options = ["--profile", "demo", "--set", "source=dino"]
    answer = run(tmp_path, *options, environment=offline)
    assert answer.returncode == 2
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("python -m resattn")]
    assert "could not be fetched" in line
    assert "weights=PATH" in line
    assert "source='saliency'" in line
    assert not list((tmp_path / "runs").rglob("*.log")), "no run was started"


def test_weights_are_named_by_their_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit.pth").write_bytes(b"weights")
    jobs = list_jobs("demo", None, 1, None, {"weights": "vit.pth", "source": "dino"})
    said = {job.parameters["weights"] for job in jobs if "weights" in job.parameters}
    assert said == {str(tmp_path / "vit.pth")}
    assert {job.config.weights for job in jobs if job.config and job.config.uses_maps} == said, "so none is looked for"


def test_names_of_jobs_let_nothing_out():
    jobs = list_jobs("demo", "some/..", 1, None, {})
    assert {job.executed.resolve().parent for job in jobs} == {(paths.RUNS / "demo" / "notebooks").resolve()}
    assert all(".." not in job.name for job in jobs)


@pytest.mark.slow
def test_smallest_profile_runs_skips_and_reports(tmp_path):
    """One training job, then the figures, then everything again: finished jobs are skipped."""
    options = ["--profile", "demo", "--seeds", "1", "--only", "0[34]*", *TINY, "--set", "model=resnet8"]
    first = run(tmp_path, *options, timeout=400)
    assert first.returncode == 0, first.stdout + first.stderr
    folder = tmp_path / "runs/demo"
    written = list((folder / "records").glob("*.json"))
    assert len(written) == 1, "with model=resnet8 set, all training jobs are one and the same run"
    assert json.loads(written[0].read_text())["config"]["image_size"] == 16
    assert {p.suffix for p in (folder / "figures").iterdir()} == {".png", ".svg"}
    assert not list(folder.rglob("*.partial*"))
    assert "report: " in first.stdout
    page = (tmp_path / "report/index.html").read_text()
    assert all(
        words in page for words in (written[0].name, 'id="accuracy-shapes"', "Tables and figures, from records alone")
    )
    again = run(tmp_path, *options)
    assert again.stdout.count("2 of 2 finished earlier, skipped") == 1
    assert again.returncode == 0


@pytest.mark.slow
def test_a_failed_job_does_not_stop_the_others(tmp_path):
    (tmp_path / "data/broken/train/one").mkdir(parents=True)
    answer = run(tmp_path, "--profile", "demo", "--dataset", "broken", "--only", "0[12]*", timeout=300)
    assert answer.returncode == 1
    assert "FAILED 01-broken; its log: " in answer.stdout
    assert "[2/2]" in answer.stdout
    assert "1 of 2 runs done" in answer.stdout
    assert "No run has left a record here yet" in (tmp_path / "report/index.html").read_text(), "of what there is"
    assert "must hold <class>/*.png or *.jpg" in (tmp_path / "runs/demo/logs/01-broken.log").read_text()


@pytest.mark.slow
def test_ctrl_c_leaves_no_kernel_and_no_half_record(tmp_path):
    command = [sys.executable, "-m", "resattn", "run", "--profile", "demo", "--only", "03-shapes-resnet8-seed0"]
    command += ["--set", "epochs=30"]  # long enough to be interrupted
    environment = os.environ | {"RESATTN_HOME": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, cwd=paths.CHECKOUT, env=environment, **pipes)
    log = tmp_path / "runs/demo/logs/03-shapes-resnet8-seed0.log"
    for _ in range(1200):
        if log.exists() and "seed" in log.read_text():
            break
        time.sleep(0.1)
    processes = psutil.Process(first.pid).children(recursive=True)
    assert any("ipykernel" in " ".join(process.cmdline()) for process in processes)
    first.send_signal(signal.SIGINT)
    try:
        out, errors = first.communicate(timeout=60)
    finally:
        first.kill()
    assert psutil.wait_procs(processes, timeout=20)[1] == [], "none outlives it"
    assert first.returncode == 130
    assert "Traceback" not in errors
    assert "the same command goes on from there" in out
    assert not list((tmp_path / "runs/demo").rglob("*.json"))
    assert not list((tmp_path / "runs/demo/notebooks").glob("03-shapes-resnet8-seed0.ipynb"))


def test_a_kernel_that_does_not_start_is_tried_again(monkeypatch):
    import papermill

    calls = []

    def execute_notebook(*_, **__):
        calls.append(1)
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    (job,) = (job for job in list_jobs("demo", None, 1, None, {}) if job.name == "02")
    with pytest.raises(RuntimeError):
        job.execute()
    assert len(calls) == 3
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: calls.append(1) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.execute()
    assert len(calls) == 4, "what a notebook raises is its answer"


def test_only_selects_by_pattern(capsys):
    assert main(["run", "--profile=demo", "--dry-run", "--only=*gated-a1-*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["03-shapes-gated-a1-seed0", "03-shapes-gated-a1-seed1"]


def test_parameters_cells_are_literals_and_agree_with_the_config():
    fields = TrainConfig.__dataclass_fields__
    parameters = notebook_parameters(paths.NOTEBOOKS / "03_training.ipynb")
    assert set(parameters) - {"preset", "records"} <= set(fields)
    assert TrainConfig.preset("demo", dataset="shapes", form=parameters["form"], a=parameters["a"])


def test_a_notebook_runs_again_when_its_parameters_or_what_it_shows_changed():
    def job(name, **changes):
        return next(job for job in list_jobs("demo", None, 1, None, changes) if job.name == name)

    for name in ("02", "04"):
        about = {"parameters": dict(sorted(job(name).parameters.items()))}  # as nbformat writes them
        write_json(job(name).executed, {"metadata": {"papermill": about}})
        assert job(name).finished()
    assert not job("02", num_classes=3).finished()
    write_json(paths.RUNS / "demo" / "records" / "new.json", {})
    os.utime(job("04").executed, (0, 0))
    os.utime(job("02").executed, (2e9, 2e9))
    assert not job("04").finished()
    assert job("02").finished()
    job("02").executed.write_text("{")
    assert not job("02").finished()
