"""The Vision Transformer behind the maps: loading it from timm, feeding it, and reading its [CLS] attention (Sec. 3.1)."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DINO_MODEL = "vit_base_patch8_224.dino"  # 12 heads and 8x8 patches: the backbone of Sec. 3.2 and 5.2


def load_vit(model: str = DINO_MODEL, weights: str | Path = "pretrained", seed: int = 0) -> nn.Module:
    """A timm VisionTransformer or Eva (DINOv3) in evaluation mode, without its classifier; arguments as for :func:`attention_maps`."""
    import timm
    from timm.models import Eva, VisionTransformer, load_state_dict
    from timm.models.eva import EvaBlock
    from timm.models.vision_transformer import Block

    try:
        vit = seeded(seed, lambda: timm.create_model(model, num_classes=0, pretrained=weights == "pretrained"))
    except Exception as error:  # the hub, the network and timm's registry raise what they like
        if "Unknown model" in str(error) or "Invalid pretrained tag" in str(error):
            wanted = f"a timm model name such as {DINO_MODEL!r}"
            raise ValueError(f"model must be {wanted}, got {model!r}: {error}") from error
        if weights != "pretrained":
            raise
        raise ConnectionError(
            f"the pretrained weights of {model!r} could not be fetched ({type(error).__name__}). They come from the model hub "
            f"on first use and are kept afterwards. Without a network: name a checkpoint file with weights=PATH, or take a "
            f"source that needs none, such as source='saliency'"
        ) from error
    with_class_token = isinstance(vit, (VisionTransformer, Eva)) and vit.cls_token is not None
    if not with_class_token or not isinstance(vit.blocks[-1], (Block, EvaBlock)):
        wanted = f"a timm VisionTransformer with a class token, such as {DINO_MODEL!r}, or an Eva with one (DINOv3)"
        raise ValueError(f"model must be {wanted}; got {model!r}")
    if weights not in ("pretrained", "random"):
        try:
            state = load_state_dict(str(weights))
            vit.load_state_dict({name: value for name, value in state.items() if not name.startswith("head.")})
        except Exception as error:  # a missing, damaged or foreign file can fail in any way
            raise ValueError(f"weights file {weights} does not fit {model!r}: {error}") from error
    return vit.eval().requires_grad_(False)


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """``build()`` with its random weights decided by ``seed``, the global generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def vit_input(vit: nn.Module, images: Tensor) -> Tensor:
    """uint8 or float in [0, 1] (B, 3, H, W) to what the ViT was trained on: bicubic to its size, its own mean and standard deviation."""
    size, config = vit.patch_embed.img_size, vit.pretrained_cfg
    shrink = any(given > wanted for given, wanted in zip(images.shape[-2:], size, strict=True))
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images
    scaled = F.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=shrink).clamp(0, 1)
    mean, std = (torch.tensor(config[key], device=images.device)[:, None, None] for key in ("mean", "std"))
    return (scaled - mean) / std


def attend(vit: nn.Module, inputs: Tensor) -> Tensor:
    """Eq. 1's softmax for the [CLS] query in the last block, over the patches: (B, heads, h, w), rows sum to at most 1.

    Only that one row is computed: earlier blocks run as they are, the last one stops at its queries and keys. Prefix tokens
    ([CLS] itself, registers) take part in the softmax and are then left out; rotary embeddings turn the patches' keys.
    ``vit`` is as :func:`load_vit` gives it, ``inputs`` float (B, 3, H, W), normalized as :func:`vit_input` does.
    """
    tokens = vit._pos_embed(vit.patch_embed(inputs))
    tokens, rope = tokens if isinstance(tokens, tuple) else (vit.patch_drop(tokens), None)  # Eva drops patches within
    tokens = vit.norm_pre(tokens)
    mixed = getattr(vit, "rope_mixed", False)  # then each block has rotations of its own
    for i, block in enumerate(vit.blocks[:-1]):
        tokens = block(tokens) if rope is None else block(tokens, rope=rope[i] if mixed else rope)
    last = vit.blocks[-1].attn
    tokens = vit.blocks[-1].norm1(tokens)
    query, key = _query_and_key(last, tokens)
    split = (len(inputs), -1, last.num_heads, last.head_dim)
    query = last.q_norm(query.view(split).transpose(1, 2))
    key = last.k_norm(key.view(split).transpose(1, 2))
    n_prefix = vit.num_prefix_tokens
    if rope is not None:
        from timm.layers import apply_rot_embed_cat

        rotation, half = rope[-1] if mixed else rope, getattr(last, "rotate_half", False)
        turned = apply_rot_embed_cat(key[:, :, n_prefix:], rotation, half=half)
        key = torch.cat([key[:, :, :n_prefix], turned], 2).type_as(key)
    attention = (query * last.scale @ key.transpose(-2, -1)).softmax(-1)
    return attention[:, :, 0, n_prefix:].unflatten(-1, vit.patch_embed.grid_size)


cls_attention = torch.no_grad()(attend)  # for maps that nothing is trained through


def _query_and_key(attn: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The [CLS] token's query (B, 1, D) and all tokens' keys (B, N, D), from whichever way timm keeps the projections."""
    if getattr(attn, "qkv", None) is None:
        return attn.q_proj(tokens[:, :1]), attn.k_proj(tokens)
    query_weight, key_weight, _ = attn.qkv.weight.chunk(3)
    biases = attn.qkv.bias.chunk(3) if attn.qkv.bias is not None else (None, None)
    if getattr(attn, "q_bias", None) is not None:
        biases = (attn.q_bias, attn.k_bias)
    return F.linear(tokens[:, :1], query_weight, biases[0]), F.linear(tokens, key_weight, biases[1])
