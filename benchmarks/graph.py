"""The whole update as one CUDA graph captured by hand, to compare with the two that torch.compile's "reduce-overhead" makes."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from resattn.training.trainer import Trainer


def whole_step(run: Trainer, fused: bool) -> Callable[[Tensor, Tensor | None, Tensor, float], Tensor]:
    """What ``Trainer._step`` does (forward, loss, backward, AdamW), replayed; on the CPU, which has no graphs, run each time.

    ``fused``: torch.compile's kernels inside it. The network is left as it was; the run has a new optimizer.
    """
    cuda, batch = run.device.type == "cuda", run.config.batch_size
    backend = "inductor" if cuda else "aot_eager"  # on the CPU this is a dry run
    forward = torch.compile(run.model, dynamic=False, backend=backend) if fused else run.model
    images = torch.zeros(run.fit.images[:batch].shape, device=run.device).contiguous(memory_format=torch.channels_last)
    maps, labels = None if run.fit_maps is None else run.fit_maps[:batch].clone(), run.fit.labels[:batch].clone()
    rate = torch.tensor(run.config.lr, device=run.device)
    (group,) = run.optimizer.param_groups
    kept = {name: group[name] for name in ("betas", "weight_decay")}
    optimizer = run.optimizer = torch.optim.AdamW(group["params"], rate, fused=True, capturable=cuda, **kept)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}

    def update() -> Tensor:
        optimizer.zero_grad()
        loss = run._loss(forward, images, maps, labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    run.model.train()
    if cuda:
        torch.cuda.synchronize()
    # What is captured must have run before, on another stream than the usual one.
    aside = torch.cuda.stream(torch.cuda.Stream()) if cuda else contextlib.nullcontext()
    with aside:
        for _ in range(3):
            update()
    optimizer.zero_grad()
    replay = _captured(update) if cuda else update
    run.model.load_state_dict(before)
    for slots in optimizer.state.values():
        for value in slots.values():
            value.zero_()

    def step(new_images: Tensor, new_maps: Tensor | None, new_labels: Tensor, new_rate: float) -> Tensor:
        images.copy_(new_images)
        labels.copy_(new_labels)
        if maps is not None:
            maps.copy_(new_maps)
        rate.fill_(new_rate)
        return replay()

    return step


def _captured(update: Callable[[], Tensor]) -> Callable[[], Tensor]:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = update()

    def replay() -> Tensor:
        graph.replay()
        return loss.clone()  # the next replay writes over it

    return replay
