"""What run_all.sh runs: every notebook of the paper, through papermill's API, several at a time."""

import argparse
import ast
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TextIO

from resattn import paths
from resattn.config import PRESETS
from resattn.experiments.jobs import SEEDS, Job, list_jobs, select_jobs
from resattn.progress import Forecast, clock

_LONG = 24 * 3600  # seconds on the CPU that nobody starts without saying so
_STAGGER = 1.0  # seconds between two kernel starts: started at once they can pick the same port


def main(argv: list[str] | None = None) -> int:
    """Run a profile; the exit status is 0 if every job ended well, 1 if not, 130 after Ctrl-C."""
    options = _parse(argv)
    if options.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    cuda, found = _find_cuda()
    profile = options.profile or ("paper" if cuda else "demo")
    if not options.profile:
        print(f"Profile {profile}: {found} (--profile chooses another).")
    elif found.startswith("nvidia-smi"):
        print(f"On the CPU: {found}.")
    try:
        changes = dict(_parse_change(text) for text in options.set)
        jobs = list_jobs(profile, options.dataset, options.seeds or SEEDS[profile], options.data, changes)
        jobs = select_jobs(jobs, options.only)
    except ValueError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 2
    n_workers = options.jobs or (1 if cuda else min(os.cpu_count() or 1, 4))
    if options.dry_run:
        _print_plan(jobs, cuda, n_workers)
        return 0
    seconds = 0.0 if cuda else sum(job.estimated_seconds(cuda) for job in jobs if not job.finished())
    if seconds > _LONG and not options.cpu:
        print(
            f"run_all.sh: {found}, and on the CPU this takes about {clock(seconds)} of two cores' time; --cpu runs it all the same, "
            "--profile demo takes minutes",
            file=sys.stderr,
        )
        return 2
    with _only_one_at_a_time():
        if problem := _missing_weights(jobs):
            print(f"run_all.sh: {problem}", file=sys.stderr)
            return 2
        if options.fresh:
            shutil.rmtree(jobs[0].folder, ignore_errors=True)
        os.environ["RESATTN_HEADLESS"] = "1"
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_workers)))
        return _Runner(jobs, cuda, n_workers).run()


class _Runner:
    """Runs jobs stage by stage, a few at a time, and says how far it is."""

    def __init__(self, jobs: list[Job], cuda: bool, n_workers: int):
        self.jobs, self.cuda, self.n_workers = jobs, cuda, n_workers
        self.failed: list[Job] = []
        self.ended: set[str] = set()
        self.forecast = Forecast(n_workers, cuda)
        self.start_lock = threading.Lock()

    def run(self) -> int:
        start = time.monotonic()
        pool = ThreadPoolExecutor(self.n_workers)
        try:
            for stage in sorted({job.stage for job in self.jobs}):
                self._run_stage(pool, [job for job in self.jobs if job.stage == stage])
            pool.shutdown()
            self._summarise(time.monotonic() - start)
            reported = self._report()
        except KeyboardInterrupt:
            print(
                "\nInterrupted. Finished runs and each run's last epoch are kept; the same command goes on from there.",
                flush=True,
            )
            os._exit(130)  # kernels end when their parent does; worker threads would wait for them
        return 0 if reported and not self.failed else 1

    def _run_stage(self, pool: ThreadPoolExecutor, jobs: list[Job]) -> None:
        todo = [job for job in jobs if not job.finished()]
        for job in jobs:
            if job not in todo:
                self._end(job, "finished earlier, skipped")
        running: dict[Future, Job] = {pool.submit(self._execute, job): job for job in todo}
        waiting = set(running)
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                job, (error, seconds) = running[future], future.result()
                if error is None:
                    self.forecast.end(job, seconds)
                    self._end(job, clock(seconds))
                else:
                    self.failed.append(job)
                    self._end(job, f"FAILED after {clock(seconds)}: {error}")

    def _execute(self, job: Job) -> tuple[str | None, float]:
        """Run one notebook; returns (what went wrong or None, seconds). The executed copy appears when all went well."""
        import papermill

        with self.start_lock:
            time.sleep(_STAGGER)
        start = time.monotonic()
        self.forecast.start(job)
        partial = job.executed.with_suffix(".partial.ipynb")
        for parent in (job.executed.parent, job.log.parent):
            parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("w", encoding="utf-8") as log:
            try:
                notebook = papermill.execute_notebook(
                    paths.NOTEBOOKS / f"{job.notebook}.ipynb",
                    partial,
                    parameters=job.parameters,
                    kernel_name="python3",
                    cwd=str(paths.ROOT),
                    progress_bar=False,
                    extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
                    stdout_file=_Echo(log, job.name),
                    stderr_file=log,
                )
                notebook.metadata["resattn"] = {"key": job.key()}
                papermill.iorw.write_ipynb(notebook, str(partial))
                os.replace(partial, job.executed)
            except Exception as error:  # whatever a notebook raises must not stop the others
                log.write(f"\n{error}\n")
                return _last_line(error), time.monotonic() - start
        return None, time.monotonic() - start

    def _end(self, job: Job, how: str) -> None:
        self.ended.add(job.name)
        left = self.forecast.seconds_left(job for job in self.jobs if job.name not in self.ended and not job.finished())
        time_left = f"  ({clock(left)} left)" if left else ""
        print(f"[{len(self.ended)}/{len(self.jobs)}] {job.name}: {how}{time_left}", flush=True)

    def _summarise(self, seconds: float) -> None:
        folder = self.jobs[0].folder
        print(f"\n{len(self.jobs) - len(self.failed)} of {len(self.jobs)} jobs done in {clock(seconds)}.")
        for name in ("records", "figures", "notebooks"):
            if (folder / name).is_dir():
                print(f"  {name + ':':11s}{_relative(folder / name)}")
        for job in self.failed:
            print(f"FAILED {job.name}; its log: {_relative(job.log)}")

    def _report(self) -> bool:
        """Make the report of what there is by now, even if only some jobs ran; returns whether it could be made."""
        from resattn.report.page import build_report

        folder = self.jobs[0].folder
        try:
            page = build_report(folder / "records", folder / "figures", folder / "notebooks", paths.REPORT)
        except (ValueError, OSError) as error:
            print(f"FAILED report: {error}")
            return False
        print(f"  {'report:':11s}{_relative(page)}")
        return True


