"""timm's registry and torch.hub: what others' tools expect of a package."""

import re
import subprocess
import sys
import tomllib

import pytest
import torch

import resattn
from resattn import TrainConfig, paths
from resattn.models import hub


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], cwd=paths.CHECKOUT, capture_output=True, text=True
    )


def test_timm_knows_what_works_without_a_map_once_it_is_registered():
    done = run_python("""
import timm, torch
from resattn.models.hub import register

before = set(timm.list_models())
assert not timm.is_model("resnet8")  # importing the package changes nothing outside it
register()
register()
added = set(timm.list_models()) - before
assert added == {"resnet8"}
for name in added:  # what timm's own scripts call
    assert timm.create_model(name, num_classes=7, image_size=32)(torch.randn(2, 3, 32, 32)).shape == (2, 7)
""")
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert not hasattr(resattn, "nothing")


def test_the_version_is_one():
    project = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = re.search(
        r"^version: (\S+)", (paths.CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {project, citation[1]} == {resattn.__version__}


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, resattn\nprint([m for m in ('timm', 'torch', 'numpy', 'matplotlib', 'ipywidgets') if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


def test_the_package_works_where_timm_is_missing():
    hidden = "import sys\nsys.modules['timm'] = None\n"  # importing it then raises ModuleNotFoundError
    done = run_python(hidden + "import resattn\nassert resattn.ResAttnNet(num_classes=3, image_size=32).a == 0.5")
    assert done.returncode == 0, done.stderr


def test_timm_loads_weights_that_training_wrote(tmp_path):
    import timm

    from resattn.models.checkpoints import build_model, save_weights

    hub.register()
    config = TrainConfig.preset("demo", model="resnet8")
    trained = build_model(config, 10).eval()
    path = save_weights(trained, tmp_path / "weights.safetensors", config)
    net = timm.create_model("resnet8", checkpoint_path=str(path), num_classes=10, image_size=64).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(images), trained(images))


@pytest.mark.parametrize("options", [{"pretrained": True}, {"pretrained_cfg": "cifar10"}])
def test_there_are_no_pretrained_weights(options):
    with pytest.raises(ValueError, match="pretrained must be False"):
        hub.resnet8(**options)


@pytest.mark.parametrize(("name", "options"), [("resattn8", {"a": 1.0, "form": "gated"}), ("resnet8", {})])
def test_torch_hub_loads_the_networks(name, options):
    net = torch.hub.load(str(paths.CHECKOUT), name, source="local", num_classes=5, image_size=32, **options)
    assert net(torch.randn(2, 3, 32, 32), torch.rand(2, 1, 8, 8)).shape == (2, 5)
