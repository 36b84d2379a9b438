"""Checkpoints of unfinished runs: written whole or not at all, refused where they are damaged or belong to another run."""

import hashlib
import io
from pathlib import Path

import torch

from resattn.files import atomic_write


def save_checkpoint(path: Path, state: dict) -> Path:
    """Write ``state``, which holds under "config" what tells runs apart, to ``path``."""
    content = io.BytesIO()
    torch.save(state, content)
    content.write(hashlib.sha256(content.getbuffer()).digest())
    return atomic_write(path, lambda partial: partial.write_bytes(content.getbuffer()))


def load_checkpoint(path: Path, config: dict, device: torch.device) -> dict | None:
    """What :func:`save_checkpoint` wrote, its tensors on ``device``; None where there is no such file.

    ValueError where the file is damaged, or belongs to a run with other settings than ``config``.
    """
    if not path.exists():
        return None
    try:
        content = memoryview(path.read_bytes())
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise ValueError("its checksum is not that of its content")
        state = torch.load(io.BytesIO(content[:-32]), map_location=device, weights_only=True)
        if state["config"] != config:
            raise ValueError("it belongs to a run with other settings")
    except Exception as error:  # a file of another kind can fail in any way
        message = f"checkpoint {path} cannot be read or continued ({error}); delete it to start this run over"
        raise ValueError(message) from error
    return state
