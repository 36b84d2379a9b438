"""Checkpoints of unfinished runs: written whole or not at all, refused where they are torn or belong to another run."""

from pathlib import Path

import torch

from resattn.files import atomic_write


def save_checkpoint(path: Path, state: dict) -> Path:
    """Write ``state``, which holds under "config" what tells runs apart, to ``path``."""
    return atomic_write(path, lambda partial: torch.save(state, partial))


def load_checkpoint(path: Path, config: dict, device: torch.device) -> dict | None:
    """What :func:`save_checkpoint` wrote, its tensors on ``device``; None where there is no such file.

    Raises:
        ValueError: the file is damaged, or belongs to a run with other settings than ``config``.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["config"] != config:
            raise ValueError("it belongs to a run with other settings")
    except Exception as error:  # a torn file can fail in any way
        raise ValueError(
            f"checkpoint {path} cannot be read or continued ({error}); delete it to start this run over"
        ) from error
    return state
