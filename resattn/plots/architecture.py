"""The architecture drawn from the model itself: its layers, the shapes that hooks saw, and the two forms side by side."""

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from torch import Tensor, nn

from resattn.models.resattn import FORMS, ResAttnNet
from resattn.models.stem import ResizedPatchStem
from resattn.plots.style import ATTENTION, CLASSIFICATION

_PITCH = 4.3  # distance between x(i-1) and x(i) in the drawing
_SKIP_Y, _MASK_Y = -1.25, -2.6


def feature_shapes(net: torch.nn.Module, images: Tensor, attention: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape (C, H, W) of what each named part of the network puts out, seen by hooks in one forward pass."""
    shapes, hooks = {}, []
    for name, part in net.named_modules():
        hook = lambda _part, _inputs, output, name=name: shapes.__setitem__(name, tuple(output.shape[1:]))  # noqa: E731
        hooks.append(part.register_forward_hook(hook))
    try:
        with torch.no_grad():
            net(images, attention)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def parameter_table(net: ResAttnNet, images: Tensor, attention: Tensor) -> pd.DataFrame:
    """Output shape (C, H, W) and number of parameters of every part, in the order data passes them, and the total."""
    shapes = feature_shapes(net, images, attention)
    parts = {"stem": net.stem, "attention_stem": net.attention_stem}
    for i in range(len(net.blocks)):
        parts[f"blocks.{i}"] = net.blocks[i]
        if i < len(net.attention_blocks):
            parts[f"attention_blocks.{i}"] = net.attention_blocks[i]
    parts["fc"] = net.fc
    rows = [
        (
            name,
            "attention" if name.startswith("attention") else "classification",
            "×".join(map(str, shapes[name])),
            _count(part),
        )
        for name, part in parts.items()
    ]
    rows.append(("total", "", "", _count(net)))
    return pd.DataFrame(rows, columns=["part", "branch", "output", "parameters"]).set_index("part")


def stacks_figure(net: ResAttnNet) -> Figure:
    """Layers of the two stems (Fig. 1) and of one block of each branch (Fig. 2)."""
    block = net.blocks[1] if len(net.blocks) > 1 else net.blocks[0]
    attention = net.attention_blocks[-1]
    stacks = {
        "classification stem": (list(net.stem), CLASSIFICATION),
        "attention stem": (list(net.attention_stem), ATTENTION),
        "classification block 2": ([block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2], CLASSIFICATION),
        "attention block 2": (list(attention), ATTENTION),
    }
    figure, ax = plt.subplots(figsize=(9.4, 3.7))
    tallest = max(len(layers) for layers, _ in stacks.values())
    for column, (title, (layers, colour)) in enumerate(stacks.items()):
        x = 3.3 * column
        ax.text(x, 0.7, title, ha="center", va="bottom", fontsize=10, color=colour, fontweight="bold")
        _arrow(ax, (x, 0.65), (x, 0.3))
        labels = [_describe(layer) for layer in layers]
        if isinstance(layers[0], ResizedPatchStem):
            labels.insert(0, f"resize to {layers[0].image_size}, {layers[0].mode}")
        for i, label in enumerate(labels):
            _box(ax, x, -0.75 * i, 2.7, 0.5, label, colour)
            _arrow(ax, (x, -0.75 * i - 0.27), (x, -0.75 * i - 0.48))
    _canvas(ax, (-1.6, 3.3 * (len(stacks) - 1) + 1.6), (-0.75 * tallest, 1.2))
    return figure


def architecture_figure(net: ResAttnNet, images: Tensor, attention: Tensor) -> Figure:
    """Both forms of the whole network (Fig. 3), with the shape each part puts out."""
    shapes = feature_shapes(net, images, attention)
    figure, axes = plt.subplots(len(FORMS), 1, figsize=(12.5, 3.55 * len(FORMS)))
    for ax, form in zip(axes, FORMS, strict=True):
        _draw_form(ax, net, form, shapes)
    figure.subplots_adjust(hspace=0.02)
    return figure


def receptive_field(layers: list[tuple[int, int]]) -> int:
    """Side of the input window one output sees, in pixels, for (kernel, stride) of each layer (Sec. 1)."""
    field, step = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * step
        step *= stride
    return field


def _draw_form(ax: Axes, net: ResAttnNet, form: str, shapes: dict[str, tuple[int, ...]]) -> None:
    n = len(net.blocks)
    title = {
        "printed": r"form=\"printed\" (Eq. 3–4):   $x_i = \mathrm{relu}\,[\,(1+a)\,f_i(x_{i-1}) + a\,P_i(x_{i-1}\odot m_{i-1})\,]$",
        "gated": r"form=\"gated\" (the text):   $x_i = \mathrm{relu}\,[\,f_i(x_{i-1}) + P_i(x_{i-1}\odot(1-a+a\,m_{i-1}))\,]$",
    }[form]
    ax.text(-4.2, 1.45, title.replace('\\"', '"'), fontsize=11.5, ha="left", va="center")
    _stem(ax, "image", "stem", shapes["stem"], 0, CLASSIFICATION)
    _stem(ax, "attention map", "attention\nstem", shapes["attention_stem"], _MASK_Y, ATTENTION)
    _node(ax, 0, 0, "$x^{(0)}$", CLASSIFICATION)
    for i, block in enumerate(net.blocks):
        left, right = i * _PITCH, (i + 1) * _PITCH
        gate = left + 0.95
        _box(ax, (left + right) / 2, 0, 1.7, 0.62, f"block {i + 1}  $f_{i + 1}$", CLASSIFICATION)
        _arrow(ax, (left + 0.3, 0), (left + _PITCH / 2 - 0.87, 0))
        _arrow(ax, (left + _PITCH / 2 + 0.87, 0), (right - 0.3, 0))
        ax.plot([left, left, gate - 0.2], [-0.3, _SKIP_Y, _SKIP_Y], color="#444444", linewidth=1.2)
        _node(ax, gate, _SKIP_Y, r"$\odot$", "#444444", radius=0.2)
        end = (right - 0.03, _SKIP_Y)
        if isinstance(block.projection, nn.Identity):
            ax.plot([gate + 0.2, end[0]], [_SKIP_Y, _SKIP_Y], color="#444444", linewidth=1.2)
        else:
            ax.plot([gate + 0.2, end[0]], [_SKIP_Y, _SKIP_Y], color="#444444", linewidth=1.2)
            _box(
                ax,
                left + 2.6,
                _SKIP_Y,
                1.75,
                0.56,
                f"{_describe(block.projection[0], short=True)}\n$P_{i + 1}$",
                CLASSIFICATION,
                size=7.5,
            )
        _arrow(ax, end, (end[0], -0.3))
        _node(ax, right, 0, f"$x^{{({i + 1})}}$", CLASSIFICATION)
        ax.text(
            right,
            0.42,
            "×".join(map(str, shapes[f"blocks.{i}"])),
            ha="center",
            va="bottom",
            fontsize=8,
            color=CLASSIFICATION,
        )
        if form == "printed":
            ax.text(right - 0.75, 0.1, r"$\times(1+a)$", ha="center", va="bottom", fontsize=8.5)
            ax.text(right - 0.1, -0.72, r"$\times a$", ha="right", va="center", fontsize=8.5)
        _node(ax, gate, _MASK_Y, f"$m_{i}$", ATTENTION)
        _arrow(ax, (gate, _MASK_Y + 0.3), (gate, _SKIP_Y - 0.2), ATTENTION)
        if form == "gated":
            ax.text(
                gate + 0.08,
                (_MASK_Y + _SKIP_Y) / 2,
                f"$1-a+a\\,m_{i}$",
                ha="left",
                va="center",
                fontsize=8.5,
                color=ATTENTION,
            )
        if i + 1 < n:
            _arrow(ax, (gate + 0.3, _MASK_Y), (gate + _PITCH / 2 - 1.12, _MASK_Y), ATTENTION)
            _box(ax, gate + _PITCH / 2, _MASK_Y, 2.2, 0.62, f"attention block {i + 1}", ATTENTION)
            _arrow(ax, (gate + _PITCH / 2 + 1.12, _MASK_Y), (gate + _PITCH - 0.3, _MASK_Y), ATTENTION)
            shape = "×".join(map(str, shapes[f"attention_blocks.{i}"]))
            ax.text(gate + _PITCH, _MASK_Y - 0.42, shape, ha="center", va="top", fontsize=8, color=ATTENTION)
    end = n * _PITCH
    _arrow(ax, (end + 0.3, 0), (end + 0.7, 0))
    _box(ax, end + 1.65, 0, 1.9, 0.62, "mean pool, fc", CLASSIFICATION)
    ax.text(end + 1.65, -0.42, f"{shapes['fc'][0]} scores", ha="center", va="top", fontsize=8, color=CLASSIFICATION)
    _canvas(ax, (-4.3, end + 2.7), (_MASK_Y - 0.95, 1.9))


def _stem(ax: Axes, source: str, name: str, shape: tuple[int, ...], y: float, colour: str) -> None:
    shift = 0.95 if y else 0
    ax.text(-3.0 + shift, y, source, ha="right", va="center", fontsize=9.5)
    _arrow(ax, (-2.9 + shift, y), (-2.3 + shift, y), colour)
    _box(ax, -1.55 + shift, y, 1.4, 0.62, name, colour)
    _arrow(ax, (-0.83 + shift, y), (-0.3 + shift, y), colour)
    ax.text(
        shift,
        y + (0.42 if not y else -0.42),
        "×".join(map(str, shape)),
        ha="center",
        va="top" if y else "bottom",
        fontsize=8,
        color=colour,
    )


def _describe(layer: nn.Module, short: bool = False) -> str:
    if isinstance(layer, ResizedPatchStem):
        return f"conv {layer.patch}×{layer.patch} / {layer.patch}, {len(layer.weight)}"
    if isinstance(layer, nn.Conv2d):
        text = f"conv {layer.kernel_size[0]}×{layer.kernel_size[1]} / {layer.stride[0]}"
        return text if short else f"{text}, {layer.out_channels}"
    return {"BatchNorm2d": "batch norm", "ReLU": "ReLU", "Sigmoid": "sigmoid"}[type(layer).__name__]


def _box(ax: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, size: float = 8.5) -> None:
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.02,rounding_size=0.09",
        facecolor=colour, edgecolor="none", zorder=3,
    )  # fmt: skip
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color="white", zorder=4, linespacing=1.1)


def _node(ax: Axes, x: float, y: float, text: str, colour: str, radius: float = 0.28) -> None:
    ax.add_patch(Circle((x, y), radius, facecolor="white", edgecolor=colour, linewidth=1.4, zorder=3))
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5, color=colour, zorder=4)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "#444444") -> None:
    ax.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    )


def _canvas(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    ax.set(xlim=x, ylim=y, aspect="equal")
    ax.axis("off")


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())
