"""Points to measure, shared by any number of workers and machines through one Optuna journal file.

Optuna keeps the trials and hands each out once. What it does not do for a journal file is added here: a point is measured once
however many workers ask for it, and one whose worker died is measured again.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

_BEAT = 5.0  # seconds between two signs of life of a running trial


@dataclass(frozen=True)
class Point:
    """One choice of learning rate and weight decay, the seed it is trained with, and the stage of the search that wants it."""

    stage: str
    lr: float
    weight_decay: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.stage}-lr{self.lr:.4g}-wd{self.weight_decay:.4g}-seed{self.seed}"


class PointQueue:
    """The trials of one study.

    Args:
        journal: Optuna's journal file; made where it is missing. All workers of all studies may share one, also over a network
            file system. Beside it lies a folder of the same name with signs of life and checkpoints.
        study: name of the study.
        patience: seconds without a sign of life after which a running trial's worker counts as dead.
    """

    def __init__(self, journal: Path, study: str, patience: float = 60.0):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        journal.parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        self.study = optuna.create_study(
            study_name=study,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(),  # never asked: every point is given
            direction="maximize",
            load_if_exists=True,
        )
        self.folder = journal.parent / f"{journal.stem}.trials" / study
        self.folder.mkdir(parents=True, exist_ok=True)
        self.patience = patience

    def claim(self, points: Sequence[Point]) -> tuple[Trial, Point] | None:
        """The first of ``points`` that is neither waiting nor running nor done, now this worker's alone; None where there is none.

        A dead worker's points count as none of these. A point left waiting by a worker that died on its way here comes first.
        """
        self._release_dead()
        while True:
            trials = self._trials()
            if not any(trial.state == TrialState.WAITING for trial in trials):
                known = {trial.user_attrs["point"]["name"] for trial in trials if trial.state != TrialState.FAIL}
                wanted = next((point for point in points if point.name not in known), None)
                if wanted is None:
                    return None
                about = asdict(wanted) | {"name": wanted.name}
                self.study.enqueue_trial({"lr": wanted.lr, "weight_decay": wanted.weight_decay}, {"point": about})
            trial = self.study.ask()
            about = dict(trial.user_attrs.get("point", {}))
            name = about.pop("name", None)
            # Two workers can want the same point at the same moment: of such twins the first counts. And when another worker
            # takes the last one that waits, Optuna makes up a trial of its own.
            if name is None or any(twin.number < trial.number for twin in self._trials(name)):
                self.give_up(trial)
                continue
            point = Point(**about)
            for parameter in ("lr", "weight_decay"):
                value = getattr(point, parameter)
                trial.suggest_float(parameter, min(value, 1e-6), max(value, 1.0), log=True)
            return trial, point

    @contextlib.contextmanager
    def alive(self, trial: Trial) -> Iterator[None]:
        """Give signs of life while the block runs."""
        beat, stop = self._beat(trial.number), threading.Event()

        def keep_beating() -> None:
            while not stop.wait(min(_BEAT, self.patience / 4)):
                beat.touch()

        beat.touch()
        thread = threading.Thread(target=keep_beating, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            beat.unlink(missing_ok=True)

    def give_up(self, trial: Trial) -> None:
        """Let others have the trial's point at once."""
        self._fail(trial.number)

    def done(self) -> dict[str, FrozenTrial]:
        """Trials that ended, by the name of their point; those that diverged count, those whose worker died do not."""
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        return {trial.user_attrs["point"]["name"]: trial for trial in self._trials() if trial.state in ended}

    def checkpoint(self, point: Point) -> Path:
        return self.folder / f"{point.name}.pt"

    def _trials(self, name: str | None = None) -> list[FrozenTrial]:
        """All trials that have a point; or those that wait, run or ended for the point called ``name``."""
        trials = [trial for trial in self.study.get_trials(deepcopy=False) if "point" in trial.user_attrs]
        if name is None:
            return trials
        return [t for t in trials if t.user_attrs["point"]["name"] == name and t.state != TrialState.FAIL]

    def _release_dead(self) -> None:
        clock = self.folder / f".clock-{threading.get_native_id()}-{time.monotonic_ns()}"
        clock.touch()
        now = clock.stat().st_mtime  # the file server's time: machines differ in theirs
        clock.unlink()
        for trial in self._trials():
            if trial.state == TrialState.RUNNING:
                beat = self._beat(trial.number)
                if not beat.exists():
                    beat.touch()  # claimed this moment, or its worker died before its first sign of life: patience starts now
                elif now - beat.stat().st_mtime > self.patience:
                    self._fail(trial.number)
                    beat.unlink(missing_ok=True)

    def _fail(self, number: int) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # by somebody else, in this moment
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _beat(self, number: int) -> Path:
        return self.folder / f"{number}.alive"
