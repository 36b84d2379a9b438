"""DINO: self-distillation without labels (Sec. 3.2), which made the small ViT that travels with the package.

A student and a teacher look at different crops of one image; the student learns to give the distribution (Eq. 2) that the
teacher gives from another crop. The teacher is a moving average of the student. Also ``python -m resattn dino``: stopped at
any moment and started again, a run goes on from its last epoch and, on the CPU, ends with the same weights, bit for bit.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from resattn import paths
from resattn.attention.maps import aggregate_heads
from resattn.attention.sources import object_focus
from resattn.attention.tiny import PIXEL_MEAN, PIXEL_STD, build_vit, seeded
from resattn.attention.vit import cls_attention, vit_input
from resattn.data.datasets import Split, load_dataset, stratified_split
from resattn.data.shapes import make_shapes
from resattn.dino.config import DinoConfig
from resattn.dino.crops import random_crops
from resattn.dino.knn import cls_features, knn_accuracy
from resattn.files import digest, save_arrays
from resattn.training.checkpoint import load_checkpoint, save_checkpoint
from resattn.training.environment import code_revision, describe_environment, find_device, tune_process

_BOTTLENECK = 64  # width of what is compared with the prototypes
_PARTS, _GENERATORS = ("student", "teacher", "optimizer"), ("order", "augmentation")


def pretrain(config: DinoConfig, *, folder: Path | None = None, on_epoch: Callable[[dict], None] | None = None) -> dict:
    """Train a student and its teacher, and write the teacher's ViT to ``folder/vit.safetensors``.

    A checkpoint found in ``folder`` (None: ``runs/dino/<slug>``) is continued. ``on_epoch`` is called with each epoch's
    metrics; None prints them. Returns the record (:meth:`Distiller.finish`), ready for JSON.

    Raises: ValueError where data or checkpoint do not fit the settings, FloatingPointError where the loss is not finite.
    """
    folder = Path(folder or paths.RUNS / "dino" / config.slug)
    tune_process(find_device(config.device))
    run = Distiller(config)
    run.resume(folder / "checkpoint.pt")
    while len(run.history) < min(config.epochs, config.stop_after or config.epochs):
        run.train_epoch()
        save_checkpoint(folder / "checkpoint.pt", run.state())
        (on_epoch or _print_epoch)(run.history[-1])
        if what := collapse(run.history, config.prototypes):
            print(f"collapsed: {what}", flush=True)
    arrays = {name: value.cpu().numpy() for name, value in run.teacher.module.vit.state_dict().items()}
    save_arrays(folder / "vit.safetensors", arrays, {"config": config.identity()})
    return run.finish()


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Eq. 2: softmax over the last axis at a temperature; small ones sharpen."""
    return (logits / temperature).softmax(-1)


