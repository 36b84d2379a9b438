"""DINO: self-distillation without labels (Sec. 3.2), and the small ViT it made that travels with the package.

A student and a teacher look at different crops of one image; the student learns to give the distribution (Eq. 2) that the
teacher gives from another crop. The teacher is a moving average of the student. Also ``python -m resattn.dino``: stopped at
any moment and started again, a run goes on from its last epoch and, on the CPU, ends with the same weights, bit for bit.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resattn import paths
from resattn.attention import aggregate_heads, object_focus
from resattn.crops import random_crops
from resattn.data import Split, load_dataset, stratified_split
from resattn.dino_model import PIXEL_MEAN, PIXEL_STD, DinoConfig, Network, add_options, build_vit, seeded
from resattn.dino_model import tiny_vit as tiny_vit
from resattn.environment import code_revision, describe_environment
from resattn.files import atomic_write, digest, save_arrays, write_json
from resattn.shapes import make_shapes
from resattn.vit import cls_attention, vit_input


def pretrain(config: DinoConfig, *, folder: Path | None = None, on_epoch: Callable[[dict], None] | None = None) -> dict:
    """Train a student and its teacher, and write the teacher's ViT to ``folder/vit.safetensors``.

    Args:
        config: the settings.
        folder: where the checkpoint lives; one found there is continued. None means ``runs/dino/<slug>``.
        on_epoch: called with each epoch's metrics; None prints them.

    Returns:
        The record, ready for JSON: "config"; "data", number and checksum of the training images; "metrics" with "epochs" (one
        dict an epoch, see :meth:`_Run.train_epoch`), "collapse" (None or what happened), "images_seen", and,
        where the data set has masks, "test": the focus on the object of "minmax" maps (what the network is fed) and of "raw"
        attention, on the test split; "parameters"; "environment".

    Raises:
        ValueError: the data cannot be had as asked, or the checkpoint belongs to other settings.
        FloatingPointError: the loss became infinite or NaN.
    """
    folder = Path(folder) if folder is not None else paths.RUNS / "dino" / config.slug
    run = _Run(config)
    run.resume(folder / "checkpoint.pt")
    while len(run.history) < min(config.epochs, config.stop_after or config.epochs):
        run.train_epoch()
        atomic_write(folder / "checkpoint.pt", lambda partial: torch.save(run.state(), partial))
        (on_epoch or _print_epoch)(run.history[-1])
        if what := collapse(run.history, config.prototypes):
            print(f"collapsed: {what}", flush=True)
    record = run.finish()
    arrays = {name: value.cpu().numpy() for name, value in run.teacher.vit.state_dict().items()}
    save_arrays(folder / "vit.safetensors", arrays, {"config": config.identity()})
    return record


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Eq. 2: softmax over the last axis at a temperature; small ones sharpen."""
    return (logits / temperature).softmax(-1)


