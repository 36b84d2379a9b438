"""Files are whole or not there, damage is noticed, and a full disk is named."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from resattn.files import atomic_write, digest, file_digest, file_name, load_arrays, save_arrays, write_json

ARRAYS = {"maps": np.arange(12, dtype=np.float32).reshape(3, 4), "labels": np.array([3, 1, 2])}


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a device of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root): " + mounted.stderr.decode().strip())
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # torch may still hold a file open


def test_atomic_write_replaces_the_content(tmp_path):
    path = tmp_path / "new" / "note.txt"
    for text in ("old", "new"):
        assert atomic_write(path, lambda partial, text=text: partial.write_text(text)) == path
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["note.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_content_and_no_temporary_file(tmp_path, error):
    path = tmp_path / "note.txt"
    path.write_text("old")

    def write(partial):
        partial.write_text("half of the n")
        raise error

    with pytest.raises(error):
        atomic_write(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_what_a_killed_write_left_goes_a_day_later_and_no_other(tmp_path):
    """Killed in the middle of a write; another process may be writing beside it and must not lose its own."""
    script = (
        "import pathlib, sys, time; from resattn.files import atomic_write; "
        "atomic_write(pathlib.Path(sys.argv[1]), lambda p: (p.write_text('half'), print('half', flush=True), time.sleep(60)))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "note.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
        assert killed.stdout.readline() == b"half\n"
        (left,) = tmp_path.iterdir()
        killed.kill()
    assert left.exists(), "a killed process removes nothing"
    others = [tmp_path / name for name in (".of-another-process.txt.0.partial", "report.partial")]
    for path in others:
        path.write_text("half")
    for path in (left, others[1]):
        os.utime(path, (0, 0))
    whole = atomic_write(tmp_path / "other.txt", lambda partial: partial.write_text("whole"))
    assert set(tmp_path.iterdir()) == {whole, *others}


def test_nobody_sees_the_file_before_it_is_whole(tmp_path):
    path = tmp_path / "note.txt"

    def write(partial):
        partial.write_text("half")
        assert not path.exists()
        assert partial.parent == path.parent, "a rename is atomic only within one file system"
        partial.write_text("whole")

    atomic_write(path, write)
    assert path.read_text() == "whole"


def test_write_json_is_read_back(tmp_path):
    value = {"a": 0.1, "epochs": [{"loss": 1.5}], "revision": None}
    assert json.loads(write_json(tmp_path / "record.json", value).read_text()) == value


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_write_json_refuses_what_json_cannot_hold(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "record.json", {"loss": number})
    assert not os.listdir(tmp_path)


def test_arrays_are_read_back_with_their_description(tmp_path):
    path = save_arrays(tmp_path / "maps.safetensors", ARRAYS, {"source": "dino"})
    arrays, about = load_arrays(path)
    assert about == {"source": "dino"}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_arrays_are_saved_by_value_whatever_their_strides(tmp_path):
    turned = np.arange(6).reshape(2, 3).T
    arrays, _ = load_arrays(save_arrays(tmp_path / "turned.safetensors", {"x": turned}))
    np.testing.assert_array_equal(arrays["x"], turned)


def test_a_missing_file_is_none(tmp_path):
    assert load_arrays(tmp_path / "none.safetensors") is None


def test_a_file_cut_anywhere_is_none(tmp_path):
    path = save_arrays(tmp_path / "maps.safetensors", ARRAYS)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert load_arrays(path) is None, f"cut after {length} bytes"


def test_a_flipped_bit_never_changes_what_is_read(tmp_path):
    """Nearly every flip makes the file unreadable; the few in a description or in padding leave the arrays as they were."""
    path = save_arrays(tmp_path / "maps.safetensors", ARRAYS, {"source": "dino"})
    whole = path.read_bytes()
    rejected = 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        kept = load_arrays(path)
        rejected += kept is None
        if kept is not None:
            assert digest(*kept[0].values()) == digest(*(ARRAYS[name] for name in kept[0])), f"byte {i}"
    assert rejected > 0.8 * len(whole)


def test_digest_tells_dtype_shape_and_value_apart():
    array = np.zeros((2, 3), np.int32)
    others = [array.astype(np.float32), array.reshape(3, 2), array + 1]
    assert digest(array) == digest(array.copy())
    assert len({digest(array), *map(digest, others)}) == 4


def test_a_full_disk_is_named_when_arrays_are_saved(full_disk):
    path = full_disk / "maps.safetensors"
    with pytest.raises(OSError, match=f"no space left on the device that holds {path}"):
        save_arrays(path, {"maps": np.zeros(100_000)})
    assert not os.listdir(full_disk)


def test_a_full_disk_is_named_when_json_is_written(full_disk):
    path = full_disk / "record.json"
    with pytest.raises(OSError, match=f"no space left on the device that holds {path}"):
        write_json(path, "x" * 100_000)
    assert not os.listdir(full_disk)


def test_a_full_disk_is_named_when_a_torch_file_is_written(full_disk):
    """torch.save reports a full disk as a RuntimeError about positions in a file, which tells nobody anything."""
    path = full_disk / "checkpoint.pt"
    with pytest.raises(OSError, match=f"no space left on the device that holds {path}"):
        atomic_write(path, lambda partial: torch.save({"x": torch.zeros(100_000)}, partial))
    assert not os.listdir(full_disk)


def test_a_full_disk_keeps_the_old_file(full_disk):
    path = save_arrays(full_disk / "maps.safetensors", ARRAYS)
    with pytest.raises(OSError, match="no space left"):
        save_arrays(path, {"maps": np.zeros(100_000)})
    assert load_arrays(path) is not None


@pytest.mark.parametrize(
    "text",
    [
        "../../../evil",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a\\b",
        "a\0b\n",
        "q<img src=x onerror=alert(1)>",
        "x" * 5000,
        "ü" * 200,
        "\udcff",
    ],
)
def test_no_name_leads_out_of_its_folder(tmp_path, text):
    name = file_name(text)
    (tmp_path / name).write_text("here")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert not name.startswith(".")
    assert not set("/\\<>\0\n") & set(name)
    assert file_name(name) == name, "what is a name already stays as it is"


def test_different_texts_have_different_names():
    texts = ["photos.v1", "photos.v2", "a/b", "a\\b", "a_b", ".a_b", "x" * 200, "x" * 201]
    assert len({file_name(text) for text in texts}) == len(texts)
    assert all(file_name(text) == text for text in ("photos.v1", "größe", "my photos", "resnet8-seed0_1+2,3=4"))


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    assert file_digest(path) == file_digest(str(path)) == digest(b"one")
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", None)
        assert file_digest(path) == digest(b"one"), "not read again"
    os.utime(path, ns=(0, 0))
    assert file_digest(path) == digest(b"one")
    path.write_bytes(b"two")
    assert file_digest(path) == digest(b"two")
