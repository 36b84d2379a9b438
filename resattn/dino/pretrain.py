"""DINO: self-distillation without labels (Sec. 3.2), which made the small ViT that is part of the package.

A student and a teacher look at different crops of one image; the student learns to give the distribution (Eq. 2) that the
teacher gives from another crop. The teacher is a moving average of the student. Also ``python -m resattn dino``.
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
from resattn.attention.tiny import PIXEL_MEAN, PIXEL_STD, build_vit
from resattn.attention.vit import attend, seeded, vit_input
from resattn.data.datasets import load_dataset, stratified_split
from resattn.data.shapes import make_shapes
from resattn.dino.config import DinoConfig
from resattn.dino.crops import random_crops
from resattn.files import digest, save_arrays
from resattn.training.environment import code_revision, describe_environment, find_device, tune_process

# The recipe, with what DinoConfig says; chosen in some thirty short trials. Notebook 01 lists where it departs from the published one.
_HIDDEN, _BOTTLENECK = 256, 64  # widths of the projection head, and of what is compared with the prototypes
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE = 0.1, 0.04  # in Eq. 2
_WEIGHT_DECAY = 0.04, 0.2  # first and last value of a cosine schedule
_WARMUP = 0.5  # epochs in which the learning rate rises, and the prototypes stay as they were drawn
_AREA = 0.4, 1.0  # share of the image that a crop covers


def pretrain(config: DinoConfig, *, folder: Path | None = None) -> dict:
    """Train a student and its teacher, a line an epoch, and write the teacher's ViT to ``folder/vit.safetensors``.

    ``folder`` is ``runs/dino/<slug>`` by default. Returns the record, ready for JSON: settings, training images, the log, and the
    focus on the object in the test images if that is known.

    Raises: ValueError where the data do not fit the settings, FloatingPointError where the loss is not finite.
    """
    folder = Path(folder or paths.RUNS / "dino" / config.slug)
    tune_process(find_device(config.device))
    run = Distiller(config)
    while len(run.history) < min(config.epochs, config.stop_after or config.epochs):
        run.train_epoch()
        print("  ".join(f"{name} {value:.4g}" for name, value in run.history[-1].items()), flush=True)
    vit, test = run.teacher.module.vit, run.data.test
    arrays = {name: value.cpu().numpy() for name, value in vit.state_dict().items()}
    save_arrays(folder / "vit.safetensors", arrays, {"config": config.identity()})
    metrics = {"epochs": run.history, "images_seen": len(run.history) * run.n_steps * config.batch_size}
    seconds = {"seconds": round(sum(entry["seconds"] for entry in run.history), 1)}
    return {
        "config": config.identity(),
        "data": {"images": len(run.pool), "sha256": digest(run.pool.numpy())},
        "metrics": metrics if test.masks is None else metrics | {"test": focus(vit, test.images, test.masks)},
        "parameters": sum(p.numel() for p in vit.parameters()),
        "environment": describe_environment(run.device, run.revision) | seconds,
    }


def sinkhorn(logits: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Teacher distributions (n, K) that use all K prototypes equally often: columns and rows normalized in turn."""
    shares = ((logits - logits.max()) / temperature).exp()
    for axis in (0, 1) * rounds:
        shares = shares / shares.sum(axis, keepdim=True).clamp_min(1e-12)
    return shares


