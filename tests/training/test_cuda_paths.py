"""What only a GPU would show, on any machine: fake tensors that say they lie on CUDA, and raise where devices meet that may not.

Fake tensors have shapes, types and devices, but no values. Only the backward pass is left out: PyTorch asks the real driver for it.
"""

from collections.abc import Iterator

import pytest
import torch
from timm.models import create_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from resattn import TrainConfig, load_dataset
from resattn.attention.maps import aggregate_heads
from resattn.attention.tiny import tiny_vit
from resattn.attention.vit import cls_attention, vit_input
from resattn.attention.vit_s14 import _decoder, decoded_saliency
from resattn.data.datasets import Split
from resattn.training.evaluation import count_correct
from resattn.training.trainer import Trainer

CUDA = torch.device("cuda", 0)


@pytest.fixture
def fake(monkeypatch) -> Iterator[FakeTensorMode]:
    """A mode in which "cuda" exists, automatic mixed precision included."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def on_cuda(value: Tensor) -> Tensor:
    return torch.empty_like(value, device=CUDA)


def fake_state(module: nn.Module) -> dict[str, Tensor]:
    state = {name: on_cuda(buffer) for name, buffer in module.named_buffers()}
    return state | {name: on_cuda(p).requires_grad_(p.requires_grad) for name, p in module.named_parameters()}


class FakeModel(nn.Module):
    """A network made outside the mode, called with a state on CUDA."""

    def __init__(self, module: nn.Module):
        super().__init__()
        object.__setattr__(self, "module", module)  # not a submodule: it has the real weights
        self.state = fake_state(module)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        return functional_call(self.module, self.state, inputs)

    def parameters(self) -> list[Tensor]:
        return [value for value in self.state.values() if value.requires_grad]

    def state_dict(self) -> dict[str, Tensor]:
        return {name: self.state[name] for name in self.module.state_dict()}


SETTINGS = [
    {"form": "printed", "precision": "float32"},
    {"form": "printed", "precision": "bfloat16"},
    {"form": "gated", "precision": "bfloat16"},
    {"form": "residual", "precision": "bfloat16"},
    {"model": "resnet8", "precision": "bfloat16"},
    {"model": "resnet8-se", "precision": "float32"},
]


@pytest.fixture
def make_run(make_folder, monkeypatch):
    """A run built on the CPU, whose tensors a test then replaces by fake ones on CUDA."""
    root = make_folder(train=20).parent
    pending = []

    def make(**changes) -> Trainer:
        config = TrainConfig("birds", str(root), image_size=64, batch_size=8, epochs=1, compile=False, **changes)
        pending.append(Trainer(config, load_dataset("birds", config.root), torch.device("cpu")))
        return pending[-1]

    return make


def move(run: Trainer) -> None:
    """What a run keeps, as fake tensors on CUDA."""
    run.device = CUDA
    run.model = run.forward = FakeModel(run.model)
    run.optimizer = torch.optim.AdamW(run.model.parameters(), run.config.lr, fused=True)
    run.mean, run.std = on_cuda(run.mean), on_cuda(run.std)
    for name in ("fit", "val"):
        split, maps = getattr(run, name), getattr(run, f"{name}_maps")
        setattr(run, name, Split(on_cuda(split.images), on_cuda(split.labels)))
        setattr(run, f"{name}_maps", None if maps is None else on_cuda(maps))


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_training_evaluation_and_checkpoint_stay_on_the_gpu(changes, make_run, fake, monkeypatch):
    with torch.utils._python_dispatch._disable_current_modes():
        run = make_run(**changes)
    move(run)

    def pretended_backward(loss: Tensor) -> None:
        assert loss.device == CUDA
        for p in run.model.parameters():
            p.grad = torch.empty_like(p)

    monkeypatch.setattr(Tensor, "backward", pretended_backward)
    scores, forward = [], run.forward
    run.forward = lambda *inputs: scores.append(forward(*inputs)) or scores[-1]
    losses = list(run.steps())
    assert len(losses) == 6
    assert {(loss.device, loss.dtype, loss.shape) for loss in losses} == {(CUDA, torch.float32, ())}
    assert {s.dtype for s in scores} == {getattr(torch, changes["precision"])}, "mixed precision is really on"

    loss, correct = count_correct(run.model, run.val, run.val_maps, run.mean, run.std, run.precision)
    assert loss.device == correct.device == CUDA

    state = run.state()
    moments = [v for slots in state["optimizer"]["state"].values() for v in slots.values()]
    assert len(moments) == 3 * len(run.model.parameters())
    assert {value.device for value in [*state["model"].values(), *moments]} == {CUDA}


def test_a_tensor_on_the_wrong_device_is_noticed(make_run, fake):
    """The control: with maps or the stem's constants left on the CPU the same walk must raise."""
    with torch.utils._python_dispatch._disable_current_modes():
        run = make_run(form="gated")
    move(run)
    for kept, name in ((vars(run), "fit_maps"), (run.model.state, "stem.0.taps_16")):
        right, kept[name] = kept[name], torch.empty(kept[name].shape)
        with pytest.raises(RuntimeError, match="same device"):
            next(run.steps())
        kept[name] = right


class Extraction(nn.Module):
    def __init__(self, vit: nn.Module, read=cls_attention):
        super().__init__()
        self.vit, self.read = vit, read

    def forward(self, images: Tensor) -> Tensor:
        return aggregate_heads(self.read(self.vit, vit_input(self.vit, images)))


def s14() -> nn.Module:
    vit = create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0)
    vit.decoder = _decoder()
    return vit


@pytest.mark.parametrize(
    ("build", "read", "side"),
    [
        (lambda: tiny_vit(), cls_attention, 8),
        (s14, cls_attention, 16),
        (s14, decoded_saliency, 28),
        (lambda: create_model("vit_small_patch16_dinov3", num_classes=0), cls_attention, 16),
    ],
    ids=["dino-tiny", "vit-s14", "vit-s14-saliency", "rotary"],
)
def test_maps_are_extracted_on_the_gpu(build, read, side, fake):
    with torch.utils._python_dispatch._disable_current_modes():
        extraction = Extraction(build().eval().requires_grad_(False), read)
    model = FakeModel(extraction)
    maps = model(torch.empty(3, 3, 32, 32, dtype=torch.uint8, device=CUDA))
    assert (maps.shape, maps.device) == ((3, 1, side, side), CUDA)
    with pytest.raises(RuntimeError, match="same device"):
        model(torch.empty(3, 3, 32, 32, dtype=torch.uint8))
