"""The controls move the picture, uploads are read or refused, and the numbers shown are the network's own."""

import copy
import io
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from ipywidgets import Widget
from matplotlib.text import Text
from PIL import Image

from resattn import TrainConfig
from resattn.data.datasets import Dataset, Split
from resattn.experiments.protocols import FOUR_HEADS
from resattn.explore.inspect import SWEEP, Explorer, read_picture
from resattn.explore.views import map_view, png, strength_view
from resattn.explore.widgets import Panel, explore_maps, explore_strength
from resattn.models.checkpoints import build_model, load_trained, save_weights


@pytest.fixture(scope="module")
def explorer(shapes):
    return Explorer(shapes, "shapes-gated-a1")


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height=48, width=64):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def uploaded(content, name="mine.png"):
    about = {"name": name, "type": "image/png", "size": len(content), "last_modified": datetime.now(UTC)}
    return ({**about, "content": memoryview(content)},)


def words_of(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def widgets():
    return Widget.get_manager_state()["state"]


def is_png(content):
    return Image.open(io.BytesIO(content)).format == "PNG"


@pytest.fixture(scope="module")
def residual(shapes, tmp_path_factory):
    """An explorer of a network that was made in the residual form."""
    config = TrainConfig.preset("demo", form="residual", a=0.5)
    net = build_model(config, 10).eval()
    path = save_weights(net, tmp_path_factory.mktemp("residual") / "weights.safetensors", config)
    return Explorer(shapes, path)


@pytest.mark.parametrize("form", ["printed", "gated", "residual"])
def test_answers_are_the_networks_own(residual, shapes, form):
    for explorer in (
        residual,
        *(Explorer(shapes, f"shapes-{name}-a1") for name in ("printed", "gated") if form != "residual"),
    ):
        view = explorer.pick(7)
        image = (shapes.test.images[7:8] / 255 - explorer.mean[:, None, None]) / explorer.std[:, None, None]
        sweep = explorer.sweep(view, form)
        assert sweep.shape == (len(SWEEP), 10)
        trained = explorer.net.a, explorer.net.form
        for a in (0.0, 0.3, 1.0):
            answer = explorer.answer(view, a, form)
            assert (explorer.net.a, explorer.net.form) == trained
            net = load_trained(f"shapes-{trained[1]}-a1") if trained[1] != "residual" else copy.deepcopy(explorer.net)
            net.a, net.form = a, form
            with torch.no_grad():
                scores = net(image, view.attention[None])[0]
            torch.testing.assert_close(answer, scores)
            torch.testing.assert_close(sweep[int((SWEEP - a).abs().argmin())], scores.softmax(0))


def test_a_residual_network_has_all_forms_and_masks_after_every_block(residual, explorer):
    assert explorer.forms == ["printed", "gated"]
    assert residual.forms == ["printed", "gated", "residual"]
    with pytest.raises(ValueError, match="form must not become 'residual'"):
        explorer.answer(explorer.pick(0), 0.5, "residual")
    view = residual.pick(0)
    assert [(name, tuple(mask.shape)) for name, mask in view.masks.items()] == [
        ("$x_a^{(1)}$", (16, 16, 16)), ("$x_a^{(2)}$", (32, 8, 8)), ("$x_a^{(3)}$", (64, 4, 4)),
    ]  # fmt: skip
    panel = Panel(residual, strength=True)
    before = panel.image.value
    panel.form.value = "gated"
    assert panel.image.value != before


def test_a_view_holds_what_the_map_functions_give(explorer, shapes):
    from resattn import attention_maps

    view = explorer.pick(3)
    images = shapes.test.images[3:4]
    torch.testing.assert_close(view.average, attention_maps(images, "dino-tiny")[0, 0])
    torch.testing.assert_close(view.attention, attention_maps(images, "dino-tiny")[0])
    torch.testing.assert_close(view.saliency, attention_maps(images, "saliency")[0, 0])
    assert [(name, tuple(mask.shape)) for name, mask in view.masks.items()] == [
        ("$x_a^{(0)}$", (16, 16, 16)), ("$x_a^{(1)}$", (16, 16, 16)), ("$x_a^{(2)}$", (32, 8, 8)),
    ]  # fmt: skip


def test_every_control_changes_the_picture(explorer, shapes, monkeypatch):
    panel = Panel(explorer)
    seen = [panel.image.value]
    assert is_png(seen[0])
    panel.index.value = 5
    seen.append(panel.image.value)
    panel.class_filter.label = "ring"
    seen.append(panel.image.value)
    assert shapes.classes[panel.view.label] == "ring"
    members = (shapes.test.labels == shapes.classes.index("ring")).nonzero().flatten().tolist()
    assert list(panel.index.options) == members
    assert panel.index.value == members[0]
    panel.index.value = members[-1]
    seen.append(panel.image.value)
    assert shapes.classes[panel.view.label] == "ring"
    panel.upload.value = uploaded(encoded(noise()))
    seen.append(panel.image.value)
    assert panel.view.label is None
    monkeypatch.setattr("secrets.choice", lambda options: options[1])
    panel.random.click()
    seen.append(panel.image.value)
    assert shapes.classes[panel.view.label] == "ring"
    assert len(set(seen)) == len(seen)


def test_random_leaves_an_uploaded_picture_even_for_the_image_before_it(explorer, monkeypatch):
    panel = Panel(explorer)
    before = panel.image.value
    panel.upload.value = uploaded(encoded(noise()))
    monkeypatch.setattr("secrets.choice", lambda options: panel.index.value)
    panel.random.click()
    assert panel.image.value == before


def test_strength_and_form_change_the_picture_and_not_the_weights(explorer):
    weights = {name: value.clone() for name, value in explorer.net.state_dict().items()}
    panel = Panel(explorer, strength=True)
    assert (panel.a.value, panel.form.value) == (1.0, "gated")
    seen = [panel.image.value]
    for control, value in ((panel.a, 0.35), (panel.form, "printed"), (panel.a, 0.0), (panel.index, 9)):
        control.value = value
        seen.append(panel.image.value)
    panel.upload.value = uploaded(encoded(noise()))
    seen.append(panel.image.value)
    assert len(set(seen)) == len(seen)
    assert all(torch.equal(value, weights[name]) for name, value in explorer.net.state_dict().items())


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"<b>not a picture", "<i>notes</i>.png", "i>.png cannot be read as a picture"),
        (encoded(noise())[:200], "torn.png", "torn.png cannot be read as a picture"),
        (b"", "empty.jpg", "empty.jpg cannot be read as a picture"),
        (encoded(noise(31, 200)), "flat.png", "flat.png is 200x31 pixels; both sides must be at least 32"),
    ],
)
def test_what_is_wrong_with_an_upload_is_said_in_the_widget(explorer, content, name, message, capsys):
    panel = Panel(explorer)
    before = panel.image.value
    capsys.readouterr()
    panel.upload.value = uploaded(content, name)
    assert message in capsys.readouterr().out
    assert panel.image.value == before
    panel.upload.value = uploaded(encoded(noise()))
    assert capsys.readouterr().out.endswith("mine.png\n")
    assert panel.image.value != before


