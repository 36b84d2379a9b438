"""Data sets from folders and from torchvision, what happens to bad ones, and the stratified split."""

import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from conftest import write_image
from PIL import Image

from resattn import load_dataset, stratified_split
from resattn.data import datasets as data_module
from resattn.data import images as image_module


def forbid(*_args, **_kwargs):
    raise AssertionError("this should have come from the cache")


# Folders


def test_a_png_folder_is_read_pixel_for_pixel(tmp_path):
    rng = np.random.default_rng(0)
    written = {}
    for split, label, name in [
        ("train", "owl", "b"),
        ("train", "owl", "a"),
        ("train", "crow", "z"),
        ("test", "crow", "x"),
        ("test", "owl", "y"),
    ]:
        written[split, label, name] = rng.integers(0, 256, (6, 9, 3))
        write_image(tmp_path / "birds" / split / label / f"{name}.png", written[split, label, name])

    data = load_dataset("birds", tmp_path)
    assert data.name == "birds"
    assert data.classes == ("crow", "owl")
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.masks is None
    for split, images in (("train", data.train.images), ("test", data.test.images)):
        expected = np.stack([written[key] for key in sorted(written) if key[0] == split]).transpose(0, 3, 1, 2)
        assert images.dtype == torch.uint8
        np.testing.assert_array_equal(images.numpy(), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_a_jpeg_folder_is_read(tmp_path, suffix):
    colours = {"blue": (20, 30, 200), "red": (210, 40, 30)}
    for split in ("train", "test"):
        for label, colour in colours.items():
            write_image(tmp_path / "plain" / split / label / f"0{suffix}", np.full((16, 16, 3), colour))
    images = load_dataset("plain", tmp_path).train.images
    for image, colour in zip(images, colours.values(), strict=True):
        assert (image.float() - torch.tensor(colour)[:, None, None]).abs().max() < 4


def test_images_in_subfolders_belong_to_the_class(make_folder):
    folder = make_folder()
    (folder / "train" / "duck" / "male").mkdir()
    (folder / "train" / "duck" / "003.png").rename(folder / "train" / "duck" / "male" / "003.png")
    assert load_dataset(str(folder)).train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_folder_is_found_by_its_path(make_folder, tmp_path):
    folder = make_folder()
    by_path, by_name = load_dataset(str(folder)), load_dataset("birds", tmp_path / "data")
    assert by_path.name == by_name.name == "birds"
    assert by_path.train.images.equal(by_name.train.images)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_colour_modes_become_rgb(make_folder, mode):
    folder = make_folder()
    path = folder / "train" / "crow" / "000.png"
    Image.new("L", (16, 16), 77).convert(mode).save(path)
    assert (load_dataset(str(folder)).train.images[0] == 77).all()


def test_16_bits_of_grey_are_scaled_and_not_cut_off(make_folder):
    folder = make_folder()
    levels = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(levels).save(folder / "train" / "crow" / "000.png")
    image = load_dataset(str(folder)).train.images[0]
    np.testing.assert_array_equal(image[0].flatten(), np.arange(256))
    assert image[0].equal(image[2])


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused_by_name(make_folder, dtype):
    folder = make_folder()
    Image.fromarray(np.linspace(0, 1, 256).reshape(16, 16).astype(dtype)).save(
        folder / "train" / "crow" / "000.png", format="TIFF"
    )
    with pytest.raises(ValueError, match=r"train/crow/000.png: its pixels are neither 8 nor 16 bits"):
        load_dataset(str(folder))


def test_files_that_are_no_images_are_left_alone(make_folder):
    folder = make_folder()
    (folder / "train" / "crow" / "notes.txt").write_text("caw")
    (folder / "train" / "crow" / "._000.png").write_bytes(b"resource fork")
    assert len(load_dataset(str(folder)).train) == 12


def test_size_cuts_out_the_centre_square(make_folder):
    folder = make_folder()
    wide = np.zeros((20, 40, 3))
    wide[:, :10], wide[:, 10:30], wide[:, 30:] = (255, 0, 0), (0, 0, 255), (255, 0, 0)
    write_image(folder / "train" / "crow" / "000.png", wide)
    data = load_dataset(str(folder), size=10)
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (3, 10, 10)
    middle = data.train.images[0, :, :, 1:-1]
    assert (middle[0] < 5).all()
    assert (middle[2] > 250).all()


# The cache of decoded images


def count_decoded(monkeypatch) -> list[str]:
    """The files that are decoded from now on."""
    decoded, read = [], image_module._read_rgb
    monkeypatch.setattr(image_module, "_read_rgb", lambda path: decoded.append(path.name) or read(path))
    return decoded


def test_the_second_call_decodes_nothing(make_folder, monkeypatch):
    folder = make_folder()
    first = load_dataset(str(folder))
    decoded = count_decoded(monkeypatch)
    second = load_dataset(str(folder))
    assert len(decoded) == 2, "the first image of each split tells the size"
    assert second.train.images.equal(first.train.images)
    assert second.test.labels.equal(first.test.labels)
    assert second.classes == first.classes


def test_interrupted_decoding_goes_on_where_it_stopped(make_folder, monkeypatch):
    folder = make_folder(train=100, test=1)

    def interrupted(steps, *_):
        for _ in range(150):
            yield next(steps)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(image_module, "track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_dataset(str(folder))
    decoded = count_decoded(monkeypatch)
    data = load_dataset(str(folder))
    assert 3 < len(decoded) <= 1 + 150 + 1 + 3
    assert data.train.images.equal(load_dataset(str(folder), cache=folder / "other-cache").train.images)


@pytest.mark.parametrize("cut", [0, 100, 5_000])
def test_an_array_cut_in_half_is_made_anew(make_folder, tmp_path, cut):
    folder, cache = make_folder(), tmp_path / "decoded"
    expected = load_dataset(str(folder), cache=cache).train.images.clone()
    files = sorted(cache.rglob("train*.npy"))
    assert len(files) == 2
    for path in files:
        path.write_bytes(path.read_bytes()[:cut])
        assert load_dataset(str(folder), cache=cache).train.images.equal(expected)


def test_a_damaged_row_is_decoded_anew_and_no_other(make_folder, tmp_path, monkeypatch):
    folder, cache = make_folder(), tmp_path / "decoded"
    expected = load_dataset(str(folder), cache=cache).train.images.clone()
    (path,) = (path for path in cache.rglob("train*.npy") if "crc32" not in path.name)
    with path.open("r+b") as file:
        file.seek(128 + 5 * 3 * 16 * 16 + 7)
        file.write(bytes([int(expected[5, 0, 0, 7]) ^ 1]))
    decoded = count_decoded(monkeypatch)
    assert load_dataset(str(folder), cache=cache).train.images.equal(expected)
    assert len(decoded) == 3


def _replace(folder):
    write_image(folder / "train" / "crow" / "000.png", np.zeros((16, 16, 3)))


def _add(folder):
    write_image(folder / "train" / "crow" / "more.png", np.zeros((16, 16, 3)))


def _remove(folder):
    (folder / "train" / "crow" / "000.png").unlink()


def _move(folder):
    os.rename(folder / "train" / "crow" / "000.png", folder / "train" / "duck" / "moved.png")


@pytest.mark.parametrize("change", [_replace, _add, _remove, _move])
def test_a_changed_folder_is_decoded_anew(make_folder, change):
    folder = make_folder()
    load_dataset(str(folder))
    change(folder)
    cached = load_dataset(str(folder))
    fresh = load_dataset(str(folder), cache=folder / "other-cache")
    assert cached.train.images.equal(fresh.train.images)
    assert cached.train.labels.equal(fresh.train.labels)


def test_another_size_is_decoded_anew(make_folder):
    folder = str(make_folder())
    assert [load_dataset(folder, size=size).train.images.shape[-1] for size in (None, 8, 12)] == [16, 8, 12]


def test_the_shapes_are_drawn_once(shapes, shapes_cache, monkeypatch):
    monkeypatch.setattr(data_module.shapes, "make_shapes", forbid)
    again = load_dataset("shapes", cache=shapes_cache / "datasets")
    assert again.train.images.equal(shapes.train.images)
    assert again.train.masks.equal(shapes.train.masks)


def test_the_cached_shapes_follow_their_number_and_seed(monkeypatch, tmp_path):
    for n in (20, 30):
        monkeypatch.setattr(data_module, "_SHAPES_SIZES", {"train": (n, 1), "test": (10, 2)})
        assert len(load_dataset("shapes", cache=tmp_path).train) == n


# CIFAR through torchvision


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Tiny CIFAR archives in the official layout, in which torchvision believes: (root, {(name, split): (rows, labels)})."""
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda _: True)
    rng, written = np.random.default_rng(0), {}

    def dump(path, content):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(content))

    def batch(n_classes):
        return rng.integers(0, 256, (3, 3072), dtype=np.uint8), rng.integers(0, n_classes, 3).tolist()

    ten, hundred = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-100-python"
    dump(ten / "batches.meta", {"label_names": [f"class{k}" for k in range(10)]})
    dump(hundred / "meta", {"fine_label_names": [f"fine{k}" for k in range(100)]})
    parts = {name: batch(10) for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]}
    for name, (rows, labels) in parts.items():
        dump(ten / name, {"data": rows, "labels": labels})
    for split in ("train", "test"):
        rows, labels = written["cifar100", split] = batch(100)
        dump(hundred / split, {"data": rows, "fine_labels": labels})
    train = [parts[f"data_batch_{i}"] for i in range(1, 6)]
    written["cifar10", "train"] = (
        np.concatenate([rows for rows, _ in train]),
        [k for _, labels in train for k in labels],
    )
    written["cifar10", "test"] = parts["test_batch"]
    return tmp_path, written


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_through_torchvision(cifar, name):
    root, written = cifar
    data = load_dataset(name, root)
    assert data.name == name
    assert len(data.classes) == int(name[5:])
    for split, part in (("train", data.train), ("test", data.test)):
        rows, labels = written[name, split]
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        np.testing.assert_array_equal(part.images.numpy(), rows.reshape(-1, 3, 32, 32))
        assert part.labels.tolist() == labels


def test_size_is_not_ignored_for_a_downloaded_data_set(cifar):
    """``size`` applies to image folders; where it cannot be honoured it must not pass in silence."""
    with pytest.raises(ValueError, match="size"):
        load_dataset("cifar10", cifar[0], size=16)


def test_a_failed_download_says_what_else_can_be_done(tmp_path, monkeypatch):
    def fail(_):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fail)
    with pytest.raises(ValueError, match="could not be fetched") as caught:
        load_dataset("cifar10", tmp_path)
    message = str(caught.value)
    assert "no route to host" in message
    assert f"fetched into {tmp_path}" in message
    assert f"{tmp_path / 'cifar10'}/{{train,test}}/<class>/*.png" in message


def test_a_cifar_folder_is_taken_before_a_download(make_folder, monkeypatch):
    folder = make_folder("cifar10")
    monkeypatch.setitem(data_module._OFFICIAL_SIZES, "cifar10", (3, 12, 6))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", forbid)
    assert len(load_dataset("cifar10", folder.parent).train) == 12


# Bad input


def test_an_unknown_data_set_is_named_with_the_choices(tmp_path):
    with pytest.raises(ValueError, match=r"'shapes', 'cifar10', 'cifar100', or a folder.*'mnist' is none of them"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_named(make_folder, split):
    folder = make_folder()
    (folder / split).rename(folder / "elsewhere")
    with pytest.raises(ValueError, match=f"birds/{split} must hold <class>/"):
        load_dataset(str(folder))


def test_a_class_without_images_is_named(make_folder):
    folder = make_folder()
    for path in (folder / "test" / "duck").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"birds/test must hold <class>/\*.png.*classes duck"):
        load_dataset(str(folder))


def test_a_class_that_only_one_split_has_is_named(make_folder):
    folder = make_folder(classes=("crow", "duck"), test_classes=("crow", "duck", "emu"))
    with pytest.raises(ValueError, match=r"same classes.*\['emu'\]"):
        load_dataset(str(folder))


def test_a_folder_without_classes_is_refused(make_folder):
    folder = make_folder(classes=(), test_classes=("crow",))
    (folder / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"birds/train must hold <class>/.*Couldn't find any class folder"):
        load_dataset(str(folder))


def test_a_single_class_is_refused(make_folder):
    with pytest.raises(ValueError, match="must hold at least 2 classes, found 1"):
        load_dataset(str(make_folder(classes=("crow",))))


def test_a_part_of_cifar10_does_not_pass_for_the_whole(make_folder):
    folder = make_folder("cifar10", classes=tuple("abcdefghij"))
    with pytest.raises(
        ValueError, match=r"not the whole of cifar10: expected \(10, 50000, 10000\) classes.*found \(10, 40, 20\)"
    ):
        load_dataset("cifar10", folder.parent)


def test_a_part_of_cifar10_does_not_pass_for_the_whole_when_named_by_its_path(make_folder):
    folder = make_folder("cifar10", classes=tuple("abcdefghij"))
    with pytest.raises(ValueError, match="not the whole of cifar10"):
        load_dataset(str(folder))


def spoil(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"no picture")


def test_unreadable_images_are_named_one_by_one_with_what_to_do(make_folder, monkeypatch):
    folder = make_folder()
    spoil(folder, "train/crow/000.png", "train/finch/003.png", "test/duck/001.png")
    with pytest.raises(ValueError, match=r"holds 3 images that cannot be read.*skip_unreadable=True") as caught:
        load_dataset(str(folder))
    for name in ("train/crow/000.png", "train/finch/003.png", "test/duck/001.png"):
        assert f"{folder / name}: cannot identify image file" in str(caught.value)
    for name in ("train/crow/000.png", "train/finch/003.png", "test/duck/001.png"):
        write_image(folder / name, np.zeros((16, 16, 3)))
    decoded = count_decoded(monkeypatch)
    data = load_dataset(str(folder))
    assert len(decoded) <= 2 + 3 + 1, "a replaced file is decoded, and what had taken its row"
    assert data.train.images.equal(load_dataset(str(folder), cache=folder / "other-cache").train.images)


@pytest.mark.parametrize("bad", [["000"], ["003"], ["000", "001", "003"], ["002", "003"]])
def test_unreadable_images_are_left_out_if_asked(make_folder, capsys, bad):
    """The last ones take their places; the second call finds the same."""
    folder = make_folder()
    whole = {image.numpy().tobytes(): int(label) for image, label in unpack(load_dataset(str(folder)).train)}
    spoil(folder, *(f"train/{label}/{name}.png" for label in ("crow", "finch") for name in bad), "test/duck/001.png")
    for _ in range(2):
        data = load_dataset(str(folder), skip_unreadable=True)
        assert data.unreadable == 2 * len(bad) + 1
        assert (len(data.train.images), len(data.test)) == (12 - 2 * len(bad), 5)
        found = {image.numpy().tobytes(): int(label) for image, label in unpack(data.train)}
        assert len(found) == len(data.train)
        assert found.items() <= whole.items()
        said = capsys.readouterr().out
        assert said.count("left out") == 2 * len(bad) + 1
        assert f"left out {folder}/test/duck/001.png: cannot identify" in said
    assert data.test.labels.tolist() == [0, 0, 1, 2, 2]


def unpack(split):
    return zip(split.images, split.labels, strict=True)


def test_a_folder_without_a_readable_image_is_refused(make_folder):
    folder = make_folder()
    spoil(folder, *(path.relative_to(folder) for path in (folder / "test").rglob("*.png")))
    with pytest.raises(ValueError, match="test: none of its 6 images can be read, the first: cannot identify"):
        load_dataset(str(folder), skip_unreadable=True)


def test_photographs_are_turned_as_the_camera_says(make_folder):
    folder, pixels, about = make_folder(), np.zeros((16, 16, 3)), Image.Exif()
    pixels[:8], about[0x0112] = 255, 3
    (folder / "train/crow/000.png").unlink()
    write_image(folder / "train/crow/000.jpg", pixels, exif=about, quality=95)
    image = load_dataset(str(folder)).train.images[0].float()
    assert image[:, :6].mean() < 20 < 235 < image[:, -6:].mean()


def test_a_full_disk_is_noticed_before_anything_is_decoded(make_folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    folder, decoded = make_folder(), count_decoded(monkeypatch)
    with pytest.raises(OSError, match="no space left on the device that holds"):
        load_dataset(str(folder))
    assert len(decoded) == 1, "the first image tells the size"


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_an_unreadable_image_is_named(make_folder, damage):
    folder = make_folder()
    path = folder / "test" / "duck" / "001.png"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"no picture", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"cannot be read: \S*test/duck/001.png: "):
        load_dataset(str(folder))


def test_a_dangling_link_is_named(make_folder):
    folder = make_folder()
    (folder / "test" / "duck" / "gone.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(ValueError, match=r"cannot be read: \S*test/duck/gone.png: .*No such file"):
        load_dataset(str(folder))


def test_mixed_sizes_are_named_with_the_remedy(make_folder):
    folder = make_folder()
    write_image(folder / "train" / "duck" / "001.png", np.zeros((12, 20, 3)))
    with pytest.raises(ValueError, match=r"train/duck/001.png is 20x12, the first one 16x16.*size="):
        load_dataset(str(folder))


def test_splits_of_different_size_are_named_with_the_remedy(make_folder):
    folder = make_folder()
    for path in (folder / "test").rglob("*.png"):
        write_image(path, np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r"train and test images differ in size.*size="):
        load_dataset(str(folder))


@pytest.mark.parametrize("size", [0, -8, 4097, 2**31])
def test_a_size_that_is_none_is_named(make_folder, size):
    with pytest.raises(ValueError, match=r"^size must be"):
        load_dataset(str(make_folder()), size=size)


def test_shapes_take_no_size():
    with pytest.raises(ValueError, match="size applies to image folders only"):
        load_dataset("shapes", size=64)


# The split


def shuffled_labels(*counts: int) -> torch.Tensor:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def test_every_class_has_the_same_number_of_validation_samples():
    labels = shuffled_labels(*[500] * 100)
    fit, val = stratified_split(labels, n_val=5000, seed=0)
    assert torch.bincount(labels[val]).tolist() == [50] * 100
    assert torch.bincount(labels[fit]).tolist() == [450] * 100


@pytest.mark.parametrize(
    ("counts", "n_val", "expected"),
    [
        ((50, 30, 21), 10, [5, 3, 2]),  # shares 4.95, 2.97, 2.08
        ((60, 25, 15), 10, [6, 3, 1]),  # shares 6.0, 2.5, 1.5: the first of equal remainders
        ((97, 2, 1), 10, [10, 0, 0]),
        ((10, 10, 10), 29, [10, 10, 9]),
        ((7, 5), 1, [1, 0]),
    ],
)
def test_uneven_shares_go_by_largest_remainder(counts, n_val, expected):
    labels = shuffled_labels(*counts)
    _, val = stratified_split(labels, n_val)
    assert torch.bincount(labels[val], minlength=len(counts)).tolist() == expected


@pytest.mark.parametrize("n_val", [1, 17, 100])
def test_the_split_is_disjoint_complete_and_ascending(n_val):
    labels = shuffled_labels(50, 30, 21)
    fit, val = stratified_split(labels, n_val, seed=3)
    assert len(val) == n_val
    assert torch.cat([fit, val]).sort().values.tolist() == list(range(101))
    for part in (fit, val):
        assert part.dtype == torch.int64
        assert part.tolist() == sorted(part.tolist())


def test_the_seed_decides_the_split_and_nothing_else_does():
    labels = shuffled_labels(100, 100)
    torch.manual_seed(1)
    first = stratified_split(labels, 50, seed=0)[1]
    torch.manual_seed(2)
    assert stratified_split(labels, 50, seed=0)[1].equal(first)
    assert not stratified_split(labels, 50, seed=1)[1].equal(first)


def test_every_sample_can_be_chosen():
    labels = shuffled_labels(10, 10)
    chosen = torch.cat([stratified_split(labels, 6, seed)[1] for seed in range(60)])
    assert torch.bincount(chosen, minlength=20).min() > 5


@pytest.mark.parametrize("n_val", [-1, 0, 12, 13])
def test_a_validation_size_out_of_range_is_refused(n_val):
    with pytest.raises(ValueError, match=f"n_val must lie between 1 and 11 for 12 labels, got {n_val}"):
        stratified_split(shuffled_labels(6, 6), n_val)


@pytest.mark.parametrize(
    "labels",
    [torch.rand(12), torch.zeros(3, 4, dtype=torch.int64), torch.arange(12) - 1],
    ids=["float", "two dimensions", "negative"],
)
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be whole numbers"):
        stratified_split(labels, 3)


def test_one_process_fetches_while_others_wait(tmp_path, monkeypatch):
    inside = []

    def fetch(name, root):
        inside.append(name)
        assert len(inside) == 1, "two write one archive"
        time.sleep(0.2)
        inside.clear()
        return name

    monkeypatch.setattr(data_module, "_download_cifar", fetch)
    with ThreadPoolExecutor(3) as pool:
        fetched = [pool.submit(load_dataset, "cifar10", tmp_path) for _ in range(3)]
    assert [each.result() for each in fetched] == ["cifar10"] * 3
