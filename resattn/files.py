"""Writing files so that nobody ever reads half of one, and noticing when somebody else damaged one."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

_STALE = 24 * 3600  # seconds without a change: nobody is writing any more


def atomic_write(path: Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a temporary sibling of ``path``, then rename it into place; OSError, naming ``path``, where the disk is full.

    A failed write leaves ``path`` as it was and no temporary file; a killed one's goes when a process writes there a day later.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_stale(path.parent)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        write(partial)
        with partial.open("r+b") as file:  # Windows wants it open for writing
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception as error:
        if not _is_disk_full(error, path.parent):
            raise
        message = f"no space left on the device that holds {path}; free some and start again"
        raise OSError(errno.ENOSPC, message) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


@functools.cache  # once a process: a folder of many records takes time to list
def _clear_stale(folder: Path) -> None:
    for partial in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _STALE:
                partial.unlink()


def write_json(path: Path, value: object) -> Path:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused, because JSON has neither."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    return atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def digest(*parts: bytes | str | np.ndarray) -> str:
    """SHA-256 over all parts, as 64 hexadecimal digits; arrays count with their dtype and shape."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(memoryview(np.ascontiguousarray(part)).cast("B"))
        else:
            sha.update(part.encode() if isinstance(part, str) else part)
    return sha.hexdigest()


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits; read again only when its size, time of change or inode is another."""
    about = Path(path).stat()
    return _file_digest(Path(path).resolve(), about.st_size, about.st_mtime_ns, about.st_ino)


@functools.lru_cache
def _file_digest(path: Path, *about: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name(text: str) -> str:
    """``text`` as the name of a file, or as part of one: no separator, no leading dot, at most 100 bytes.

    Where anything but letters, digits, spaces and "-_.,+=" had to go, eight digits that stand for ``text`` follow.
    """
    name = re.sub(r"[^\w .,+=-]", "_", text).lstrip(". ")
    if name and name == text and len(name.encode()) <= 100:
        return name
    short = name.encode()[:91].decode(errors="ignore")
    return f"{short}-{digest(text.encode(errors='surrogatepass'))[:8]}".lstrip("-")


def save_arrays(path: Path, arrays: dict[str, np.ndarray], about: dict | None = None) -> Path:
    """Write named arrays with a description and a checksum into one safetensors file, atomically."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"about": json.dumps(about or {}), "sha256": _checksum(arrays)}
    return atomic_write(path, lambda partial: save_file(arrays, partial, metadata))


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict] | None:
    """Read what :func:`save_arrays` wrote as (arrays, description); None where the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        about = json.loads(metadata["about"])
    except (FileNotFoundError, SafetensorError, KeyError, ValueError, OSError):
        return None
    return (arrays, about) if metadata.get("sha256") == _checksum(arrays) else None


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    return digest(*(part for name in sorted(arrays) for part in (name, arrays[name])))


def _is_disk_full(error: Exception, folder: Path) -> bool:
    """Also where torch.save only complains about a position in the file, or safetensors in its own words."""
    if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):
        return True
    return isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < 2**16