def test_a_picture_is_its_centre_square():
    pixels = np.zeros((64, 192, 3), np.uint8)
    pixels[:, 64:128] = (10, 200, 60)
    picture = read_picture(encoded(pixels), "wide.png")
    assert picture.shape == (3, 32, 32)
    inner = picture[:, 2:-2, 2:-2]  # the outermost pixels are blended with what was cut off
    assert torch.all(inner == torch.tensor([10, 200, 60], dtype=torch.uint8)[:, None, None])


def test_photographs_are_turned_upright_and_transparency_is_white():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255
    turned = Image.Exif()
    turned[0x0112] = 3  # stored upside down
    picture = read_picture(encoded(pixels, "JPEG", exif=turned, quality=95), "photo.jpg")
    assert float(picture[:, :8].float().mean()) < 20 < 200 < float(picture[:, -8:].float().mean())
    clear = read_picture(encoded(Image.new("RGBA", (50, 50), (0, 0, 0, 0))), "clear.png")
    assert int(clear.min()) == 255
    assert read_picture(encoded(Image.fromarray(pixels).convert("P"), "GIF"), "old.gif").shape == (3, 32, 32)
    assert read_picture(encoded(noise(900, 1400), "JPEG"), "large.jpg").shape == (3, 32, 32)
    assert read_picture(encoded(noise(1400, 1400), "JPEG"), "larger.jpg", size=1000).shape == (3, 1000, 1000)
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    grey = read_picture(encoded(Image.fromarray(ramp)), "16 bits.png")
    assert grey.float().mean() == pytest.approx(127.5, abs=1), "not cut off at 255"