class _Echo:
    """Writes a notebook's output to its log, and whole lines of progress to the terminal as well."""

    def __init__(self, log: TextIO, name: str):
        self.log, self.name, self.line = log, name, ""

    def write(self, text: str) -> None:
        self.log.write(text)
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            if line.startswith(("epoch ", "decoding ")) or " maps of " in line:
                print(f"    {self.name}  {line}", flush=True)

    def flush(self) -> None:
        self.log.flush()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_all.sh", description="Run every notebook of the paper; see ./run_all.sh --help."
    )
    parser.add_argument("--profile", choices=tuple(PRESETS)[::-1])
    parser.add_argument("--dataset")
    parser.add_argument("--seeds", type=_positive)
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--jobs", type=_positive)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--only", metavar="PATTERN")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args(argv)
    if options.data is not None:
        if not Path(options.data).is_dir():
            parser.error(f"--data must be a folder that exists, got {options.data}")
        options.data = str(Path(options.data).resolve())
    return options


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _parse_change(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set wants NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _print_plan(jobs: list[Job], cuda: bool, n_workers: int) -> None:
    known = [job.estimated_seconds(cuda) for job in jobs]
    for job, seconds in zip(jobs, known, strict=True):
        cost = "not measured yet on a GPU" if seconds is None else f"about {clock(seconds)}"
        print(f"{job.name:40s} {'finished' if job.finished() else cost}")
    todo = [seconds for job, seconds in zip(jobs, known, strict=True) if not job.finished()]
    total = (
        "not measured yet on a GPU"
        if None in todo
        else f"about {clock(sum(todo))} of two cores' time on the machine it was measured on"
    )
    print(f"{len(jobs)} jobs, {len(jobs) - len(todo)} finished, up to {n_workers} at a time: {total}.")


@contextlib.contextmanager
def _only_one_at_a_time():
    try:
        paths.RUNS.mkdir(parents=True, exist_ok=True)
        lock = (paths.RUNS / ".lock").open("a+")
    except OSError as error:
        print(
            f"run_all.sh: cannot write in {paths.RUNS} ({error.strerror}); set RESATTN_HOME to a folder that can be written",
            file=sys.stderr,
        )
        sys.exit(2)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            print(
                f"run_all.sh: process {lock.read() or '?'} is already running in this folder; wait for it or stop it",
                file=sys.stderr,
            )
            sys.exit(1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _missing_weights(jobs: list[Job]) -> str:
    """Fetch the published ViT once, before each job tries to; "" or, in one line, why it is not there and what can be done."""
    if not any(job.needs_published_vit() and not job.finished() for job in jobs):
        return ""
    from resattn.attention.vit import DINO_MODEL, load_vit

    print(f"Looking for the weights of {DINO_MODEL} (343 MB, kept once they are fetched)", flush=True)
    try:
        load_vit()
    except ConnectionError as error:
        cause = type(error.__cause__ or error).__name__
        return (
            f"the weights of {DINO_MODEL} are not here and cannot be fetched ({cause}); name a checkpoint file with "
            "--set weights=PATH, or take maps that need none with --set source=saliency --set vit=dino-tiny"
        )
    return ""


def _find_cuda() -> tuple[bool, str]:
    """Whether torch can use a CUDA GPU, and what was found, in words. Torch is slow to import: it is asked only where there is a GPU."""
    none = False, "no CUDA GPU here"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not shutil.which("nvidia-smi"):
        return none
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return none
    if answer.returncode or "GPU" not in answer.stdout:
        return none
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return True, "a CUDA GPU is present"
    if torch.version.cuda is None:
        reason = "it was built without CUDA"
    else:
        reason = str(said[-1].message).split(". ")[0] if said else "its driver does not answer, or the GPU is hidden"
    return False, f"nvidia-smi lists a GPU, but torch {torch.__version__} cannot use it ({' '.join(reason.split())})"


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # set, because nohup and background jobs start with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
