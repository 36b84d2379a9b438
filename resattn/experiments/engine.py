"""Runs what has no record yet on Dask's workers: those of this machine, or of a cluster that is joined.

Each run has a process of its own below its worker, so that a worker always answers its scheduler, and the process ends when its worker
does. A lost worker's run goes on from its checkpoint on another worker, and a killed command when it is called again.
"""

import contextlib
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resattn import paths
from resattn.config import TrainConfig
from resattn.progress import clock, interactive

_POLL = 0.1  # seconds between two looks at a run's process or record
_PATIENCE = 60.0  # seconds in which a record must show that was written on another machine: network file systems remember what was not there


@dataclass(frozen=True)
class Run:
    """What the engine runs: the training of one network, unless a subclass does other work.

    Attributes:
        name: tells the runs of one folder apart.
        config: the network; None where none is trained.
        record: the file that is there, whole, once all went well.
        log: the file for all that the run prints; a training's checkpoint and weights lie beside it.
        stage: the runs of a lower stage end before those of a higher one begin.
    """

    name: str
    config: TrainConfig | None
    record: Path
    log: Path
    stage: int = 0

    def finished(self) -> bool:
        """Whether the record is there, is that of this configuration, and has its result and all epochs."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            complete = len(record["metrics"]["epochs"]) == self.config.epochs and record["metrics"]["test_acc"] >= 0
            same_folder = record["environment"].get("folder") == self.config.folder  # others may have its name
            return complete and same_folder and record["config"] == self.config.identity()
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def execute(self) -> None:
        """Do the work and write the record; an exception is a failure."""
        from resattn.training import trainer  # here, so that planning needs no torch

        trainer.train(self.config, folder=self.log.parent, records=self.record.parent)

    def result(self) -> str:
        """In a few words what came out."""
        return f"test accuracy {100 * json.loads(self.record.read_text(encoding='utf-8'))['metrics']['test_acc']:.2f} %"


def trainings(configs: dict[str, TrainConfig], records: Path) -> list[Run]:
    """The runs for configurations by name; records are written to ``records``."""
    records, folder = records.resolve(), paths.RUNS / "training"
    return [
        Run(name, config, records / f"{config.slug}.json", folder / config.slug / "log.txt")
        for name, config in configs.items()
    ]


class Engine(contextlib.ExitStack):
    """Workers for the runs of one folder, which no other command may use meanwhile; a context manager.

    Args:
        folder: where the runs write; holds the lock.
        jobs: runs at the same time on this machine. None: one a core on the CPU, one a device on GPUs. 0: one after the other in this
            process, without Dask.
        scheduler: address or scheduler file of a running Dask cluster to join instead. Its workers must see ``RESATTN_HOME``'s folder
            under the same path.

    Raises:
        OSError: the folder cannot be written, another command is at work in it, or the scheduler does not answer.
    """

    def __init__(self, folder: Path, jobs: int | None = None, scheduler: str | None = None):
        super().__init__()
        self.folder, self.jobs, self.scheduler = folder, jobs, scheduler
        self._client: Any = None

    def __enter__(self) -> "Engine":
        import filelock

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.enter_context(filelock.FileLock(self.folder / ".lock", timeout=0))
        except filelock.Timeout as error:
            raise OSError(f"another command is already running in {self.folder}; wait for it or stop it") from error
        except OSError as error:
            reason = f"cannot write in {self.folder} ({error.strerror})"
            raise OSError(f"{reason}; set RESATTN_HOME to a folder that can be written") from error
        return self

    def run(self, runs: Iterable[Run]) -> Iterator[tuple[Run, str | None]]:
        """Execute what is not finished, stage by stage, and print a line as each ends.

        Yields:
            Each run, those first that are finished already, with None or, in one line, why it failed.
        """
        from tqdm.auto import tqdm

        runs = list(runs)
        todo = sorted((run for run in runs if not run.finished()), key=lambda run: run.stage)
        if n_done := len(runs) - len(todo):
            print(f"{n_done} of {len(runs)} finished earlier, skipped", flush=True)
            yield from ((run, None) for run in runs if run not in todo)
        with tqdm(total=len(runs), initial=n_done, unit="run", leave=False, disable=not interactive()) as bar:
            for run, seconds, failure in map(_execute_here, todo) if self.jobs == 0 else self._execute(todo):
                late = time.monotonic() + _PATIENCE
                while not failure and not run.finished():
                    failure = "its record did not appear" if time.monotonic() > late else None
                    time.sleep(_POLL)
                n_done += 1
                bar.update()
                how = f"FAILED: {failure}" if failure else f"{run.result()}  ({clock(seconds)})"
                bar.write(f"[{n_done}/{len(runs)}] {run.name}: {how}")
                sys.stdout.flush()
                yield run, failure

    def _execute(self, runs: list[Run]) -> Iterator[tuple[Run, float, str | None]]:
        """(run, its seconds, what went wrong) as they end on Dask's workers, stage by stage."""
        from distributed import as_completed

        settings = {"RESATTN_HOME": str(paths.ROOT), "RESATTN_HEADLESS": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # --cpu
            settings["CUDA_VISIBLE_DEVICES"] = ""
        devices = [] if self.scheduler else visible_gpus()
        for stage in sorted({run.stage for run in runs}):
            client = self._client = self._client or self._connect(len(runs))
            futures = {
                client.submit(_work, run, settings, devices, key=("run", str(self.folder), run.name)): run
                for run in runs
                if run.stage == stage
            }
            for future in as_completed(futures, raise_errors=False):
                if future.status == "finished":
                    yield futures[future], future.result(), None
                else:
                    error = future.exception() if future.status == "error" else "the scheduler was lost"
                    yield futures[future], 0.0, " ".join(str(error).split())

    def _connect(self, n_workers: int) -> Any:
        """A client of the joined cluster, or of one on this machine with as many workers at most."""
        from distributed import Client, LocalCluster

        watched = importlib.util.find_spec("bokeh") is not None
        if self.scheduler:
            given = "address" if re.search(r"://|:\d+$", self.scheduler) else "scheduler_file"  # which C:\file is too
            late = time.monotonic() + _PATIENCE  # the file may still be on its way
            while given == "scheduler_file" and not Path(self.scheduler).exists():
                if time.monotonic() > late:
                    raise OSError(f"no scheduler wrote {self.scheduler} within {_PATIENCE:.0f} s")
                time.sleep(_POLL)
            client = self.enter_context(Client(**{given: self.scheduler}))
        else:
            most = self.jobs or default_jobs()
            # By the jobs asked for, not the runs that are left: another number of threads rounds differently.
            threads = os.environ.get("OMP_NUM_THREADS") or max(1, n_cores() // most)
            cluster = LocalCluster(
                n_workers=min(n_workers, most),
                threads_per_worker=1,
                memory_limit=None,  # the runs' own processes are not counted in it
                dashboard_address=":8787" if watched else None,
                env=dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
                silence_logs="CRITICAL",
            )
            client = self.enter_context(Client(self.enter_context(cluster)))
        if watched:
            print(f"dashboard: {client.dashboard_link}", flush=True)
        return client


def default_jobs() -> int:
    """How many runs this machine takes at the same time: one a GPU, or one a core."""
    return len(visible_gpus()) or n_cores()


def n_cores() -> int:
    """The cores that this process may use, by its affinity and its control group."""
    from dask.system import CPU_COUNT

    return CPU_COUNT


def visible_gpus() -> list[str]:
    """The CUDA devices of this machine that a run may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device for device in given.split(",") if device not in ("", "-1")]
    lines = subprocess.getoutput("nvidia-smi -L").splitlines()  # one a GPU, or an error
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in lines))]


def _execute_here(run: Run) -> tuple[Run, float, str | None]:
    """(run, its seconds, in one line what went wrong); whatever one run raises, the others may still be well."""
    start, failure = time.monotonic(), None
    try:
        run.execute()
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(getattr(error, "evalue", error)).split())  # a notebook's error is told by its kernel
        failure = f"{getattr(error, 'ename', type(error).__name__)}: {text}"
    return run, time.monotonic() - start, failure


def _work(run: Run, settings: dict[str, str], devices: list[str]) -> float:
    """On a worker: execute the run in a process until it ends or nobody wants it any more; returns its seconds."""
    from distributed import get_worker
    from distributed.worker import thread_state

    worker, start = get_worker(), time.monotonic()
    environment = os.environ | settings
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(paths.CHECKOUT), os.environ.get("PYTHONPATH"))))
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[int(worker.name) % len(devices)]
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", "from resattn.experiments.engine import _child; _child()"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is the command's alone
        )
        try:
            child.stdin.write(pickle.dumps(run))
            child.stdin.flush()
            while child.poll() is None:
                task = worker.state.tasks.get(thread_state.key)
                if task is None or task.state != "executing":  # the command was stopped, or the worker is leaving
                    break
                time.sleep(_POLL)
        finally:
            child.stdin.close()  # ends the process if it still runs
            status = child.wait()
    if status < 0:
        raise RuntimeError(f"its process was killed by signal {-status}, if 9 often for want of memory; log: {run.log}")
    if status:
        lines = [line for line in run.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise RuntimeError(f"{lines[-1] if lines else f'ended with status {status}'}; log: {run.log}")
    return time.monotonic() - start


def _child() -> None:
    """In the process of a run: execute it, and end at once when the worker does."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    run = pickle.load(sys.stdin.buffer)
    threading.Thread(target=watch, daemon=True).start()
    *_, failure = _execute_here(run)
    sys.exit(failure)  # as the last line of the log, which is the one that is reported
