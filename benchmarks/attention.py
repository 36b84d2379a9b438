"""[CLS] attention maps of a ViT: the usual way and ours, in turn, on one machine.

    python -m benchmarks.attention [--model vit_base_patch8_224.dino] [--precision float32] [--images 4] [--repeats 3]

The usual way turns fused attention off everywhere and reads the last block's full attention matrix through timm's
AttentionExtract. Ours leaves the earlier blocks as they are and computes one row of the last. Weights are random: they do not change
the work.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import in_turn, median, peak_memory_mb, synchronise, write_record
from resattn.attention.maps import aggregate_heads
from resattn.attention.vit import DINO_MODEL, cls_attention
from resattn.training.evaluation import autocast


def main() -> None:
    """Measure both ways in turn and print medians, or be one of them (--child)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=main.__doc__)
    parser.add_argument("--model", default=DINO_MODEL)
    parser.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32")
    parser.add_argument("--images", type=int, default=4, help="images in a batch")
    parser.add_argument("--batches", type=int, default=2, help="batches timed in each repeat, after one that is not")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=("usual", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("model", "precision", "images", "batches")}
    if options.child:
        print(json.dumps(_measure(options.child, settings)))
        return
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    seen = in_turn("benchmarks.attention", {side: [side, *arguments] for side in ("usual", "ours")}, options.repeats)
    for side, runs in seen.items():
        print(f"{side:6s} {median(runs, 'images_per_second'):8.3f} images/s  {median(runs, 'peak_memory_mb'):7.0f} MB")
    faster = median(seen["ours"], "images_per_second") / median(seen["usual"], "images_per_second")
    apart = max(
        abs(one - other)
        for ours, usual in zip(seen["ours"], seen["usual"], strict=True)
        for one, other in zip(ours["first_map"], usual["first_map"], strict=True)
    )
    print(f"ours is {faster:.2f} times as fast; largest difference between the maps after min-max {apart:.1e}")
    for runs in seen.values():
        for run in runs:
            del run["first_map"]
    record = write_record("attention", settings, seen | {"largest_difference": apart})
    print(f"record: {record.name}")


def _measure(side: str, settings: dict) -> dict:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings["precision"] == "tf32":
        torch.set_float32_matmul_precision("high")
    extract = {"usual": _usual_way, "ours": _our_way}[side](settings["model"], device)
    size = settings["images"], 3, 224, 224
    batch = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device)
    with autocast(device, settings["precision"]):
        return _time(extract, batch, settings)


def _time(extract: Callable[[Tensor], Tensor], batch: Tensor, settings: dict) -> dict:
    device = batch.device
    first = extract(batch).float()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(settings["batches"]):
        extract(batch)
    synchronise(device)
    seconds = time.perf_counter() - start
    return {
        "images_per_second": settings["batches"] * settings["images"] / seconds,
        "peak_memory_mb": peak_memory_mb(device),
        "first_map": first[0].flatten().tolist(),
    }


def _random_vit(name: str) -> nn.Module:
    import timm

    torch.manual_seed(0)  # both sides the same
    return timm.create_model(name, img_size=224, num_classes=0).eval().requires_grad_(False)


def _usual_way(name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    import timm
    from timm.utils import AttentionExtract

    timm.layers.set_fused_attn(False)
    vit = _random_vit(name).to(device)
    last = f"blocks.{len(vit.blocks) - 1}.attn.softmax"
    extractor = AttentionExtract(vit, names=[last], method="fx")

    @torch.no_grad()
    def extract(batch: Tensor) -> Tensor:
        attention = extractor(batch)[last][:, :, 0, vit.num_prefix_tokens :]
        return aggregate_heads(attention.unflatten(-1, vit.patch_embed.grid_size))

    return extract


def _our_way(name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    vit = _random_vit(name).to(device)
    return lambda batch: aggregate_heads(cls_attention(vit, batch))


if __name__ == "__main__":
    main()