def sinkhorn(logits: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Teacher distributions (n, K) that use all K prototypes equally often: rows and columns normalised in turn (Sinkhorn-Knopp)."""
    shares = ((logits - logits.max()) / temperature).exp()
    for _ in range(rounds):
        shares = shares / shares.sum(0, keepdim=True).clamp_min(1e-12)
        shares = shares / shares.sum(1, keepdim=True).clamp_min(1e-12)
    return shares


def dino_loss(student_logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean cross entropy (nats) between the teacher's view and every other view of the student.

    Args:
        student_logits: float (V, B, K), the first views being those the teacher saw.
        teacher: float (T, B, K), distributions, T <= V; no gradient flows into it.
        temperature: of the student, in Eq. 2.
    """
    log_student = (student_logits / temperature).log_softmax(-1)
    entropy = -torch.einsum("tbk,vbk->tv", teacher.detach(), log_student) / teacher.shape[1]
    other = ~torch.eye(*entropy.shape, dtype=torch.bool, device=entropy.device)
    return entropy[other].mean()


def cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` to ``end`` along half a cosine, as ``progress`` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def collapse(history: list[dict], n_prototypes: int, epochs: int = 3) -> str | None:
    """What the last ``epochs`` epochs have in common if the run has collapsed, else None."""
    last = history[-epochs:]
    if len(last) < epochs:
        return None
    if all(entry["teacher_entropy"] > 0.99 * math.log(n_prototypes) for entry in last):
        return f"teacher entropy at ln {n_prototypes} for {epochs} epochs: every image gets the uniform distribution"
    if all(entry["mean_entropy"] < 0.05 * math.log(n_prototypes) for entry in last):
        return f"entropy of the mean teacher at 0 for {epochs} epochs: every image gets the same prototype"
    return None


def knn_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int = 20) -> float:
    """Accuracy of the k nearest neighbours by cosine (n, D), each voting with weight exp(similarity / 0.07)."""
    similarity, nearest = (F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T).topk(k, 1)
    votes = torch.zeros(len(queries), int(bank_labels.max()) + 1, device=queries.device)
    votes.scatter_add_(1, bank_labels[nearest], (similarity / 0.07).exp())
    return float((votes.argmax(1) == labels).float().mean())


def focus(vit: nn.Module, part: Split) -> dict:
    """:func:`resattn.attention.object_focus` of the "minmax" map, which the network is fed, and of the "raw" attention."""
    device = next(vit.parameters()).device
    attention = torch.cat([cls_attention(vit, vit_input(vit, x.to(device))).cpu() for x in part.images.split(500)])
    maps = {"minmax": aggregate_heads(attention), "raw": attention.mean(1, keepdim=True)}
    return {name: object_focus(value, part.masks) for name, value in maps.items()}


def untrained_focus(config: DinoConfig, part: Split, n: int = 10) -> list[dict]:
    """:func:`focus` of ``n`` untrained ViTs (seeds 0 to n - 1): what chance alone achieves, to judge a trained one by."""
    return [focus(seeded(seed, lambda: build_vit(config)), part) for seed in range(n)]


class _Run:
    """Everything a run carries from one epoch to the next."""

    def __init__(self, config: DinoConfig):
        self.config, self.revision = config, code_revision()
        self.device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        size = None if config.dataset in ("shapes", "cifar10", "cifar100") else config.image_size
        self.data = load_dataset(config.dataset, config.root, size=size)
        fit, val = stratified_split(self.data.train.labels, len(self.data.train) // 10, config.seed)
        self.fit, self.val = _take(self.data.train, fit), _take(self.data.train, val)
        self.pool = self.fit.images
        if config.dataset == "shapes" and config.drawn:
            self.pool = torch.from_numpy(make_shapes(config.drawn, 1000 + config.seed)[0])  # data.py uses seeds 1 and 2
        if len(self.pool) < config.batch_size:
            raise ValueError(f"batch_size must be at most the {len(self.pool)} images, got {config.batch_size}")
        self.student = seeded(config.seed, lambda: Network(config)).to(self.device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        weights = [p for p in self.student.parameters() if p.ndim > 1]
        others = [p for p in self.student.parameters() if p.ndim == 1]
        self.optimiser = torch.optim.AdamW([{"params": weights}, {"params": others, "weight_decay": 0.0}])
        self.centre = torch.zeros(config.prototypes, device=self.device)
        self.order = torch.Generator().manual_seed(config.seed)
        self.augmentation = torch.Generator(self.device).manual_seed(config.seed)
        self.history: list[dict] = []

    def train_epoch(self) -> None:
        """One pass over the pool; adds its metrics to the history.

        They are "loss", "teacher_entropy" (of one distribution) and "mean_entropy" (of the distribution averaged over a
        batch) in nats, "knn_acc" on the validation part, "seconds", and with true masks "mass_ratio" and "peak_inside".
        """
        start, c = time.perf_counter(), self.config
        n_steps = len(self.pool) // c.batch_size
        order = torch.randperm(len(self.pool), generator=self.order)[: n_steps * c.batch_size].view(n_steps, -1)
        sums = torch.zeros(3, dtype=torch.float64)
        for i, index in enumerate(order):
            self._set_rates(len(self.history) + i / n_steps)
            sums += self._step(self.pool[index].to(self.device))
            if not sums.isfinite().all():
                raise FloatingPointError(
                    f"loss became infinite or NaN in epoch {len(self.history) + 1}; lower lr={c.lr}"
                )
        names = ("loss", "teacher_entropy", "mean_entropy")
        means = {name: float(value) / n_steps for name, value in zip(names, sums, strict=True)}
        seconds = round(time.perf_counter() - start, 2)
        self.history.append({"epoch": len(self.history) + 1, **means, **self.watch(), "seconds": seconds})

    def _set_rates(self, epoch: float) -> None:
        c, progress = self.config, epoch / self.config.epochs
        warm = min(1.0, (epoch + 0.01) / c.warmup_epochs) if c.warmup_epochs else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = warm * cosine(c.lr, c.lr / 100, progress)
        self.optimiser.param_groups[0]["weight_decay"] = cosine(*c.weight_decay, progress)
        self.momentum = cosine(*c.momentum, progress)
        self.freeze_prototypes = epoch < c.freeze_epochs

    def _step(self, images: Tensor) -> Tensor:
        c = self.config
        options = {"generator": self.augmentation, "jitter": c.jitter, "grey": c.grey, "swap": c.swap}
        crops = [_normalise(random_crops(images, 2, c.global_size, c.global_area, **options))]
        if c.local_crops:
            crops.append(_normalise(random_crops(images, c.local_crops, c.local_size, c.local_area, **options)))
        with torch.no_grad():
            targets = self._targets(self.teacher(crops[:1]))
        logits = self.student(crops).view(2 + c.local_crops, len(images), -1)
        loss = dino_loss(logits, targets.view(2, len(images), -1), c.student_temperature)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.freeze_prototypes:
            self.student.prototypes.grad = None
        nn.utils.clip_grad_norm_(self.student.parameters(), c.clip)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - self.momentum)
        return torch.stack([loss.detach(), _entropy(targets).mean(), _entropy(targets.mean(0))]).double().cpu()

    def _targets(self, logits: Tensor) -> Tensor:
        if self.config.centring == "sinkhorn":
            return sinkhorn(logits, self.config.teacher_temperature)
        targets = probabilities(logits - self.centre, self.config.teacher_temperature)
        self.centre.lerp_(logits.mean(0), 0.1)
        return targets

    @torch.no_grad()
    def watch(self) -> dict:
        """Nearest-neighbour accuracy, and focus on the object where masks exist, on the validation part."""
        bank = _take(self.fit, torch.arange(min(4000, len(self.fit))))
        features = [self._features(part.images) for part in (bank, self.val)]
        found = {"knn_acc": knn_accuracy(features[0], bank.labels, features[1], self.val.labels, min(20, len(bank)))}
        return found | (focus(self.teacher.vit, self.val)["minmax"] if self.val.masks is not None else {})

    def _features(self, images: Tensor) -> Tensor:
        vit = self.teacher.vit
        return torch.cat([vit(vit_input(vit, part.to(self.device))).cpu() for part in images.split(500)])

    def state(self) -> dict:
        """All that :meth:`resume` needs."""
        return {
            "config": self.config.identity(),
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "centre": self.centre,
            "order": self.order.get_state(),
            "augmentation": self.augmentation.get_state(),
            "history": self.history,
        }

    def resume(self, checkpoint: Path) -> None:
        """Go on from ``checkpoint`` if there is one."""
        if not checkpoint.exists():
            return
        state = torch.load(checkpoint, map_location=self.device, weights_only=True)
        if state["config"] != self.config.identity():
            raise ValueError(f"checkpoint {checkpoint} belongs to other settings; name another folder or delete it")
        for name in ("student", "teacher", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.centre, self.history = state["centre"], state["history"]
        self.order.set_state(state["order"].cpu())
        self.augmentation.set_state(state["augmentation"].cpu())

    def finish(self) -> dict:
        """The record."""
        metrics = {
            "epochs": self.history,
            "collapse": collapse(self.history, self.config.prototypes),
            "images_seen": len(self.history) * (len(self.pool) // self.config.batch_size) * self.config.batch_size,
        }
        if self.data.test.masks is not None:
            metrics["test"] = focus(self.teacher.vit, self.data.test)
        seconds = round(sum(entry["seconds"] for entry in self.history), 1)
        return {
            "config": self.config.identity(),
            "data": {"images": len(self.pool), "sha256": digest(self.pool.numpy())},
            "metrics": metrics,
            "parameters": sum(p.numel() for p in self.teacher.vit.parameters()),
            "environment": describe_environment(self.device, self.revision) | {"seconds": seconds},
        }


def _take(split: Split, index: Tensor) -> Split:
    return Split(split.images[index], split.labels[index], None if split.masks is None else split.masks[index])


def _normalise(crops: Tensor) -> Tensor:
    """(n_crops, B, 3, s, s) on the scale [0, 1] to one batch (n_crops * B, 3, s, s) as the ViT takes it."""
    return (crops.flatten(0, 1) - PIXEL_MEAN) / PIXEL_STD


def _entropy(distributions: Tensor) -> Tensor:
    return -torch.xlogy(distributions, distributions).sum(-1)


def _print_epoch(entry: dict) -> None:
    line = "  ".join(f"{name} {value:.3f}" for name, value in entry.items() if isinstance(value, float))
    print(f"epoch {entry['epoch']:3d}  {line}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Pretrain a small ViT without labels; go on where an earlier call with the same settings stopped."""
    parser = argparse.ArgumentParser(prog="python -m resattn.dino", description=main.__doc__)
    parser.add_argument(
        "--out", type=Path, help="folder for checkpoint, weights and record; default runs/dino/<settings>"
    )
    add_options(parser)
    options = vars(parser.parse_args(argv))
    out = options.pop("out")
    try:
        config = DinoConfig(**{name: value for name, value in options.items() if value is not None})
        out = out or paths.RUNS / "dino" / config.slug
        record = pretrain(config, folder=out)
        if "test" in record["metrics"]:
            test = load_dataset(config.dataset, config.root).test
            record["metrics"]["untrained"] = untrained_focus(config, test)
    except (ValueError, FloatingPointError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"record: {write_json(out / 'record.json', record)}")
    print(f"weights: {out / 'vit.safetensors'}")


if __name__ == "__main__":
    main()
