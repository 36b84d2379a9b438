"""AdamW as the paper sets it up, and its learning rate over a run (Table 1)."""

import math

import torch
from torch import nn

from resattn.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters, in the groups that the network asks for, if it does."""
    parameters = getattr(model, "parameter_groups", model.parameters)()
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(parameters, config.lr, betas, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: TrainConfig, step: int, n_steps: int) -> float:
    """Learning rate of step ``step`` (from 0) of ``n_steps``."""
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * step / n_steps))
