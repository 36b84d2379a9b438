"""Self-distillation (Sec. 3.2): its formulas, its bookkeeping, that it learns, and the weights it made."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from resattn import attention_maps, paths
from resattn.__main__ import main
from resattn.attention.maps import aggregate_heads
from resattn.attention.sources import object_focus
from resattn.attention.tiny import RECORD, WEIGHTS, tiny_vit
from resattn.attention.vit import cls_attention, vit_input
from resattn.data.shapes import make_shapes
from resattn.dino import pretrain as dino
from resattn.dino.config import DinoConfig
from resattn.dino.crops import _change_colours, random_crops


@pytest.fixture
def tiny(shapes, shapes_cache, monkeypatch):
    """Settings of a run that takes a second or two, on shapes that are drawn already."""
    monkeypatch.setattr(paths, "CACHE", shapes_cache)
    return DinoConfig(
        drawn=64,
        epochs=3,
        batch_size=16,
        dim=16,
        depth=1,
        heads=2,
        prototypes=8,
    )


def test_loss_is_the_mean_cross_entropy_over_pairs_of_different_views():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(4, 3, 5)), rng.dirichlet(np.ones(5), size=(2, 3))
    pairs = []
    for t in range(2):
        for v in range(4):
            if v != t:
                p = np.exp(student[v] / 0.1) / np.exp(student[v] / 0.1).sum(1, keepdims=True)
                pairs.append(-(teacher[t] * np.log(p)).sum(1).mean())
    loss = dino.dino_loss(torch.from_numpy(student), torch.from_numpy(teacher), 0.1)
    np.testing.assert_allclose(float(loss), np.mean(pairs))


def test_no_gradient_reaches_the_teacher():
    student, teacher = torch.randn(3, 4, 5, requires_grad=True), torch.randn(2, 4, 5, requires_grad=True)
    dino.dino_loss(student, teacher.softmax(-1), 0.1).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_the_teacher_is_a_moving_average_of_the_student(tiny):
    run = dino.Distiller(tiny)
    run._set_rates(1.5)
    assert run.teacher.decay == pytest.approx(0.9985)
    run.teacher.decay = 0.75  # at 0.9985 one step moves the teacher by 8e-7, below any tolerance
    before = [p.clone() for p in run.teacher.parameters()]
    run._step(run.pool[:16])
    after = list(run.teacher.parameters())
    assert not any(new.requires_grad or new.grad is not None for new in after)
    assert not all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    for old, new, student in zip(before, after, run.student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * student, atol=1e-7, rtol=1e-6)


def test_sinkhorn_uses_all_prototypes_equally():
    targets = dino.sinkhorn(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), 0.5, rounds=50)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    torch.testing.assert_close(targets.sum(0), torch.full((8,), 8.0), rtol=1e-3, atol=1e-3)


def test_prototypes_stay_frozen_at_first(tiny):
    run = dino.Distiller(tiny)
    before = run.student.prototypes.detach().clone()
    run._set_rates(0.4)
    run._step(run.pool[:16])
    assert torch.equal(run.student.prototypes, before)
    run._set_rates(0.5)
    run._step(run.pool[:16])
    assert not torch.equal(run.student.prototypes, before)


def test_crops_depend_on_nothing_but_images_and_generator():
    images = torch.from_numpy(make_shapes(6, seed=3)[0])
    first, again = (random_crops(images, 3, 16, (0.2, 0.5), torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == (3, 6, 3, 16, 16)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


@pytest.fixture
def own_colours(monkeypatch):
    """Crops whose colours stay as they are, but for those they get from another image."""
    monkeypatch.setattr("resattn.dino.crops._change_colours", lambda crops, *_: crops)


def test_a_crop_of_everything_is_the_image_or_its_mirror(own_colours):
    images, generator = torch.from_numpy(make_shapes(8, seed=3)[0]), torch.Generator().manual_seed(0)
    crops = torch.cat([random_crops(image[None], 1, 32, (16 / 9, 2.0), generator)[0] for image in images])
    plain = images.float() / 255
    same = [(crop - image).abs().max() < 1e-5 for crop, image in zip(crops, plain, strict=True)]
    mirrored = [(crop - image.flip(2)).abs().max() < 1e-5 for crop, image in zip(crops, plain, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_all_crops_of_an_image_have_the_coarse_colours_of_the_same_other_image(own_colours):
    images = (torch.arange(6, dtype=torch.uint8) * 40)[:, None, None, None].expand(6, 3, 32, 32)
    crops = random_crops(images, 2, 16, (0.5, 1.0), torch.Generator().manual_seed(0))
    levels = (255 * crops.mean((2, 3, 4))).round().int()
    assert levels.tolist() == [[120, 160, 200, 0, 40, 80]] * 2


def test_cosine_schedule_starts_turns_and_ends_where_it_should():
    assert [dino.cosine(2.0, 1.0, x) for x in (0, 0.5, 1)] == pytest.approx([2, 1.5, 1])


def test_a_run_writes_the_teachers_vit_and_one_seed_makes_one(tiny, tmp_path):
    records = [dino.pretrain(tiny, folder=tmp_path / name) for name in ("first", "again")]
    first, again = (tiny_vit(weights=tmp_path / name / "vit.safetensors").state_dict() for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    losses = [[entry["loss"] for entry in record["metrics"]["epochs"]] for record in records]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"global_size": 30},
        {"heads": 5},
        {"momentum": (0.9, 2.0)},
        {"epochs": 0},
        {"drawn": -1},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DinoConfig(**wrong)


def test_the_command_writes_weights_that_make_maps(tiny, shapes, tmp_path, capsys):
    options = "--drawn 64 --epochs 2 --stop-after 1 --batch-size 16 --dim 16 --depth 1 --heads 2 --prototypes 8 --momentum 0.9 1"
    assert main(["dino", *options.split(), "--out", str(tmp_path)]) == 0
    assert f"record: {tmp_path / 'record.json'}" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "record.json").read_text())["metrics"]
    assert (len(metrics["epochs"]), len(metrics["untrained"])) == (1, 10)
    assert metrics["untrained"][0].keys() == metrics["test"].keys()
    maps = attention_maps(shapes.test.images[:3], "dino-tiny", weights=tmp_path / "vit.safetensors", heads="all")
    assert maps.shape == (3, 2, 8, 8)


def test_neighbours_vote_by_cosine():
    bank, queries = torch.tensor([[1.0, 0], [0, 10]]), torch.tensor([[3.0, 1], [1, 5], [2, 1]])
    assert dino.knn_accuracy(bank, torch.tensor([0, 1]), queries, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)


def test_colours_stay_at_factors_of_one_and_go_where_they_should():
    crops, one = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4)
    torch.testing.assert_close(_change_colours(crops, one, torch.zeros(4, dtype=torch.bool)), crops)
    torch.testing.assert_close(_change_colours(crops, one * torch.tensor([[2], [1], [1]]), one[0] == 0), 2 * crops)
    grey = _change_colours(crops, one, one[0] == 1)
    torch.testing.assert_close(grey, crops.mean(1, keepdim=True).expand_as(crops))


@pytest.mark.slow
def test_self_distillation_learns_textures_better_than_an_untrained_vit(tmp_path):
    folder = _draw_textures(tmp_path / "textures")
    config = DinoConfig(
        dataset=str(folder),
        epochs=12,
        stop_after=None,
        prototypes=16,
        momentum=(0.97, 1.0),
    )
    untrained = dino.Distiller(config).watch()["knn_acc"]
    record = dino.pretrain(config, folder=tmp_path / "run")
    trained = record["metrics"]["epochs"][-1]["knn_acc"]
    last = record["metrics"]["epochs"][-1]
    assert last["teacher_entropy"] < 0.99 * math.log(16), "not every image gets the uniform distribution"
    assert last["mean_entropy"] > 0.5 * math.log(16), "not every image gets the same prototype"
    assert trained > untrained + 0.08, (untrained, trained)


@pytest.mark.slow
def test_shipped_weights_find_the_object(shapes):
    vit, data = tiny_vit(), shapes.test
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["metrics"]["test"]
    attention = torch.cat([cls_attention(vit, vit_input(vit, part)) for part in data.images.split(500)])
    for name, maps in {"minmax": aggregate_heads(attention), "raw": attention.mean(1, keepdim=True)}.items():
        assert object_focus(maps, data.masks) == pytest.approx(recorded[name], rel=0.01), name
    focus = object_focus(aggregate_heads(attention), data.masks)
    assert focus["energy_ratio"] >= 1.8
    assert focus["pointing_game"] >= 0.7
    # Objects are bright, so an untrained ViT that happens to prefer bright patches peaks on them too; its attention stays flat.
    untrained = object_focus(_raw_attention(tiny_vit(pretrained=False), data.images[:500]), data.masks[:500])
    assert (
        object_focus(attention.mean(1, keepdim=True), data.masks)["energy_ratio"]
        > 1.2
        > 1.05
        > untrained["energy_ratio"]
    )


def test_shipped_weights_are_small_and_damage_is_noticed(tmp_path):
    assert WEIGHTS.stat().st_size < 4e6
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(WEIGHTS.read_bytes()[:-7])
    with pytest.raises(ValueError, match="damaged"):
        tiny_vit(weights=broken)


def _raw_attention(vit, images):
    return cls_attention(vit, vit_input(vit, images)).mean(1, keepdim=True)


def _draw_textures(folder):
    """Three classes told apart by their texture alone: stripes across, stripes down, and dots, in any two greys."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    patterns = {"across": lambda f, p, q: np.sin(f * y + p), "down": lambda f, p, q: np.sin(f * x + q)}
    patterns["dots"] = lambda f, p, q: np.sin(f * y + p) * np.sin(f * x + q)
    for split, n in {"train": 400, "test": 10}.items():
        for name, pattern in patterns.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                blend = 0.5 + 0.5 * pattern(rng.uniform(0.6, 1.6), *rng.uniform(0, 2 * math.pi, 2))[..., None]
                low, high = rng.uniform(0.2, 0.4), rng.uniform(0.6, 0.8)
                pixels = low * (1 - blend) + high * blend + rng.normal(0, 0.05, (32, 32, 3))
                image = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))
                image.save(folder / split / name / f"{i}.png")
    return folder
