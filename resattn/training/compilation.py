"""Compiling a network for training, where that works."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor, Tensor | None], Tensor]


def compiled(
    model: nn.Module, loss: Callable[..., Tensor], images: Tensor, maps: Tensor | None, labels: Tensor
) -> Forward:
    """The network, compiled and tried on one batch; where that fails, for whatever reason, a line and the network as it is.

    On CUDA the forward and the backward pass each become one CUDA graph. Evaluation is not compiled: it is rare.
    Weights, statistics and gradients stay as they were. ``loss`` takes a forward function, images, maps and labels; those
    given, a batch as it will be, lie on the network's device.
    """
    images = torch.zeros(images.shape, device=images.device).contiguous(memory_format=torch.channels_last)
    mode = "reduce-overhead" if images.device.type == "cuda" else "default"
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.train()
    try:
        forward = torch.compile(model, mode=mode, dynamic=False)
        for _ in range(3 if mode == "reduce-overhead" else 1):  # CUDA graphs are recorded after a first, plain call
            torch.compiler.cudagraph_mark_step_begin()
            loss(forward, images, maps, labels).backward()
            model.zero_grad()
    except Exception as error:  # no compiler, an old driver, a bug: none of them is a reason not to train
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        reason = f"{type(error).__name__}: {reason[:200]}"
        print(f"torch.compile failed, so the run goes on without it ({reason})", flush=True)
        forward = model
    model.zero_grad()
    model.load_state_dict(before)
    return forward