def test_one_picture_and_a_line_where_nobody_watches(explorer, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("resattn.explore.widgets.display", shown.append)
    before = len(widgets())
    for explore, strength in ((explore_maps, False), (explore_strength, True)):
        view = explore(explorer)
        assert is_png(shown[-1].data)
        assert len(widgets()) == before, "a saved notebook carries the state of every widget made"
        assert capsys.readouterr().out.count("\n") == 1

        with monkeypatch.context() as watched:
            watched.setattr("resattn.explore.widgets.interactive", lambda: True)
            assert explore(explorer).name == view.name
        assert "live notebook" not in capsys.readouterr().out
        assert shown[-2].data == Panel(explorer, strength).image.value
        assert shown[-2].data in [child.value for child in shown[-1].children if hasattr(child, "value")]
        before = len(widgets())
        capsys.readouterr()


def many_classes(n=100, side=40):
    """Noise images of ``n`` classes, the last of which has no test image."""
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = tuple(f"class {k}" for k in range(n))
    return Dataset("many", Split(images, torch.arange(n)), Split(images[:-1], torch.arange(n - 1)), names)


def test_own_weights_of_another_source_size_and_number_of_classes(tmp_path):
    data = many_classes()
    config = TrainConfig.preset("demo", dataset="many", source="saliency", form="printed", a=0.5)
    path = save_weights(build_model(config, 100).eval(), tmp_path / "weights.safetensors", config)
    panel = Panel(Explorer(data, path), strength=True)
    assert (panel.a.value, panel.form.value) == (0.5, "printed")
    torch.testing.assert_close(panel.view.attention[0], panel.view.saliency)
    before = panel.image.value
    labels = [name for name, _ in panel.class_filter.options]
    assert labels == ["all classes", *(f"class {k}" for k in range(99))], "one without a test image cannot be chosen"
    panel.class_filter.label = "class 7"
    assert panel.view.label == 7
    assert panel.image.value != before
    panel.upload.value = uploaded(encoded(noise()))
    assert panel.view.pixels.shape == (3, 40, 40)


def test_twelve_heads_are_all_drawn(explorer):
    view = explorer.pick(0)
    many = type(view)(**{**vars(view), "heads": torch.rand(12, 28, 28)})
    titles = words_of(map_view(many))
    assert [f"head {k}" in titles for k in range(13)] == [True] * 12 + [False]
    assert "head 0" not in words_of(map_view(view))


def test_the_prediction_and_its_verdict_are_written(explorer, shapes):
    view = explorer.pick(0)
    answer = explorer.answer(view, 0.5, "printed")
    figure = strength_view(explorer, view, 0.5, "printed")
    words = words_of(figure)
    predicted = int(answer.argmax())
    verdict = "right" if predicted == int(shapes.test.labels[0]) else "wrong"
    assert f"printed, a = 0.5: {shapes.classes[predicted]}, {verdict}" in words
    assert is_png(png(figure))


def test_networks_that_cannot_be_explored_are_refused(shapes, tmp_path):
    def weights(**changes):
        config = TrainConfig.preset("demo", **changes)
        return save_weights(build_model(config, 10), tmp_path / f"{config.slug}.safetensors", config)

    refused = (
        {"model": "resnet8"},
        {"source": "oracle"},
        {"source": "shuffled"},
        {"form": "scaled"},
        {"form": "unmasked"},
    )
    for changes in refused:
        with pytest.raises(ValueError, match="weights must be of a network with an attention branch"):
            Explorer(shapes, weights(**changes))
    with pytest.raises(ValueError, match="vit must be the one that the network was trained with"):
        Explorer(shapes, weights(weights=FOUR_HEADS))
    with pytest.raises(ValueError, match="path must be weights that training wrote"):
        Explorer(shapes, tmp_path / "missing.safetensors")
    explorer = Explorer(many_classes(), "shapes-gated-a1")
    Panel(explorer)  # masks need no classes
    with pytest.raises(ValueError, match="weights must be trained on the data set that is shown, 'many'"):
        Panel(explorer, strength=True)


@pytest.mark.parametrize(
    ("a", "form", "message"), [(1.2, "gated", "a must be a number"), (0.5, "both", "form must be")]
)
def test_strength_and_form_are_checked(explorer, a, form, message):
    view = explorer.pick(0)
    with pytest.raises(ValueError, match=message):
        explorer.answer(view, a, form)
