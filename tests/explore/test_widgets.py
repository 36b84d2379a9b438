"""The controls move the picture, uploads are read or refused, and the numbers shown are the network's own."""

import io
import re
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from ipywidgets.widgets.widget import _instances
from PIL import Image

from resattn import TrainConfig
from resattn.data.datasets import Dataset, Split
from resattn.explore.inspect import SWEEP, Explorer, read_picture
from resattn.explore.views import map_view, png, strength_view
from resattn.explore.widgets import MapPanel, StrengthPanel, explore_maps, explore_strength
from resattn.models.checkpoints import build_model, save_weights


@pytest.fixture(scope="module")
def explorer(shapes):
    return Explorer(shapes, "gated")


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height=48, width=64):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def uploaded(content, name="mine.png"):
    about = {"name": name, "type": "image/png", "size": len(content), "last_modified": datetime.now(UTC)}
    return ({**about, "content": memoryview(content)},)


def is_png(content):
    return Image.open(io.BytesIO(content)).format == "PNG"


@pytest.mark.parametrize("form", ["printed", "gated"])
@pytest.mark.parametrize("weights", ["printed", "gated"])
def test_answers_are_the_networks_own(shapes, weights, form):
    explorer = Explorer(shapes, weights)
    view = explorer.look(explorer.pick(7))
    image = (shapes.test.images[7:8] / 255 - explorer.mean[:, None, None]) / explorer.std[:, None, None]
    sweep = explorer.sweep(view, form)
    assert sweep.shape == (len(SWEEP), 10)
    for a in (0.0, 0.3, 1.0):
        explorer.net.a, explorer.net.form = a, form
        with torch.no_grad():
            scores = explorer.net(image, view.attention[None])[0]
        answer = explorer.answer(view, a, form)
        torch.testing.assert_close(answer.scores, scores, atol=1e-5, rtol=1e-4)
        i = int((SWEEP - a).abs().argmin())
        torch.testing.assert_close(sweep[i], scores.softmax(0), atol=1e-5, rtol=1e-4)


def test_what_passes_a_skip_follows_the_form(explorer):
    view = explorer.look(explorer.pick(0))
    assert explorer.answer(view, 0, "gated").passed == pytest.approx([1, 1, 1])
    assert explorer.answer(view, 0, "printed").passed == [0, 0, 0]
    half, full = explorer.answer(view, 0.5, "printed"), explorer.answer(view, 1, "printed")
    assert half.passed[0] == pytest.approx(full.passed[0] / 2)
    gated = explorer.answer(view, 1, "gated")
    torch.testing.assert_close(gated.skips[0], full.skips[0])
    assert all(torch.all(skip <= feature + 1e-6) for skip, feature in zip(gated.skips, gated.features, strict=True))


def test_a_view_holds_what_the_map_functions_give(explorer, shapes):
    from resattn import attention_maps

    view = explorer.look(explorer.pick(3))
    images = shapes.test.images[3:4]
    torch.testing.assert_close(view.average, attention_maps(images, "dino-tiny")[0, 0])
    torch.testing.assert_close(view.attention, attention_maps(images, "dino-tiny")[0])
    torch.testing.assert_close(view.saliency, attention_maps(images, "saliency")[0, 0])
    assert [tuple(mask.shape) for mask in view.masks] == [(16, 16, 16), (16, 16, 16), (32, 8, 8)]


def test_every_control_changes_the_picture(explorer, shapes):
    panel = MapPanel(explorer)
    seen = [panel.image.value]
    assert is_png(seen[0])
    panel.index.value = 5
    seen.append(panel.image.value)
    panel.class_filter.value = "ring"
    seen.append(panel.image.value)
    assert shapes.classes[panel.view.picture.label] == "ring"
    assert panel.index.value == 0
    assert panel.index.max == int((shapes.test.labels == shapes.classes.index("ring")).sum()) - 1
    panel.index.value = panel.index.max
    seen.append(panel.image.value)
    assert shapes.classes[panel.view.picture.label] == "ring"
    panel.upload.value = uploaded(encoded(noise()))
    seen.append(panel.image.value)
    assert panel.view.picture.label is None
    panel.random.click()
    seen.append(panel.image.value)
    assert shapes.classes[panel.view.picture.label] == "ring"
    assert len(set(seen)) == len(seen)


def test_random_leaves_an_uploaded_picture_even_for_the_image_before_it(explorer):
    panel = MapPanel(explorer)
    before = panel.image.value
    panel.upload.value = uploaded(encoded(noise()))
    panel._generator.randint = lambda low, high: panel.index.value
    panel.random.click()
    assert panel.image.value == before


def test_strength_and_form_change_the_picture_and_not_the_weights(explorer):
    weights = {name: value.clone() for name, value in explorer.net.state_dict().items()}
    panel = StrengthPanel(explorer)
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
        (
            b"<b>not a picture",
            "<i>notes</i>.png",
            r"i&gt;.png cannot be read as a picture",
        ),
        (encoded(noise())[:200], "torn.png", "torn.png cannot be read as a picture"),
        (b"", "empty.jpg", "empty.jpg cannot be read as a picture"),
        (encoded(noise(31, 200)), "flat.png", "flat.png is 200x31 pixels; both sides must be at least 32"),
    ],
)
def test_what_is_wrong_with_an_upload_is_said_in_the_widget(explorer, content, name, message):
    panel = MapPanel(explorer)
    before = panel.image.value
    panel.upload.value = uploaded(content, name)
    assert 'role="alert"' in panel.message.value
    assert re.search(message, panel.message.value)
    assert "<i>" not in panel.message.value
    assert panel.image.value == before
    assert panel.upload.value == ()  # the same file, mended, can be chosen again
    panel.upload.value = uploaded(encoded(noise()))
    assert "alert" not in panel.message.value
    assert panel.image.value != before


