"""Training one network: TrainConfig in, record out (Sec. 4 and 5.1). Also ``python -m resattn train``.

A run keeps a checkpoint of everything that matters after each epoch. Killed at any moment and started again, it goes on from
there and, on the CPU with as many threads, ends with the same weights, bit for bit, as one that was left alone.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resattn import paths
from resattn.attention.sources import object_focus
from resattn.config import LEARNED, TrainConfig
from resattn.data.augment import augment
from resattn.data.datasets import Dataset, Split, channel_stats, load_dataset, stratified_split
from resattn.files import write_json
from resattn.models.checkpoints import build_model, save_weights
from resattn.models.learned import LearnedMap, learned_maps
from resattn.progress import print_epoch, track
from resattn.training import distributed
from resattn.training.checkpoint import load_checkpoint, save_checkpoint
from resattn.training.compilation import compiled
from resattn.training.environment import code_revision, describe_environment, tune_process
from resattn.training.evaluation import autocast, evaluate
from resattn.training.inputs import Batch, batches, fits, network_maps, take
from resattn.training.optimizer import build_optimizer, learning_rate

# A GPU likes few, large kernels; on a CPU the noise and index arrays of many images only fill memory and caches.
_IMAGES_AUGMENTED_TOGETHER = {"cuda": 2048, "cpu": 512}


def train(
    config: TrainConfig,
    *,
    folder: Path | None = None,
    records: Path | None = None,
    on_epoch: Callable[[list[dict]], None] | None = None,
) -> dict:
    """Train and evaluate one network.

    Args:
        folder: where the checkpoint lives during the run and the trained weights (``weights.safetensors``) after it; None
            means ``runs/training/<slug>``. A checkpoint found there is continued.
        records: where the record is written as ``<slug>.json``; None means nowhere. The checkpoint goes only once it is written.
        on_epoch: called after each epoch with the metrics of all epochs so far; None prints a line.

    Returns:
        The record, ready for JSON: "config" as :meth:`TrainConfig.identity`; "metrics" with "test_acc" (last epoch),
        "test_acc_at_best_val" (the epoch with the highest validation accuracy, the first of equals), "best_val_epoch",
        "test_loss" and "epochs", a list with "train_loss", "val_loss", "val_acc", "lr" and "seconds"; for learned maps, where
        true masks exist, "map_focus" as :func:`object_focus` gives it; "parameters", how many the network has; "environment".
        Accuracies are fractions in [0, 1], losses are mean cross entropies in nats.

    Raises:
        ValueError: the data set or the maps cannot be had as asked, or ``records`` holds the same run on another folder of that name.
        FloatingPointError: the loss became infinite or NaN; the message names the step and the settings.
        OSError: a file could not be written; the next call goes on from the last checkpoint.
    """
    folder = Path(folder or paths.RUNS / "training" / config.slug)
    file = None if records is None else Path(records) / f"{config.slug}.json"
    if file and _of_another_folder(file, config.folder):
        raise ValueError(
            f"records must be a folder without {file.name}, which is of another folder called {Path(config.dataset).name!r}, "
            "or of this one before it was moved; move that file away, or choose another folder for records"
        )
    report = on_epoch or (lambda history: print_epoch(history, config.epochs))
    device = distributed.join(config.device)
    tune_process(device)
    with distributed.first_alone():
        data = load_dataset(config.dataset, config.root, size=config.size, skip_unreadable=config.skip_unreadable)
    run = Trainer(config, data, device)
    run.resume(folder / "checkpoint.pt")
    while len(run.history) < config.epochs:
        run.train_epoch()
        if distributed.rank() == 0:
            save_checkpoint(folder / "checkpoint.pt", run.state())
            report(run.history)
    record = run.finish()
    if distributed.rank() == 0:
        save_weights(run.model, folder / "weights.safetensors", config)
        if file:
            write_json(file, record)
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    return record


def _of_another_folder(record: Path, folder: str | None) -> bool:
    """Whether there is a whole record of the same run on other images."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return json.loads(record.read_text(encoding="utf-8"))["environment"].get("folder") != folder
    return False