def sinkhorn(logits: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Teacher distributions (n, K) that use all K prototypes equally often: columns and rows normalized in turn."""
    shares = ((logits - logits.max()) / temperature).exp()
    for axis in (0, 1) * rounds:
        shares = shares / shares.sum(axis, keepdim=True).clamp_min(1e-12)
    return shares


def dino_loss(student_logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean cross entropy (nats) between the teacher's view and every other view of the student.

    ``teacher`` holds distributions (T, B, K), without a gradient; ``student_logits`` (V, B, K) begins with the same T views.
    """
    log_student = (student_logits / temperature).log_softmax(-1)
    pairs = -torch.einsum("tbk,vbk->tv", teacher.detach(), log_student) / teacher.shape[1]
    other = ~torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs[other].mean()


def cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` to ``end`` along half a cosine, as ``progress`` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def collapse(history: list[dict], n_prototypes: int, epochs: int = 3) -> str | None:
    """What the last ``epochs`` epochs have in common if the run has collapsed, else None."""
    last, highest = history[-epochs:], math.log(n_prototypes)
    if len(last) == epochs and min(entry["teacher_entropy"] for entry in last) > 0.99 * highest:
        return f"teacher entropy at ln {n_prototypes} for {epochs} epochs: every image gets the uniform distribution"
    if len(last) == epochs and max(entry["mean_entropy"] for entry in last) < 0.05 * highest:
        return f"entropy of the mean teacher at 0 for {epochs} epochs: every image gets the same prototype"
    return None


def focus(vit: nn.Module, part: Split) -> dict:
    """:func:`resattn.attention.sources.object_focus` of the "minmax" map, which the network is fed, and of the "raw" attention."""
    device = next(vit.parameters()).device
    attention = torch.cat([cls_attention(vit, vit_input(vit, x.to(device))).cpu() for x in part.images.split(500)])
    maps = {"minmax": aggregate_heads(attention), "raw": attention.mean(1, keepdim=True)}
    return {name: object_focus(value, part.masks) for name, value in maps.items()}


class Network(nn.Module):
    """ViT, projection head with batch normalization, and prototypes: images (n, 3, s, s) to cosines (n, K) in [-1, 1].

    Batch statistics are never tracked: a teacher that lags behind its own statistics is a way to collapse.
    """

    def __init__(self, config: DinoConfig):
        super().__init__()
        self.vit = build_vit(**config.vit)
        layers = []
        for width in (config.dim, config.hidden):
            norm = nn.BatchNorm1d(config.hidden, track_running_stats=False)
            layers += [nn.Linear(width, config.hidden, bias=False), norm, nn.GELU()]
        self.head = nn.Sequential(*layers, nn.Linear(config.hidden, _BOTTLENECK))
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, _BOTTLENECK))

    def forward(self, crops: list[Tensor]) -> Tensor:
        """Logits of crops of several sizes, in order."""
        features = torch.cat([self.vit(part) for part in crops])
        return F.linear(F.normalize(self.head(features), dim=1), F.normalize(self.prototypes, dim=1))


class Distiller:
    """Everything a run carries from one epoch to the next."""

    def __init__(self, config: DinoConfig):
        self.config, self.revision, self.device = config, code_revision(), find_device(config.device)
        size = None if config.dataset in ("shapes", "cifar10", "cifar100") else config.image_size
        self.data = load_dataset(config.dataset, config.root, size=size)
        fit, val = stratified_split(self.data.train.labels, len(self.data.train) // 10, config.seed)
        self.fit, self.val = _take(self.data.train, fit), _take(self.data.train, val)
        self.pool = self.fit.images
        if config.dataset == "shapes" and config.drawn:
            drawn, *_ = make_shapes(config.drawn, 1000 + config.seed)  # datasets.py uses seeds 1 and 2
            self.pool = torch.from_numpy(drawn)
        self.n_steps = len(self.pool) // config.batch_size  # in an epoch
        if not self.n_steps:
            raise ValueError(f"batch_size must be at most the {len(self.pool)} images, got {config.batch_size}")
        self.student = seeded(config.seed, lambda: Network(config)).to(self.device)
        self.teacher = ModelEmaV3(self.student).requires_grad_(False)
        weights, others = ([p for p in self.student.parameters() if (p.ndim > 1) == many] for many in (True, False))
        self.optimizer = torch.optim.AdamW([{"params": weights}, {"params": others, "weight_decay": 0.0}])
        self.centre = torch.zeros(config.prototypes, device=self.device)
        self.order = torch.Generator().manual_seed(config.seed)
        self.augmentation = torch.Generator(self.device).manual_seed(config.seed)
        self.history: list[dict] = []

    def train_epoch(self) -> None:
        """One pass over the pool; adds its metrics to the history.

        They are "loss", "teacher_entropy" (of one distribution) and "mean_entropy" (of the distribution averaged over a
        batch) in nats, "knn_acc" on the validation part, "seconds", and with true masks "energy_ratio" and "pointing_game".
        """
        start, done, sums = time.perf_counter(), len(self.history), torch.zeros(3, dtype=torch.float64)
        order = torch.randperm(len(self.pool), generator=self.order)[: self.n_steps * self.config.batch_size]
        for i, index in enumerate(order.view(self.n_steps, -1)):
            self._set_rates(done + i / self.n_steps)
            sums += self._step(self.pool[index].to(self.device))
            if not sums.isfinite().all():
                raise FloatingPointError(f"loss became infinite or NaN in epoch {done + 1}; lower lr={self.config.lr}")
        means = dict(zip(("loss", "teacher_entropy", "mean_entropy"), (sums / self.n_steps).tolist(), strict=True))
        seconds = round(time.perf_counter() - start, 2)
        self.history.append({"epoch": done + 1, **means, **self.watch(), "seconds": seconds})

    def _set_rates(self, epoch: float) -> None:
        c, progress = self.config, epoch / self.config.epochs
        warm = min(1.0, (epoch + 0.01) / c.warmup_epochs) if c.warmup_epochs else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = warm * cosine(c.lr, c.lr / 100, progress)
        self.optimizer.param_groups[0]["weight_decay"] = cosine(*c.weight_decay, progress)
        self.teacher.decay = cosine(*c.momentum, progress)
        self.student.prototypes.requires_grad_(epoch >= c.freeze_epochs)

    def _step(self, images: Tensor) -> Tensor:
        c = self.config
        crops = [self._crops(images, 2, c.global_size, c.global_area)]
        if c.local_crops:
            crops.append(self._crops(images, c.local_crops, c.local_size, c.local_area))
        with torch.no_grad():
            targets = self._targets(self.teacher(crops[:1]))
        logits = self.student(crops).view(2 + c.local_crops, len(images), -1)
        loss = dino_loss(logits, targets.view(2, len(images), -1), c.student_temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.teacher.update(self.student)
        entropies = [torch.special.entr(shares).sum(-1).mean() for shares in (targets, targets.mean(0))]
        return torch.stack([loss.detach(), *entropies]).double().cpu()

    def _crops(self, images: Tensor, n: int, size: int, area: tuple[float, float]) -> Tensor:
        """(n * B, 3, size, size), as the ViT takes them."""
        c = self.config
        crops = random_crops(images, n, size, area, self.augmentation, jitter=c.jitter, grey=c.grey, swap=c.swap)
        return (crops.flatten(0, 1) - PIXEL_MEAN) / PIXEL_STD

    def _targets(self, logits: Tensor) -> Tensor:
        if self.config.centring == "sinkhorn":
            return sinkhorn(logits, self.config.teacher_temperature)
        targets = probabilities(logits - self.centre, self.config.teacher_temperature)
        self.centre.lerp_(logits.mean(0), 0.1)
        return targets

    def watch(self) -> dict:
        """Nearest-neighbour accuracy, and focus on the object where masks exist, on the validation part."""
        bank, vit = _take(self.fit, torch.arange(min(4000, len(self.fit)))), self.teacher.module.vit
        features, queries = (cls_features(vit, part.images) for part in (bank, self.val))
        found = {"knn_acc": knn_accuracy(features, bank.labels, queries, self.val.labels, min(20, len(bank)))}
        return found if self.val.masks is None else found | focus(vit, self.val)["minmax"]

    def state(self) -> dict:
        """All that :meth:`resume` needs."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        parts |= {name: getattr(self, name).get_state() for name in _GENERATORS}
        return {"config": self.config.identity(), "centre": self.centre, "history": self.history, **parts}

    def resume(self, checkpoint: Path) -> None:
        """Go on from ``checkpoint`` if there is one."""
        if state := load_checkpoint(checkpoint, self.config.identity(), self.device):
            self.centre, self.history = state["centre"], state["history"]
            for name in _PARTS:
                getattr(self, name).load_state_dict(state[name])
            for name in _GENERATORS:
                getattr(self, name).set_state(state[name].cpu())

    def finish(self) -> dict:
        """The record: settings, training images, the log, and the focus on the object in the test images if that is known."""
        vit, history = self.teacher.module.vit, self.history
        seen = len(history) * self.n_steps * self.config.batch_size
        metrics = {"epochs": history, "collapse": collapse(history, self.config.prototypes), "images_seen": seen}
        if self.data.test.masks is not None:
            metrics["test"] = focus(vit, self.data.test)
        seconds = {"seconds": round(sum(entry["seconds"] for entry in history), 1)}
        return {
            "config": self.config.identity(),
            "data": {"images": len(self.pool), "sha256": digest(self.pool.numpy())},
            "metrics": metrics,
            "parameters": sum(p.numel() for p in vit.parameters()),
            "environment": describe_environment(self.device, self.revision) | seconds,
        }


def _take(split: Split, index: Tensor) -> Split:
    return Split(split.images[index], split.labels[index], None if split.masks is None else split.masks[index])


def _print_epoch(entry: dict) -> None:
    line = "  ".join(f"{name} {value:.3f}" for name, value in entry.items() if isinstance(value, float))
    print(f"epoch {entry['epoch']:3d}  {line}", flush=True)