def test_a_picture_is_its_centre_square():
    pixels = np.zeros((64, 192, 3), np.uint8)
    pixels[:, 64:128] = (10, 200, 60)
    picture = read_picture(encoded(pixels), "wide.png")
    assert picture.pixels.shape == (3, 32, 32)
    assert picture.shown.shape == (64, 64, 3)
    inner = picture.pixels[:, 2:-2, 2:-2]  # the outermost pixels are blended with what was cut off
    assert torch.all(inner == torch.tensor([10, 200, 60], dtype=torch.uint8)[:, None, None])


def test_photographs_are_turned_upright_and_transparency_is_white():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255
    turned = Image.Exif()
    turned[0x0112] = 3  # stored upside down
    picture = read_picture(encoded(pixels, "JPEG", exif=turned, quality=95), "photo.jpg")
    assert float(picture.pixels[:, :8].float().mean()) < 20 < 200 < float(picture.pixels[:, -8:].float().mean())
    clear = read_picture(encoded(Image.new("RGBA", (50, 50), (0, 0, 0, 0))), "clear.png")
    assert int(clear.pixels.min()) == 255
    assert read_picture(encoded(Image.fromarray(pixels).convert("P"), "GIF"), "old.gif").pixels.shape == (3, 32, 32)
    assert read_picture(encoded(noise(900, 1400), "JPEG"), "large.jpg").shown.shape == (320, 320, 3)


def test_one_picture_and_a_line_where_nobody_watches(explorer, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("resattn.explore.widgets.display", shown.append)
    before = len(_instances)
    for explore, panel in ((explore_maps, MapPanel), (explore_strength, StrengthPanel)):
        view = explore(explorer)
        assert is_png(shown[-1].data)
        assert len(_instances) == before, "a saved notebook carries the state of every widget made"
        assert capsys.readouterr().out.count("\n") == 1

        assert explore(explorer, live=True).picture.name == view.picture.name
        assert capsys.readouterr().out == ""
        live = shown[-1].children[-1].value
        assert live == shown[-2].data == panel(explorer).image.value
        before = len(_instances)


def many_classes(n=100, side=40):
    """Noise images of ``n`` classes, the last of which has no test image."""
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = tuple(f"class {k}" for k in range(n))
    return Dataset("many", Split(images, torch.arange(n)), Split(images[:-1], torch.arange(n - 1)), names)


def test_own_weights_of_another_source_size_and_number_of_classes(tmp_path):
    data = many_classes()
    config = TrainConfig.preset("demo", dataset="many", source="saliency", form="printed", a=0.5)
    path = save_weights(build_model(config, 100).eval(), tmp_path / "weights.safetensors", config)
    panel = StrengthPanel(Explorer(data, path))
    assert (panel.a.value, panel.form.value) == (0.5, "printed")
    torch.testing.assert_close(panel.view.attention[0], panel.view.saliency)
    before = panel.image.value
    panel.class_filter.value = "class 99"
    assert "no test image" in panel.message.value
    assert panel.image.value == before
    panel.upload.value = uploaded(encoded(noise()))
    assert panel.view.picture.pixels.shape == (3, 40, 40)


def test_twelve_heads_are_all_drawn(explorer):
    view = explorer.look(explorer.pick(0))
    many = type(view)(**{**vars(view), "heads": torch.rand(12, 28, 28)})
    titles = [text.get_text() for text in map_view(many).axes[0].texts]
    assert [f"head {k}" in titles for k in range(13)] == [True] * 12 + [False]
    assert "head 0" not in [text.get_text() for text in map_view(view).axes[0].texts]


def test_the_prediction_and_its_verdict_are_written(explorer, shapes):
    view = explorer.look(explorer.pick(0))
    answer, trained = explorer.answer(view, 0.5, "printed"), explorer.answer(view, 1.0, "gated")
    figure = strength_view(view, answer, trained, explorer.sweep(view, "printed"), shapes.classes)
    words = [text.get_text() for text in figure.axes[0].texts]
    predicted = int(answer.scores.argmax())
    verdict = "right" if predicted == int(shapes.test.labels[0]) else "wrong"
    assert f"printed, a = 0.5: {shapes.classes[predicted]}, {verdict}" in words
    assert is_png(png(figure))


def test_networks_that_cannot_be_explored_are_refused(shapes, tmp_path):
    def weights(**changes):
        config = TrainConfig.preset("demo", **changes)
        return save_weights(build_model(config, 10), tmp_path / f"{config.slug}.safetensors", config)

    for changes in ({"model": "resnet8"}, {"source": "oracle"}, {"source": "shuffled"}):
        with pytest.raises(ValueError, match="weights must be of a network with an attention branch"):
            Explorer(shapes, weights(**changes))
    with pytest.raises(ValueError, match="path must be weights that training wrote"):
        Explorer(shapes, tmp_path / "missing.safetensors")
    explorer = Explorer(many_classes(), "gated")
    MapPanel(explorer)  # masks need no classes
    with pytest.raises(ValueError, match="weights must be trained on the data set that is shown, 'many'"):
        StrengthPanel(explorer)


@pytest.mark.parametrize(
    ("a", "form", "message"), [(1.2, "gated", "a must be a number"), (0.5, "both", "form must be")]
)
def test_strength_and_form_are_checked(explorer, a, form, message):
    view = explorer.look(explorer.pick(0))
    with pytest.raises(ValueError, match=message):
        explorer.answer(view, a, form)