class Trainer:
    """Everything a run carries from one epoch to the next."""

    def __init__(self, config: TrainConfig, data: Dataset, device: torch.device):
        self.config, self.device, self.data, self.precision = config, device, data, config.precision
        self.mapped = not fits(data, device)
        self.revision = code_revision()  # now: the checkout may move on while the run lasts
        n_val = config.n_val or (5_000 if data.name in ("cifar10", "cifar100") else len(data.train) // 10)
        fit, val = stratified_split(data.train.labels, n_val, config.seed)
        with distributed.first_alone():
            train_maps, self.test_maps = network_maps(config, data, device, self.mapped)
        self.mean, self.std = (stat.to(device) for stat in channel_stats(data.train.images))
        self.fit, self.fit_maps = take(data.train, train_maps, device, fit, self.mapped)
        self.val, self.val_maps = take(data.train, train_maps, device, val, self.mapped)
        if len(self.fit) < config.batch_size:
            raise ValueError(f"batch_size must be at most the {len(self.fit)} training images, got {config.batch_size}")
        channels = 1 if train_maps is None else train_maps.shape[1]
        model = build_model(config, len(data.classes), channels, (self.mean, self.std))
        self.model = model.to(device, memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.model, config)
        if (n := distributed.n_processes()) > 1:
            if config.batch_size % n:
                raise ValueError(f"batch_size must be a multiple of the {n} processes, got {config.batch_size}")
            unused = config.has_form and (config.a == 0 or not config.uses_maps or config.source == LEARNED)
            if device.type == "cuda":  # on the CPU there is none
                self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
            self.forward = nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=unused)
        wanted = device.type == "cuda" if config.compile is None else config.compile
        if n == 1:  # together with several processes compilation is untried
            self.forward = self.model
            if wanted:
                batch = next(batches(self.fit, self.fit_maps, [slice(0, config.batch_size)]))
                self.forward = compiled(self.model, self._loss, *batch)
        self.order = torch.Generator().manual_seed(config.seed)
        self.augmentation = torch.Generator(device).manual_seed(config.seed)
        self.history: list[dict] = []
        self.best: dict[str, Tensor] = {}
        self.seconds = 0.0

    def train_epoch(self) -> None:
        """One pass over the training split and one over the validation split; adds its metrics to the history."""
        start = time.perf_counter()
        losses = torch.zeros(len(self.fit) // self.config.batch_size, device=self.device)
        title = f"epoch {len(self.history) + 1}/{self.config.epochs}"
        for i, loss in enumerate(track(self.steps(), len(losses), title, every=math.inf)):
            losses[i] = loss
            if self.device.type == "cpu":  # where looking at a number costs nothing
                self._check_finite(losses[: i + 1])
        losses = distributed.total(losses) / distributed.n_processes()
        self._check_finite(losses)
        distributed.copy_from_first(self.model.buffers())
        val_loss, val_acc = self._evaluate(self.val, self.val_maps)
        if not math.isfinite(val_loss):
            raise self._not_finite("validation loss", val_loss, len(losses))
        if val_acc > max((entry["val_acc"] for entry in self.history), default=-1):
            self.best = self._copied_weights()
        elapsed = time.perf_counter() - start
        self.seconds += elapsed
        entry = {"train_loss": float(losses.mean()), "val_loss": val_loss, "val_acc": val_acc}
        self.history.append(entry | {"lr": self.optimizer.param_groups[0]["lr"], "seconds": round(elapsed, 3)})

    def steps(self) -> Iterator[Tensor]:
        """The updates of one epoch, each giving its loss without waiting for it."""
        batch, n_batches = self.config.batch_size, len(self.fit) // self.config.batch_size
        order = torch.randperm(len(self.fit), generator=self.order)[: n_batches * batch]
        order = order if self.mapped else order.to(self.device)
        self.model.train()
        together = max(1, _IMAGES_AUGMENTED_TOGETHER.get(self.device.type, 512) // batch)
        chunks = batches(self.fit, self.fit_maps, order.split(together * batch))
        for i, (images, maps, labels) in enumerate(b for chunk in chunks for b in self._augmented(*chunk)):
            rate = learning_rate(self.config, len(self.history) * n_batches + i, self.config.epochs * n_batches)
            yield self._step(images, maps, labels, rate)

    def _augmented(self, images: Tensor, maps: Tensor | None, labels: Tensor) -> Iterator[Batch]:
        """Batches of several batches, augmented in one go: a GPU starts few, large kernels."""
        moved = self.config.source != "uniform"
        images, maps = augment(images, maps, self.mean, self.std, self.augmentation, move_maps=moved)
        images = images.contiguous(memory_format=torch.channels_last)
        for start in range(0, len(labels), self.config.batch_size):
            batch = slice(start, start + self.config.batch_size)
            yield tuple(each if each is None else distributed.share(each[batch]) for each in (images, maps, labels))

    def _step(self, images: Tensor, maps: Tensor | None, labels: Tensor, rate: float) -> Tensor:
        """One update; returns the loss without waiting for it."""
        self.optimizer.zero_grad()  # first: under CUDA graphs gradients lie where the next replay writes
        torch.compiler.cudagraph_mark_step_begin()  # what the last step's graphs returned may be written over
        loss = self._loss(self.forward, images, maps, labels)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1)
        self.optimizer.step()
        return loss.detach()

    def _loss(self, forward: Callable, images: Tensor, maps: Tensor | None, labels: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            return F.cross_entropy(forward(images, maps).float(), labels)

    def _check_finite(self, losses: Tensor) -> None:
        if not losses.isfinite().all():
            i = int((~losses.isfinite()).nonzero()[0])
            raise self._not_finite("loss", float(losses[i]), i + 1)

    def _not_finite(self, what: str, value: float, step: int) -> FloatingPointError:
        names = ("lr", "schedule", "weight_decay", "batch_size", "model", "form", "a", "precision")
        settings = ", ".join(f"{name}={getattr(self.config, name)}" for name in names)
        where = f"in epoch {len(self.history) + 1}, step {step}, with {settings}"
        return FloatingPointError(f"{what} became {value} {where}; a smaller lr is the usual remedy")

    def state(self) -> dict:
        """All that :meth:`resume` needs."""
        return {
            "config": self._about(),
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "augmentation": self.augmentation.get_state(),
            "history": self.history,
            "seconds": self.seconds,
        }

    def resume(self, checkpoint: Path) -> None:
        """Go on from ``checkpoint``, or from the beginning where there is none; a damaged one or another run's is refused."""
        if (state := load_checkpoint(checkpoint, self._about(), self.device)) is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"].cpu())
        self.augmentation.set_state(state["augmentation"].cpu())
        self.best, self.history, self.seconds = state["best"], state["history"], state["seconds"]

    def finish(self) -> dict:
        """Test accuracy of the last and of the best-validation epoch, and the record of the run."""
        start = time.perf_counter()
        test = take(self.data.test, self.test_maps, self.device, mapped=self.mapped)
        test_loss, test_acc = self._evaluate(*test)
        last = self._copied_weights()
        self.model.load_state_dict(self.best)
        _, test_acc_at_best_val = self._evaluate(*test)
        self.model.load_state_dict(last)
        metrics = {"test_acc": test_acc, "test_loss": test_loss, "test_acc_at_best_val": test_acc_at_best_val}
        accuracies = [entry["val_acc"] for entry in self.history]
        metrics["best_val_epoch"] = 1 + accuracies.index(max(accuracies))
        if isinstance(self.model, LearnedMap) and self.data.test.masks is not None:
            maps = learned_maps(self.model, self.data.test.images)
            metrics["map_focus"] = object_focus(maps, self.data.test.masks)
        metrics["epochs"] = self.history
        self.seconds += time.perf_counter() - start
        more = {"processes": n} if (n := distributed.n_processes()) > 1 else {}
        more |= {"folder": self.config.folder} if self.config.folder else {}
        more |= {"unreadable_images": n} if (n := self.data.unreadable) else {}
        more |= {"precision": self.precision, "seconds": round(self.seconds, 2)}
        return {
            "config": self.config.identity(),
            "metrics": metrics,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "environment": describe_environment(self.device, self.revision) | more,
        }

    def _about(self) -> dict:
        """What a checkpoint must belong to."""
        return self.config.identity() | ({"folder": folder} if (folder := self.config.folder) else {})

    def _evaluate(self, split: Split, maps: Tensor | None) -> tuple[float, float]:
        return evaluate(self.model, split, maps, self.mean, self.std, self.precision)

    def _copied_weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}