def dino_loss(student_logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean cross entropy (nats) between the teacher's view and every other view of the student, by Eq. 2's softmax.

    ``teacher`` holds distributions (T, B, K), without a gradient; ``student_logits`` (V, B, K) begins with the same T views.
    """
    log_student = (student_logits / temperature).log_softmax(-1)
    pairs = -torch.einsum("tbk,vbk->tv", teacher.detach(), log_student) / teacher.shape[1]
    other = ~torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs[other].mean()


def cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` to ``end`` along half a cosine, as ``progress`` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def focus(vit: nn.Module, images: Tensor, masks: Tensor) -> dict:
    """:func:`resattn.attention.sources.object_focus` of the "minmax" map, which the network is fed, and of the "raw" attention."""
    attention = _batched(lambda inputs: attend(vit, inputs), vit, images)
    maps = {"minmax": aggregate_heads(attention), "raw": attention.mean(1, keepdim=True)}
    return {name: object_focus(value, masks) for name, value in maps.items()}


def knn_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    """Accuracy of the 20 nearest neighbours by cosine of [CLS] tokens (n, D), each voting with weight exp(similarity / 0.07)."""
    nearby = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    similarity, nearest = nearby.topk(min(20, len(bank)), 1)
    votes = torch.zeros(len(queries), int(bank_labels.max()) + 1)
    votes.scatter_add_(1, bank_labels[nearest], (similarity / 0.07).exp())
    return float((votes.argmax(1) == labels).float().mean())


class Network(nn.Module):
    """ViT, projection head with batch normalization, and prototypes: images (n, 3, s, s) to cosines (n, K) in [-1, 1].

    Batch statistics are never tracked: a teacher that lags behind its own statistics is a way to collapse.
    """

    def __init__(self, config: DinoConfig):
        super().__init__()
        self.vit = build_vit(**config.vit)
        layers = []
        for width in (config.dim, _HIDDEN):
            norm = nn.BatchNorm1d(_HIDDEN, track_running_stats=False)
            layers += [nn.Linear(width, _HIDDEN, bias=False), norm, nn.GELU()]
        self.head = nn.Sequential(*layers, nn.Linear(_HIDDEN, _BOTTLENECK))
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, _BOTTLENECK))

    def forward(self, crops: Tensor) -> Tensor:
        """Logits of the crops."""
        return F.linear(F.normalize(self.head(self.vit(crops)), dim=1), F.normalize(self.prototypes, dim=1))


class Distiller:
    """Everything a run carries from one epoch to the next."""

    def __init__(self, config: DinoConfig):
        self.config, self.revision, self.device = config, code_revision(), find_device(config.device)
        size = None if config.dataset in ("shapes", "cifar10", "cifar100") else config.image_size
        self.data = load_dataset(config.dataset, config.root, size=size)
        train = self.data.train
        self.fit, self.val = stratified_split(train.labels, len(train) // 10, config.seed)
        self.pool = train.images[self.fit]
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
        warm = min(1.0, (epoch + 0.01) / _WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = warm * cosine(c.lr, c.lr / 100, progress)
        self.optimizer.param_groups[0]["weight_decay"] = cosine(*_WEIGHT_DECAY, progress)
        self.teacher.decay = cosine(*c.momentum, progress)
        self.student.prototypes.requires_grad_(epoch >= _WARMUP)

    def _step(self, images: Tensor) -> Tensor:
        crops = random_crops(images, 2, self.config.global_size, _AREA, self.augmentation).flatten(0, 1)
        crops = (crops - PIXEL_MEAN) / PIXEL_STD
        with torch.no_grad():
            targets = sinkhorn(self.teacher(crops), _TEACHER_TEMPERATURE)
        logits, teacher = (each.view(2, len(images), -1) for each in (self.student(crops), targets))
        loss = dino_loss(logits, teacher, _STUDENT_TEMPERATURE)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.teacher.update(self.student)
        entropies = [torch.special.entr(shares).sum(-1).mean() for shares in (targets, targets.mean(0))]
        return torch.stack([loss.detach(), *entropies]).double().cpu()

    def watch(self) -> dict:
        """Nearest-neighbour accuracy, and focus on the object where masks exist, on the validation part."""
        vit, train = self.teacher.module.vit, self.data.train
        bank, queries = ((_batched(vit, vit, train.images[i]), train.labels[i]) for i in (self.fit[:4000], self.val))
        found = {"knn_acc": knn_accuracy(*bank, *queries)}
        if train.masks is not None:
            found |= focus(vit, train.images[self.val], train.masks[self.val])["minmax"]
        return found


@torch.no_grad()
def _batched(make: Callable[[Tensor], Tensor], vit: nn.Module, images: Tensor) -> Tensor:
    """What ``make`` gives for uint8 images as the ViT takes them, 500 at a time, on the CPU."""
    device = next(vit.parameters()).device
    return torch.cat([make(vit_input(vit, part.to(device))).cpu() for part in images.split(500)])
